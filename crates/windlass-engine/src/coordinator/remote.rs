//! Attempts of this job that run on other workers, as its coordinator sees them.
//!
//! The coordinator offers what it has no place for, and follows one prefix of its job for what becomes of it:
//! claims, progress, log entries, ends. It folds them into the image with the same moves as for attempts of its
//! own, in batches of its own, which also delete what was folded. So the job has one writer of its status and its
//! log as before.
//!
//! An offer that shall no longer be claimed is deleted; whether somebody was faster is told by the claims that are
//! there once the deletion is durable. Until then the task counts as neither waiting nor running.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use windlass_model::job::JobState;
use windlass_model::log::Level;
use windlass_model::plan::TaskSpec;
use windlass_model::task::{TaskEvent, TaskState, TaskStatus};
use windlass_model::{Epoch, Failure, TaskId, WorkerId};
use windlass_store::{Change, Entry, Revision, Store, StoreError, Watch, keys, read_all};

use super::guarded::Guarded;
use super::image::{Checkpoint, Demand};
use super::{Coordinator, Kept};
use crate::EngineError;
use crate::arbiter::{Asker, Wants};
use crate::engine::Shared;
use crate::offers::{AttemptEnd, How, LogNote, Offer, ProgressNote, RemoteEnd, StopWish, TaskClaim};
use crate::records::{decode, encode};
use crate::values;

/// Offers of one job that are out at a time: their withdrawal fits into one batch beside a command.
const MOST_OFFERS: usize = 48;

/// What happened to an attempt elsewhere.
#[derive(Debug)]
enum Event {
    Claimed { task: TaskId, claim: TaskClaim, created: Revision },
    Note { task: TaskId, n: u64, note: LogNote },
    Progress { task: TaskId, note: ProgressNote },
    Ended { task: TaskId, end: Box<RemoteEnd> },
    Vanished { task: TaskId, at: Revision },
}

impl Event {
    /// Within one revision: what is said comes before the end, the end before the claim's.
    fn order(&self) -> u8 {
        match self {
            Self::Claimed { .. } => 0,
            Self::Progress { .. } => 1,
            Self::Note { .. } => 2,
            Self::Ended { .. } => 3,
            Self::Vanished { .. } => 4,
        }
    }

    fn of(change: &Change) -> Option<Self> {
        let (_, rest) = change.key.split_once("/w/")?;
        let mut parts = rest.split('/');
        let task: TaskId = parts.next()?.parse().ok()?;
        let Some(entry) = &change.entry else {
            return (parts.next() == Some("a")).then_some(Self::Vanished { task, at: change.revision });
        };
        let event = match parts.next()? {
            "a" => decode(entry).map(|claim| Self::Claimed { task, claim, created: entry.created }),
            "m" => decode(entry).map(|note| Self::Note { task, n: keys::last_part(&entry.key).unwrap_or(0), note }),
            "p" => decode(entry).map(|note| Self::Progress { task, note }),
            "r" => decode(entry).map(|end| Self::Ended { task, end: Box::new(end) }),
            _ => return None,
        };
        event.inspect_err(|error| tracing::error!(%error, "what a worker left cannot be read")).ok()
    }
}

/// An attempt that runs on another worker.
#[derive(Debug)]
struct Elsewhere {
    epoch: Epoch,
    /// What tells its claim from earlier and later ones.
    created: Revision,
    last_sign: Duration,
    /// Log entries folded so far.
    notes: u64,
    /// What it was told.
    told: Option<How>,
}

/// A watch, if there is one. Only ever used through an exclusive reference; the lock makes it shareable, as the
/// coordinator that owns it has to be.
#[derive(Default)]
struct Following(Mutex<Option<Box<dyn Watch>>>);

