//! A file, or a range of it, as it is asked for.

use std::fs::File;
use std::sync::Arc;

use windlass_distribute::wire::agent::{Checksum, Name};

use super::digest::{Digest, Hashing};
use super::refusal::Refused;
use crate::agent::Agent;
use crate::folder::Found;

/// What a request says of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) range: Option<String>,
    pub(super) if_match: Option<String>,
    pub(super) if_range: Option<String>,
    /// The checksum is wanted, too.
    pub(super) checksum: bool,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) file: File,
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) size: u64,
    pub(super) version: String,
    pub(super) checksum: Option<Checksum>,
    /// Where the checksum comes about, if it is wanted and not known.
    digest: Option<Arc<Digest>>,
    pub(super) partial: bool,
}

/// A range as it was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { start: u64, length: u64 },
    Never,
}

fn range(text: Option<&str>, size: u64) -> Range {
    // What is no single range of bytes may be answered with the whole.
    let Some((first, last)) = text.and_then(|text| text.strip_prefix("bytes=")?.split_once('-')) else {
        return Range::Whole;
    };
    let part = |start: u64, end: u64| match start < end {
        true => Range::Part { start, length: end - start },
        false => Range::Never,
    };
    match (first.trim().parse::<u64>().ok(), last.trim().parse::<u64>().ok()) {
        (Some(start), Some(last)) if start <= last => part(start, last.saturating_add(1).min(size)),
        (Some(start), None) if last.trim().is_empty() => part(start, size),
        (None, Some(end)) if first.trim().is_empty() => part(size.saturating_sub(end), size),
        _ => Range::Whole,
    }
}

fn is_tag(header: &str, version: &str) -> bool {
    let tag = |text: &str| text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"')) == Some(version);
    header.trim() == "*" || header.split(',').any(tag)
}

/// Opens what is asked for. Blocks.
pub(super) fn prepare(agent: &Agent, name: &Name, asked: &Asked) -> Result<Served, Refused> {
    let folder = &agent.folder;
    let found = folder.read(name).map_err(|error| Refused::disk(&format!("open {name}"), &error))?;
    let Some((file, found)) = found else {
        return Err(Refused::new(404, "unknown", format!("there is no file named {name}")));
    };
    if asked.if_match.as_deref().is_some_and(|header| !is_tag(header, &found.version)) {
        let why = format!("{name} has version {}", found.version);
        return Err(Refused::new(412, "other_version", why));
    }
    let other = asked.if_range.as_deref().is_some_and(|header| !is_tag(header, &found.version));
    let (start, length, partial) = match range(asked.range.as_deref().filter(|_| !other), found.size) {
        Range::Whole => (0, found.size, false),
        Range::Part { start, length } => (start, length, true),
        Range::Never => {
            return Err(Refused::new(416, "range", format!("{name} has {} bytes only", found.size)));
        }
    };
    let mut checksum = folder.checksum(name, &found.version);
    let unknown = asked.checksum && checksum.is_none();
    let mut digest = unknown.then(|| agent.digests.of(name, &found.version, found.size));
    if let Some(known) = digest.as_ref().and_then(|digest| digest.whole()) {
        (checksum, digest) = (Some(known), None);
    }
    Ok(Served { file, start, length, size: found.size, version: found.version, checksum, digest, partial })
}

impl Served {
    /// Hashes what goes out, if it is wanted and not known.
    pub(super) fn hashing(&self) -> Option<Hashing> {
        self.digest.clone().map(|digest| Hashing::from(digest, self.start))
    }

    /// With the checksum, if it is wanted and what is missing of it is not too much. Blocks.
    pub(super) fn completed(mut self) -> Self {
        if let Some(digest) = self.digest.take() {
            match digest.complete(&self.file) {
                Ok(checksum) => self.checksum = checksum,
                Err(error) => tracing::warn!(%error, "a file could not be read for its checksum"),
            }
        }
        // What was read may have been changed meanwhile.
        if Found::open(&self.file).map_or(true, |found| found.version != self.version) {
            self.checksum = None;
        }
        self
    }

    /// The headers, but those of the connection.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("content-length", self.length.to_string()),
            ("accept-ranges", "bytes".to_owned()),
            ("etag", format!("\"{}\"", self.version)),
        ];
        if let Some(checksum) = &self.checksum {
            headers.push((windlass_distribute::wire::agent::CHECKSUM, checksum.to_string()));
        }
        if self.partial {
            let last = self.start + self.length - 1;
            headers.push(("content-range", format!("bytes {}-{last}/{}", self.start, self.size)));
        }
        headers
    }

    pub(super) fn status(&self) -> u16 {
        if self.partial { 206 } else { 200 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_meant() {
        let part = |start, length| Range::Part { start, length };
        for (text, expected) in [
            (None, Range::Whole),
            (Some("bytes=0-0"), part(0, 1)),
            (Some("bytes=90-"), part(90, 10)),
            (Some("bytes=90-1000"), part(90, 10)),
            (Some("bytes=-7"), part(93, 7)),
            (Some("bytes=-700"), part(0, 100)),
            (Some("bytes=100-"), Range::Never),
            (Some("bytes=-0"), Range::Never),
            (Some("bytes=5-2"), Range::Whole),
            (Some("bytes=0-1,5-6"), Range::Whole),
            (Some("lines=1-2"), Range::Whole),
            (Some("bytes=99999999999999999999-"), Range::Whole),
        ] {
            assert_eq!(range(text, 100), expected, "{text:?}");
        }
        assert_eq!(range(Some("bytes=0-"), 0), Range::Never);
        assert!(is_tag("\"a\", \"b\"", "b") && is_tag("*", "b") && !is_tag("b", "b") && !is_tag("W/\"b\"", "b"));
    }
}
