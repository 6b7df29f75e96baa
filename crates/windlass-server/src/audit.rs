//! The audit list: who changed what, durable in the state store under `audit/<day>/<time><random>`.
//!
//! A change is written down before it is tried and again when it is known how it went: an entry that stays `begun` was
//! cut off by a crash, and nothing is changed without an entry. Entries of one day share a prefix, so that old days go
//! as a whole. Accesses that were denied are bounded per minute: nobody fills the store by knocking.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_api::{AuditEntry, AuditList, AuditQuery, JobId};
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_store::{Store, StoreError, Txn, budget};

use crate::guard::Actor;
use crate::refusal::{Answer, Refusal};

const PREFIX: &str = "audit/";
const VERSION: u8 = 1;
/// Denied accesses that are written down in a minute; the rest is counted in the metrics.
const DENIED_PER_MINUTE: u32 = 60;
/// Keys that one sweep deletes in one transaction.
const SWEPT: usize = 90;

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u8,
    #[serde(flatten)]
    entry: AuditEntry,
}

/// Writes and reads the audit list.
pub(crate) struct Audit {
    store: Arc<dyn Store>,
    clock: SharedClock,
    entropy: SharedEntropy,
    kept: Duration,
    /// The millisecond of the last entry, and how many it has: entries of one server sort as they were made.
    last: Mutex<(u64, u16)>,
    /// The minute that is counted, and how many denied accesses it has.
    denied: Mutex<(i64, u32)>,
}

/// An entry of a change that is under way.
#[derive(Debug)]
pub(crate) struct Begun {
    entry: AuditEntry,
}

fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%d").to_string()
}

impl Audit {
    pub(crate) fn new(store: Arc<dyn Store>, clock: SharedClock, entropy: SharedEntropy, kept: Duration) -> Self {
        Self { store, clock, entropy, kept, last: Mutex::default(), denied: Mutex::default() }
    }

    fn entry(&self, actor: &Actor, what: &str) -> AuditEntry {
        let at = self.clock.wall();
        let ms = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let n = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = if last.0 == ms { (ms, last.1.saturating_add(1)) } else { (ms, 0) };
            last.1
        };
        let random = self.entropy.next_u64() >> 16;
        AuditEntry {
            id: format!("{}-{ms:012x}{n:04x}{random:012x}", day(at)),
            at,
            who: actor.who.as_ref().map(|who| who.name.clone()),
            role: actor.who.as_ref().map(|who| who.role),
            from: actor.from.to_string(),
            what: what.to_owned(),
            job: None,
            request_id: actor.request_id.clone(),
            outcome: "begun".to_owned(),
            code: None,
            details: Value::Null,
        }
    }

    async fn put(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let stored = Stored { v: VERSION, entry: entry.clone() };
        let mut text = serde_json::to_vec(&stored).unwrap_or_default();
        if text.len() > budget::VALUE_BYTES / 2 {
            let entry = AuditEntry { details: Value::String("too large to be kept".into()), ..entry.clone() };
            text = serde_json::to_vec(&Stored { v: VERSION, entry }).unwrap_or_default();
        }
        self.store.commit(Txn::new().put(key(&entry.id), text)).await.map(drop)
    }

    /// Writes down that a change is about to be tried. Without it nothing is changed.
    pub(crate) async fn begin(&self, actor: &Actor, what: &str, job: Option<JobId>, details: Value) -> Answer<Begun> {
        let entry = AuditEntry { job, details, ..self.entry(actor, what) };
        self.put(&entry).await?;
        Ok(Begun { entry })
    }

    /// Writes down how a change went. When that fails the entry stays `begun`, which is the truth as far as it is known.
    pub(crate) async fn end<T>(&self, begun: Begun, job: Option<JobId>, result: &Answer<T>) {
        let mut entry = begun.entry;
        entry.job = job.or(entry.job);
        (entry.outcome, entry.code) = match result {
            Ok(_) => ("done".to_owned(), None),
            Err(refusal) => {
                let refused = refusal.status().is_client_error();
                let outcome = if refused { "refused" } else { "failed" };
                (outcome.to_owned(), Some(refusal.problem().code.clone()))
            }
        };
        let (who, from) = (entry.who.as_deref().unwrap_or("-"), &entry.from);
        tracing::info!(who, %from, what = entry.what, job = ?entry.job, outcome = entry.outcome, request = entry.request_id, "audit");
        if let Err(error) = self.put(&entry).await {
            tracing::warn!(%error, id = entry.id, "the outcome of a change could not be written to the audit list");
        }
    }

    /// Writes down that somebody was not let in. `code` says why.
    pub(crate) async fn denied(&self, actor: &Actor, code: &str, what: &str) {
        tracing::warn!(from = %actor.from, code, what, request = actor.request_id, "access denied");
        let minute = self.clock.wall().as_second() / 60;
        {
            let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
            if denied.0 != minute {
                *denied = (minute, 0);
            }
            denied.1 += 1;
            if denied.1 > DENIED_PER_MINUTE {
                return;
            }
        }
        let entry = AuditEntry {
            outcome: "refused".to_owned(),
            code: Some(code.to_owned()),
            details: serde_json::json!({ "request": what }),
            ..self.entry(actor, "access.denied")
        };
        if let Err(error) = self.put(&entry).await {
            tracing::warn!(%error, "a denied access could not be written to the audit list");
        }
    }

    /// Entries, newest first.
    pub(crate) async fn list(&self, query: &AuditQuery) -> Answer<AuditList> {
        let limit = query.limit.unwrap_or(100).clamp(1, 1000) as usize;
        let job: Option<JobId> = match &query.job {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Refusal::bad_request("invalid_query", format!("{text:?} is not the id of a job")))?,
            ),
        };
        let wanted = |entry: &AuditEntry| {
            query.who.as_ref().is_none_or(|who| entry.who.as_ref() == Some(who))
                && job.is_none_or(|job| entry.job == Some(job))
                && query.what.as_ref().is_none_or(|what| entry.what.starts_with(what.as_str()))
        };
        let now = self.clock.wall();
        let begin = match query.cursor.as_deref() {
            None => now.saturating_add(Duration::from_secs(24 * 3600)).unwrap_or(now),
            Some(cursor) => day_of(cursor).ok_or_else(|| {
                Refusal::bad_request("invalid_cursor", "the cursor is not one that the page before gave")
            })?,
        };
        let days = self.kept.as_secs() / (24 * 3600) + 3;
        let mut list = AuditList::default();
        for back in 0..days {
            let Ok(at) = begin.checked_sub(Duration::from_secs(back * 24 * 3600)) else { break };
            let entries = windlass_store::read_all(&*self.store, &format!("{PREFIX}{}/", day(at))).await?;
            for found in entries.iter().rev() {
                let Ok(Stored { entry, .. }) = serde_json::from_slice(&found.value) else { continue };
                if query.cursor.as_ref().is_some_and(|cursor| entry.id >= *cursor) || !wanted(&entry) {
                    continue;
                }
                if list.entries.len() == limit {
                    list.next = list.entries.last().map(|last| last.id.clone());
                    return Ok(list);
                }
                list.entries.push(entry);
            }
        }
        Ok(list)
    }

    /// Deletes what is older than it is kept. Several servers may do so at once.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let Ok(oldest) = self.clock.wall().checked_sub(self.kept) else { return Ok(()) };
        let floor = format!("{PREFIX}{}/", day(oldest));
        let mut scan = self.store.scan(PREFIX).await?;
        loop {
            let page = scan.next_page(SWEPT).await?;
            let old: Vec<_> = page.iter().take_while(|entry| entry.key < floor).collect();
            if old.is_empty() {
                return Ok(());
            }
            let txn = old.iter().fold(Txn::new(), |txn, entry| txn.delete(&entry.key));
            self.store.commit(txn).await?;
            if old.len() < page.len() {
                return Ok(());
            }
        }
    }
}