impl Following {
    fn get(&mut self) -> &mut Option<Box<dyn Watch>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of one job that run on other workers, and the offers of which some become such.
pub(super) struct Remote {
    attempts: BTreeMap<TaskId, Elsewhere>,
    /// Opened with the first offer: a job that needs nobody else costs nothing.
    watch: Following,
    wants_watch: bool,
    events: VecDeque<Event>,
    /// Offers whose deletion is in the batch.
    withdrawing: BTreeSet<TaskId>,
    /// What attempts shall be told.
    wishes: BTreeMap<TaskId, How>,
    /// The places that are asked for.
    pub(super) wants: Wants,
}

impl Remote {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            attempts: BTreeMap::new(),
            watch: Following::default(),
            wants_watch: false,
            events: VecDeque::new(),
            withdrawing: BTreeSet::new(),
            wishes: BTreeMap::new(),
            wants: Wants::new(&shared.arbiter),
        }
    }

    /// The next changes of what attempts elsewhere tell; never, while nobody could tell anything.
    pub(super) async fn hear(&mut self) -> Result<Vec<Change>, StoreError> {
        match self.watch.get() {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }

    /// Asks every attempt elsewhere to stop.
    pub(super) fn wish_all(&mut self, how: How) {
        for (task, attempt) in &self.attempts {
            if attempt.told < Some(how) {
                self.wishes.insert(*task, how);
            }
        }
    }
}

impl Coordinator {
    pub(super) fn asker(&self) -> Asker {
        Asker::Coordinator(self.image.id())
    }

    /// Whether a task can run in this process at all.
    pub(super) fn can_run_here(&self, spec: &TaskSpec) -> bool {
        self.shared.presence.can_run(spec)
    }

    /// The part of a step that concerns others: offers what has no place here, takes back what now has one or shall
    /// not run any more, passes on wishes to stop. Returns whether the batch was full before everything was done.
    pub(super) fn look_elsewhere(&mut self) -> Result<bool, EngineError> {
        let mut more = self.put_wishes();
        if !self.image.status.state.may_claim() || self.shutting_down {
            // What cleans up after a task goes on while the others are cancelled.
            let cleans = self.image.status.state == JobState::Cancelling && !self.shutting_down;
            let goes_on = |spec: &TaskSpec| cleans && spec.undoes.is_some();
            more |= self.withdraw(usize::MAX, |this, id| !goes_on(&this.image.tasks[&id].spec));
            if self.shutting_down {
                self.want(0);
            } else {
                self.want_places();
            }
            return Ok(more);
        }
        // Nobody can run it any more, and it holds places that others wait for.
        more |= self.withdraw(usize::MAX, |this, id| {
            let task = &this.image.tasks[&id];
            !task.status.slots.is_empty() && this.shared.roster.places_elsewhere(this.session.worker, &task.spec) == 0
        });
        if !self.image.record.preview && self.shared.roster.has_others(self.session.worker) {
            more |= self.offer_ready();
        }
        self.want_places();
        let here = self.offered_here();
        if here > 0 && self.image.ready_len() == 0 {
            let granted = self.shared.arbiter.granted(self.asker());
            if granted > 0 {
                more |= self.withdraw(granted, |this, id| this.can_run_here(&this.image.tasks[&id].spec));
            }
        }
        Ok(more)
    }

    /// Whether there is something whose place depends on who is present.
    pub(super) fn depends_on_others(&self) -> bool {
        let holds_slots = |id: &TaskId| !self.image.tasks[id].status.slots.is_empty();
        let waits = self.image.ready_len() > 0 || self.image.foreign_len() > 0;
        (self.image.status.state.may_claim() && (waits || self.image.offered.iter().any(holds_slots)))
            || self.wants_worker
            || self.guarded_wants_place
    }

    /// Asks for the places that claimable tasks, and those that are offered, could use now.
    ///
    /// Whatever is asked for in one part of a round has to be asked for in all: a place that is granted and let go before
    /// it is taken goes to another job, and two that do so hand it to and fro for ever.
    pub(super) fn want_places(&mut self) {
        let goes_on = self.image.status.state.may_claim();
        let ready = if goes_on && self.wants_place { self.image.ready_len() } else { 0 };
        let guarded = if self.guarded_wants_place { self.image.guarded_len() } else { 0 };
        let back = self.remote.withdrawing.iter().filter(|id| self.can_run_here(&self.image.tasks[*id].spec)).count();
        let offered = if goes_on { self.offered_here() + back } else { 0 };
        self.want(ready + guarded + offered);
    }

