//! One agent as a state machine: no network, no clock, no waiting. Every call is given the time.
//!
//! # State
//!
//! * *index*: id → (object number, time, vector), the committed entries;
//! * *insert queue*: id → (vector, time); *delete queue*: id → time;
//! * what has been saved to the volume and what has been backed up: older versions of the index.
//!
//! "Newer" means strictly greater everywhere, and that is what the surprising rules come from: a remove with the time
//! of a queued insert hides it until the commit, which brings it back; an insert that is older than a queued
//! remove is answered OK and dropped; a remove takes a committed entry whatever its time.
//!
//! # Busy times
//!
//! A build has a beginning and an end ([`AgentState::begin_build`], [`AgentState::finish_build`]) and so has a save,
//! so that a caller can let time pass in between. Queues are taken into the index at the beginning: from then on
//! `uncommitted` is 0 although `indexing` is still true, and a caller that looks only at the first is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{Id, Vector};
use super::index::Index;
use super::options::AgentOptions;

/// Why an agent refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request cannot be right: empty id, wrong dimension.
    #[error("{0}")]
    InvalidArgument(String),
    /// The id is not there.
    #[error("{0}")]
    NotFound(String),
    /// The id, or this very vector, is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// A flush is under way.
    #[error("{0}")]
    Aborted(String),
    /// Nothing to commit.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The agent cannot do this.
    #[error("{0}")]
    Internal(String),
    /// The release does not know the method.
    #[error("{0}")]
    Unimplemented(String),
    /// The agent went down in the middle of the request.
    #[error("{0}")]
    Unavailable(String),
}

fn not_found(id: &str) -> Refusal {
    Refusal::NotFound(format!("vector {} not found", id.escape_debug()))
}

fn already_exists(id: &str) -> Refusal {
    Refusal::AlreadyExists(format!("vector {} already exists", id.escape_debug()))
}

/// What `IndexInfo` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Committed vectors.
    pub stored: u32,
    /// Entries in both queues.
    pub uncommitted: u32,
    /// A build is running.
    pub indexing: bool,
    /// A save is running.
    pub saving: bool,
}

/// What a wish to build the index comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// It has begun; [`AgentState::finish_build`] ends it.
    Begun,
    /// Another is running; ask again when it has ended, with `waited` set.
    Wait,
    /// Another is running and one is waiting already: the answer is OK and nothing is done.
    Skipped,
    /// There is nothing to do and this agent calls that OK.
    Nothing,
}

/// What a wish to save the index comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// It has begun; [`AgentState::finish_save`] ends it.
    Begun,
    /// A build or another save is running; ask again when it has ended.
    Wait,
    /// Nothing was built since the last save, or the agent saves nothing at all: the answer is OK.
    Nothing,
}

/// How a time is compared by `RemoveByTimestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater or equal.
    AtLeast,
    /// Greater.
    Greater,
    /// Less or equal.
    AtMost,
    /// Less.
    Less,
}

impl Comparison {
    fn holds(self, time: i64, limit: i64) -> bool {
        match self {
            Self::Equal => time == limit,
            Self::NotEqual => time != limit,
            Self::AtLeast => time >= limit,
            Self::Greater => time > limit,
            Self::AtMost => time <= limit,
            Self::Less => time < limit,
        }
    }
}

#[derive(Clone, Debug)]
struct Queued {
    vector: Vector,
    time: i64,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct AgentState {
    options: AgentOptions,
    /// Shared with `saved` and `backed_up` until the next change.
    index: Arc<Index>,
    inserts: BTreeMap<Id, Queued>,
    deletes: BTreeMap<Id, i64>,
    indexing: bool,
    build_waiting: bool,
    saving: Option<Arc<Index>>,
    flushing: bool,
    built_since_save: bool,
    saved: Arc<Index>,
    backed_up: Arc<Index>,
}

impl AgentState {
    /// An empty agent.
    #[must_use]
    pub fn new(options: AgentOptions) -> Self {
        Self {
            options,
            index: Arc::default(),
            inserts: BTreeMap::new(),
            deletes: BTreeMap::new(),
            indexing: false,
            build_waiting: false,
            saving: None,
            flushing: false,
            built_since_save: false,
            saved: Arc::default(),
            backed_up: Arc::default(),
        }
    }

