//! Shared resources as a job uses them: acquired when their task is claimed, released by the task that undoes it.
//!
//! [`holders`](crate::holders) has the rules; here they become transactions.

use std::collections::{BTreeSet, VecDeque};

use futures::future::try_join_all;
use serde_json::json;
use windlass_model::effect::{Effect, EffectEvent};
use windlass_model::log::Level;
use windlass_model::plan::Shared;
use windlass_model::task::{Output, SharedUse, TaskEvent};
use windlass_model::{Epoch, ErrorClass, Failure, JobId, TaskId};
use windlass_store::{Compare, keys};

use super::guarded::{self, Decision, Guarded};
use super::image::Blocked;
use super::looked::{Looked, Seen};
use super::{Coordinator, Kept};
use crate::EngineError;
use crate::holders::{self, Acquire, Owner, Release, SharedRecord, SharedState};
use crate::records::{decode, encode};
use crate::{values, wakers};

/// The failure of an attempt that found its shared resource gone.
pub(super) const GONE: &str = "shared_gone";
/// The largest output of a task that makes a shared resource: it lies in the resource's record.
const OUTPUT_BYTES: usize = 48 * 1024;
/// The most effects of such a task: whoever removes it adopts them in one transaction.
const EFFECTS: usize = 32;

pub(crate) fn gone() -> Failure {
    Failure::new(GONE, ErrorClass::Interrupted, "the shared resource is not there any more")
}

fn listed(jobs: &[JobId]) -> String {
    let mut names: Vec<String> = jobs.iter().take(5).map(JobId::to_string).collect();
    if jobs.len() > names.len() {
        names.push(format!("{} more", jobs.len() - names.len()));
    }
    names.join(", ")
}

/// What a task that makes or removes a shared resource has come to.
pub(super) struct Sharing {
    id: TaskId,
    epoch: Epoch,
    key: String,
    output: serde_json::Value,
    kept: Output,
}

impl Guarded {
    /// Writes the record of a shared resource, or deletes it.
    fn put_record(&mut self, key: &str, record: Option<&SharedRecord>) {
        self.puts.push((keys::shared(key), record.map(encode)));
    }

    fn end(&mut self, id: TaskId, worker: windlass_model::WorkerId, output: serde_json::Value) {
        self.moves.push((id, TaskEvent::Claimed(worker)));
        self.moves.push((id, TaskEvent::Succeeded(Output::Inline(output))));
    }
}

impl Coordinator {
    /// The record of a shared resource, and the condition that it is still so.
    pub(super) async fn shared_record(&self, key: &str) -> Result<Seen, EngineError> {
        let name = keys::shared(key);
        let entry = self.patiently(|| async { Ok(self.shared.store.get(&name).await?) }).await?;
        match entry {
            Some(entry) => Ok((Some(decode(&entry)?), Compare::Version(name, entry.version))),
            None => Ok((None, Compare::Absent(name))),
        }
    }

    /// What is to be done with a task that needs more than a place. `pending` are slots that are about to be taken.
    pub(super) async fn decide(
        &mut self,
        id: TaskId,
        pending: &BTreeSet<String>,
        looked: &mut Looked,
    ) -> Result<Decision, EngineError> {
        let task = &self.image.tasks[&id];
        let (spec, status) = (task.spec.clone(), task.status.clone());
        let worker = self.session.worker;
        let decided = match spec.undoes {
            Some(undone) => self.decide_release(id, undone, looked).await?,
            None => match spec.shared.clone().filter(|_| status.shared != Some(SharedUse::Private)) {
                Some(wanted) => self.decide_acquire(id, &wanted, looked).await?,
                None => Decision::Starts(Guarded { label: "claim", ..Guarded::default() }),
            },
        };
        let Decision::Starts(mut change) = decided else { return Ok(decided) };
        let slots = match self.free_slots_of(&spec.pools, pending, looked).await? {
            Ok(slots) => slots,
            Err(pool) => return Ok(Decision::Blocked(Blocked::Pool(pool))),
        };
        self.take_slots(&mut change, &slots, Some(id));
        let shared = change.moves.iter().find_map(|(_, event)| match event {
            TaskEvent::Granted { shared, .. } => *shared,
            _ => None,
        });
        change.moves.clear();
        if shared.is_some() || !slots.is_empty() {
            change.moves.push((id, TaskEvent::Granted { shared: shared.or(status.shared), slots }));
        }
        change.moves.push((id, TaskEvent::Claimed(worker)));
        Ok(Decision::Starts(change))
    }