    fn want(&mut self, places: usize) {
        let asker = self.asker();
        self.remote.wants.want(asker, self.image.record.priority, places);
    }

    /// Offers that are out for tasks that could run here too.
    fn offered_here(&self) -> usize {
        let out = self.image.offered.iter().filter(|id| !self.remote.withdrawing.contains(id));
        out.filter(|id| self.can_run_here(&self.image.tasks[id].spec)).count()
    }

    fn put_wishes(&mut self) -> bool {
        while let Some((task, how)) = self.remote.wishes.pop_first() {
            if self.batch.is_full() {
                self.remote.wishes.insert(task, how);
                return true;
            }
            if let Some(attempt) = self.remote.attempts.get_mut(&task) {
                attempt.told = Some(how);
                let wish = StopWish { epoch: attempt.epoch, how };
                self.batch.put(keys::stop(self.image.id(), task), encode(&wish));
            }
        }
        false
    }

    /// Offers ready tasks to whoever can run them: about twice as many as there are places elsewhere.
    fn offer_ready(&mut self) -> bool {
        let mut out: BTreeMap<Demand, usize> = BTreeMap::new();
        for id in &self.image.offered {
            *out.entry(Demand::of(&self.image.tasks[id].spec)).or_default() += 1;
        }
        let mut places: BTreeMap<Demand, usize> = BTreeMap::new();
        for id in self.image.offerable(MOST_OFFERS) {
            if self.image.offered.len() >= MOST_OFFERS {
                break;
            }
            let spec = self.image.tasks[&id].spec.clone();
            let demand = Demand::of(&spec);
            let places = *places
                .entry(demand.clone())
                .or_insert_with(|| self.shared.roster.places_elsewhere(self.session.worker, &spec));
            let out = out.entry(demand).or_default();
            if *out >= (2 * places).saturating_sub(self.remote.attempts.len().min(places)) {
                continue;
            }
            // What comes back must not be missed: first the watch, then the offer.
            if self.remote.watch.get().is_none() {
                self.remote.wants_watch = true;
                return false;
            }
            if self.batch.is_full() {
                return true;
            }
            *out += 1;
            let offer = self.offer_of(id);
            self.image.offer(&mut self.batch, id, encode(&offer));
        }
        false
    }

    /// Whether one more task that holds what others may wait for can be offered: to places that are there, and no more
    /// of them than that, since it holds it while it is offered.
    pub(super) fn may_offer_guarded(&mut self, spec: &TaskSpec) -> bool {
        let me = self.session.worker;
        let cleans = self.image.status.state == JobState::Cancelling && spec.undoes.is_some();
        if self.image.record.preview
            || !(self.image.status.state.may_claim() || cleans)
            || self.image.offered.len() >= MOST_OFFERS
        {
            return false;
        }
        let demand = Demand::of(spec);
        let out = self.image.offered.iter().filter(|id| Demand::of(&self.image.tasks[*id].spec) == demand).count();
        if out >= self.shared.roster.places_elsewhere(me, spec) {
            return false;
        }
        // What comes back must not be missed: first the watch, then the offer.
        if self.remote.watch.get().is_none() {
            self.remote.wants_watch = true;
            return false;
        }
        true
    }

    /// Offers a task in the transaction that gives it what it needs besides a place.
    pub(super) async fn offer_guarded(&mut self, id: TaskId, mut change: Guarded) -> Result<(), EngineError> {
        let offer = self.offer_of(id);
        change.label = "offer";
        change.moves.retain(|(_, event)| !matches!(event, TaskEvent::Claimed(_)));
        change.puts.push((keys::offer(self.image.id(), id), Some(encode(&offer))));
        self.reuse.remove(&id);
        if self.commit_guarded(change).await? {
            self.image.is_offered(id);
        }
        Ok(())
    }