    /// How the agent behaves.
    #[must_use]
    pub fn options(&self) -> &AgentOptions {
        &self.options
    }

    /// Puts entries straight into the index, numbered in the order given, as if inserted, committed and saved.
    pub fn fill(&mut self, entries: impl IntoIterator<Item = (Id, Vector, i64)>) {
        let index = Arc::make_mut(&mut self.index);
        for (id, vector, time) in entries {
            index.put(id, self.options.stored.apply(vector), time);
        }
        if !self.options.memory_only {
            self.saved = Arc::clone(&self.index);
        }
        self.built_since_save = false;
    }

    // ---- reading ----

    /// The queued insert of `id`, unless a queued remove hides it.
    fn queued(&self, id: &str) -> Option<&Queued> {
        self.inserts.get(id).filter(|queued| self.deletes.get(id).is_none_or(|deleted| queued.time > *deleted))
    }

    /// Whether a queued remove hides the committed entry of `id`.
    fn hidden(&self, id: &str) -> bool {
        let inserted = self.inserts.get(id).map_or(0, |queued| queued.time);
        self.deletes.get(id).is_some_and(|deleted| *deleted > inserted)
    }

    /// What a reader sees of `id`: its vector and time.
    #[must_use]
    pub fn visible(&self, id: &str) -> Option<(&Vector, i64)> {
        if let Some(queued) = self.queued(id) {
            return Some((&queued.vector, queued.time));
        }
        let entry = self.index.entries().get(id)?;
        (!self.hidden(id)).then_some((&entry.vector, entry.time))
    }

    fn awake(&self) -> Result<(), Refusal> {
        if self.flushing {
            return Err(Refusal::Aborted("a flush is under way".into()));
        }
        Ok(())
    }

    /// `Exists`.
    ///
    /// # Errors
    ///
    /// Not found, or a flush is under way.
    pub fn exists(&self, id: &str) -> Result<(), Refusal> {
        self.awake()?;
        self.visible(id).map(|_| ()).ok_or_else(|| not_found(id))
    }

    /// `GetObject`: vector and time.
    ///
    /// # Errors
    ///
    /// Not found, or a flush is under way.
    pub fn get(&self, id: &str) -> Result<(Vector, i64), Refusal> {
        self.awake()?;
        self.visible(id).map(|(vector, time)| (Arc::clone(vector), time)).ok_or_else(|| not_found(id))
    }

    /// `GetTimestamp`.
    ///
    /// # Errors
    ///
    /// Not found, or a flush is under way.
    pub fn timestamp(&self, id: &str) -> Result<i64, Refusal> {
        self.awake()?;
        self.visible(id).map(|(_, time)| time).ok_or_else(|| not_found(id))
    }

    /// `StreamListObject`: queued entries, then committed ones that no queued remove hides; no id twice.
    ///
    /// # Errors
    ///
    /// A flush is under way.
    pub fn list(&self) -> Result<Vec<(Id, Vector, i64)>, Refusal> {
        self.awake()?;
        let queued = self.inserts.keys().filter(|id| self.queued(id).is_some());
        let committed = self.index.entries().keys().filter(|id| self.queued(id).is_none() && !self.hidden(id));
        Ok(queued
            .chain(committed)
            .filter_map(|id| self.visible(id).map(|(vector, time)| (Arc::clone(id), Arc::clone(vector), time)))
            .collect())
    }

    /// The ids a reader can see, with their times.
    pub fn readable(&self) -> impl Iterator<Item = (&Id, i64)> {
        let queued_only = self.inserts.keys().filter(|id| !self.index.entries().contains_key(*id));
        self.index.entries().keys().chain(queued_only).filter_map(|id| Some((id, self.visible(id)?.1)))
    }

    /// The ids in either queue.
    pub fn waiting(&self) -> impl Iterator<Item = &Id> {
        self.inserts.keys().chain(self.deletes.keys().filter(|id| !self.inserts.contains_key(*id)))
    }

    /// Whether `id` is in either queue.
    #[must_use]
    pub fn is_waiting(&self, id: &str) -> bool {
        self.inserts.contains_key(id) || self.deletes.contains_key(id)
    }