    async fn decide_acquire(&mut self, id: TaskId, wanted: &Shared, looked: &Looked) -> Result<Decision, EngineError> {
        let (job, key) = (self.image.id(), wanted.key.clone());
        // Before looking: whatever changes afterwards rings.
        self.shared.wakers.wait(wakers::shared_topic(&key), job, &self.woken);
        let (record, unchanged) = self.resource(looked, &key).await?;
        let task = &self.image.tasks[&id];
        let (name, now) = (task.spec.name(), self.now());
        let mut change = Guarded { label: "acquire", ..Guarded::default() };
        let granted = |shared| (id, TaskEvent::Granted { shared: Some(shared), slots: Vec::new() });
        match holders::acquire(record.as_ref(), job, id, wanted.definition) {
            Acquire::Create => {
                let owner = Owner { job, task: id, epoch: task.status.epoch.next() };
                let record = SharedRecord::creating(record, &task.spec, owner, now);
                change.put_record(&key, record.as_ref());
                change.holds.push((key, Some(id)));
                change.moves.push(granted(SharedUse::Created));
            }
            Acquire::Reuse => {
                let Some(record) = record else { return Err(EngineError::bug("a shared resource without a record")) };
                self.reuse.insert(id, record.output.clone());
                change.put_record(&key, Some(&record.joined(job, id)));
                change.holds.push((key, Some(id)));
                change.moves.push(granted(SharedUse::Reused));
            }
            Acquire::Wait => return Ok(Decision::Blocked(Blocked::Shared(key))),
            Acquire::Conflict(_) if wanted.private_on_conflict => {
                let text = format!("{key} is there and defined otherwise; {name} makes one for this job alone");
                change.logs.push((Level::Info, "shared.private", id, text));
                change.moves.push(granted(SharedUse::Private));
                return Ok(Decision::Starts(change));
            }
            Acquire::Conflict(jobs) => {
                let whose = match jobs.as_slice() {
                    [] => "a confirmed job has left it so".to_owned(),
                    jobs => format!("job {} holds it", listed(jobs)),
                };
                let failure = Failure::permanent(
                    "shared_conflict",
                    format!("the shared resource {key} is there and defined otherwise: {whose}"),
                )
                .hint("ask for the same definition, choose another name, or let the task make a private copy");
                change.compares.push(unchanged);
                change.logs.push((Level::Error, "task.failed", id, format!("{name} failed: {failure}")));
                change.moves.push((id, TaskEvent::Refused(Box::new(failure))));
                return Ok(Decision::Ends(change));
            }
        }
        change.compares.push(unchanged);
        Ok(Decision::Starts(change))
    }