    fn offer_of(&self, id: TaskId) -> Offer {
        let task = &self.image.tasks[&id];
        Offer {
            by: self.session.worker,
            epoch: task.status.epoch.next(),
            task_type: task.spec.task_type.clone(),
            needs: task.spec.needs.clone(),
            rank: task.spec.rank,
            priority: self.image.record.priority,
            since: self.now(),
        }
    }

    /// Gives back the places in pools of a task that waits and is offered no more.
    fn give_slots_back(&mut self, id: TaskId) -> Result<(), EngineError> {
        let Some(task) = self.image.tasks.get(&id) else { return Ok(()) };
        if task.status.slots.is_empty() || !matches!(task.status.state, TaskState::Waiting { .. }) {
            return Ok(());
        }
        let event = TaskEvent::Granted { shared: task.status.shared, slots: Vec::new() };
        let now = self.now();
        self.image.move_task(&mut self.batch, id, event, now)
    }

    /// Puts the withdrawal of up to `most` of these offers into the batch.
    fn withdraw(&mut self, most: usize, which: impl Fn(&Self, TaskId) -> bool) -> bool {
        let open: Vec<TaskId> = self.image.offered.difference(&self.remote.withdrawing).copied().collect();
        let open = open.into_iter().filter(|id| which(self, *id));
        for id in open.take(most).collect::<Vec<_>>() {
            if self.batch.is_full() {
                return true;
            }
            self.batch.delete(keys::offer(self.image.id(), id));
            self.remote.withdrawing.insert(id);
        }
        false
    }

    /// What is left to do about others once a batch is durable. Returns whether anything was.
    pub(super) async fn settle_elsewhere(&mut self) -> Result<bool, EngineError> {
        if std::mem::take(&mut self.remote.wants_watch) && self.remote.watch.get().is_none() {
            let revision = self.shared.store.revision().await?;
            let prefix = keys::attempts_elsewhere(self.image.id());
            *self.remote.watch.get() = Some(self.shared.store.watch(&prefix, revision).await?);
            return Ok(true);
        }
        if self.remote.withdrawing.is_empty() {
            return Ok(false);
        }
        let withdrawn = std::mem::take(&mut self.remote.withdrawing);
        self.list_elsewhere().await?;
        self.fold().await?;
        for id in withdrawn {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            if self.image.offered.contains(&id) {
                self.give_slots_back(id)?;
            }
            self.image.withdrawn(id);
        }
        // What was granted for them stays theirs until it is seen whether they can run.
        self.guarded_wants_place |= self.image.guarded_len() > 0;
        Ok(true)
    }

