//! What a node says it holds.
//!
//! The old agents answer plain text, one name per line, in name order, a line end after each. Anything that could be
//! an answer cut short, somebody else's page or an answer out of a cache is no listing: deletes and copies rest on it.

use xxhash_rust::xxh3::Xxh3;

use crate::name::{self, FileId, Names};

/// The files of a node, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by number.
    ids: Box<[FileId]>,
    /// Beside `ids`, where the node says it; else empty.
    sizes: Box<[u64]>,
    /// Tells listings apart.
    fingerprint: u64,
}

impl Listing {
    /// The listing of these files.
    #[must_use]
    pub fn new(mut ids: Vec<FileId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self { fingerprint: fingerprint(&ids), ids: ids.into(), sizes: Box::default() }
    }

    /// The listing of these files with their sizes.
    #[must_use]
    pub fn with_sizes(mut files: Vec<(FileId, u64)>) -> Self {
        files.sort_unstable();
        files.dedup_by_key(|(id, _)| *id);
        let ids: Vec<FileId> = files.iter().map(|(id, _)| *id).collect();
        let sizes = files.iter().map(|(_, size)| *size).collect();
        Self { fingerprint: fingerprint(&ids), ids: ids.into(), sizes }
    }

    /// The files, sorted by number.
    #[must_use]
    pub const fn ids(&self) -> &[FileId] {
        &self.ids
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether a file is there.
    #[must_use]
    pub fn has(&self, id: FileId) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// The size of a file as the node says it.
    #[must_use]
    pub fn size(&self, id: FileId) -> Option<u64> {
        self.ids.binary_search(&id).ok().and_then(|at| self.sizes.get(at).copied())
    }

    /// Tells listings apart.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        4 * self.ids.len() + 8 * self.sizes.len()
    }

    /// Files here that are not in `other`.
    pub fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = FileId> + 'a {
        let mut theirs = other.ids.iter().peekable();
        self.ids.iter().copied().filter(move |id| {
            while theirs.next_if(|their| *their < id).is_some() {}
            theirs.peek() != Some(&id)
        })
    }
}

fn fingerprint(ids: &[FileId]) -> u64 {
    let mut hasher = Xxh3::new();
    for id in ids {
        hasher.update(&id.number().to_le_bytes());
    }
    hasher.digest()
}

/// Why an answer is no listing, in words that follow "the listing".
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub enum ListingFault {
    /// Nobody answered, or not in time.
    #[default]
    #[error("did not come: no answer in time")]
    NoAnswer,
    /// The connection failed.
    #[error("did not come: {0}")]
    Failed(String),
    /// The answer says that something is wrong.
    #[error("is an answer with status {0}")]
    Status(u16),
    /// The answer is something else.
    #[error("is `{0}` and not plain text: somebody else answers for the node")]
    Type(String),
    /// The body ended before it should.
    #[error("was cut after {0} names")]
    Cut(usize),
    /// A line is no name.
    #[error("has in line {0} a name that {1}")]
    Name(usize, &'static str),
    /// The names are not in order.
    #[error("is out of order in line {0}: an agent lists by name")]
    Order(usize),
    /// The answer is old.
    #[error("is {0} s old: it comes out of a cache, or a clock is off")]
    Old(i64),
    /// More names than the controller may keep.
    #[error("has more names than the controller may keep")]
    TooMany,
}

/// The answer to `GET /files`, as far as it came.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'a str,
    /// Age in seconds: by the `Date` of the answer, or its `Age`; 0 if neither is there.
    pub age_sec: i64,
    /// Whether the body came to its declared end.
    pub complete: bool,
    /// The body.
    pub body: &'a [u8],
}

/// Reads the answer of an old agent.
///
/// # Errors
/// When it is no complete listing.
pub fn read(names: &mut Names, answer: &Answer<'_>, max_age_sec: i64) -> Result<Listing, ListingFault> {
    if answer.status != 200 {
        return Err(ListingFault::Status(answer.status));
    }
    let essence = answer.content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("text/plain") {
        return Err(ListingFault::Type(essence.to_owned()));
    }
    if answer.age_sec.abs() > max_age_sec {
        return Err(ListingFault::Old(answer.age_sec));
    }
    let body = answer.body;
    let lines = memchr::memchr_iter(b'\n', body).count();
    if !answer.complete || body.last().is_some_and(|last| *last != b'\n') {
        return Err(ListingFault::Cut(lines));
    }
    let mut rows: Vec<&[u8]> = Vec::with_capacity(lines);
    let (mut start, mut before) = (0, &b""[..]);
    for (end, number) in memchr::memchr_iter(b'\n', body).zip(1..) {
        let line = &body[start..end];
        start = end + 1;
        name::legal(line).map_err(|why| ListingFault::Name(number, why))?;
        if line <= before {
            return Err(ListingFault::Order(number));
        }
        before = line;
        rows.push(line);
    }
    let mut ids = Vec::with_capacity(lines);
    names.intern_all(rows, &mut ids).ok_or(ListingFault::TooMany)?;
    Ok(Listing::new(ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &[u8]) -> Answer<'_> {
        Answer { status: 200, content_type: "text/plain;charset=UTF-8", age_sec: 0, complete: true, body }
    }

    fn fault(answer: &Answer<'_>) -> String {
        read(&mut Names::default(), answer, 300).unwrap_err().to_string()
    }

    #[test]
    fn a_listing_is_read() {
        let mut names = Names::default();
        let listing = read(&mut names, &answer(b"A b.mpg\nB.mpg\n\xff\xfe\n"), 300).unwrap();
        assert_eq!(listing.len(), 3);
        assert!(listing.has(names.find(b"\xff\xfe").unwrap()));
        assert!(read(&mut names, &answer(b""), 300).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_complete_listing_is_none() {
        let body = b"A\nB\n";
        assert!(fault(&Answer { status: 500, ..answer(b"") }).contains("500"));
        assert!(fault(&Answer { complete: false, ..answer(body) }).contains("cut after 2"));
        assert!(fault(&answer(b"A\nB")).contains("cut after 1"));
        assert!(fault(&Answer { age_sec: 86_400, ..answer(body) }).contains("86400 s old"));
        assert!(fault(&Answer { content_type: "text/html", ..answer(b"<html>\n") }).contains("text/html"));
        assert!(fault(&answer(b"<html>\n<body>\n")).contains("out of order"));
        assert!(fault(&answer(b"A\nB/x\n")).contains("line 2"));
        assert!(fault(&answer(b"A\n\n")).contains("is empty"));
    }

    #[test]
    fn what_a_listing_has_beyond_another() {
        let listing = |ids: &[u32]| Listing::new(ids.iter().map(|id| FileId::of(*id)).collect());
        let (a, b) = (listing(&[1, 3, 5, 9]), listing(&[3, 4, 9]));
        assert_eq!(a.beyond(&b).map(FileId::number).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(b.beyond(&a).map(FileId::number).collect::<Vec<_>>(), [4]);
        assert_eq!(a.beyond(&a).count(), 0);
        assert_eq!(listing(&[]).beyond(&a).count(), 0);
    }
}
