//! Our keys among all keys of an etcd: each begins with the store's prefix there.

use windlass_store::{Change, Entry, LeaseId, Revision, StoreError};

use crate::wire::{Event, KeyValue, event::EventType};

/// The prefix, and translations to and from it.
#[derive(Clone, Debug)]
pub(crate) struct Keyspace {
    prefix: String,
}

impl Keyspace {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Our `key` as etcd knows it.
    pub(crate) fn stored(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// The keys that begin with our `prefix`, as etcd's pair of a first key and one past the last.
    pub(crate) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let first = self.stored(prefix);
        let end = after(&first);
        (first, end)
    }

    /// An entry of etcd as one of ours.
    pub(crate) fn entry(&self, kv: KeyValue) -> Result<Entry, StoreError> {
        let key = self.key(&kv.key)?;
        Ok(Entry {
            key,
            value: kv.value,
            version: revision(kv.mod_revision),
            created: revision(kv.create_revision),
            lease: u64::try_from(kv.lease).ok().filter(|id| *id != 0).map(LeaseId),
        })
    }

    /// A change of etcd as one of ours.
    pub(crate) fn change(&self, event: Event) -> Result<Change, StoreError> {
        let is_delete = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else {
            return Err(StoreError::Unusable("etcd sent a change without a key".to_owned()));
        };
        let at = revision(kv.mod_revision);
        if is_delete {
            return Ok(Change { revision: at, key: self.key(&kv.key)?, entry: None });
        }
        let entry = self.entry(kv)?;
        Ok(Change { revision: at, key: entry.key.clone(), entry: Some(entry) })
    }

    fn key(&self, stored: &[u8]) -> Result<String, StoreError> {
        let ours = stored.strip_prefix(self.prefix.as_bytes()).and_then(|key| std::str::from_utf8(key).ok());
        ours.map(str::to_owned).ok_or_else(|| {
            StoreError::Unusable(format!(
                "the key {} in etcd is not one of ours; somebody else writes under the prefix {}",
                stored.escape_ascii(),
                self.prefix
            ))
        })
    }
}

/// The first key after all that begin with `prefix`. Our prefixes are text, so that there is always one: no byte
/// of UTF-8 is 0xff.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// The key right after `key`.
pub(crate) fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

pub(crate) fn revision(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_exactly_what_begins_with_the_prefix() {
        let space = Keyspace::new("w/");
        for prefix in ["", "a", "a/", "\u{10ffff}", "é"] {
            let (first, end) = space.range(prefix);
            let inside = |key: &str| (&first..&end).contains(&&space.stored(key));
            for key in ["", "a", "a/", "a/x", "a0", "b", "\u{10ffff}", "\u{10ffff}\u{10ffff}", "é", "éa", "ê"] {
                assert_eq!(inside(key), key.starts_with(prefix), "{key:?} under {prefix:?}");
            }
        }
    }

    #[test]
    fn keys_of_others_are_named() {
        let space = Keyspace::new("w/");
        let error = |key: &[u8]| space.key(key).unwrap_err().to_string();
        assert_eq!(space.key("w/é".as_bytes()), Ok("é".to_owned()));
        assert!(error(b"x/1").contains("x/1"));
        assert!(error(b"w/\xff").contains("w/\\xff"));
    }
}
