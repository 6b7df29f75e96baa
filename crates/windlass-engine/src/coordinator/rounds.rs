//! The rounds of a standing job: when its kind is asked what is missing, and how the answer becomes part of the job.
//!
//! A round begins from an image that is durable as it is, right after a commit, and runs [beside](super::beside) the
//! loop. Its answer, the record of the round and the ends that it was told of go into one batch. While the job is not
//! running nothing begins, and what was under way is stopped: its answer would be about a job that is another by then.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use windlass_model::job::{JobEvent, JobResult, JobState, PauseReason};
use windlass_model::log::Level;
use windlass_model::plan::TaskSpec;
use windlass_model::{ErrorClass, Failure, TaskId};

use super::beside::Beside;
use super::commands::later;
use super::{Coordinator, image};
use crate::EngineError;
use crate::bell::Bell;
use crate::engine::Shared;
use crate::kind::Kind;
use crate::reconcile::{Cause, Reconcile, ReconcileContext, Reconciled, RoundRecord, Waker};
use crate::records::{AddedBy, JobRecord};

/// How long after the first failure the next round comes; twice that after the second, and so on.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest that a failing kind is left alone, unless its rounds are rarer anyway.
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// How often a round that changed nothing is written down, so that people see that there are rounds.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);
/// The largest status that is kept, in bytes of JSON.
const STATUS_BYTES: usize = 64 * 1024;
/// The longest summary, in characters.
const SUMMARY_CHARS: usize = 1000;

/// The rounds of a job, as its coordinator keeps them.
pub(super) struct RoundsHere {
    /// The kind and what it says of this job; none for a job that does not reconcile, or whose kind is not known here.
    kind: Option<(Arc<dyn Kind>, Reconcile)>,
    pub(super) call: Beside<Reconciled>,
    waker: Waker,
    woken_seen: u64,
    /// Why the next round is to come as soon as it may.
    causes: BTreeSet<Cause>,
    /// Ends of which a round was told that has not ended.
    told: usize,
    began: Option<Duration>,
    /// When the timer is due, on the monotonic clock.
    timer: Duration,
    /// Not before this moment, after a failure.
    backoff: Option<Duration>,
    written: Option<Duration>,
    /// Successful rounds of this coordinator, and those that failed.
    past: (u64, u64),
}

impl RoundsHere {
    pub(super) fn new(shared: &Shared, record: &JobRecord) -> Self {
        let kind = shared.kinds.kind(&record.kind);
        Self {
            kind: kind.and_then(|kind| Some((kind.clone(), kind.reconciles(&record.spec)?))),
            call: Beside::new("reconcile"),
            waker: Waker(Arc::default()),
            woken_seen: 0,
            causes: BTreeSet::from([Cause::Start]),
            told: 0,
            began: None,
            timer: Duration::ZERO,
            backoff: None,
            written: None,
            past: (0, 0),
        }
    }

    /// What rings when the job is woken in this process, and how often it had when that was last looked at.
    pub(super) fn signal(&self) -> (Arc<Bell>, u64) {
        (self.waker.0.clone(), self.woken_seen)
    }

    fn settings(&self) -> Option<&Reconcile> {
        self.kind.as_ref().map(|(_, settings)| settings)
    }

    /// When the next round is due, on the monotonic clock.
    fn due(&self, unseen: usize) -> Option<Duration> {
        let settings = self.settings()?;
        let asked = self.causes.contains(&Cause::Asked) || self.causes.contains(&Cause::Start);
        let signalled = unseen > 0 || !self.causes.is_empty();
        let at = match self.backoff {
            _ if asked => Duration::ZERO,
            Some(backoff) => backoff,
            None if signalled => Duration::ZERO,
            None => self.timer,
        };
        Some(at.max(self.began.map_or(Duration::ZERO, |began| began + settings.at_most_every)))
    }
}

impl Coordinator {
    /// Whether the job goes on for ever.
    pub(super) fn is_standing(&self) -> bool {
        let known = self.shared.kinds.kind(&self.image.record.kind).is_some();
        self.image.rounds.is_some() && (self.rounds.kind.is_some() || !known)
    }

    /// Makes a job that is being activated a standing one, if its kind says so.
    pub(super) fn begin_rounds(&mut self) {
        if self.rounds.kind.is_some() && self.image.rounds.is_none() {
            self.image.rounds = Some(image::Rounds::new(RoundRecord::default()));
            self.image.put_rounds(&mut self.batch);
        }
    }

