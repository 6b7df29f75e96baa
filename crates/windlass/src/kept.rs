//! Documents that are kept in versions in the state: inventories of sites, plans and groups of recoveries.
//!
//! ```text
//! kept/SORT/NAME/v/VERSION        what is known of a version: its digest, when it was first and last seen so
//! kept/SORT/NAME/p/DIGEST/N       a part of its text
//! ```
//!
//! Parts lie under the digest of the whole text and are written first: whoever finds a version finds all of it, and two who
//! keep the same write the same. A version is never changed, but for the moment at which it was last seen to be so.

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::Digest;
use windlass_store::{Committed, Compare, Store, Txn, read_all};

use crate::problem::Problem;

/// Bytes of a part: values of the store have room for a little more.
const PART: usize = 96 * 1024;
/// Parts that go into one transaction.
const PARTS_AT_ONCE: usize = 4;
/// The largest text that is kept, in bytes.
const LARGEST: usize = 64 << 20;
/// How often a version is numbered anew because somebody else was faster.
const TRIES: usize = 20;

/// What is known of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The format of this record.
    pub(crate) v: u16,
    /// Counts from 1.
    pub(crate) version: u64,
    /// The digest of its text.
    pub(crate) digest: Digest,
    /// When it was first seen so.
    pub(crate) since: Timestamp,
    /// When it was last seen so.
    pub(crate) seen: Timestamp,
    /// Bytes of its text.
    pub(crate) bytes: usize,
    /// What it is about, in a few words.
    pub(crate) about: String,
}

/// Which version is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Latest,
    Number(u64),
    /// The newest that was there at this moment.
    At(Timestamp),
}

impl Which {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("{text:?} is no version: give its number, a moment (2026-03-01T02:00:00Z), or `latest`")
        })
    }

    /// The one of `versions`, which are in order, that is meant.
    pub(crate) fn of<'v>(&self, versions: &'v [Version]) -> Option<&'v Version> {
        versions.iter().rev().find(|one| match self {
            Self::Latest => true,
            Self::Number(number) => one.version == *number,
            Self::At(moment) => one.since <= *moment,
        })
    }
}

/// All versions of one document.
pub(crate) struct Kept<'s> {
    store: &'s dyn Store,
    sort: &'static str,
    name: String,
}

/// What becomes of a document that is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is a new version.
    New(Version),
    /// It is as the last version was.
    Same(Version),
}

impl Outcome {
    pub(crate) fn version(&self) -> &Version {
        match self {
            Self::New(version) | Self::Same(version) => version,
        }
    }
}

impl<'s> Kept<'s> {
    /// The document of a sort that is called `name`.
    pub(crate) fn new(store: &'s dyn Store, sort: &'static str, name: &str) -> Self {
        // What would end a part of the key, or is not to be read in one, is written as its number.
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let name =
            name.bytes().map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
        Self { store, sort, name: name.collect() }
    }

    fn under(&self, rest: &str) -> String {
        format!("kept/{}/{}/{rest}", self.sort, self.name)
    }

    /// What is known of all versions, the oldest first.
    pub(crate) async fn versions(&self) -> anyhow::Result<Vec<Version>> {
        let entries = read_all(self.store, &self.under("v/")).await?;
        let read = |entry: windlass_store::Entry| {
            serde_json::from_slice(&entry.value).with_context(|| format!("read the record {}", entry.key))
        };
        entries.into_iter().map(read).collect()
    }

