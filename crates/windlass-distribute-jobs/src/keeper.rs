//! One controller: what it knows, and what looks after its nodes and inputs between the rounds.
//!
//! It lives in the process that coordinates the job, for as long as rounds come: each one prolongs it, and a round of
//! another coordinator's term begins anew from what was remembered on disk. So the port of the old agents is free a
//! moment after the job has moved on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::SharedClock;
use windlass_distribute::World;
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::event_log::Watched as Requests;
use windlass_distribute::input::{Hits, ListingFault, LogTail};
use windlass_distribute::settings::{Freeze, NodeIx};
use windlass_engine::reconcile::{ReconcileContext, Waker};
use windlass_model::{Failure, JobId};

use crate::agent::{Agent, CallFault};
use crate::board::{self, Board};
use crate::inputs;
use crate::memory::Memory;
use crate::spec::{DistributeSpec, Profile, Wire};
use crate::state::{Came, Sight, Sighting, State};
use crate::tally::Tally;

/// The longest time between two rounds.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// A controller without rounds for so long is given up.
const LEASE: Duration = Duration::from_secs(75);
/// A node that did not answer is asked again after this part of the usual time.
const SOONER: u32 = 8;

/// All controllers of a process.
#[derive(Debug, Default)]
pub(crate) struct Keepers(Mutex<HashMap<JobId, Arc<Keeper>>>);

impl Drop for Keepers {
    fn drop(&mut self) {
        lock(&self.0).values().for_each(|keeper| keeper.stop.cancel());
    }
}

impl Keepers {
    /// The controller of a job, if this process has one.
    pub(crate) fn get(&self, job: JobId) -> Option<Arc<Keeper>> {
        lock(&self.0).get(&job).filter(|keeper| !keeper.stop.is_cancelled()).cloned()
    }

    /// The controller of a round; begun if it is not there yet.
    pub(crate) async fn of(&self, cx: &ReconcileContext) -> Result<Arc<Keeper>, Failure> {
        if let Some(keeper) = self.get(cx.job()).filter(|keeper| keeper.term == cx.term()) {
            keeper.prolong(cx);
            return Ok(keeper);
        }
        let keeper = Arc::new(Keeper::open(cx).await?);
        let before = lock(&self.0).insert(cx.job(), keeper.clone());
        if let Some(before) = before {
            before.stop.cancel();
        }
        keeper.prolong(cx);
        keeper.begin();
        Ok(keeper)
    }
}

/// One controller.
pub(crate) struct Keeper {
    pub(crate) job: JobId,
    pub(crate) term: u64,
    /// It shows what it would do: it orders nobody about, and nobody can reach it.
    preview: bool,
    pub(crate) spec: DistributeSpec,
    pub(crate) clock: SharedClock,
    pub(crate) state: Mutex<State>,
    pub(crate) memory: Mutex<Memory>,
    pub(crate) board: Board,
    pub(crate) tally: Arc<Tally>,
    /// Rings whenever a look was taken in.
    pub(crate) looked: Notify,
    /// Rings when an input came that is in no file.
    pub(crate) inputs_changed: Notify,
    /// By node: rings when it shall be looked at now.
    nudges: Vec<Notify>,
    waker: Mutex<Option<Waker>>,
    /// Until when it goes on without a round, in milliseconds of the monotonic clock.
    until: AtomicU64,
    stop: CancellationToken,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("job", &self.job).field("term", &self.term).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    async fn open(cx: &ReconcileContext) -> Result<Self, Failure> {
        let spec = DistributeSpec::parse(cx.spec())?;
        let settings = spec.settings();
        let fleet = spec.fleet(&settings)?;
        let reading = spec.reading();
        let requests = Requests::new(&settings.watch, reading)
            .map_err(|error| Failure::permanent("invalid_spec", error.to_string()))?;
        let clock = cx.clock().clone();
        let now = clock.wall().as_second();
        let places = fleet.len();
        let mut world = World::new(settings, fleet);
        world.now = now;
        let mut state = State {
            world,
            sights: (0..places).map(|_| Sight::default()).collect(),
            hits: Hits::default(),
            tail: spec.inputs.events.as_deref().map(LogTail::new),
            requests,
            input_fault: Some("the catalogue has not been read yet".to_owned()),
            malformed: Vec::new(),
            notes: Vec::new(),
            unheard: None,
            origin_read: false,
            settling: HashMap::new(),
            taken_in: std::collections::HashSet::new(),
            seen_until: i64::MIN,
            tries: HashMap::new(),
            issued: Vec::new(),
            amnesia_until: i64::MIN,
            accept_catalogue: false,
            look_again: false,
            held: Freeze::No,
        };
        let folder: PathBuf = cx.work_dir().join("distribute");
        let began_before = cx.counts().total() > 0;
        let files = spec.inputs.files().len();
        let opened = tokio::task::spawn_blocking(move || {
            let memory = Memory::open(folder, &mut state, (reading, files), began_before, now)?;
            Ok::<_, Failure>((state, memory))
        });
        let (state, memory) = opened.await.map_err(|error| {
            Failure::transient("reading_stopped", format!("reading what was remembered: {error}"))
        })??;
        Ok(Self {
            job: cx.job(),
            term: cx.term(),
            preview: cx.is_preview(),
            clock,
            nudges: (0..places).map(|_| Notify::new()).collect(),
            board: Board::default(),
            tally: if cx.is_preview() { Arc::default() } else { Tally::of(cx.job()) },
            looked: Notify::new(),
            inputs_changed: Notify::new(),
            waker: Mutex::new(None),
            until: AtomicU64::new(0),
            stop: CancellationToken::new(),
            state: Mutex::new(state),
            memory: Mutex::new(memory),
            spec,
        })
    }