    /// Whether a preview still waits for the first round.
    pub(super) fn awaits_round(&self) -> bool {
        self.image.record.preview && self.rounds.past == (0, 0)
    }

    /// Lets the next round come as soon as it may. Returns why not, if not.
    pub(super) fn wake(&mut self) -> Option<String> {
        if self.rounds.kind.is_none() {
            return Some("it is no standing job that could be woken: it ends when its tasks have".to_owned());
        }
        match self.image.status.state {
            // A round comes when it goes on.
            JobState::Pending | JobState::Paused | JobState::Pausing => None,
            JobState::Running => {
                self.rounds.causes.insert(Cause::Asked);
                None
            }
            state => Some(format!("a job that is {} is not looked after any more", state.as_str())),
        }
    }

    /// Takes in what a round has come to, and stops one that nobody wants any more.
    pub(super) async fn keep_rounds(&mut self) -> Result<(), EngineError> {
        if self.image.status.state != JobState::Running || self.shutting_down {
            if self.rounds.call.is_busy() {
                self.rounds.call.stop();
            }
            // What happens meanwhile is seen by the round that comes when the job goes on.
            self.rounds.causes.insert(Cause::Start);
            return Ok(());
        }
        match self.rounds.call.take() {
            Some(result) => self.end_round(result).await,
            None => Ok(()),
        }
    }

    /// Begins a round if one is due. To be called when everything in memory is durable.
    pub(super) fn begin_round(&mut self) {
        let now = self.shared.clock.monotonic();
        let Some(rounds) = self.image.rounds.as_ref().filter(|_| self.listens() && self.batch.is_empty()) else {
            return;
        };
        let (bell, seen) = self.rounds.signal();
        let rung = bell.count();
        if rung != seen {
            self.rounds.woken_seen = rung;
            self.rounds.causes.insert(Cause::Signal);
        }
        let unseen = rounds.unseen();
        if self.rounds.due(unseen).is_none_or(|due| due > now) {
            return;
        }
        let Some((kind, settings)) = self.rounds.kind.clone() else { return };
        let mut causes = std::mem::take(&mut self.rounds.causes);
        if unseen > 0 {
            causes.insert(Cause::Ended);
        }
        if causes.is_empty() {
            causes.insert(Cause::Timer);
        }
        let (in_flight, ended) = self.image.told();
        self.rounds.told = unseen;
        self.rounds.began = Some(now);
        let record = self.image.record.clone();
        let context = ReconcileContext {
            job: record.id,
            round: rounds.record.n + 1,
            term: self.claim.0,
            causes: causes.into_iter().collect(),
            in_flight,
            ended,
            counts: self.image.all_counts(),
            status: rounds.record.status.clone(),
            waker: self.rounds.waker.clone(),
            cancel: tokio_util::sync::CancellationToken::new(),
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
            work_dir: self.shared.work_dir(record.id),
            store: self.shared.store.clone(),
            spec: record,
        };
        self.rounds.call.begin(self.shared.clock.clone(), settings.deadline, move |cancel| async move {
            kind.reconcile(&ReconcileContext { cancel, ..context }).await
        });
    }

    /// Whether a ring of the job's waker matters at the moment.
    pub(super) fn listens(&self) -> bool {
        self.image.rounds.is_some()
            && self.image.status.state == JobState::Running
            && !self.shutting_down
            && !self.rounds.call.is_busy()
            && (!self.image.record.preview || self.awaits_round())
    }

    /// The time until the next round is due.
    pub(super) fn next_round(&self, now: Duration) -> Option<Duration> {
        let rounds = self.image.rounds.as_ref().filter(|_| self.listens())?;
        Some(self.rounds.due(rounds.unseen())?.saturating_sub(now).max(Duration::from_millis(1)))
    }

    /// A round has ended.
    pub(super) async fn end_round(&mut self, result: Result<Reconciled, Failure>) -> Result<(), EngineError> {
        if self.image.status.state != JobState::Running {
            return Ok(());
        }
        let result = match result {
            Ok(reconciled) => self.check_round(reconciled),
            Err(failure) => Err(failure),
        };
        match result {
            Ok((reconciled, left_out)) => self.round_succeeded(reconciled, left_out).await,
            Err(failure) => self.round_failed(failure),
        }
    }

