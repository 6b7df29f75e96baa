//! Random histories against a model that is too simple to be wrong.
//!
//! A [`Step`] is decoded from bytes, so that a property test can shrink a failing history and a plain seed
//! can make one. A watcher follows along: what it has seen must add up to what the store holds.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use windlass_clock::{Entropy, Seeded};

use super::Subject;
use crate::{Committed, Compare, Entry, LeaseId, Op, Revision, Store, Txn, Watch};

/// Few keys, so that histories meet, and prefixes of each other.
const KEYS: [&str; 10] = ["a", "a/", "a/x", "a/x/1", "a0", "b", "b/é", "b/\u{10ffff}", "c", "c/1"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "b/", "c/1", "none"];
const TTL: Duration = Duration::from_secs(10);

/// One step of a history, in a form that any bytes give.
pub type Step = [u8; 8];

/// What the model holds: entries as the store has to show them, and the live leases with their end.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    leases: Vec<(LeaseId, Duration)>,
    now: Duration,
}

/// Histories from fixed seeds.
pub async fn random_histories_agree_with_a_simple_model(subject: &dyn Subject) {
    let entropy = Seeded::new(0x5744_4c53);
    let steps: Vec<Step> = (0..600).map(|_| entropy.next_u64().to_le_bytes()).collect();
    agrees_with_the_model(subject, &steps).await;
}

/// Runs `steps` on the store and on the model and compares all answers.
///
/// # Panics
///
/// When the store and the model differ; the message names the step.
pub async fn agrees_with_the_model(subject: &dyn Subject, steps: &[Step]) {
    let store = subject.store();
    let mut model = Model { revision: store.revision().await.expect("the store can be read"), ..Model::default() };
    let mut mirror: BTreeMap<String, Entry> = BTreeMap::new();
    let mut seen = model.revision;
    let mut watch = store.watch("", seen).await.expect("the store can be watched");
    for (number, step) in steps.iter().enumerate() {
        let place = format!("step {number} {step:?}");
        match step[0] % 16 {
            0..=8 => commit(&*store, &mut model, step, &place).await,
            9 => grant(&*store, &mut model).await,
            10 => end_lease(&*store, &mut model, step, &place).await,
            11 => keep_alive(&*store, &mut model, step, &place).await,
            12 if subject.has_exact_time() => {
                let time = Duration::from_secs(u64::from(step[1] % 8));
                subject.pass(time).await;
                model.pass(time);
            }
            13 => watch = store.watch("", seen).await.expect("the store can be watched"),
            _ => check_reads(&*store, &mut model, step, &place).await,
        }
        follow(&*store, &mut *watch, &mut mirror, &mut seen).await;
        assert_eq!(mirror, model.entries, "{place}: what the watcher has seen");
        model.revision = seen;
    }
}

/// Brings the watcher's view up to the store's revision.
async fn follow(store: &dyn Store, watch: &mut dyn Watch, mirror: &mut BTreeMap<String, Entry>, seen: &mut Revision) {
    let head = store.revision().await.expect("the store can be read");
    while *seen < head {
        for change in watch.next().await.expect("the watch goes on") {
            assert!(change.revision >= *seen, "changes come in order");
            *seen = change.revision;
            match change.entry {
                Some(entry) => {
                    assert_eq!((&entry.key, entry.version), (&change.key, change.revision));
                    mirror.insert(change.key, entry);
                }
                None => assert!(mirror.remove(&change.key).is_some(), "{} was there", change.key),
            }
        }
    }
    assert_eq!(*seen, head, "no change is newer than the store");
}

async fn grant(store: &dyn Store, model: &mut Model) {
    let lease = store.grant(TTL).await.expect("a lease");
    assert!(model.leases.iter().all(|(id, _)| *id != lease), "lease ids are not given out twice");
    model.leases.push((lease, model.now + TTL));
}

async fn end_lease(store: &dyn Store, model: &mut Model, step: &Step, place: &str) {
    let Some(lease) = model.pick_lease(step[1]) else { return };
    assert_eq!(store.revoke(lease).await, Ok(()), "{place}");
    model.end(lease);
}

async fn keep_alive(store: &dyn Store, model: &mut Model, step: &Step, place: &str) {
    let Some(lease) = model.pick_lease(step[1]) else { return };
    assert_eq!(store.keep_alive(lease).await, Ok(()), "{place}");
    let end = model.now + TTL;
    model.leases.iter_mut().filter(|(id, _)| *id == lease).for_each(|(_, expires)| *expires = end);
}

