//! A whole store as one text file: for backup, restore, moving to another kind of store, and reading by people.
//!
//! One JSON document to a line. The first says what the file is, then one for each entry in the order of its key, and
//! the last how many there were, with the SHA-256 of all lines before it:
//!
//! ```text
//! {"windlass_state":1,"records":1,"revision":4711,"at":"2026-11-21T12:00:00Z"}
//! {"key":"jobs/01…","value":{"v":1,…}}
//! {"key":"job/01…/v/…","base64":"AAEC…"}
//! {"entries":2,"sha256":"9f86…"}
//! ```
//!
//! All entries are of one revision, so a dump can be made while jobs run. What is bound to a lease (claims, presence)
//! is left out: whoever held it is not part of what is restored. A value that is JSON stands as such.

use std::io::{BufRead, Seek, SeekFrom, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Committed, Compare, Store, StoreError, Txn, budget};

/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Longest line: the largest value, written out, and its key.
const LONGEST_LINE: u64 = 1 << 20;
/// Entries and bytes of one transaction of a restore, below the budget.
const BATCH: usize = 90;
const BATCH_BYTES: usize = 400 * 1024;
/// Present while a restore is under way: a store that has it is not whole.
pub const RESTORING: &str = "meta/restoring";

/// What a dump begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`] of the writer.
    pub windlass_state: u32,
    /// The version of the records inside.
    pub records: u32,
    /// The revision of the store that the dump shows.
    pub revision: u64,
    /// When it was made.
    pub at: Timestamp,
}

/// What a dump ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Entries in the file.
    pub entries: u64,
    /// SHA-256 of every line before this one, in hexadecimal digits.
    pub sha256: String,
}