fn key(id: &str) -> String {
    // `20261121-0193…` is kept under its day.
    format!("{PREFIX}{}", id.replacen('-', "/", 1))
}

/// The day of an id, as a moment in it.
fn day_of(id: &str) -> Option<Timestamp> {
    let (day, rest) = id.split_once('-')?;
    if day.len() != 8 || rest.len() != 28 || !id.is_ascii() {
        return None;
    }
    format!("{}-{}-{}T12:00:00Z", &day[..4], &day[4..6], &day[6..]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::{Seeded, SystemClock};
    use windlass_store::memory::MemoryStore;

    fn actor() -> Actor {
        Actor { who: None, from: [127, 0, 0, 1].into(), request_id: "r".into(), cookie: false }
    }

    #[tokio::test(start_paused = true)]
    async fn entries_come_newest_first_page_by_page_and_old_days_go() {
        let clock = SystemClock::starting_at("2026-01-01T23:59:58Z".parse().unwrap());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let day = Duration::from_secs(24 * 3600);
        let audit = Audit::new(store.clone(), clock.clone(), Seeded::shared(1), day * 2);
        for n in 0..5 {
            let begun = audit.begin(&actor(), &format!("job.n{n}"), None, Value::Null).await.unwrap();
            audit.end(begun, None, &Ok(())).await;
            clock.jump_wall(1000);
        }
        let mut seen = Vec::new();
        let mut query = AuditQuery { limit: Some(2), ..AuditQuery::default() };
        loop {
            let list = audit.list(&query).await.unwrap();
            seen.extend(list.entries.iter().map(|entry| entry.what.clone()));
            assert!(list.entries.iter().all(|entry| entry.outcome == "done"));
            query.cursor = list.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["job.n4", "job.n3", "job.n2", "job.n1", "job.n0"]);
        assert!(audit.list(&AuditQuery { cursor: Some("x".into()), ..AuditQuery::default() }).await.is_err());
        for _ in 0..100 {
            audit.denied(&actor(), "unknown_token", "GET /").await;
        }
        let denied = AuditQuery { what: Some("access.".into()), limit: Some(1000), ..AuditQuery::default() };
        assert_eq!(audit.list(&denied).await.unwrap().entries.len(), DENIED_PER_MINUTE as usize);
        clock.jump_wall(3 * 24 * 3600 * 1000);
        audit.sweep().await.unwrap();
        assert!(store.is_empty());
    }
}