async fn commit(store: &dyn Store, model: &mut Model, step: &Step, place: &str) {
    let txn = model.transaction(step);
    let holds = txn.compares.iter().all(|compare| model.holds(compare));
    let outcome = store.commit(txn.clone()).await;
    if !holds {
        let present: Vec<_> = txn.compares.iter().map(|compare| model.present(compare)).collect();
        assert_eq!(outcome, Ok(Committed::Conflict(present)), "{place}");
        return;
    }
    let Ok(Committed::At(at)) = outcome else { panic!("{place}: {txn:?} gave {outcome:?}") };
    let changes = txn.ops.iter().any(|op| match op {
        Op::Put { .. } => true,
        Op::Delete(key) => model.entries.contains_key(key),
    });
    if changes {
        assert!(at > model.revision, "{place}: revisions grow");
    } else {
        assert_eq!(at, model.revision, "{place}: nothing changed");
    }
    model.apply(txn, at);
}

async fn check_reads(store: &dyn Store, model: &mut Model, step: &Step, place: &str) {
    let key = KEYS[usize::from(step[1]) % KEYS.len()];
    assert_eq!(store.get(key).await, Ok(model.entries.get(key).cloned()), "{place}");
    let prefix = PREFIXES[usize::from(step[2]) % PREFIXES.len()];
    let mut scan = store.scan(prefix).await.expect("the store can be read");
    let mut found = Vec::new();
    loop {
        let page = scan.next_page(1 + usize::from(step[3]) % 4).await.expect("the scan goes on");
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    let expected: Vec<_> = model.entries.values().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
    assert_eq!(found, expected, "{place}: scan of {prefix:?}");
}

impl Model {
    fn pick_lease(&self, by: u8) -> Option<LeaseId> {
        self.leases.get(usize::from(by) % self.leases.len().max(1)).map(|(id, _)| *id)
    }

    /// A transaction of up to two conditions, right or wrong, and up to three changes.
    fn transaction(&self, step: &Step) -> Txn {
        let mut txn = Txn::new();
        for by in &step[1..1 + usize::from(step[0] >> 4) % 3] {
            let key = KEYS[usize::from(*by) % KEYS.len()].to_owned();
            let entry = self.entries.get(&key);
            txn = txn.when(match (by >> 4) % 6 {
                0 => Compare::Absent(key),
                1 => Compare::NoneUnder(PREFIXES[usize::from(*by) % PREFIXES.len()].to_owned()),
                2 => Compare::Version(key, Revision(self.revision.0.saturating_sub(u64::from(by >> 5)))),
                3 => Compare::Created(key, entry.map_or(self.revision, |entry| entry.created)),
                _ => Compare::Version(key, entry.map_or(self.revision, |entry| entry.version)),
            });
        }
        for (index, by) in step[4..7].iter().enumerate() {
            let key = KEYS[usize::from(*by) % KEYS.len()];
            if txn.ops.iter().any(|op| op.key() == key) {
                continue;
            }
            let value = Bytes::from(vec![*by; usize::from(step[7]) * index]);
            txn = match (by >> 5, self.pick_lease(step[7])) {
                (0..=1, _) => txn.delete(key),
                (2..=3, Some(lease)) => txn.put_leased(key, value, lease),
                _ => txn.put(key, value),
            };
        }
        txn
    }

    fn present(&self, compare: &Compare) -> Option<Entry> {
        match compare {
            Compare::NoneUnder(prefix) => self.entries.values().find(|entry| entry.key.starts_with(prefix)).cloned(),
            Compare::Absent(key) | Compare::Version(key, _) | Compare::Created(key, _) => {
                self.entries.get(key).cloned()
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match (compare, self.present(compare)) {
            (Compare::Absent(_) | Compare::NoneUnder(_), present) => present.is_none(),
            (Compare::Version(_, version), Some(entry)) => entry.version == *version,
            (Compare::Created(_, created), Some(entry)) => entry.created == *created,
            (_, None) => false,
        }
    }

    fn apply(&mut self, txn: Txn, at: Revision) {
        for op in txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let created = self.entries.get(&key).map_or(at, |entry| entry.created);
                    self.entries.insert(key.clone(), Entry { key, value, version: at, created, lease });
                }
                Op::Delete(key) => drop(self.entries.remove(&key)),
            }
        }
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.retain(|(id, _)| *id != lease);
        self.entries.retain(|_, entry| entry.lease != Some(lease));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let over: Vec<_> = self.leases.iter().filter(|(_, end)| *end <= self.now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.end(lease));
    }
}
