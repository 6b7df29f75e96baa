//! A cluster, a chunk over it, and attempts that die where a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use windlass_clock::{Seeded, SharedClock, SharedEntropy, SystemClock};
use windlass_engine::context::Intent;
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::progress::Progress;
use windlass_model::{Epoch, Failure, JobId, TaskId};
use windlass_sim::vald::{Cluster, ClusterBuilder};

use crate::agent::Attempt;
use crate::moves::access::{BackupAccess, NoBackups};
use crate::moves::input::{AgentAddress, ChunkKind, IdListRef, MoveInput, MoveSettings};
use crate::moves::outcomes::MoveOutput;
use crate::moves::task::{execute, take_back};
use crate::moves::undo::{Scope, TakeBack};
use crate::moves::{IdListWriter, MoveShares};

/// What outlives attempts: the store, the disk, the cluster.
pub(super) struct Rig {
    pub(super) cluster: Cluster,
    pub(super) folder: TempDir,
    pub(super) shares: Arc<MoveShares>,
    pub(super) state: Arc<State>,
    pub(super) access: Box<dyn BackupAccess<Try>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) ledger: Mutex<BTreeMap<u32, EffectState>>,
    pub(super) checkpoint: Mutex<Option<Value>>,
    pub(super) warnings: Mutex<Vec<String>>,
    pub(super) progress: Mutex<Progress>,
    epoch: AtomicU64,
}

type Hook = Box<dyn Fn(&str, usize) + Send + Sync>;

/// An attempt. Dies at its `die_at`-th point, counted from 1: before and after each change and each durable write.
pub(super) struct Try {
    state: Arc<State>,
    folder: PathBuf,
    epoch: Epoch,
    clock: SharedClock,
    entropy: SharedEntropy,
    pub(super) cancel: CancellationToken,
    die_at: Option<usize>,
    points: AtomicUsize,
    dead: CancellationToken,
    /// Called before each change with its label and number.
    hook: Option<Hook>,
    changes: AtomicUsize,
}

impl Try {
    pub(super) fn die_at(&mut self, point: usize) {
        self.die_at = Some(point);
    }

    async fn point(&self) {
        let point = self.points.fetch_add(1, Ordering::SeqCst) + 1;
        if self.die_at == Some(point) {
            self.dead.cancel();
            std::future::pending::<()>().await;
        }
    }
}

impl Attempt for Try {
    fn job(&self) -> JobId {
        JobId::from_bits(1)
    }

    fn task(&self) -> TaskId {
        TaskId::from_bits(2)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn work_dir(&self) -> &Path {
        &self.folder
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    fn clock(&self) -> &SharedClock {
        &self.clock
    }

    fn entropy(&self) -> &SharedEntropy {
        &self.entropy
    }

    fn may_go_on(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::interrupted()) } else { Ok(()) }
    }

    async fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::interrupted()),
            () = self.clock.sleep(duration) => Ok(()),
        }
    }

    async fn outside<F>(&self, label: &str, call: F) -> Result<F::Output, Failure>
    where
        F: Future + Send,
        F::Output: Send,
    {
        self.may_go_on()?;
        self.point().await;
        let change = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(hook) = &self.hook {
            hook(label, change);
        }
        let answer = call.await;
        self.point().await;
        Ok(answer)
    }

    async fn intend(&self, intents: Vec<Intent>) -> Result<Vec<EffectState>, Failure> {
        self.point().await;
        let states = intents
            .into_iter()
            .map(|intent| *self.state.ledger.lock().unwrap().entry(intent.n).or_insert(EffectState::Intended));
        let states = states.collect();
        self.point().await;
        Ok(states)
    }

    async fn settle(&self, n: u32, event: EffectEvent) -> Result<(), Failure> {
        let state = if event == EffectEvent::Gone { EffectState::Gone } else { EffectState::Made };
        assert!(self.state.ledger.lock().unwrap().insert(n, state).is_some(), "effect {n} was not intended");
        Ok(())
    }

    async fn checkpoint(&self, value: Value) -> Result<(), Failure> {
        self.point().await;
        *self.state.checkpoint.lock().unwrap() = Some(value);
        self.point().await;
        Ok(())
    }

    fn progress(&self, progress: Progress) {
        *self.state.progress.lock().unwrap() = progress;
    }

    async fn warn(&self, code: &str, _: String) {
        self.state.warnings.lock().unwrap().push(code.to_owned());
    }
}

pub(super) fn quick() -> MoveSettings {
    MoveSettings { backoff_ms: 1, ..MoveSettings::default() }
}

pub(super) fn cluster() -> ClusterBuilder {
    Cluster::builder().agents(2).replica(1).ids(40).skew(0.0).seed(2)
}

impl Rig {
    pub(super) async fn new(builder: ClusterBuilder) -> Self {
        let cluster = builder.start().await.unwrap();
        cluster.watch_copies(true);
        Self {
            cluster,
            folder: tempfile::tempdir().unwrap(),
            shares: MoveShares::new(),
            state: Arc::default(),
            access: Box::new(NoBackups),
        }
    }

    pub(super) fn agent(&self, agent: usize) -> AgentAddress {
        AgentAddress { name: self.cluster.name(agent), address: self.cluster.address(agent).to_string() }
    }

    /// The first ids on `agent`, by their order.
    pub(super) fn ids_on(&self, agent: usize) -> Vec<String> {
        let placement = self.cluster.placement();
        let here = placement.iter().filter(|(_, copies)| copies.iter().any(|(at, _)| *at == agent));
        here.map(|(id, _)| id.to_string()).collect()
    }

