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

use std::io::{BufRead, Write};

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

/// Reads a dump to its end and hands over its entries; an error means that none of them may be kept.
///
/// # Errors
///
/// [`DumpError::Damaged`] with the line, [`DumpError::Newer`], or whatever `take` answers.
pub fn read(
    mut file: impl BufRead,
    records: u32,
    mut take: impl FnMut(String, Bytes) -> Result<(), DumpError>,
) -> Result<(Header, Summary), DumpError> {
    let mut digest = Sha256::new();
    let mut number = 0;
    let mut header: Option<Header> = None;
    let (mut entries, mut last) = (0, String::new());
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        number += 1;
        let damaged = |what: &str| DumpError::Damaged { line: number, what: what.to_owned() };
        std::io::Read::take(&mut file, LONGEST_LINE).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Err(damaged("the file ends before its last line: it is not whole"));
        }
        if bytes.pop() != Some(b'\n') {
            return Err(damaged("the line has no end"));
        }
        let Some(header) = &header else {
            let first: Header =
                serde_json::from_slice(&bytes).map_err(|_| damaged("this is not a dump of a windlass state"))?;
            for (of, found, known) in
                [("the format", first.windlass_state, VERSION), ("the records", first.records, records)]
            {
                if found > known {
                    return Err(DumpError::Newer { of, found, known });
                }
            }
            digest.update(&bytes);
            digest.update(b"\n");
            header = Some(first);
            continue;
        };
        if let Ok(summary) = serde_json::from_slice::<Summary>(&bytes) {
            if summary.entries != entries || summary.sha256 != hex(digest) {
                return Err(damaged("the file has changed since it was written: its checksum is another one"));
            }
            return Ok((header.clone(), summary));
        }
        digest.update(&bytes);
        digest.update(b"\n");
        let line: Line<'_> = serde_json::from_slice(&bytes).map_err(|_| damaged("the line is no entry"))?;
        let value = match (line.value, line.base64) {
            (Some(raw), None) => Bytes::copy_from_slice(raw.get().as_bytes()),
            (None, Some(text)) => STANDARD.decode(text).map_err(|_| damaged("the value is not base64"))?.into(),
            _ => return Err(damaged("an entry has either `value` or `base64`")),
        };
        if entries > 0 && line.key <= last {
            return Err(damaged("the keys are not in order"));
        }
        entries += 1;
        last.clone_from(&line.key);
        take(line.key, value)?;
    }
}

/// Writes the entries of a dump into an empty store. The dump has to be read to its end before: see [`read`]. While it
/// is under way the store has the key [`RESTORING`]; a restore that broke off is begun again on an emptied store.
///
/// # Errors
///
/// [`DumpError::NotEmpty`], or a failing store.
pub async fn restore(store: &dyn Store, entries: Vec<(String, Bytes)>) -> Result<(), DumpError> {
    let page = store.scan("").await?.next_page(1).await?;
    if let Some(entry) = page.into_iter().next() {
        return Err(DumpError::NotEmpty(entry.key));
    }
    let begin = Txn::new().when(Compare::NoneUnder(String::new())).put(RESTORING, "");
    if let Committed::Conflict(found) = store.commit(begin).await? {
        let key = found.into_iter().flatten().next().map(|entry| entry.key).unwrap_or_default();
        return Err(DumpError::NotEmpty(key));
    }
    let (mut txn, mut bytes) = (Txn::new(), 0);
    for (key, value) in entries {
        if txn.ops.len() >= BATCH || bytes + value.len() > BATCH_BYTES {
            store.commit(std::mem::take(&mut txn)).await?;
            bytes = 0;
        }
        bytes += key.len() + value.len();
        txn = txn.put(key, value);
    }
    store.commit(txn.delete(RESTORING)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
        let mut entries = Vec::new();
        let keep = |key, value| {
            entries.push((key, value));
            Ok(())
        };
        let (header, summary) = read(&*file, 1, keep).unwrap();
        assert_eq!((header.windlass_state, summary.entries), (1, 304));
        let other = MemoryStore::new(SystemClock::real());
        restore(&other, entries.clone()).await.unwrap();
        let values = |entries: Vec<crate::Entry>| -> Vec<(String, Bytes)> {
            let kept = entries.into_iter().filter(|entry| entry.lease.is_none());
            kept.map(|entry| (entry.key, entry.value)).collect()
        };
        assert_eq!(values(read_all(&store, "").await.unwrap()), values(read_all(&other, "").await.unwrap()));
        assert!(matches!(restore(&other, entries).await, Err(DumpError::NotEmpty(key)) if key == "a"));
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
}