    async fn decide_release(&mut self, id: TaskId, undone: TaskId, looked: &Looked) -> Result<Decision, EngineError> {
        let mut change = Guarded { label: "release", ..Guarded::default() };
        // Another task has released it meanwhile, or it needs a place in a pool only.
        let Some(key) = self.image.held_by(undone).cloned() else { return Ok(Decision::Starts(change)) };
        let (job, worker, now) = (self.image.id(), self.session.worker, self.now());
        let (record, unchanged) = self.resource(looked, &key).await?;
        change.compares.push(unchanged);
        let epoch = self.image.tasks[&id].status.epoch.next();
        let has_effects = self.image.tasks[&undone].effects.values().any(Effect::may_exist);
        let said = match (holders::release(record.as_ref(), job), record) {
            (Release::Delete, Some(record)) => {
                change.effects = self.adopted(undone, &record)?;
                change.put_record(&key, Some(&record.deleting(Owner { job, task: id, epoch }, now)));
                return Ok(Decision::Starts(change));
            }
            // Something of it may be there all the same: it is looked after as if it were the job's alone.
            (Release::Nothing, Some(record)) if has_effects => {
                change.put_record(&key, Some(&record.deleting(Owner { job, task: id, epoch }, now)));
                return Ok(Decision::Starts(change));
            }
            (Release::NotHeld, _) | (_, None) => {
                change.holds.push((key.clone(), None));
                if has_effects {
                    return Ok(Decision::Starts(change));
                }
                format!("{key} was released before")
            }
            (Release::Nothing, Some(_)) => {
                change.put_record(&key, None);
                change.holds.push((key.clone(), None));
                format!("{key} was gone already")
            }
            (Release::Others(others), Some(record)) => {
                change.put_record(&key, Some(&record.left(job)));
                change.holds.push((key.clone(), None));
                change.effects = self.kept(undone)?;
                format!("{key} is kept: in use by job {}", listed(&others))
            }
            (Release::Keep, Some(record)) => {
                change.put_record(&key, Some(&record.left(job)));
                change.holds.push((key.clone(), None));
                change.effects = self.kept(undone)?;
                format!("{key} is kept: a job that needed it was confirmed")
            }
        };
        change.logs.push((Level::Info, "shared.released", id, said.clone()));
        change.end(id, worker, json!({ "released": said }));
        Ok(Decision::Ends(change))
    }

    /// Entries of the resource's ledger that the job takes over, to remove what they name.
    fn adopted(&self, task: TaskId, record: &SharedRecord) -> Result<Vec<Effect>, EngineError> {
        let known = &self.image.tasks[&task].effects;
        let missing = record.effects.iter().filter(|effect| !known.get(&effect.n).is_some_and(Effect::may_exist));
        Ok(missing.map(|effect| Effect { task, at: self.now(), ..effect.clone() }).collect())
    }

    /// The ledger entries of a task, left to others.
    fn kept(&self, task: TaskId) -> Result<Vec<Effect>, EngineError> {
        let epoch = self.image.tasks[&task].status.epoch;
        let kept = |effect: &Effect| effect.clone().apply(EffectEvent::Kept, epoch, self.now());
        let effects = self.image.tasks[&task].effects.values().filter(|effect| effect.may_exist());
        effects.map(kept).collect::<Result<_, _>>().map_err(|error| EngineError::bug(error.to_string()))
    }

    /// Lets a task that ends badly go together with its shared resource: what it has half made is undone at once,
    /// by a task of this job, and nobody else's task fails. `None`: it has ended already.
    pub(super) async fn let_go(&self, id: TaskId, event: &TaskEvent) -> Result<Option<Guarded>, EngineError> {
        let task = &self.image.tasks[&id];
        if task.status.outcome().is_some() {
            return Ok(None);
        }
        let mut change = Guarded { label: "let-go", moves: vec![(id, event.clone())], ..Guarded::default() };
        let stands_for = task.spec.undoes.unwrap_or(id);
        let Some(key) = self.image.held_by(stands_for).cloned() else { return Ok(Some(change)) };
        let (job, now) = (self.image.id(), self.now());
        let (record, unchanged) = self.shared_record(&key).await?;
        if task.spec.undoes.is_some() {
            // It could not be removed: it stays with this job, which can try again.
            if let (Some(record), TaskEvent::Failed(failure)) = (record, event) {
                change.compares.push(unchanged);
                change.put_record(&key, Some(&record.failed(failure.to_string())));
            }
            return Ok(Some(change));
        }
        change.compares.push(unchanged);
        let has_effects = task.effects.values().any(Effect::may_exist);
        match (holders::release(record.as_ref(), job), record) {
            (Release::NotHeld, _) | (_, None) => change.holds.push((key, None)),
            (Release::Others(_) | Release::Keep, Some(record)) => {
                change.effects = self.kept(id)?;
                change.put_record(&key, Some(&record.left(job)));
                change.holds.push((key, None));
            }
            (Release::Nothing | Release::Delete, Some(record)) if has_effects || !record.effects.is_empty() => {
                let mut undo = self.image.undo_of(id, self.image.status.generation);
                self.name_undo(&mut undo);
                change.effects = self.adopted(id, &record)?;
                let owner = Owner { job, task: undo.id, epoch: Epoch::default() };
                change.put_record(&key, Some(&record.deleting(owner, now)));
                let text = format!("{} has half made {key}; it is undone at once", task.spec.name());
                change.logs.push((Level::Info, "shared.undoing", id, text));
                change.adds.push(undo);
            }
            (Release::Nothing | Release::Delete, Some(record)) => {
                change.put_record(&key, record.removed(job, now).as_ref());
                change.holds.push((key, None));
            }
        }
        Ok(Some(change))
    }