    /// Leaves out what is in the job already and what would be too many. Returns how many were too many.
    fn check_round(&self, mut round: Reconciled) -> Result<(Reconciled, u64), Failure> {
        let Some(settings) = self.rounds.settings() else { return Ok((round, 0)) };
        let (job, n) = (self.image.id(), self.image.rounds.as_ref().map_or(0, |rounds| rounds.record.n) + 1);
        let strange =
            round.add.iter().find(|task| task.id != TaskId::in_round(job, n, &task.task_type, &task.resource));
        if let Some(task) = strange {
            let text = format!("{} was not made with the context of round {n}", task.name());
            return Err(Failure::permanent("invalid_plan", text).hint("this is a fault of the kind; report it"));
        }
        if let Some(bytes) = round.status.as_ref().map(|status| status.to_string().len())
            && bytes > STATUS_BYTES
        {
            let text = format!("the status of the round has {bytes} bytes, at most {STATUS_BYTES} are kept");
            return Err(Failure::permanent("status_too_large", text));
        }
        let mut instead: HashMap<TaskId, TaskId> = HashMap::new();
        if !round.add.is_empty() {
            let standing = self.image.standing_for(self.rounds.told);
            round.add.retain(|task| match standing.get(&(task.task_type.as_str(), task.resource.as_str())) {
                Some(other) => {
                    instead.insert(task.id, *other);
                    false
                }
                None => true,
            });
        }
        let open = self.image.counts.waiting + self.image.counts.running;
        let room = settings.most_in_flight.saturating_sub(usize::try_from(open).unwrap_or(usize::MAX));
        let left_out = leave_out(&mut round.add, room);
        if !instead.is_empty() {
            for task in &mut round.add {
                for edge in &mut task.dependencies {
                    edge.task = instead.get(&edge.task).copied().unwrap_or(edge.task);
                }
                for reference in &mut task.references {
                    reference.task = instead.get(&reference.task).copied().unwrap_or(reference.task);
                }
            }
        }
        Ok((round, left_out))
    }

    async fn round_succeeded(&mut self, round: Reconciled, left_out: u64) -> Result<(), EngineError> {
        let Some(settings) = self.rounds.settings().cloned() else { return Ok(()) };
        let Some(before) = self.image.rounds.as_ref().map(|rounds| rounds.record.clone()) else { return Ok(()) };
        let Reconciled { add, status, summary, next } = round;
        let added = add.len();
        if added > 0
            && let Err(failure) = self.add_tasks(add, AddedBy::Round(before.n + 1)).await?
        {
            return self.round_failed(failure);
        }
        let (now, mono) = (self.now(), self.shared.clock.monotonic());
        let wait = next.map_or(settings.every, |next| next.min(settings.every));
        self.rounds.timer = mono + wait;
        self.rounds.backoff = None;
        self.rounds.past.0 += 1;
        let told = std::mem::take(&mut self.rounds.told);
        self.image.seen_by_round(told);
        let mut record = before.clone();
        record.status = status.unwrap_or(record.status);
        record.summary = summary.map_or(record.summary, |text| text.chars().take(SUMMARY_CHARS).collect());
        record.left_out = left_out;
        (record.failures, record.failure) = (0, None);
        if added > 0 {
            record.n += 1;
        }
        let due = self.rounds.written.is_none_or(|written| mono >= written + WRITTEN_EVERY);
        if record == before && told == 0 && !due {
            return Ok(());
        }
        (record.last, record.next) = (Some(now), Some(later(now, as_ms(wait))));
        if before.failures > 0 {
            let text = format!("reconciling works again after {} failed rounds", before.failures);
            self.image.log(&mut self.batch, now, Level::Info, "reconcile.works", None, |_| text);
        }
        if left_out > 0 && before.left_out == 0 {
            let text = format!("{left_out} tasks are left out for now: {} are in flight", settings.most_in_flight);
            self.image.log(&mut self.batch, now, Level::Info, "reconcile.full", None, |_| text);
        }
        self.write_round(record);
        Ok(())
    }