    pub(super) fn holders(&self, id: &str) -> Vec<usize> {
        let placement = self.cluster.placement();
        placement.get(id).map(|copies| copies.iter().map(|(agent, _)| *agent).collect()).unwrap_or_default()
    }

    pub(super) fn list<I: AsRef<[u8]>>(&self, ids: &[I]) -> IdListRef {
        assert!(ids.len() > 1, "too few ids to tell anything");
        let list: Vec<(&[u8], i64, u32)> = ids.iter().map(|id| (id.as_ref(), 0, 0)).collect();
        self.list_of(&list)
    }

    pub(super) fn list_of(&self, ids: &[(&[u8], i64, u32)]) -> IdListRef {
        let file = std::fs::File::create(self.folder.path().join("ids")).unwrap();
        let mut writer = IdListWriter::new(file).unwrap();
        for (id, time, number) in ids {
            writer.push(id, *time, *number).unwrap();
        }
        writer.finish("ids").unwrap().1
    }

    /// A chunk of `ids` from agent 0 to agent 1.
    pub(super) fn input<I: AsRef<[u8]>>(&self, kind: ChunkKind, ids: &[I]) -> MoveInput {
        MoveInput {
            cluster: "test".into(),
            chunk: 0,
            kind,
            source: (kind != ChunkKind::Restore).then(|| self.agent(0)),
            destination: (kind != ChunkKind::Trim).then(|| self.agent(1)),
            agents: (0..self.cluster.agents()).map(|agent| self.agent(agent)).collect(),
            index_replica: 1,
            list: self.list(ids),
            backup: None,
            planned: ids.len() as u64,
            settings: quick(),
        }
    }

    pub(super) fn attempt(&self) -> Try {
        Try {
            state: Arc::clone(&self.state),
            folder: self.folder.path().to_owned(),
            epoch: Epoch(self.state.epoch.fetch_add(1, Ordering::SeqCst) + 1),
            clock: SystemClock::real(),
            entropy: Seeded::shared(3),
            cancel: CancellationToken::new(),
            die_at: None,
            points: AtomicUsize::new(0),
            dead: CancellationToken::new(),
            hook: None,
            changes: AtomicUsize::new(0),
        }
    }

    pub(super) fn dying_at(&self, point: usize) -> Try {
        Try { die_at: Some(point), ..self.attempt() }
    }

    pub(super) fn watched(&self, hook: impl Fn(&str, usize) + Send + Sync + 'static) -> Try {
        Try { hook: Some(Box::new(hook)), ..self.attempt() }
    }

    fn removal_begun(&self) -> bool {
        self.state.ledger.lock().unwrap().get(&1).is_some_and(|state| *state != EffectState::Gone)
    }

    /// Runs the chunk under `attempt`. `None` if the attempt died.
    pub(super) async fn run_as(&self, attempt: &Try, input: &MoveInput) -> Option<Result<MoveOutput, Failure>> {
        let checkpoint = self.state.checkpoint.lock().unwrap().clone();
        let run = execute(attempt, input, &self.shares, &*self.access, checkpoint.as_ref(), self.removal_begun());
        tokio::select! {
            biased;
            done = run => Some(done),
            () = attempt.dead.cancelled() => None,
        }
    }

    pub(super) async fn run(&self, input: &MoveInput) -> Result<MoveOutput, Failure> {
        self.run_as(&self.attempt(), input).await.unwrap()
    }

    /// Undoes the chunk under `attempt`; `own` is the undo's last checkpoint, which is replaced.
    pub(super) async fn undo_as(
        &self,
        attempt: &Try,
        input: &MoveInput,
        forward: Option<&Value>,
        own: Option<&Value>,
        scope: Scope,
    ) -> Option<Result<Vec<MoveOutput>, Failure>> {
        let work = TakeBack { attempt, input, shares: &self.shares, access: &*self.access, scope, own };
        tokio::select! {
            biased;
            done = take_back(&work, forward, self.removal_begun()) => Some(done),
            () = attempt.dead.cancelled() => None,
        }
    }

    pub(super) async fn undo(&self, input: &MoveInput) -> Vec<MoveOutput> {
        let forward = self.state.checkpoint.lock().unwrap().clone();
        self.undo_as(&self.attempt(), input, forward.as_ref(), None, Scope::Everything).await.unwrap().unwrap()
    }

    /// Nothing was ever missing, doubled for good, or brought back from the dead.
    #[track_caller]
    pub(super) fn assert_sound(&self) {
        assert_eq!(self.cluster.violations(), []);
        assert_eq!(self.cluster.resurrected(), Vec::<Arc<str>>::new());
    }

    /// Exactly these agents have each of `ids`, durably.
    #[track_caller]
    pub(super) fn assert_on(&self, ids: &[String], agents: &[usize]) {
        let (seen, durable) = (self.cluster.placement(), self.cluster.durable_placement());
        for id in ids {
            for placement in [&seen, &durable] {
                let holders: BTreeSet<usize> =
                    placement.get(id.as_str()).into_iter().flatten().map(|(agent, _)| *agent).collect();
                assert_eq!(holders, agents.iter().copied().collect(), "{id}");
            }
        }
    }
}

/// The sum of all outcomes is what was planned.
#[track_caller]
pub(super) fn count(output: &MoveOutput, outcome: &str) -> u64 {
    assert_eq!(output.outcomes.values().sum::<u64>(), output.planned, "{output:?}");
    output.outcomes.get(outcome).copied().unwrap_or_default()
}
