//! An observer that counts the readable copies of every id at every change.
//!
//! It is told of changes while the lock on the whole cluster is held, so no state in between escapes it. An agent
//! that is down counts with what it will have when it is back: what matters is whether a copy is *lost*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::Id;

/// How many violations are kept word for word; more are counted.
const KEPT: usize = 1_000;

/// What must never be, and was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Fewer copies than when watching began (or than the replica number, if there were more).
    TooFew {
        /// Readable copies.
        copies: usize,
        /// How many there must be at least.
        at_least: usize,
    },
    /// More copies than a move may make.
    TooMany {
        /// Readable copies.
        copies: usize,
        /// How many there may be at most.
        at_most: usize,
    },
    /// No copy is as new as what a client wrote.
    Older {
        /// The newest time there is.
        time: i64,
        /// The time a client's write was given.
        written: i64,
    },
}

/// A moment at which something was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which change of the cluster it was; see [`super::Mutation::sequence`].
    pub sequence: u64,
    /// The agent that changed.
    pub agent: usize,
    /// What was done to it, for people.
    pub cause: String,
    /// The id.
    pub id: Id,
    /// What was wrong.
    pub breach: Breach,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    copies: usize,
    baseline: usize,
}

/// One change of one agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) sequence: u64,
    pub(super) agent: usize,
    pub(super) cause: &'a str,
}

#[derive(Debug)]
pub(super) struct Watch {
    replica: usize,
    limit_extra: bool,
    ids: BTreeMap<Id, Seen>,
    deleted: BTreeSet<Id>,
    written: BTreeMap<Id, i64>,
    violations: Vec<Violation>,
    count: u64,
}

impl Watch {
    pub(super) fn new(replica: usize, limit_extra: bool) -> Self {
        Self {
            replica,
            limit_extra,
            ids: BTreeMap::new(),
            deleted: BTreeSet::new(),
            written: BTreeMap::new(),
            violations: Vec::new(),
            count: 0,
        }
    }

    /// Counts a copy that is there when watching begins.
    pub(super) fn begin_with(&mut self, id: &Id) {
        let seen = self.ids.entry(Arc::clone(id)).or_default();
        seen.copies += 1;
        seen.baseline += 1;
    }

    /// Takes in that `id` became readable on one more agent, or on one less, without judging.
    pub(super) fn count(&mut self, id: &Id, appeared: bool) {
        let seen = self.ids.entry(Arc::clone(id)).or_default();
        seen.copies = if appeared { seen.copies + 1 } else { seen.copies.saturating_sub(1) };
    }

    /// Judges the copies of `id` after a change; `newest` is the newest readable time on any agent.
    pub(super) fn judge(&mut self, change: Change<'_>, id: &Id, newest: Option<i64>) {
        if self.deleted.contains(id) {
            return;
        }
        let seen = self.ids.get(id).copied().unwrap_or_default();
        let at_least = seen.baseline.min(self.replica);
        let at_most = seen.baseline.max(self.replica) + 1;
        if seen.copies < at_least {
            self.report(change, id, Breach::TooFew { copies: seen.copies, at_least });
        }
        if self.limit_extra && seen.copies > at_most {
            self.report(change, id, Breach::TooMany { copies: seen.copies, at_most });
        }
        if let (Some(time), Some(&written)) = (newest, self.written.get(id))
            && time < written
        {
            self.report(change, id, Breach::Older { time, written });
        }
    }

    fn report(&mut self, change: Change<'_>, id: &Id, breach: Breach) {
        self.count += 1;
        if self.violations.len() < KEPT {
            self.violations.push(Violation {
                sequence: change.sequence,
                agent: change.agent,
                cause: change.cause.to_owned(),
                id: Arc::clone(id),
                breach,
            });
        }
    }

    /// A client wrote `id` with `time`: what there is now is what must stay.
    pub(super) fn client_wrote(&mut self, id: &Id, time: i64) {
        self.deleted.remove(id);
        self.written.insert(Arc::clone(id), time);
        self.rebase(id);
    }

    /// A client deleted `id`.
    pub(super) fn client_deleted(&mut self, id: &Id) {
        self.written.remove(id);
        self.deleted.insert(Arc::clone(id));
    }

    /// A client's write that was not durable went with an agent: nobody but the client is to blame.
    pub(super) fn forgive(&mut self, id: &Id) {
        self.written.remove(id);
        let seen = self.ids.entry(Arc::clone(id)).or_default();
        seen.baseline = seen.baseline.min(seen.copies);
    }

    fn rebase(&mut self, id: &Id) {
        let seen = self.ids.entry(Arc::clone(id)).or_default();
        seen.baseline = seen.copies;
    }

    pub(super) fn violations(&self) -> (&[Violation], u64) {
        (&self.violations, self.count)
    }

    /// Ids that a client deleted and that are readable.
    pub(super) fn resurrected(&self) -> Vec<Id> {
        self.deleted.iter().filter(|id| self.ids.get(*id).is_some_and(|seen| seen.copies > 0)).cloned().collect()
    }
}
