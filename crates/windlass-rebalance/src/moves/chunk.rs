//! One chunk on its way: which phase comes next, what is written down after it, and when to stop.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Map, Value};
use windlass_clock::deadline;
use windlass_model::progress::Progress;
use windlass_model::{ErrorClass, Failure};

use crate::agent::{AgentCalls, AgentClient, Attempt, ClientSettings};
use crate::journal::Journal;

mod disk;
mod ledger;

use super::access::{BackedUpId, BackupAccess, BackupState};
use super::decide::{self, Rules};
use super::entry::{Entry, Marks, Outcome, Step, Why};
use super::id_list::ListedId;
use super::input::{ChunkKind, CommitMode, Durability, MoveInput};
use super::notes::{self, Header, NotesRef};
use super::share::{JobShare, MoveShares, Tally, locked};

/// Number of the effect in the ledger: copies on the destination.
pub(crate) const COPIES: u32 = 0;
/// Number of the effect in the ledger: removals on the source.
pub(crate) const REMOVALS: u32 = 1;

/// When a phase fails, what is under way gets this long to end: an answer known now need not be looked for later.
const WIND_DOWN: Duration = Duration::from_secs(3);

/// The least time between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// Checkpoints of the parts of one task, by part.
pub(crate) type Parts = Arc<Mutex<Map<String, Value>>>;

/// What a chunk is made from.
pub(crate) struct Setup<'a, A> {
    pub(crate) attempt: &'a A,
    pub(crate) input: &'a MoveInput,
    pub(crate) shares: &'a MoveShares,
    pub(crate) access: &'a dyn BackupAccess<A>,
    /// Tells the parts of a task apart: its notes, journals and checkpoints.
    pub(crate) part: &'static str,
    pub(crate) parts: Parts,
    /// Whether changes are written to the effect ledger; an undo works off another task's.
    pub(crate) ledger: bool,
    /// The rules but for the kind.
    pub(crate) adopt: bool,
    /// Only the versions that the list names may be moved; [`ANY_VERSION`] is any.
    pub(crate) only_listed: bool,
    /// For undoing a fill: takes a copy away only where the one it was made from still is.
    pub(crate) spare_only: bool,
}

/// Stands for any version in a list of ids to undo.
pub(crate) const ANY_VERSION: i64 = i64::MIN;

/// A chunk being executed.
pub(crate) struct Chunk<'a, A: Attempt> {
    pub(super) attempt: &'a A,
    pub(super) input: &'a MoveInput,
    access: &'a dyn BackupAccess<A>,
    part: &'static str,
    parts: Parts,
    ledger: bool,
    pub(super) adopt: bool,
    only_listed: bool,
    pub(super) spare_only: bool,
    source: Option<Arc<AgentClient>>,
    destination: Option<Arc<AgentClient>>,
    pub(super) agents: Vec<Arc<AgentClient>>,
    pub(super) ids: Vec<ListedId>,
    entries: Mutex<Vec<Entry>>,
    pub(super) share: Arc<JobShare>,
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) journal: Arc<Mutex<Journal>>,
    folder: PathBuf,
    before: Header,
    pub(super) bytes: AtomicU64,
    pub(super) inserts: AtomicU64,
    pub(super) timeless: AtomicBool,
    retries_before: u64,
    began: Duration,
    reported: Mutex<Duration>,
    written: Mutex<(Option<NotesRef>, u32)>,
    intended: Mutex<[bool; 2]>,
}

/// A blocking piece of work on a thread where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::transient("work_dir", format!("the work directory failed: {what}"))
            .caused_by(error)
            .hint("is the disk full, or not writable?")
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

impl<'a, A: Attempt> Chunk<'a, A> {
    /// A chunk of `ids` that has not been begun.
    pub(crate) async fn new(setup: Setup<'a, A>, ids: Vec<ListedId>) -> Result<Self, Failure> {
        let Setup { attempt, input, shares, access, part, parts, ledger, adopt, only_listed, spare_only } = setup;
        let share = shares.job(attempt.job(), &input.settings);
        let settings = client_settings(input).await?;
        let client = |agent| share.client(agent, &settings);
        let source = input.source.as_ref().map(client).transpose()?;
        let destination = input.destination.as_ref().map(client).transpose()?;
        let agents = input.agents.iter().map(client).collect::<Result<Vec<_>, _>>()?;
        let retries_before = agents.iter().map(|agent| agent.retries()).sum();
        Ok(Self {
            attempt,
            input,
            access,
            part,
            parts,
            ledger,
            adopt,
            only_listed,
            spare_only,
            source,
            destination,
            agents,
            entries: Mutex::new(vec![Entry::default(); ids.len()]),
            ids,
            share,
            turn: shares.commit_turn(&input.cluster),
            journal: Arc::default(),
            folder: notes::folder(attempt.work_dir()),
            before: Header { list: input.list.sha256.clone(), ..Header::default() },
            bytes: AtomicU64::new(0),
            inserts: AtomicU64::new(0),
            timeless: AtomicBool::new(false),
            retries_before,
            began: attempt.clock().monotonic(),
            reported: Mutex::new(Duration::ZERO),
            written: Mutex::new((None, 0)),
            intended: Mutex::new([false; 2]),
        })
    }