    /// The document of a version.
    pub(crate) async fn read(&self, version: &Version) -> anyhow::Result<Value> {
        let entries = read_all(self.store, &self.under(&format!("p/{}/", version.digest))).await?;
        let text: Vec<u8> = entries.into_iter().flat_map(|entry| entry.value).collect();
        if Digest::of(&text) != version.digest {
            let text = format!("version {} of {} {} is damaged in the state", version.version, self.sort, self.name);
            return Err(Problem::failed(text).hint("take another version, or one that object storage has").into());
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// Keeps a document as it is at `now`, unless the last version is the same.
    pub(crate) async fn keep(&self, document: &Value, about: &str, now: Timestamp) -> anyhow::Result<Outcome> {
        let text = document.to_string().into_bytes();
        if text.len() > LARGEST {
            let text = format!("{} {} has {} bytes; at most {LARGEST} are kept", self.sort, self.name, text.len());
            return Err(Problem::failed(text).hint("keep it in parts: with `--instance`, or in several groups").into());
        }
        let digest = Digest::of(&text);
        for _ in 0..TRIES {
            let last = self.store.last_before(&self.under("v/"), None, 1).await?.into_iter().next();
            let known: Option<Version> = last
                .as_ref()
                .map(|entry| serde_json::from_slice(&entry.value))
                .transpose()
                .context("read the last version")?;
            let (compare, outcome) = match (last, known) {
                (Some(entry), Some(last)) if last.digest == digest => {
                    let seen = last.seen.max(now);
                    (Compare::Version(entry.key, entry.version), Outcome::Same(Version { seen, ..last }))
                }
                (_, last) => {
                    self.write_parts(digest, &text).await?;
                    let version = last.map_or(0, |last| last.version) + 1;
                    let new = Version {
                        v: 1,
                        version,
                        digest,
                        since: now,
                        seen: now,
                        bytes: text.len(),
                        about: about.to_owned(),
                    };
                    (Compare::Absent(self.key(version)), Outcome::New(new))
                }
            };
            let record = serde_json::to_vec(outcome.version())?;
            let txn = Txn::new().when(compare).put(self.key(outcome.version().version), record);
            if let Committed::At(_) = self.store.commit(txn).await? {
                return Ok(outcome);
            }
        }
        Err(Problem::failed(format!("others keep versions of {} {} all the time", self.sort, self.name)).into())
    }

    fn key(&self, version: u64) -> String {
        // In the order of their numbers.
        self.under(&format!("v/{version:010}"))
    }

    async fn write_parts(&self, digest: Digest, text: &[u8]) -> anyhow::Result<()> {
        let parts: Vec<(usize, &[u8])> = text.chunks(PART).enumerate().collect();
        for some in parts.chunks(PARTS_AT_ONCE) {
            let put = |txn: Txn, (n, part): &(usize, &[u8])| {
                txn.put(self.under(&format!("p/{digest}/{n:05}")), part.to_vec())
            };
            self.store.commit(some.iter().fold(Txn::new(), put)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use windlass_clock::SystemClock;
    use windlass_store::memory::MemoryStore;

    use super::*;

    fn moment(day: u8) -> Timestamp {
        format!("2026-03-{day:02}T02:00:00Z").parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_new_is_a_version_and_what_is_the_same_is_not() {
        let store = MemoryStore::new(SystemClock::real());
        let kept = Kept::new(&store, "inventory", "site a/b");
        // Larger than one value of the store, and than one transaction.
        let large = |mark: &str| json!({ "mark": mark, "text": "x".repeat(900_000) });
        assert!(matches!(kept.keep(&large("one"), "first", moment(1)).await.unwrap(), Outcome::New(_)));
        let same = kept.keep(&large("one"), "first", moment(3)).await.unwrap();
        assert!(matches!(&same, Outcome::Same(version) if version.version == 1 && version.seen == moment(3)));
        assert_eq!(kept.keep(&large("two"), "second", moment(5)).await.unwrap().version().version, 2);
        // What was there before may come again.
        assert_eq!(kept.keep(&large("one"), "first", moment(7)).await.unwrap().version().version, 3);
        let versions = kept.versions().await.unwrap();
        assert_eq!(versions.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(kept.read(&versions[1]).await.unwrap(), large("two"));
        let number = |which: &str| Which::parse(which).unwrap().of(&versions).map(|one| one.version);
        assert_eq!((number("latest"), number("2"), number("9")), (Some(3), Some(2), None));
        assert_eq!((number("2026-03-06T00:00:00Z"), number("2026-02-01T00:00:00Z")), (Some(2), None));
        assert!(Which::parse("yesterday").is_err());
        assert_eq!(Kept::new(&store, "inventory", "site a").versions().await.unwrap(), vec![], "another name");
    }

    #[tokio::test]
    async fn a_part_that_is_lost_is_found_out() {
        let store = MemoryStore::new(SystemClock::real());
        let kept = Kept::new(&store, "plan", "shop");
        let outcome = kept.keep(&json!({ "a": 1 }), "", moment(1)).await.unwrap();
        let part = kept.under(&format!("p/{}/00000", outcome.version().digest));
        store.commit(Txn::new().delete(part)).await.unwrap();
        assert!(kept.read(outcome.version()).await.is_err());
    }
}