    /// Takes in the success of a task that makes or removes a shared resource, together with its record. `None`:
    /// it is no such task.
    pub(super) async fn accept_shared(
        &mut self,
        id: TaskId,
        done: &Kept,
    ) -> Result<Option<Result<(), Failure>>, EngineError> {
        let shared = match self.may_share(id, done).await? {
            Some(Ok(shared)) => shared,
            Some(Err(failure)) => return Ok(Some(Err(failure))),
            None => return Ok(None),
        };
        loop {
            let change = match self.sharing(&shared).await? {
                Ok(change) => change,
                Err(failure) => return Ok(Some(Err(failure))),
            };
            if self.commit_guarded(change).await? {
                return Ok(Some(Ok(())));
            }
        }
    }

    /// What a task that makes or removes a shared resource has come to, if the others may have it. `None`: it is no such
    /// task.
    pub(super) async fn may_share(
        &self,
        id: TaskId,
        done: &Kept,
    ) -> Result<Option<Result<Sharing, Failure>>, EngineError> {
        let task = &self.image.tasks[&id];
        let stands_for = task.spec.undoes.unwrap_or(id);
        let Some(key) = self.image.held_by(stands_for).cloned() else { return Ok(None) };
        let undoes = task.spec.undoes.is_some();
        let (store, job) = (&*self.shared.store, self.image.id());
        let output = if undoes { json!({ "removed": key }) } else { values::fetch(store, job, &done.output).await? };
        let failure = |code: &str, text: String| Ok(Some(Err(Failure::permanent(code, text))));
        if !undoes {
            if !done.add.is_empty() {
                let text = "a task that makes a shared resource cannot bring further tasks: whoever reuses it has none";
                return failure("shared_adds", text.to_owned());
            }
            let bytes = output.to_string().len();
            if bytes > OUTPUT_BYTES {
                let text = format!("the output of a shared task has {bytes} bytes, at most {OUTPUT_BYTES} are kept");
                return failure("output_too_large", text);
            }
            let effects = task.effects.values().filter(|effect| effect.may_exist()).count();
            if effects > EFFECTS {
                let text = format!("a shared task has {effects} effects, at most {EFFECTS} can be handed on");
                return failure("too_many_effects", text);
            }
        }
        let kept = values::keep(store, job, output.clone()).await?;
        Ok(Some(Ok(Sharing { id, epoch: task.status.epoch, key, output, kept })))
    }

    /// The change by which others see what a task has come to.
    pub(super) async fn sharing(&self, shared: &Sharing) -> Result<Result<Guarded, Failure>, EngineError> {
        let Sharing { id, key, output, kept, .. } = shared;
        let task = &self.image.tasks[id];
        let (job, name, undoes) = (self.image.id(), task.spec.name(), task.spec.undoes.is_some());
        let (record, unchanged) = self.shared_record(key).await?;
        let now = self.now();
        let mut change = Guarded { label: "share", compares: vec![unchanged], ..Guarded::default() };
        let mine = record.as_ref().and_then(|record| record.owner).is_some_and(|owner| owner.job == job);
        let text = match record {
            Some(record) if undoes && mine && record.state == SharedState::Deleting => {
                change.label = "unshare";
                change.put_record(key, record.removed(job, now).as_ref());
                change.holds.push((key.clone(), None));
                format!("{name} is done: {key} is gone")
            }
            Some(record) if !undoes && mine && record.state == SharedState::Creating => {
                let effects = task.effects.values().filter(|effect| effect.may_exist()).cloned().collect();
                change.put_record(key, Some(&record.ready(output.clone(), effects, now)));
                format!("{name} is done")
            }
            Some(_) if !undoes && task.status.shared == Some(SharedUse::Reused) => {
                change.compares.clear();
                format!("{name} is done: {key} was there already")
            }
            _ => {
                let text = format!("the record of {key} says that this job neither makes nor removes it");
                return Ok(Err(Failure::permanent("shared_lost", text)));
            }
        };
        change.logs.push((Level::Info, "task.done", *id, text));
        change.moves.push((*id, TaskEvent::Succeeded(kept.clone())));
        Ok(Ok(change))
    }