/// Why a dump was not written or restored.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file could not be read or written.
    #[error("the file could not be used: {0}")]
    File(#[from] std::io::Error),
    /// The file is not what it should be.
    #[error("line {line}: {what}")]
    Damaged {
        /// Its line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// It was written by a newer program.
    #[error("the file has version {found} of {of}, this program reads up to {known}; use a newer windlass")]
    Newer {
        /// Of what.
        of: &'static str,
        /// The version in the file.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The store to restore into has something in it.
    #[error("the store is not empty: it has the key {0}")]
    NotEmpty(String),
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    key: String,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Writes everything of `store` but what is bound to leases. The caller makes the file durable.
///
/// # Errors
///
/// A failing store or file; what was written is then no dump, since its last line is missing.
pub async fn write(
    store: &dyn Store,
    records: u32,
    at: Timestamp,
    out: &mut (impl Write + Send),
) -> Result<Summary, DumpError> {
    let mut scan = store.scan("").await?;
    let mut digest = Sha256::new();
    let mut line = |text: String, out: &mut dyn Write| {
        digest.update(text.as_bytes());
        digest.update(b"\n");
        writeln!(out, "{text}")
    };
    let header = Header { windlass_state: VERSION, records, revision: scan.revision().0, at };
    line(text(&header)?, out)?;
    let mut entries = 0;
    loop {
        let page = scan.next_page(budget::PAGE_ENTRIES).await?;
        if page.is_empty() {
            break;
        }
        for entry in page.into_iter().filter(|entry| entry.lease.is_none()) {
            // Raw, so that every byte comes back: a number keeps its digits, a member its place.
            let value: Option<&RawValue> = serde_json::from_slice(&entry.value)
                .ok()
                .filter(|raw: &&RawValue| raw.get().len() == entry.value.len());
            let value = value.filter(|raw| !raw.get().contains('\n'));
            let base64 = value.is_none().then(|| STANDARD.encode(&entry.value));
            line(text(&Line { key: entry.key, value, base64 })?, out)?;
            entries += 1;
        }
    }
    let summary = Summary { entries, sha256: hex(digest) };
    writeln!(out, "{}", text(&summary)?)?;
    out.flush()?;
    Ok(summary)
}

fn text(value: &impl Serialize) -> Result<String, DumpError> {
    serde_json::to_string(value).map_err(|error| DumpError::File(std::io::Error::other(error)))
}

fn hex(digest: Sha256) -> String {
    use std::fmt::Write as _;
    digest.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a dump entry by entry. What it gave is not to be kept before [`Reader::next`] has answered with the end.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    records: u32,
    digest: Sha256,
    line: u64,
    header: Option<Header>,
    entries: u64,
    last: String,
    bytes: Vec<u8>,
}

/// What stands on a line of a dump.
#[derive(Debug)]
pub enum Read {
    /// An entry.
    Entry(String, Bytes),
    /// The end: all lines before it are as they were written.
    End(Header, Summary),
}

impl<R: BufRead> Reader<R> {
    /// Reads `file` from where it stands. `records` is the newest version of the records that is known.
    #[must_use]
    pub fn new(file: R, records: u32) -> Self {
        let (last, bytes) = (String::new(), Vec::new());
        Self { file, records, digest: Sha256::new(), line: 0, header: None, entries: 0, last, bytes }
    }

    fn damaged(&self, what: &str) -> DumpError {
        DumpError::Damaged { line: self.line, what: what.to_owned() }
    }

    fn next_line(&mut self) -> Result<(), DumpError> {
        self.bytes.clear();
        self.line += 1;
        std::io::Read::take(&mut self.file, LONGEST_LINE).read_until(b'\n', &mut self.bytes)?;
        if self.bytes.is_empty() {
            return Err(self.damaged("the file ends before its last line: it is not whole"));
        }
        if self.bytes.pop() != Some(b'\n') {
            return Err(self.damaged("the line has no end"));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Header, DumpError> {
        self.next_line()?;
        let first: Header =
            serde_json::from_slice(&self.bytes).map_err(|_| self.damaged("this is not a dump of a windlass state"))?;
        for (of, found, known) in
            [("the format", first.windlass_state, VERSION), ("the records", first.records, self.records)]
        {
            if found > known {
                return Err(DumpError::Newer { of, found, known });
            }
        }
        self.take_line();
        Ok(first)
    }

    fn take_line(&mut self) {
        self.digest.update(&self.bytes);
        self.digest.update(b"\n");
    }

    /// The next entry, or the end.
    ///
    /// # Errors
    ///
    /// [`DumpError::Damaged`] with the line, [`DumpError::Newer`], or a file that cannot be read.
    #[expect(clippy::should_implement_trait, reason = "it ends with what the file says of itself, not with nothing")]
    pub fn next(&mut self) -> Result<Read, DumpError> {
        let header = match self.header.clone() {
            Some(header) => header,
            None => {
                let header = self.begin()?;
                self.header.insert(header).clone()
            }
        };
        self.next_line()?;
        if let Ok(summary) = serde_json::from_slice::<Summary>(&self.bytes) {
            if summary.entries != self.entries || summary.sha256 != hex(self.digest.clone()) {
                return Err(self.damaged("the file has changed since it was written: its checksum is another one"));
            }
            return Ok(Read::End(header, summary));
        }
        self.take_line();
        let line: Line<'_> = serde_json::from_slice(&self.bytes).map_err(|_| self.damaged("the line is no entry"))?;
        let value = match (line.value, line.base64) {
            (Some(raw), None) => Bytes::copy_from_slice(raw.get().as_bytes()),
            (None, Some(text)) => STANDARD.decode(text).map_err(|_| self.damaged("the value is not base64"))?.into(),
            _ => return Err(self.damaged("an entry has either `value` or `base64`")),
        };
        if self.entries > 0 && line.key <= self.last {
            return Err(self.damaged("the keys are not in order"));
        }
        self.entries += 1;
        self.last.clone_from(&line.key);
        Ok(Read::Entry(line.key, value))
    }
}

/// Reads a dump to its end and hands over its entries; an error means that none of them may be kept.
///
/// # Errors
///
/// [`DumpError::Damaged`] with the line, [`DumpError::Newer`], or whatever `take` answers.
pub fn read(
    file: impl BufRead,
    records: u32,
    mut take: impl FnMut(String, Bytes) -> Result<(), DumpError>,
) -> Result<(Header, Summary), DumpError> {
    let mut reader = Reader::new(file, records);
    loop {
        match reader.next()? {
            Read::Entry(key, value) => take(key, value)?,
            Read::End(header, summary) => return Ok((header, summary)),
        }
    }
}

/// Writes a dump into an empty store. The file is read twice, so that nothing is written of one that is damaged, and
/// no more than one transaction of it is ever in memory. While it is under way the store has the key [`RESTORING`]; a
/// restore that broke off is begun again on an emptied store.
///
/// # Errors
///
/// As [`read`], and nothing is written; [`DumpError::NotEmpty`]; a failing store, or a file that is changed meanwhile,
/// and the store stays marked.
pub async fn restore_from(
    store: &dyn Store,
    records: u32,
    mut file: impl BufRead + Seek + Send,
) -> Result<(Header, Summary), DumpError> {
    let begins_at = file.stream_position()?;
    let (_, whole) = read(&mut file, records, |_, _| Ok(()))?;
    file.seek(SeekFrom::Start(begins_at))?;
    begin_restore(store).await?;
    let mut reader = Reader::new(file, records);
    let (mut txn, mut bytes) = (Txn::new(), 0);
    loop {
        match reader.next()? {
            Read::Entry(key, value) => {
                if txn.ops.len() >= BATCH || bytes + value.len() > BATCH_BYTES {
                    store.commit(std::mem::take(&mut txn)).await?;
                    bytes = 0;
                }
                bytes += key.len() + value.len();
                txn = txn.put(key, value);
            }
            Read::End(_, summary) if summary != whole => {
                return Err(reader.damaged("the file was changed while it was restored"));
            }
            Read::End(header, summary) => {
                store.commit(txn.delete(RESTORING)).await?;
                return Ok((header, summary));
            }
        }
    }
}

/// Marks an empty store as one that is being restored.
async fn begin_restore(store: &dyn Store) -> Result<(), DumpError> {
    let page = store.scan("").await?.next_page(1).await?;
    if let Some(entry) = page.into_iter().next() {
        return Err(DumpError::NotEmpty(entry.key));
    }
    let begin = Txn::new().when(Compare::NoneUnder(String::new())).put(RESTORING, "");
    if let Committed::Conflict(found) = store.commit(begin).await? {
        let key = found.into_iter().flatten().next().map(|entry| entry.key).unwrap_or_default();
        return Err(DumpError::NotEmpty(key));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use windlass_clock::SystemClock;

    use super::*;
    use crate::memory::MemoryStore;
    use crate::read_all;

    fn at() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    async fn filled() -> MemoryStore {
        let store = MemoryStore::new(SystemClock::real());
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        store.commit(Txn::new().put("a", r#"{"v":1, "n":1.50}"#).put("b", vec![0, 255]).put("c", "")).await.unwrap();
        store.commit(Txn::new().put_leased("claim/x", "w", lease).put("d", "{\n}")).await.unwrap();
        for n in 0..300 {
            store.commit(Txn::new().put(format!("many/{n:03}"), vec![b'x'; 9000])).await.unwrap();
        }
        store
    }

    async fn dumped(store: &MemoryStore) -> Vec<u8> {
        let mut file = Vec::new();
        write(store, 1, at(), &mut file).await.unwrap();
        file
    }

    #[tokio::test]
    async fn what_is_restored_is_what_was_there_to_the_byte_without_what_hung_on_leases() {
        let store = filled().await;
        let file = dumped(&store).await;
        let other = MemoryStore::new(SystemClock::real());
        let (header, summary) = restore_from(&other, 1, Cursor::new(&file)).await.unwrap();
        assert_eq!((header.windlass_state, summary.entries), (1, 304));
        let values = |entries: Vec<crate::Entry>| -> Vec<(String, Bytes)> {
            let kept = entries.into_iter().filter(|entry| entry.lease.is_none());
            kept.map(|entry| (entry.key, entry.value)).collect()
        };
        assert_eq!(values(read_all(&store, "").await.unwrap()), values(read_all(&other, "").await.unwrap()));
        assert!(
            matches!(restore_from(&other, 1, Cursor::new(&file)).await, Err(DumpError::NotEmpty(key)) if key == "a")
        );
    }

    #[tokio::test]
    async fn every_change_of_the_file_is_found_and_named_with_its_line() {
        let file = dumped(&filled().await).await;
        let ignore = |_, _| Ok(());
        for cut in [0, 1, file.len() / 2, file.len() - 1] {
            assert!(matches!(read(&file[..cut], 1, ignore), Err(DumpError::Damaged { .. })), "cut at {cut}");
        }
        let changed = String::from_utf8(file.clone()).unwrap().replace("1.50", "1.51");
        let error = read(changed.as_bytes(), 1, ignore).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        let newer = String::from_utf8(file.clone()).unwrap().replacen("\"records\":1", "\"records\":9", 1);
        assert!(matches!(read(newer.as_bytes(), 1, ignore), Err(DumpError::Newer { found: 9, .. })));
        assert!(read(&b"{\"key\":\"a\"}\n"[..], 1, ignore).unwrap_err().to_string().contains("line 1"));
    }
    #[tokio::test]
    async fn nothing_is_written_of_a_damaged_file_and_a_store_is_marked_until_all_of_it_is_there() {
        let file = dumped(&filled().await).await;
        let store = MemoryStore::new(SystemClock::real());
        assert!(restore_from(&store, 1, Cursor::new(&file[..file.len() - 9])).await.is_err());
        assert!(read_all(&store, "").await.unwrap().is_empty());
        // Changed between its two readings.
        let mut changed = String::from_utf8(file.clone()).unwrap().replace("1.50", "1.51").into_bytes();
        changed.splice(0..0, file);
        assert!(restore_from(&store, 1, TwoFaced { file: Cursor::new(changed), turned: false }).await.is_err());
        assert!(store.get(RESTORING).await.unwrap().is_some());
    }

    /// Counts what is read, and lets [`Sink`] know.
    struct Counting<R> {
        file: R,
        read: Arc<AtomicUsize>,
    }

    impl<R: std::io::Read> std::io::Read for Counting<R> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let n = self.file.read(into)?;
            self.read.fetch_add(n, Ordering::SeqCst);
            Ok(n)
        }
    }

    impl<R: Seek> Seek for Counting<R> {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            if matches!(to, SeekFrom::Start(_)) {
                self.read.store(0, Ordering::SeqCst);
            }
            self.file.seek(to)
        }
    }

    /// Keeps nothing; knows the most that had been read of the file and was not committed.
    #[derive(Debug)]
    struct Sink {
        empty: MemoryStore,
        read: Arc<AtomicUsize>,
        committed: AtomicUsize,
        most_held: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Store for Sink {
        async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
            let put = |op: &crate::Op| match op {
                crate::Op::Put { key, value, .. } => key.len() + value.len(),
                crate::Op::Delete(_) => 0,
            };
            let held = self.read.load(Ordering::SeqCst).saturating_sub(self.committed.load(Ordering::SeqCst));
            self.most_held.fetch_max(held, Ordering::SeqCst);
            self.committed.fetch_add(txn.ops.iter().map(put).sum(), Ordering::SeqCst);
            Ok(Committed::At(crate::Revision(1)))
        }

        async fn get(&self, key: &str) -> Result<Option<crate::Entry>, StoreError> {
            self.empty.get(key).await
        }

        async fn scan(&self, prefix: &str) -> Result<Box<dyn crate::Scan>, StoreError> {
            self.empty.scan(prefix).await
        }

        async fn watch(&self, prefix: &str, after: crate::Revision) -> Result<Box<dyn crate::Watch>, StoreError> {
            self.empty.watch(prefix, after).await
        }

        async fn revision(&self) -> Result<crate::Revision, StoreError> {
            self.empty.revision().await
        }

        async fn grant(&self, ttl: Duration) -> Result<crate::LeaseId, StoreError> {
            self.empty.grant(ttl).await
        }

        async fn keep_alive(&self, lease: crate::LeaseId) -> Result<(), StoreError> {
            self.empty.keep_alive(lease).await
        }

        async fn revoke(&self, lease: crate::LeaseId) -> Result<(), StoreError> {
            self.empty.revoke(lease).await
        }
    }

    #[tokio::test]
    async fn a_restore_holds_one_transaction_however_large_the_file_is() {
        const ENTRIES: u64 = 5_000;
        let mut file = tempfile::tempfile().unwrap();
        let mut digest = Sha256::new();
        let mut line = |text: String| {
            digest.update(text.as_bytes());
            digest.update(b"\n");
            writeln!(file, "{text}").unwrap();
        };
        line(text(&Header { windlass_state: VERSION, records: 1, revision: 1, at: at() }).unwrap());
        let value = "x".repeat(9_000);
        (0..ENTRIES).for_each(|n| line(format!(r#"{{"key":"k/{n:09}","value":"{value}"}}"#)));
        let summary = Summary { entries: ENTRIES, sha256: hex(digest) };
        writeln!(file, "{}", text(&summary).unwrap()).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();

        let read = Arc::new(AtomicUsize::new(0));
        let empty = MemoryStore::new(SystemClock::real());
        let sink = Sink { empty, read: read.clone(), committed: AtomicUsize::new(0), most_held: AtomicUsize::new(0) };
        let file = std::io::BufReader::new(Counting { file, read });
        let (_, restored) = restore_from(&sink, 1, file).await.unwrap();
        assert_eq!(restored, summary);
        let (held, all) = (sink.most_held.load(Ordering::SeqCst), sink.committed.load(Ordering::SeqCst));
        // The text of a line has some 30 bytes more than its key and value.
        let most = BATCH_BYTES + 64 * 1024 + usize::try_from(ENTRIES).unwrap() * 40;
        assert!(all > 40_000_000 && held < most, "{held} bytes of {all} were held, at most {most} should be");
    }

    /// Another file from the second reading on.
    struct TwoFaced {
        file: Cursor<Vec<u8>>,
        turned: bool,
    }

    impl std::io::Read for TwoFaced {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            std::io::Read::read(&mut self.file, into)
        }
    }

    impl BufRead for TwoFaced {
        fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
            self.file.fill_buf()
        }

        fn consume(&mut self, amount: usize) {
            self.file.consume(amount);
        }
    }

    impl Seek for TwoFaced {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            if matches!(to, SeekFrom::Start(_)) {
                self.turned = true;
            }
            let half = u64::try_from(self.file.get_ref().len()).unwrap_or(0) / 2;
            match (to, self.turned) {
                (SeekFrom::Start(_), true) => self.file.seek(SeekFrom::Start(half)),
                _ => self.file.seek(to),
            }
        }
    }
}