    /// What it knows.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What it remembers on disk.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    fn prolong(&self, cx: &ReconcileContext) {
        *lock(&self.waker) = Some(cx.waker());
        let until = (self.clock.monotonic() + LEASE).as_millis();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Waits until another one, or none, has taken its place.
    pub(crate) async fn over(&self) {
        self.stop.cancelled().await;
    }

    /// Asks for a round.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake();
        }
    }

    /// Asks for a look at a node.
    pub(crate) fn nudge(&self, place: NodeIx) {
        self.nudges[place.index()].notify_one();
    }

    /// Whether a node counts as down.
    pub(crate) fn is_down(&self, address: &str) -> bool {
        let state = self.state();
        let place = state.world.fleet.find(address);
        place.is_some_and(|place| state.sights[place.index()].looked && !state.world.node(place).up)
    }

    /// Asks for a look at the node of an address.
    pub(crate) fn look_at(&self, address: &str) {
        let place = self.state().world.fleet.find(address);
        if let Some(place) = place {
            self.nudge(place);
        }
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, address: &str) -> Result<Agent, Failure> {
        Agent::of(&self.spec, address, (!self.preview).then_some(self.term), &self.clock)
    }

    /// Waits until `done` says yes, or for `limit`.
    pub(crate) async fn until(&self, limit: Duration, mut done: impl FnMut(&State) -> bool) {
        let wait = async {
            loop {
                let rung = self.looked.notified();
                let mut rung = std::pin::pin!(rung);
                rung.as_mut().enable();
                if done(&self.state()) {
                    return;
                }
                rung.await;
            }
        };
        let _ = windlass_clock::deadline(&*self.clock, limit, wait).await;
    }

    /// Begins to look after nodes and inputs. Everything that is begun here ends with one task, and that one with the
    /// lease or when it is stopped.
    fn begin(self: &Arc<Self>) {
        let keeper = self.clone();
        tokio::spawn(async move {
            let mut all = JoinSet::new();
            let places: Arc<Semaphore> = Arc::new(Semaphore::new(keeper.spec.at_a_time()));
            let nodes: Vec<NodeIx> = keeper.state().world.fleet.places().collect();
            for place in nodes {
                all.spawn(watch(keeper.clone(), place, places.clone()));
            }
            all.spawn(inputs::watch_catalogue(keeper.clone()));
            all.spawn(inputs::watch_origin(keeper.clone()));
            if keeper.spec.listen.is_some() && !keeper.preview {
                all.spawn(board::listen(keeper.clone()));
            }
            tokio::select! {
                () = keeper.stop.cancelled() => {}
                () = keeper.lease_over() => keeper.stop.cancel(),
            }
            all.shutdown().await;
        });
    }

    async fn lease_over(&self) {
        loop {
            let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
            let until = self.until.load(Ordering::SeqCst);
            if now >= until {
                return;
            }
            self.clock.sleep(Duration::from_millis(until - now)).await;
        }
    }
}