    fn round_failed(&mut self, failure: Failure) -> Result<(), EngineError> {
        let Some(settings) = self.rounds.settings().cloned() else { return Ok(()) };
        let Some(before) = self.image.rounds.as_ref().map(|rounds| rounds.record.clone()) else { return Ok(()) };
        let (now, mono) = (self.now(), self.shared.clock.monotonic());
        // Told again to the next round.
        self.rounds.told = 0;
        self.rounds.past.1 += 1;
        let cap = BACKOFF_CAP.min(settings.every).max(BACKOFF);
        let grown = BACKOFF.saturating_mul(1 << before.failures.min(16)).min(cap);
        let wait = match (failure.retry_after_ms, failure.class) {
            (Some(ms), _) => Duration::from_millis(ms),
            (None, ErrorClass::Permanent) => cap,
            _ => grown,
        };
        self.rounds.backoff = Some(mono + wait);
        let told_already = before.failure.as_ref().is_some_and(|other| other.code == failure.code);
        if !told_already {
            let text = format!("reconciling failed and is tried again in {:.1} s: {failure}", wait.as_secs_f64());
            self.image.log(&mut self.batch, now, Level::Warn, "reconcile.failed", None, |_| text);
        }
        let needs_person = failure.class == ErrorClass::NeedsAttention;
        let mut record = before;
        record.failures = record.failures.saturating_add(1);
        record.next = Some(later(now, as_ms(wait)));
        record.failure = Some(Box::new(failure.clone()));
        self.write_round(record);
        if needs_person && !self.image.record.preview {
            let reason = PauseReason::Attention { failure: Box::new(failure) };
            self.image.move_job(&mut self.batch, JobEvent::Pause { reason, until: None }, now)?;
            self.interrupt_all();
        }
        Ok(())
    }

    fn write_round(&mut self, record: RoundRecord) {
        self.rounds.written = Some(self.shared.clock.monotonic());
        if let Some(rounds) = &mut self.image.rounds {
            rounds.record = record;
        }
        self.image.put_rounds(&mut self.batch);
        self.batch.label = image::ROUND;
    }

    /// Removes what a standing job does not keep, as far as the batch has room. Returns whether something is left.
    pub(super) fn prune(&mut self) -> bool {
        let Some(settings) = self.rounds.settings() else { return false };
        if self.image.record.preview || !self.image.status.state.is_active() {
            return false;
        }
        let alone = self.image.offered.is_empty() && !self.has_elsewhere();
        self.image.prune(&mut self.batch, settings, alone)
    }

    /// Removes drafts that a crash has left behind: the next round has the number of the one that wrote them, and may
    /// come to other tasks.
    pub(super) async fn remove_stale_drafts(&mut self) -> Result<(), EngineError> {
        let job = self.image.id();
        for id in std::mem::take(&mut self.image.stale_drafts) {
            self.batch.delete(windlass_store::keys::task(job, id));
            self.batch.label = "adopt";
            if self.batch.is_full() {
                self.flush(false).await?;
            }
        }
        Ok(())
    }

    /// The verdict on a preview of a standing job.
    pub(super) fn failed_preview(&self) -> Option<JobResult> {
        (self.image.record.preview && self.rounds.past.1 > 0).then_some(JobResult::Failed)
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Shortens `tasks` to `most`, together with whatever depends on what is left out. Returns how many were left out.
fn leave_out(tasks: &mut Vec<TaskSpec>, most: usize) -> u64 {
    if tasks.len() <= most {
        return 0;
    }
    let before = tasks.len();
    let mut out: HashSet<TaskId> = tasks.split_off(most).into_iter().map(|task| task.id).collect();
    loop {
        let left = tasks.len();
        tasks.retain(|task| {
            let stays = !task.dependencies.iter().any(|edge| out.contains(&edge.task));
            if !stays {
                out.insert(task.id);
            }
            stays
        });
        if tasks.len() == left {
            return u64::try_from(before - left).unwrap_or(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_model::JobId;

    #[test]
    fn what_depends_on_a_task_that_is_left_out_is_left_out_too() {
        let job = JobId::from_bits(1);
        let task = |name: &str| TaskSpec::new(job, 1, "t", name);
        let (a, d) = (task("a"), task("d"));
        let b = task("b").requires(d.id);
        let c = task("c").after(b.id);
        let mut tasks = vec![a.clone(), b, c, d];
        assert_eq!(leave_out(&mut tasks, 4), 0);
        assert_eq!(leave_out(&mut tasks, 3), 3);
        assert_eq!(tasks, [a]);
    }
}