    /// Lets others see what tasks have come to that ended here: several in one transaction. Returns whether there were
    /// any.
    pub(super) async fn share_ended(&mut self) -> Result<bool, EngineError> {
        let mut open: VecDeque<Sharing> = std::mem::take(&mut self.to_share).into();
        let any = !open.is_empty();
        let mut together = guarded::TOGETHER;
        while !open.is_empty() {
            open.retain(|shared| self.image.holds(shared.id, shared.epoch));
            let changes = try_join_all(open.iter().take(together).map(|shared| self.sharing(shared))).await?;
            let mut group = Guarded::default();
            let mut members = 0;
            for change in changes {
                match change {
                    Ok(change) => match group.join(change) {
                        Ok(()) => members += 1,
                        Err(_) => break,
                    },
                    Err(failure) => {
                        if let Some(shared) = open.remove(members) {
                            self.failed(shared.id, failure, false)?;
                        }
                    }
                }
            }
            if members == 0 {
                continue;
            }
            if self.commit_guarded(group).await? {
                open.drain(..members);
                together = guarded::TOGETHER;
            } else {
                // One of the records has changed meanwhile: each by itself finds out which.
                together = 1;
            }
        }
        Ok(any)
    }

    /// Notes that a resource which the task wanted to reuse is gone, and lets the task make it. `false`: it did not
    /// want to reuse one.
    pub(super) async fn made_absent(&mut self, id: TaskId) -> Result<bool, EngineError> {
        if self.image.tasks[&id].status.shared != Some(SharedUse::Reused) {
            return Ok(false);
        }
        loop {
            let Some(key) = self.image.held_by(id).cloned() else { return Ok(false) };
            let (record, unchanged) = self.shared_record(&key).await?;
            let mut change = Guarded { label: "absent", moves: vec![(id, TaskEvent::Released)], ..Guarded::default() };
            if let Some(record) = record.filter(|record| record.state == SharedState::Ready) {
                change.compares.push(unchanged);
                change.put_record(&key, Some(&record.gone(self.now())));
                let text = format!("{key} is not there any more, although jobs hold it; it is made again");
                change.logs.push((Level::Warn, "shared.gone", id, text));
            }
            if self.commit_guarded(change).await? {
                return Ok(true);
            }
        }
    }

    /// Lets go of everything that the job holds: for good, or without being able to remove anything.
    async fn leave_all(
        &mut self,
        leave: impl Fn(SharedRecord, JobId) -> Option<SharedRecord>,
    ) -> Result<(), EngineError> {
        let job = self.image.id();
        while let Some((key, task)) = self.image.holds.first() {
            let (record, unchanged) = self.shared_record(&key).await?;
            let mut change = Guarded { label: "leave", compares: vec![unchanged], ..Guarded::default() };
            change.holds.push((key.clone(), None));
            if let Some(record) = record.filter(|record| record.holders.contains_key(&job)) {
                let left = leave(record, job);
                // What others still need, or what is permanent, is not this job's any more.
                if left.is_some() {
                    change.effects = self.kept(task)?;
                }
                change.put_record(&key, left.as_ref());
            }
            self.commit_guarded(change).await?;
        }
        Ok(())
    }

    /// Makes what the job holds permanent.
    pub(super) async fn make_permanent(&mut self) -> Result<(), EngineError> {
        self.leave_all(|record, job| Some(record.confirmed(job))).await
    }

    /// Gives up what the job holds and could not remove.
    pub(super) async fn abandon_all(&mut self) -> Result<(), EngineError> {
        let now = self.now();
        self.leave_all(|record, job| record.abandoned(job, now)).await
    }
}