impl DistributeSpec {
    /// Whose way of reading the inputs.
    pub(crate) fn reading(&self) -> Reading {
        match self.profile {
            Profile::Product => Reading::Product,
            Profile::Legacy => Reading::Legacy,
        }
    }
}

/// Looks at a node again and again.
async fn watch(keeper: Arc<Keeper>, place: NodeIx, places: Arc<Semaphore>) {
    let every = keeper.spec.watch_every();
    loop {
        let known = {
            let state = keeper.state();
            let listed = state.world.node(place).listing.is_ok() && state.sights[place.index()].dirty.is_none();
            state.sights[place.index()].generation.filter(|_| listed)
        };
        let again = {
            let Ok(_one) = places.acquire().await else { return };
            let sighting = look(&keeper, place, known).await;
            let keeper = keeper.clone();
            let taken = tokio::task::spawn_blocking(move || {
                let now = keeper.clock.wall().as_second();
                let (changed, again) = keeper.state().take(place, sighting, now);
                keeper.looked.notify_waiters();
                if changed {
                    keeper.wake();
                }
                again
            });
            match taken.await {
                Ok(again) => again,
                Err(_) => return,
            }
        };
        if again {
            continue;
        }
        let wait = if keeper.state().sights[place.index()].fault.is_some() { every / SOONER } else { every };
        let nudge = keeper.nudges[place.index()].notified();
        tokio::select! {
            () = nudge => {}
            () = keeper.clock.sleep(wait) => {}
        }
    }
}

/// Looks at a node once. `known` is the generation of what is known of it.
async fn look(keeper: &Keeper, place: NodeIx, known: Option<u64>) -> Sighting {
    let address = keeper.state().world.fleet[place].addr.clone();
    let began = keeper.clock.monotonic();
    let nothing = |why: String| Sighting { began, beat: Err(why), ..Sighting::nothing(began) };
    let agent = match keeper.agent(&address) {
        Ok(agent) => agent,
        Err(failure) => return nothing(failure.to_string()),
    };
    match agent.wire {
        Wire::V2 => match agent.node().await {
            Err(fault) => {
                let stale = matches!(&fault, CallFault::Refused { code, .. } if code == "stale_term");
                Sighting { stale, ..nothing(fault.to_string()) }
            }
            Ok((report, off)) => {
                let same = known == Some(report.generation);
                let listing = if same {
                    None
                } else {
                    Some(agent.inventory(report.generation).await.map_or_else(Came::Fault, Came::Inventory))
                };
                let generation = match &listing {
                    Some(Came::Inventory(inventory)) => Some(inventory.end.generation),
                    _ => Some(report.generation),
                };
                let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                let space = windlass_distribute::input::Space { used: bytes(report.used), avail: bytes(report.avail) };
                let space = (report.used.saturating_add(report.avail) > 0).then_some(space);
                Sighting { beat: Ok(off), listing, space, generation, ..Sighting::nothing(began) }
            }
        },
        Wire::Legacy => match agent.beat().await {
            Err(fault) => nothing(fault.to_string()),
            Ok(off) => {
                let (files, space) = tokio::join!(agent.files(off), agent.disk());
                let listing = match files {
                    Ok((answer, age)) => {
                        let content_type = answer.headers.get("content-type").and_then(|text| text.to_str().ok());
                        Came::Lines {
                            status: answer.status,
                            content_type: content_type.unwrap_or_default().to_owned(),
                            complete: answer.complete,
                            body: answer.body,
                            age,
                        }
                    }
                    Err(CallFault::NoAnswer) => Came::Fault(ListingFault::NoAnswer),
                    Err(fault) => Came::Fault(ListingFault::Failed(fault.to_string())),
                };
                let space = space.ok().flatten();
                Sighting { beat: Ok(off), listing: Some(listing), space, ..Sighting::nothing(began) }
            }
        },
    }
}