    /// `IndexInfo`. Answers during a flush as well.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Counts {
            stored: number(self.index.entries().len()),
            uncommitted: number(self.inserts.len() + self.deletes.len()),
            indexing: self.indexing,
            saving: self.saving.is_some(),
        }
    }

    // ---- writing ----

    fn check_request(&self, id: &str, vector: &[f32]) -> Result<(), Refusal> {
        self.awake()?;
        if id.is_empty() {
            return Err(Refusal::InvalidArgument("the id is empty".into()));
        }
        if vector.len() != self.options.dimension {
            return Err(Refusal::InvalidArgument(format!(
                "the vector has {} elements and the index {}",
                vector.len(),
                self.options.dimension
            )));
        }
        Ok(())
    }

    fn push_insert(&mut self, id: Id, vector: Vector, time: i64) {
        // Older than a queued remove: dropped without a word, and the caller is told OK.
        if self.deletes.get(&id).is_some_and(|deleted| *deleted > time) {
            return;
        }
        if self.inserts.get(&id).is_none_or(|queued| queued.time < time) {
            self.inserts.insert(id, Queued { vector, time });
        }
    }

    fn push_delete(&mut self, id: Id, time: i64) {
        let kept = self.deletes.entry(id).or_insert(time);
        *kept = time.max(*kept);
    }

    /// `Insert`. The time is the vector's, else the config's, else `now`; 0 and below count as absent.
    ///
    /// # Errors
    ///
    /// Empty id, wrong dimension, already there, or a flush is under way.
    pub fn insert(
        &mut self,
        id: impl Into<Id>,
        vector: impl Into<Vector>,
        vector_time: i64,
        config_time: i64,
        now: i64,
    ) -> Result<(), Refusal> {
        let (id, vector) = (id.into(), vector.into());
        self.check_request(&id, &vector)?;
        if self.visible(&id).is_some() {
            return Err(already_exists(&id));
        }
        self.push_insert(id, vector, first_given([vector_time, config_time], now));
        Ok(())
    }

    /// `MultiInsert`: the time of the first one is used for all. The others are inserted even if one is there already.
    ///
    /// # Errors
    ///
    /// As [`AgentState::insert`]; an invalid element refuses all of them.
    pub fn insert_many(&mut self, requests: Vec<(Id, Vector, i64, i64)>, now: i64) -> Result<(), Refusal> {
        for (id, vector, ..) in &requests {
            self.check_request(id, vector)?;
        }
        let time = requests.first().map_or(now, |(.., vector, config)| first_given([*vector, *config], now));
        let mut outcome = Ok(());
        for (id, vector, ..) in requests {
            if let Err(refusal) = self.insert(id, vector, time, time, now) {
                outcome = outcome.and(Err(refusal));
            }
        }
        outcome
    }

    /// `Remove`. The time is the config's, else `now`.
    ///
    /// # Errors
    ///
    /// Not found, or a flush is under way.
    pub fn remove(&mut self, id: impl Into<Id>, config_time: i64, now: i64) -> Result<(), Refusal> {
        let id = id.into();
        self.awake()?;
        // A committed entry counts even while an earlier remove hides it.
        if !self.index.entries().contains_key(&id) && self.queued(&id).is_none() {
            return Err(not_found(&id));
        }
        self.push_delete(id, first_given([config_time], now));
        Ok(())
    }

    /// `MultiRemove`: times are not looked at.
    ///
    /// # Errors
    ///
    /// As [`AgentState::remove`]; the others are removed even if one is not there.
    pub fn remove_many(&mut self, ids: Vec<Id>, now: i64) -> Result<(), Refusal> {
        ids.into_iter().map(|id| self.remove(id, 0, now)).fold(Ok(()), Result::and)
    }

    /// `RemoveByTimestamp`: removes at `now` everything readable whose time meets all `conditions`; says which.
    ///
    /// # Errors
    ///
    /// Nothing matches, or a flush is under way.
    pub fn remove_by_timestamp(&mut self, conditions: &[(Comparison, i64)], now: i64) -> Result<Vec<Id>, Refusal> {
        self.awake()?;
        let matching: Vec<Id> = self
            .readable()
            .filter(|(_, time)| conditions.iter().all(|(comparison, limit)| comparison.holds(*time, *limit)))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        if matching.is_empty() || conditions.is_empty() {
            return Err(Refusal::NotFound("no vector matches the conditions".into()));
        }
        for id in &matching {
            self.push_delete(Arc::clone(id), now);
        }
        Ok(matching)
    }

    /// `Update`: deletes at t and inserts at t + 1. The time t is the config's, else `now`; the vector's is not looked at.
    ///
    /// # Errors
    ///
    /// Empty id, wrong dimension, not found, or a flush is under way. The same vector is already there: refused too, but
    /// the stored time is raised if t is later.
    pub fn update(
        &mut self,
        id: impl Into<Id>,
        vector: impl Into<Vector>,
        config_time: i64,
        now: i64,
    ) -> Result<(), Refusal> {
        let (id, vector) = (id.into(), vector.into());
        self.check_request(&id, &vector)?;
        let (held, _) = self.visible(&id).ok_or_else(|| not_found(&id))?;
        let time = first_given([config_time], now);
        if same_bits(held, &vector) {
            self.raise(&id, time, false);
            return Err(already_exists(&id));
        }
        self.push_delete(Arc::clone(&id), time);
        self.push_insert(id, vector, time.saturating_add(1));
        Ok(())
    }

    /// `Upsert`: [`AgentState::update`] if the id is there, else [`AgentState::insert`].
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn upsert(
        &mut self,
        id: impl Into<Id>,
        vector: impl Into<Vector>,
        vector_time: i64,
        config_time: i64,
        now: i64,
    ) -> Result<(), Refusal> {
        let id = id.into();
        if self.visible(&id).is_some() {
            return self.update(id, vector, config_time, now);
        }
        self.insert(id, vector, vector_time, config_time, now)
    }

    /// `UpdateTimestamp`: raises the time of `id`, or sets it if `force`.
    ///
    /// # Errors
    ///
    /// Not found; a time of 0 or below; already as late, without `force`; or a flush is under way.
    pub fn update_timestamp(&mut self, id: &str, time: i64, force: bool) -> Result<(), Refusal> {
        self.awake()?;
        if time <= 0 {
            return Err(Refusal::InvalidArgument(format!("{time} is not a time")));
        }
        self.visible(id).ok_or_else(|| not_found(id))?;
        if !self.raise(id, time, force) {
            return Err(Refusal::AlreadyExists(format!("vector {} has that time or a later one", id.escape_debug())));
        }
        Ok(())
    }

    /// Gives what a reader sees of `id` another time. Says whether that changed anything.
    fn raise(&mut self, id: &str, time: i64, force: bool) -> bool {
        let Some((_, held)) = self.visible(id) else { return false };
        if !(force || held < time) {
            return false;
        }
        if self.queued(id).is_some() {
            if let Some(queued) = self.inserts.get_mut(id) {
                queued.time = time;
            }
        } else {
            Arc::make_mut(&mut self.index).set_time(id, time);
        }
        true
    }

    /// Begins `Flush`: until [`AgentState::finish_flush`] everything but `IndexInfo` is answered ABORTED.
    ///
    /// # Errors
    ///
    /// Another flush is under way, or the agent is a read replica.
    pub fn begin_flush(&mut self) -> Result<(), Refusal> {
        self.awake()?;
        self.check_writable()?;
        self.flushing = true;
        Ok(())
    }

    /// Ends a flush that did not get to delete anything.
    pub fn abandon_flush(&mut self) {
        self.flushing = false;
    }

    /// Ends `Flush`: everything is gone, on the volume too.
    pub fn finish_flush(&mut self) {
        self.index = Arc::default();
        self.inserts.clear();
        self.deletes.clear();
        if !self.options.memory_only {
            self.saved = Arc::default();
        }
        self.built_since_save = false;
        self.flushing = false;
    }

    // ---- building and saving ----

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.options.read_replica {
            return Err(Refusal::Internal("write operation to read replica is not possible".into()));
        }
        Ok(())
    }

    /// Begins `CreateIndex`. `waited` says that an earlier call was told [`Build::Wait`].
    ///
    /// # Errors
    ///
    /// Both queues are empty, the agent is a read replica, or a flush is under way.
    pub fn begin_build(&mut self, now: i64, waited: bool) -> Result<Build, Refusal> {
        self.awake()?;
        self.check_writable()?;
        if self.indexing {
            if self.build_waiting && !waited {
                return Ok(Build::Skipped);
            }
            self.build_waiting = true;
            return Ok(Build::Wait);
        }
        if waited {
            self.build_waiting = false;
        }
        if self.inserts.is_empty() && self.deletes.is_empty() {
            if self.options.empty_commit_is_ok {
                return Ok(Build::Nothing);
            }
            return Err(Refusal::FailedPrecondition("there is nothing to index".into()));
        }
        self.indexing = true;
        self.commit(now);
        Ok(Build::Begun)
    }

    /// Takes what is due out of both queues into the index: deletes first, then inserts.
    fn commit(&mut self, now: i64) {
        let index = Arc::make_mut(&mut self.index);
        let due: BTreeSet<Id> =
            self.deletes.iter().filter(|(_, time)| **time <= now).map(|(id, _)| Arc::clone(id)).collect();
        for id in due {
            let deleted = self.deletes.remove(&id).unwrap_or_default();
            // Whatever the time of the committed entry is.
            index.take(&id);
            if self.inserts.get(&id).is_some_and(|queued| queued.time < deleted) {
                self.inserts.remove(&id);
            }
        }
        let due: Vec<Id> =
            self.inserts.iter().filter(|(_, queued)| queued.time <= now).map(|(id, _)| Arc::clone(id)).collect();
        for id in due {
            if let Some(queued) = self.inserts.remove(&id) {
                let time = if self.options.stamps_commit_time { now } else { queued.time };
                index.put(id, self.options.stored.apply(queued.vector), time);
            }
        }
    }

    /// Ends the running build.
    pub fn finish_build(&mut self) {
        self.indexing = false;
        self.built_since_save = true;
    }

    /// Begins `SaveIndex`: what will be saved is what is in the index now.
    ///
    /// # Errors
    ///
    /// The agent is a read replica, or a flush is under way.
    pub fn begin_save(&mut self) -> Result<Save, Refusal> {
        self.awake()?;
        self.check_writable()?;
        if self.indexing || self.saving.is_some() {
            return Ok(Save::Wait);
        }
        if self.options.memory_only || !self.built_since_save {
            return Ok(Save::Nothing);
        }
        self.built_since_save = false;
        self.saving = Some(Arc::clone(&self.index));
        Ok(Save::Begun)
    }

    /// Ends the running save: its content is now on the volume.
    pub fn finish_save(&mut self) {
        if let Some(saved) = self.saving.take() {
            self.saved = saved;
        }
    }

    /// Builds and saves at once, as an agent does before it stops. Nothing to do is no error.
    ///
    /// # Errors
    ///
    /// As [`AgentState::begin_build`] and [`AgentState::begin_save`].
    pub fn build_and_save(&mut self, now: i64) -> Result<(), Refusal> {
        match self.begin_build(now, false) {
            Ok(Build::Begun) => self.finish_build(),
            Ok(_) | Err(Refusal::FailedPrecondition(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        if self.begin_save()? == Save::Begun {
            self.finish_save();
        }
        Ok(())
    }

    // ---- what survives ----

    /// What is on the volume.
    #[must_use]
    pub fn saved(&self) -> &Arc<Index> {
        &self.saved
    }

    /// What the last backup holds.
    #[must_use]
    pub fn backed_up(&self) -> &Arc<Index> {
        &self.backed_up
    }

    /// Takes `index`, some content of [`AgentState::saved`], as what the last backup holds.
    pub fn back_up(&mut self, index: Arc<Index>) {
        self.backed_up = index;
    }

    /// What the agent would have after a crash: what it saved, or what was backed up if it has no volume.
    #[must_use]
    pub fn durable(&self) -> &Arc<Index> {
        if self.options.persistent { &self.saved } else { &self.backed_up }
    }

    /// Crashes and comes back: queues and everything that is not durable are gone.
    pub fn crash(&mut self) {
        self.index = Arc::clone(self.durable());
        // Without a volume, what was restored from the backup is all there is.
        self.saved = Arc::clone(&self.index);
        self.inserts.clear();
        self.deletes.clear();
        self.indexing = false;
        self.build_waiting = false;
        self.saving = None;
        self.flushing = false;
        self.built_since_save = false;
    }
}

/// The first positive time, else `now`.
fn first_given<const N: usize>(times: [i64; N], now: i64) -> i64 {
    times.into_iter().find(|time| *time > 0).unwrap_or(now)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

#[cfg(test)]
mod tests;