    /// Takes up what an earlier attempt wrote down. `removal_begun`: the ledger says that copies may have been
    /// removed.
    pub(crate) async fn resume(&mut self, notes: &NotesRef, removal_begun: bool) -> Result<(), Failure> {
        let (folder, wanted) = (self.folder.clone(), notes.clone());
        let read = blocking("reading the notes on a chunk", move || notes::read(&folder, &wanted)).await?;
        let count = self.ids.len();
        let known = read.filter(|(header, entries)| entries.len() == count && header.list == self.before.list);
        if let Some((header, entries)) = known {
            self.entries = Mutex::new(entries.into_iter().map(resumed).collect());
            let journals: Vec<PathBuf> = header.journals.iter().map(|name| self.folder.join(name)).collect();
            let journal = blocking("opening the journals of a chunk", move || Journal::open(journals)).await?;
            self.journal = Arc::new(Mutex::new(journal));
            self.timeless = AtomicBool::new(header.timeless);
            self.before = header;
        } else {
            let kind = self.input.kind;
            let entries = (0..count).map(|place| forgotten(kind, notes.was_present(place), removal_begun)).collect();
            self.entries = Mutex::new(entries);
            let message = format!(
                "the notes on chunk {} were lost with the machine they were on; what can be is found out again",
                self.input.chunk
            );
            self.attempt.warn("notes_lost", message).await;
        }
        self.written = Mutex::new((Some(notes.clone()), 0));
        Ok(())
    }

    /// Sets what is known to begin with; for undoing.
    pub(crate) fn begin_with(&mut self, entries: Vec<Entry>) {
        debug_assert_eq!(entries.len(), self.ids.len());
        self.entries = Mutex::new(entries);
    }

    // ---- what there is ----

    pub(crate) fn entries(&self) -> Vec<Entry> {
        locked(&self.entries).clone()
    }

    pub(super) fn kind(&self) -> ChunkKind {
        self.input.kind
    }

    pub(super) fn rules(&self, place: usize) -> Rules {
        let only = self.only_listed.then(|| self.ids[place].time).filter(|time| *time != ANY_VERSION);
        Rules { kind: self.input.kind, adopt: self.adopt, only }
    }