    /// Lists what attempts elsewhere have left and lines it up. Attempts that had begun and of which neither claim nor
    /// end is there have vanished.
    async fn list_elsewhere(&mut self) -> Result<Revision, EngineError> {
        let prefix = keys::attempts_elsewhere(self.image.id());
        let mut scan = self.shared.store.scan(&prefix).await?;
        let at = scan.revision();
        let mut events = Vec::new();
        let (mut there, mut begun): (BTreeSet<TaskId>, BTreeSet<TaskId>) =
            (BTreeSet::new(), self.remote.attempts.keys().copied().collect());
        loop {
            let page = scan.next_page(windlass_store::budget::PAGE_ENTRIES).await?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                let change = Change { revision: entry.version, key: entry.key.clone(), entry: Some(entry) };
                if let Some(event) = Event::of(&change) {
                    if let Event::Claimed { task, .. } | Event::Ended { task, .. } = &event {
                        there.insert(*task);
                    }
                    if let Event::Progress { task, .. } = &event {
                        begun.insert(*task);
                    }
                    events.push(event);
                }
            }
        }
        events.sort_by_key(Event::order);
        let gone = begun.difference(&there);
        events.extend(gone.map(|task| Event::Vanished { task: *task, at }));
        self.remote.events.extend(events);
        Ok(at)
    }

    /// Takes in what the watch told. A watch that broke off is replaced, and everything listed afresh.
    pub(super) async fn heard(&mut self, changes: Result<Vec<Change>, StoreError>) -> Result<(), EngineError> {
        match changes {
            Ok(changes) => {
                let mut events: Vec<(Revision, Event)> =
                    changes.iter().filter_map(|change| Some((change.revision, Event::of(change)?))).collect();
                events.sort_by_key(|(revision, event)| (*revision, event.order()));
                self.remote.events.extend(events.into_iter().map(|(_, event)| event));
            }
            Err(error) => {
                tracing::debug!(job = %self.image.id(), %error, "following the attempts elsewhere broke off");
                *self.remote.watch.get() = None;
                self.shared.clock.sleep(Duration::from_millis(100)).await;
                let at = self.list_elsewhere().await?;
                let prefix = keys::attempts_elsewhere(self.image.id());
                *self.remote.watch.get() = Some(self.shared.store.watch(&prefix, at).await?);
            }
        }
        self.fold().await
    }

    /// Folds what is lined up, a batch at a time.
    async fn fold(&mut self) -> Result<(), EngineError> {
        while let Some(event) = self.remote.events.pop_front() {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            self.fold_one(event).await?;
        }
        Ok(())
    }

    async fn fold_one(&mut self, event: Event) -> Result<(), EngineError> {
        let now = self.now();
        let sign = self.shared.clock.monotonic();
        match event {
            Event::Claimed { task, claim, created } => self.fold_claim(task, claim.worker, claim.epoch, created)?,
            Event::Note { task, n, note } => {
                let Some(attempt) = self.remote.attempts.get_mut(&task) else { return Ok(()) };
                if attempt.epoch == note.epoch && n > attempt.notes {
                    (attempt.notes, attempt.last_sign) = (n, sign);
                    let LogNote { level, code, message, fields, .. } = note;
                    self.image.log_entry(&mut self.batch, now, level, &code, Some(task), message, fields);
                    self.batch.delete(keys::attempt_message(self.image.id(), task, n));
                }
            }
            Event::Progress { task, note } => {
                // A claim that was never seen, since its worker died: what the attempt did counts all the same.
                self.fold_claim(task, note.worker, note.epoch, Revision(0))?;
                let Some(attempt) = self.remote.attempts.get_mut(&task) else { return Ok(()) };
                if attempt.epoch == note.epoch {
                    attempt.last_sign = sign;
                    if let Some(task) = self.image.tasks.get_mut(&task) {
                        task.progress = note.progress;
                    }
                    self.publish();
                }
            }
            Event::Ended { task, end } => self.fold_end(task, *end).await?,
            Event::Vanished { task, at } => {
                if self.remote.attempts.get(&task).is_some_and(|attempt| attempt.created < at) {
                    self.bury_elsewhere(task).await?;
                }
            }
        }
        Ok(())
    }

    /// A worker has claimed an offered task; or, seen at a takeover, still runs one.
    fn fold_claim(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        epoch: Epoch,
        created: Revision,
    ) -> Result<(), EngineError> {
        let last_sign = self.shared.clock.monotonic();
        if let Some(attempt) = self.remote.attempts.get_mut(&task)
            && attempt.epoch == epoch
        {
            attempt.last_sign = last_sign;
            return Ok(());
        }
        let Some(status) = self.image.tasks.get(&task).map(|task| &task.status) else { return Ok(()) };
        match &status.state {
            TaskState::Waiting { .. } if epoch == status.epoch.next() => {
                let now = self.now();
                self.image.claimed_elsewhere(&mut self.batch, task, worker, now)?;
            }
            TaskState::Running { claim } if claim.epoch == epoch && claim.worker == worker => {}
            // Of an attempt that was given up: it is refused whatever it writes, and ends with its lease.
            _ => return Ok(()),
        }
        let attempt = Elsewhere { epoch, created, last_sign, notes: 0, told: None };
        self.remote.attempts.insert(task, attempt);
        let cleans = self.image.tasks[&task].spec.undoes.is_some();
        match self.image.status.state {
            // What cleans up after a task goes on.
            JobState::Cancelling if cleans => {}
            JobState::Pausing | JobState::Cancelling => {
                self.remote.wishes.insert(task, How::Interrupt);
            }
            _ => {}
        }
        Ok(())
    }

    async fn fold_end(&mut self, task: TaskId, end: RemoteEnd) -> Result<(), EngineError> {
        let RemoteEnd { worker, epoch, asked, wrote, end } = end;
        // Claimed and ended before the coordinator saw the claim.
        self.fold_claim(task, worker, epoch, Revision(0))?;
        let job = self.image.id();
        if self.remote.attempts.get(&task).is_none_or(|attempt| attempt.epoch != epoch) {
            // Folded before, by a coordinator that died before it could clear it away. Nothing newer can be there: that
            // would be offered, or run.
            let is_stale = |status: &TaskStatus| status.epoch >= epoch && status.claim().is_none();
            let is_open = self.image.offered.contains(&task);
            if !is_open && self.image.tasks.get(&task).is_none_or(|task| is_stale(&task.status)) {
                self.batch.delete(keys::attempt_end(job, task));
                self.batch.delete(keys::attempt_progress(job, task));
            }
            return Ok(());
        }
        if wrote {
            self.reload(task).await?;
        }
        // The end of what holds a shared resource has a transaction of its own: what is folded goes after it.
        let stands_for = self.image.tasks.get(&task).and_then(|task| task.spec.undoes).unwrap_or(task);
        let is_shared = self.image.held_by(stands_for).is_some();
        if !is_shared {
            self.forget_elsewhere(task);
            self.batch.delete(keys::attempt_end(job, task));
        }
        let store = self.shared.store.clone();
        let result = match end {
            AttemptEnd::Failed { failure } => Err(*failure),
            AttemptEnd::Finished { output, add: None } => Ok(Kept { output, add: Vec::new() }),
            AttemptEnd::Finished { output, add: Some(add) } => {
                let add = values::fetch(&*store, job, &add).await?;
                match serde_json::from_value(add) {
                    Ok(add) => Ok(Kept { output, add }),
                    Err(error) => Err(Failure::permanent("invalid_plan", format!("the tasks it adds: {error}"))),
                }
            }
        };
        self.concluded(task, epoch, result, asked).await?;
        if is_shared {
            self.forget_elsewhere(task);
            self.batch.delete(keys::attempt_end(job, task));
        }
        Ok(())
    }

    /// The worker of an attempt is gone.
    async fn bury_elsewhere(&mut self, task: TaskId) -> Result<(), EngineError> {
        self.reload(task).await?;
        self.forget_elsewhere(task);
        let poison_after = self.policy(task).poison_after;
        let now = self.now();
        self.bury(task, poison_after, now)
    }

    fn forget_elsewhere(&mut self, task: TaskId) {
        self.remote.wishes.remove(&task);
        let told = self.remote.attempts.remove(&task).and_then(|attempt| attempt.told);
        let job = self.image.id();
        self.batch.delete(keys::attempt_progress(job, task));
        if told.is_some() {
            self.batch.delete(keys::stop(job, task));
        }
    }

    /// Reads what an attempt elsewhere wrote itself: ledger and checkpoint, of the task and of what it undoes.
    async fn reload(&mut self, task: TaskId) -> Result<(), EngineError> {
        let undone = self.image.tasks.get(&task).and_then(|task| task.spec.undoes);
        for id in [Some(task), undone].into_iter().flatten() {
            let job = self.image.id();
            let effects = read_all(&*self.shared.store, &keys::effects_of(job, id)).await?;
            let effects = effects.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
            let checkpoint = self.shared.store.get(&keys::checkpoint(job, id)).await?;
            let checkpoint: Option<Checkpoint> = checkpoint.as_ref().map(decode).transpose()?;
            self.image.reloaded(id, effects, checkpoint);
        }
        Ok(())
    }

    /// Takes over what the coordinator before has left: withdraws its offers, keeps what runs elsewhere, and buries
    /// the attempts whose worker is gone.
    pub(super) async fn adopt_elsewhere(&mut self) -> Result<(), EngineError> {
        let job = self.image.id();
        let store: Arc<dyn Store> = self.shared.store.clone();
        let offers: Vec<Entry> = read_all(&*store, &keys::offers(job)).await?;
        for offer in offers {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            self.batch.delete(offer.key);
        }
        self.flush(false).await?;
        let at = self.list_elsewhere().await?;
        if !self.remote.events.is_empty() {
            *self.remote.watch.get() = Some(store.watch(&keys::attempts_elsewhere(job), at).await?);
            self.fold().await?;
        }
        // What was offered together with places in pools, and was not claimed.
        let mut waiting: Vec<TaskId> =
            self.image.tasks.values().filter(|task| !task.status.slots.is_empty()).map(|task| task.spec.id).collect();
        waiting.sort_unstable();
        for id in waiting {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            self.give_slots_back(id)?;
        }
        let stops = read_all(&*store, &keys::stops(job)).await?;
        for stop in stops {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            match keys::last_part::<TaskId>(&stop.key).and_then(|task| self.remote.attempts.get_mut(&task)) {
                Some(attempt) => attempt.told = decode::<StopWish>(&stop).ok().map(|wish| wish.how),
                None => self.batch.delete(stop.key),
            }
        }
        Ok(())
    }

    /// Whether the task's attempt runs on another worker.
    pub(super) fn is_elsewhere(&self, task: TaskId) -> bool {
        self.remote.attempts.contains_key(&task)
    }

    /// Whether anything of the job runs on another worker.
    pub(super) fn has_elsewhere(&self) -> bool {
        !self.remote.attempts.is_empty()
    }

    /// Applies that the worker of an attempt is gone, and says so in the log.
    pub(super) fn bury(&mut self, task: TaskId, poison_after: u32, now: Timestamp) -> Result<(), EngineError> {
        let Some(claim) = self.image.tasks[&task].status.claim().copied() else { return Ok(()) };
        let worker = self.shared.roster.name(claim.worker);
        let mut fields: Map<String, Value> = Map::new();
        fields.insert("worker".into(), claim.worker.to_string().into());
        fields.insert("worker_name".into(), worker.clone().into());
        fields.insert("epoch".into(), claim.epoch.0.into());
        let text = format!(
            "the worker {worker} that ran {} in epoch {} is gone; another attempt looks at what it left, in epoch {}",
            self.image.name(task),
            claim.epoch.0,
            claim.epoch.next().0
        );
        self.image.bury(&mut self.batch, task, poison_after, now)?;
        self.image.log_entry(&mut self.batch, now, Level::Info, "task.worker_died", Some(task), text, fields);
        Ok(())
    }

    /// The backstop for attempts elsewhere whose host does not stop what is overdue: after thrice the stall limit
    /// without a sign, the claim is taken away.
    pub(super) async fn stop_overdue_elsewhere(&mut self) -> Result<(), EngineError> {
        let now = self.shared.clock.monotonic();
        let overdue: Vec<TaskId> = self
            .remote
            .attempts
            .iter()
            .filter(|(task, attempt)| self.backstop(**task).is_some_and(|limit| now >= attempt.last_sign + limit))
            .map(|(task, _)| *task)
            .collect();
        for task in overdue {
            if self.batch.is_full() {
                self.flush(false).await?;
            }
            self.batch.delete(keys::task_claim(self.image.id(), task));
            self.bury_elsewhere(task).await?;
        }
        Ok(())
    }

    /// The limit of the backstop. None for types that this program does not know: their own limit may be larger.
    fn backstop(&self, task: TaskId) -> Option<Duration> {
        let spec = &self.image.tasks.get(&task)?.spec;
        let known = spec.policy.is_some() || self.shared.kinds.task_type(&spec.task_type).is_some();
        known.then(|| Duration::from_millis(self.policy(task).stall_ms.max(1)) * 3 + Duration::from_secs(30))
    }

    /// The time until the backstop is due.
    pub(super) fn next_overdue_elsewhere(&self, now: Duration) -> Option<Duration> {
        let due =
            self.remote.attempts.iter().filter_map(|(task, attempt)| Some(attempt.last_sign + self.backstop(*task)?));
        due.min().map(|due| due.saturating_sub(now).max(Duration::from_millis(1)))
    }
}
