//! Idempotency keys: the same key twice changes once.
//!
//! `idem/<digest of who and key>` holds a digest of what was asked and, for a submission, the id that its job gets:
//! written before the job, so that after a crash the same key leads to the same job, stored once. For a command it
//! holds the answer; until that is written the engine itself recognises the repetition by its request id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use windlass_api::{Fault, IDEMPOTENCY_KEY, JobId};
use windlass_clock::SharedClock;
use windlass_store::{Committed, Compare, Store, StoreError, Txn};

use crate::refusal::{Answer, Refusal};
use crate::token::hex;

const PREFIX: &str = "idem/";
const VERSION: u8 = 1;
const SWEPT: usize = 90;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    v: u8,
    at: Timestamp,
    /// Digest of what was asked.
    asked: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Value>,
}

/// Remembers keys.
pub(crate) struct Idempotency {
    store: Arc<dyn Store>,
    clock: SharedClock,
    kept: Duration,
    /// Keys under way in this process: the second of two at once waits for the first.
    under_way: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// A key that somebody gave, or none.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Where it is kept.
    place: String,
    asked: String,
}

impl Key {
    /// The key in `headers`, or `given` by a form, for what `who` asks.
    pub(crate) fn of(who: &str, headers: &HeaderMap, given: Option<&str>, asked: &[u8]) -> Answer<Option<Self>> {
        let key = match (headers.get(IDEMPOTENCY_KEY), given) {
            (Some(value), _) => value.to_str().ok().map(str::to_owned),
            (None, Some(given)) => Some(given.to_owned()),
            (None, None) => return Ok(None),
        };
        let key = key.filter(|key| (1..=200).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
        let Some(key) = key else {
            return Err(Refusal::bad_request(
                "invalid_idempotency_key",
                "an idempotency key has 1 to 200 visible ASCII characters",
            ));
        };
        let mut hash = Sha256::new();
        hash.update((who.len() as u64).to_be_bytes());
        hash.update(who);
        hash.update(key);
        let place = format!("{PREFIX}{}", hex(&hash.finalize()));
        Ok(Some(Self { place, asked: hex(&Sha256::digest(asked)) }))
    }

    /// What the engine recognises a repeated command by.
    pub(crate) fn request_id(&self) -> String {
        self.place.trim_start_matches(PREFIX)[..32].to_owned()
    }
}

/// What is known about a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// It was not given before.
    New,
    /// It was given before and this was answered.
    Answered(Value),
    /// It was given before and nothing was answered yet; a submission got this id.
    Begun(Option<JobId>),
}

impl Idempotency {
    pub(crate) fn new(store: Arc<dyn Store>, clock: SharedClock, kept: Duration) -> Self {
        Self { store, clock, kept, under_way: Mutex::default() }
    }

    /// Waits for whoever uses the same key in this process.
    pub(crate) async fn alone(&self, key: &Key) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.retain(|_, lock| lock.strong_count() > 0);
            let found = under_way.get(&key.place).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                under_way.insert(key.place.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Writes down that `key` is used, for a submission with the id that its job gets, unless it was used before.
    pub(crate) async fn begin(&self, key: &Key, job: Option<JobId>) -> Answer<Known> {
        let stored = Stored { v: VERSION, at: self.clock.wall(), asked: key.asked.clone(), job, answer: None };
        let value = serde_json::to_vec(&stored).unwrap_or_default();
        loop {
            let txn = Txn::new().when(Compare::Absent(key.place.clone())).put(&key.place, value.clone());
            match self.store.commit(txn).await? {
                Committed::At(_) => return Ok(Known::New),
                Committed::Conflict(found) => {
                    let Some(entry) = found.into_iter().flatten().next() else { continue };
                    return self.judge(key, &entry.value);
                }
            }
        }
    }

    fn judge(&self, key: &Key, value: &[u8]) -> Answer<Known> {
        let stored: Stored = serde_json::from_slice(value).map_err(|error| {
            Refusal::internal(format!("what is known about this idempotency key is damaged: {error}"))
        })?;
        if stored.asked != key.asked {
            return Err(Refusal::invalid(
                "idempotency_key_reused",
                "this idempotency key was used for another request",
                vec![Fault::new("", "use a new key for each change")],
            ));
        }
        Ok(match stored.answer {
            Some(answer) => Known::Answered(answer),
            None => Known::Begun(stored.job),
        })
    }

    /// Keeps what was answered. When that fails, the next one with this key is answered by looking.
    pub(crate) async fn end(&self, key: &Key, job: Option<JobId>, answer: Value) {
        let stored = Stored { v: VERSION, at: self.clock.wall(), asked: key.asked.clone(), job, answer: Some(answer) };
        let value = serde_json::to_vec(&stored).unwrap_or_default();
        if let Err(error) = self.store.commit(Txn::new().put(&key.place, value)).await {
            tracing::warn!(%error, "an answer could not be kept under its idempotency key");
        }
    }

    /// Forgets a key whose submission was refused: nothing was stored, and what is mended may come under the same key.
    pub(crate) async fn forget(&self, key: &Key) {
        if let Err(error) = self.store.commit(Txn::new().delete(&key.place)).await {
            tracing::warn!(%error, "the idempotency key of a refused request could not be forgotten");
        }
    }

    /// Forgets old keys. Several servers may do so at once.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let Ok(oldest) = self.clock.wall().checked_sub(self.kept) else { return Ok(()) };
        let mut scan = self.store.scan(PREFIX).await?;
        loop {
            let page = scan.next_page(SWEPT).await?;
            if page.is_empty() {
                return Ok(());
            }
            let old = page
                .iter()
                .filter(|entry| serde_json::from_slice::<Stored>(&entry.value).is_ok_and(|stored| stored.at < oldest));
            let txn = old.fold(Txn::new(), |txn, entry| txn.delete(&entry.key));
            if !txn.ops.is_empty() {
                self.store.commit(txn).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;
    use windlass_store::memory::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn a_key_leads_to_the_same_answer_until_it_is_forgotten() {
        let clock = SystemClock::starting_at(Timestamp::UNIX_EPOCH);
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let new = || Idempotency::new(store.clone(), clock.clone(), Duration::from_secs(60));
        let key =
            |who: &str, asked: &str| Key::of(who, &HeaderMap::new(), Some("k"), asked.as_bytes()).unwrap().unwrap();
        let a = key("nora", "x");
        let job = JobId::from_bits(7);
        assert_eq!(new().begin(&a, Some(job)).await.unwrap(), Known::New);
        assert_eq!(new().begin(&a, Some(JobId::from_bits(8))).await.unwrap(), Known::Begun(Some(job)));
        assert_eq!(new().begin(&key("nora", "y"), None).await.unwrap_err().problem().code, "idempotency_key_reused");
        assert_eq!(new().begin(&key("ci", "y"), None).await.unwrap(), Known::New);
        new().end(&a, None, 5.into()).await;
        assert_eq!(new().begin(&a, None).await.unwrap(), Known::Answered(5.into()));
        new().sweep().await.unwrap();
        assert_eq!(store.len(), 2);
        clock.jump_wall(61_000);
        new().sweep().await.unwrap();
        assert!(store.is_empty());
        assert!(Key::of("a", &HeaderMap::new(), Some("with space"), b"").is_err());
        assert!(Key::of("a", &HeaderMap::new(), None, b"").unwrap().is_none());
    }
}