    /// The source, unless any holder will do.
    pub(super) fn source(&self) -> Option<AgentCalls<'_, A>> {
        self.source.as_ref().map(|client| client.within(self.attempt))
    }

    /// The destination. Steps that write to one are not reached by chunks without.
    pub(super) fn destination(&self) -> Result<AgentCalls<'_, A>, Failure> {
        let client = self.destination.as_ref().ok_or_else(|| missing("a destination"))?;
        Ok(client.within(self.attempt))
    }

    /// Now, Unix nanoseconds.
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.attempt.clock().wall().as_nanosecond()).unwrap_or(i64::MAX)
    }

    // ---- the phases ----

    /// Executes the chunk from where it is to its end.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        // The phases' future is large; what waits for a chunk need not be.
        let outcome = Box::pin(self.drive()).await;
        if let Err(failure) = &outcome
            && failure.class == ErrorClass::Permanent
        {
            Box::pin(self.abandon()).await;
        }
        outcome
    }

    fn next_step(&self) -> Option<Step> {
        let entries = locked(&self.entries);
        entries.iter().map(|entry| entry.step).min_by_key(|step| step.rank()).filter(|step| step.rank() < Step::LAST)
    }

    async fn drive(&self) -> Result<(), Failure> {
        let mut turn = None;
        while let Some(step) = self.next_step() {
            self.attempt.may_go_on()?;
            if !self.tells_deletes_by_queue(step) {
                turn = None;
            } else if turn.is_none() {
                turn = Some(self.take_turn().await?);
            }
            let done = self.phase(step).await;
            let written = self.write_down(step).await;
            done?;
            written?;
            if self.ledger {
                // What is taken back may be gone, and failures there are for the report.
                self.share.note(self.attempt.task(), self.tally(), self.input)?;
            }
        }
        self.report(true);
        Ok(())
    }

    async fn phase(&self, step: Step) -> Result<(), Failure> {
        tracing::debug!(chunk = self.input.chunk, phase = step.name(), "phase begins");
        match step {
            Step::Copy => {
                self.intend(COPIES).await?;
                self.prepare_copy().await?;
                self.pass(step).await?;
                self.sync_journal().await
            }
            Step::Rescue => {
                self.commit(&self.destination()?, Durability::Committed).await?;
                self.advance(step, decide::rescued);
                Ok(())
            }
            Step::Commit => self.make_durable(step).await,
            Step::Remove => {
                self.settle(COPIES).await?;
                self.intend(REMOVALS).await?;
                self.pass(step).await
            }
            Step::Settle => {
                let commit = self.input.settings.commit_source && self.input.settings.commit == CommitMode::Call;
                if commit && let Some(source) = self.source() {
                    let durability = self.input.settings.durability.min(Durability::Saved);
                    if durability > Durability::Queued {
                        self.commit(&source, durability).await?;
                        return self.pass(step).await;
                    }
                }
                // The audit has just seen that the source does not show it.
                self.advance(step, |entry| entry.end(Outcome::Done));
                Ok(())
            }
            _ => self.pass(step).await,
        }
    }

    /// Sets what comes next for all ids at `step`.
    fn advance(&self, step: Step, next: impl Fn(&mut Entry)) {
        locked(&self.entries).iter_mut().filter(|entry| entry.step.rank() == step.rank()).for_each(next);
    }

    fn places_at(&self, step: Step) -> Vec<usize> {
        let entries = locked(&self.entries);
        let at = entries.iter().enumerate().filter(|(_, entry)| entry.step.rank() == step.rank());
        at.map(|(place, _)| place).collect()
    }

    /// Takes every id at `step` through it, so many at a time.
    async fn pass(&self, step: Step) -> Result<(), Failure> {
        let mut places = self.places_at(step).into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.input.settings.parallelism
                && let Some(place) = places.next()
            {
                running.push(Box::pin(self.one(place)));
            }
            match running.next().await {
                None => return Ok(()),
                Some(Ok(())) => self.report(false),
                Some(Err(failure)) => {
                    let rest = async { while running.next().await.is_some() {} };
                    // What does not end in time is dropped; the next attempt looks what became of it.
                    let _ = deadline(&**self.attempt.clock(), WIND_DOWN, rest).await;
                    return Err(failure);
                }
            }
        }
    }

    async fn one(&self, place: usize) -> Result<(), Failure> {
        let _place = tokio::select! {
            biased;
            () = self.attempt.cancelled().cancelled() => return Err(Failure::interrupted()),
            permit = self.share.places.acquire() => permit,
        };
        self.attempt.may_go_on()?;
        let mut entry = locked(&self.entries)[place];
        let done = self.step(place, &mut entry).await;
        locked(&self.entries)[place] = entry;
        done
    }

    // ---- durability ----

    async fn make_durable(&self, step: Step) -> Result<(), Failure> {
        let destination = self.destination()?;
        let durability = self.input.settings.durability;
        if durability > Durability::Queued {
            let saved_at = self.commit(&destination, durability.min(Durability::Saved)).await?;
            if durability == Durability::BackedUp {
                self.await_backup(step, saved_at).await?;
            }
        }
        self.advance(step, |entry| entry.step = Step::Recheck);
        Ok(())
    }

    async fn await_backup(&self, step: Step, saved_at: jiff::Timestamp) -> Result<(), Failure> {
        let places = self.places_at(step);
        let ids: Vec<BackedUpId> = {
            let entries = locked(&self.entries);
            let id = |place: &usize| BackedUpId { id: self.ids[*place].id.clone(), time: entries[*place].time };
            places.iter().map(id).collect()
        };
        let agent = self.destination()?.name();
        let (clock, mut wait) = (self.attempt.clock(), Duration::from_millis(self.input.settings.backoff_ms.max(10)));
        let until = clock.monotonic() + Duration::from_millis(self.input.settings.commit_timeout_ms);
        loop {
            match self.access.holds(self.attempt, agent, saved_at, &ids).await? {
                BackupState::Holds => return Ok(()),
                BackupState::Lacks(lacking) => {
                    // Either clients changed these meanwhile, or the backup is torn: one more round shows.
                    let mut entries = locked(&self.entries);
                    for place in lacking.into_iter().filter_map(|at| places.get(at)) {
                        decide::copy_vanished(&mut entries[*place]);
                    }
                    return Ok(());
                }
                BackupState::NotYet if clock.monotonic() >= until => {
                    let message = format!("agent {agent} has not written a backup since {saved_at}");
                    return Err(Failure::transient("not_backed_up", message)
                        .hint("does the agent's uploader run? Then durability `saved` asks for less"));
                }
                BackupState::NotYet => {
                    self.report(true);
                    self.attempt.sleep(wait).await?;
                    wait = (wait * 2).min(Duration::from_secs(15));
                }
            }
        }
    }

    // ---- giving up ----

    /// After a failure that cannot be mended: takes back the copies of ids that are not through, as far as agents
    /// let us. Ids whose source copy may be gone are left as they are.
    async fn abandon(&self) {
        for entry in locked(&self.entries).iter_mut() {
            if entry.step.rank() < Step::Remove.rank() && !entry.marks.has(Marks::REMOVING) {
                decide::withdraw_failed(entry, Why::Abandoned);
            }
        }
        let step = Step::Withdraw(Outcome::Failed);
        let withdrawn = self.pass(step).await;
        if let Err(failure) = withdrawn {
            tracing::warn!(%failure, chunk = self.input.chunk, "copies of an abandoned chunk are left over");
        }
        if let Err(failure) = self.write_down(step).await {
            tracing::warn!(%failure, chunk = self.input.chunk, "the end of an abandoned chunk is not written down");
        }
    }

    // ---- what is shown ----

    fn tally(&self) -> Tally {
        let mut tally = Tally { ids: self.ids.len() as u64, ..Tally::default() };
        for outcome in locked(&self.entries).iter().filter_map(Entry::outcome) {
            match outcome {
                Outcome::Gone => tally.gone += 1,
                Outcome::Failed | Outcome::Rejected => tally.failed += 1,
                _ => {}
            }
        }
        tally
    }

    /// Tells how far the chunk is: an id that is half through its phases counts half.
    pub(super) fn report(&self, now: bool) {
        let at = self.attempt.clock().monotonic();
        {
            let mut reported = locked(&self.reported);
            if !now && at.saturating_sub(*reported) < REPORT_EVERY {
                return;
            }
            *reported = at;
        }
        let steps: u64 = locked(&self.entries).iter().map(|entry| u64::from(entry.step.rank())).sum();
        self.attempt.progress(Progress {
            done_items: steps / u64::from(Step::LAST),
            total_items: Some(self.ids.len() as u64),
            done_bytes: self.before.bytes + self.bytes.load(Ordering::Relaxed),
            total_bytes: None,
        });
    }

    /// The figures of the chunk so far.
    pub(crate) fn figures(&self) -> Header {
        self.header()
    }

    /// Whether an agent was met that tells no times.
    pub(crate) fn is_timeless(&self) -> bool {
        self.timeless.load(Ordering::Relaxed)
    }
}

/// Ids by outcome; those without one count as `to_do`.
pub(crate) fn counts(entries: &[Entry]) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.outcome().map_or("to_do", Outcome::name)).or_default() += 1;
    }
    counts
}

/// What an entry means to a later attempt: what was under way may have been done.
fn resumed(mut entry: Entry) -> Entry {
    match entry.step {
        Step::Copy => {
            entry.marks.add(Marks::TOUCHED);
            entry.marks.add(Marks::SENT);
        }
        Step::Remove => entry.marks.add(Marks::REMOVING),
        _ => {}
    }
    entry
}

/// What is left to know about an id whose notes are lost.
fn forgotten(kind: ChunkKind, present: bool, removal_begun: bool) -> Entry {
    let mut entry = Entry::default();
    if removal_begun {
        entry.marks.add(Marks::REMOVING);
    }
    if present {
        entry.marks.add(Marks::PRESENT);
        entry.marks.add(Marks::NOT_OURS);
    } else if kind != ChunkKind::Trim {
        entry.marks.add(Marks::TOUCHED);
        entry.marks.add(Marks::SENT);
    }
    match kind {
        // Looking again tells all there is to know: these take nothing away that another may need.
        ChunkKind::Trim | ChunkKind::Refresh => {}
        _ if present => entry.end(Outcome::AlreadyThere),
        _ => {
            entry.marks.add(Marks::FORGOTTEN);
            entry.step = Step::Reread;
        }
    }
    entry
}

fn missing(what: &str) -> Failure {
    Failure::permanent("bad_input", format!("the chunk has no {what}, which its kind needs"))
}

pub(super) fn journal_failed(error: &io::Error) -> Failure {
    Failure::transient("work_dir", "the journal of a chunk cannot be written")
        .caused_by(error)
        .hint("is the disk full?")
}

async fn client_settings(input: &MoveInput) -> Result<ClientSettings, Failure> {
    let settings = &input.settings;
    let ca_pem = match settings.ca_file.clone() {
        None => None,
        Some(path) => {
            let what = format!("reading the certificates {path}");
            Some(blocking(&what, move || std::fs::read(path)).await?)
        }
    };
    Ok(ClientSettings {
        parallelism: settings.per_agent_parallelism,
        call_timeout: Duration::from_millis(settings.call_timeout_ms),
        commit_timeout: Duration::from_millis(settings.commit_timeout_ms),
        backoff: Duration::from_millis(settings.backoff_ms),
        ca_pem,
    })
}
