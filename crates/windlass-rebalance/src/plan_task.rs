//! Stage 5, the task `rebalance.calculate`: joins the scans into a plan, writes its id lists, and adds the tasks that
//! carry it out.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_index_backup::{CopiesReader, Copy, is_movable};
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::{ErrorClass, Failure, TaskId};

use crate::agent::AgentClient;
use crate::calculate::{
    AgentInput, AgentState, BoxError, CalculateError, Chunk, ChunkKind, ChunkSink, FileScratch, Mode, PlanDocument,
    PlanRequest, PlannedId, Reading, Reported, RestoreUnseen, plan,
};
use crate::configure::{Configured, client_settings};
use crate::copies::ScannedCopies;
use crate::history::History;
use crate::moves::{self, AgentAddress, BackupRef, IdListRef, IdListWriter, MOVE_TASK, MoveInput, MoveSettings, shown};
use crate::patience::patient;
use crate::scan::{ScanInput, Scanned, is_intact, result_path, scan};
use crate::spec::{Commit, Durability, RebalanceSpec, Restore, RunMode, Verify};

/// The name of the task type.
pub const CALCULATE: &str = "rebalance.calculate";

/// The name of the task type that waits for all chunks of a kind.
pub const PHASE: &str = "rebalance.phase";

/// Reported ids of one kind that the plan's output names; the list in the work directory has more.
const NAMED: usize = 200;

/// Ids of which the live agents are asked for the size of a vector, before it counts as unknown.
const SAMPLES: usize = 5;

/// The input of the calculation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The task of stage 1.
    configure: TaskId,
    configured: Configured,
    scans: BTreeMap<String, Scanned>,
}

/// Ids that are reported and left alone, of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedIds {
    /// The first ones, escaped for printing.
    pub named: Vec<String>,
    /// All of them, up to a limit: a list in the work directory.
    pub list: Option<IdListRef>,
}

/// What the calculation puts out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calculated {
    /// The plan.
    pub plan: PlanDocument,
    /// Where the copies of each agent were read from, without the files.
    pub scans: Vec<Scanned>,
    /// Ids that are left alone, by reason.
    pub reported: BTreeMap<String, ReportedIds>,
    /// Lost agents that cannot be recovered by this job, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given_up: BTreeMap<String, String>,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The word used for a reason in the output.
const fn reported_name(why: Reported) -> &'static str {
    match why {
        Reported::Conflicting => "conflicting",
        Reported::NotMovable => "not_movable",
        Reported::Invalid => "invalid",
        Reported::Unplaceable => "unplaceable",
        Reported::Unseen => "unseen",
    }
}

/// Writes the id lists of a plan below the work directory, each under the digest of its contents.
pub(crate) struct ListFiles {
    work_dir: PathBuf,
    current: Option<(PathBuf, IdListWriter<File>)>,
    reported: BTreeMap<&'static str, (PathBuf, IdListWriter<File>, Vec<String>)>,
    lists: BTreeMap<String, IdListRef>,
}

impl ListFiles {
    pub(crate) fn new(work_dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(work_dir.join("plan"))?;
        let (reported, lists) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { work_dir: work_dir.to_owned(), current: None, reported, lists })
    }

    fn begin_list(&self, name: &str) -> std::io::Result<(PathBuf, IdListWriter<File>)> {
        let path = self.work_dir.join("plan").join(format!("{name}.part"));
        let writer = IdListWriter::new(File::create(&path)?)?;
        Ok((path, writer))
    }

    /// Makes a list durable under the name of its digest: the plan refers to it once it is in the store.
    fn seal(&self, (path, writer): (PathBuf, IdListWriter<File>)) -> std::io::Result<IdListRef> {
        let (file, list) = writer.finish(String::new())?;
        file.sync_all()?;
        let name = format!("plan/{}.ids", list.sha256);
        std::fs::rename(&path, self.work_dir.join(&name))?;
        Ok(IdListRef { path: name, ..list })
    }

    /// The lists of the chunks by digest, and those of the reported ids by reason.
    pub(crate) fn close(mut self) -> std::io::Result<(BTreeMap<String, IdListRef>, BTreeMap<String, ReportedIds>)> {
        let mut reported = BTreeMap::new();
        for (name, (path, writer, named)) in std::mem::take(&mut self.reported) {
            let list = self.seal((path, writer))?;
            reported.insert(name.to_owned(), ReportedIds { named, list: Some(list) });
        }
        Ok((self.lists, reported))
    }
}

impl ChunkSink for ListFiles {
    fn begin(&mut self, _: &Chunk) -> Result<(), BoxError> {
        self.current = Some(self.begin_list("chunk")?);
        Ok(())
    }

    fn id(&mut self, id: PlannedId<'_>) -> Result<(), BoxError> {
        let Some((_, writer)) = &mut self.current else { return Err("an id came before its chunk".into()) };
        Ok(writer.push(id.id, id.time, id.number)?)
    }

    fn finish(&mut self) -> Result<Option<String>, BoxError> {
        let Some(current) = self.current.take() else { return Err("a chunk ended that had not begun".into()) };
        let list = self.seal(current)?;
        let digest = list.sha256.clone();
        self.lists.insert(digest.clone(), list);
        Ok(Some(digest))
    }

    fn reported(&mut self, why: Reported, id: &[u8]) -> Result<(), BoxError> {
        let name = reported_name(why);
        if !self.reported.contains_key(name) {
            let (path, writer) = self.begin_list(name)?;
            self.reported.insert(name, (path, writer, Vec::new()));
        }
        let Some((_, writer, named)) = self.reported.get_mut(name) else { return Ok(()) };
        writer.push(id, 0, 0)?;
        if named.len() < NAMED {
            named.push(shown(id));
        }
        Ok(())
    }
}

/// What a refused plan means to the job.
pub(crate) fn refusal(error: &CalculateError) -> Failure {
    let (code, class) = match error {
        CalculateError::Cancelled => return Failure::interrupted(),
        CalculateError::TooFewAgents { .. } => ("too_few_agents", ErrorClass::Permanent),
        CalculateError::NeedsUnreachable { .. } => ("agent_unreachable", ErrorClass::Permanent),
        CalculateError::Request { .. } => ("plan_refused", ErrorClass::Permanent),
        CalculateError::Scratch { .. } | CalculateError::Sink { .. } => ("work_failed", ErrorClass::Transient),
        _ => ("copies_corrupt", ErrorClass::Transient),
    };
    let mut failure = Failure::new(code, class, error.to_string()).detail("stage", "calculate");
    if let Some(source) = std::error::Error::source(error) {
        failure = failure.caused_by(source);
    }
    if let CalculateError::NeedsUnreachable { agent, .. } | CalculateError::List { agent, .. } = error {
        failure = failure.detail("agent", agent.clone());
    }
    failure
}

/// What the planner is asked for.
fn request(spec: &RebalanceSpec, configured: &Configured, scans: &[Option<Scanned>], vector_bytes: u64) -> PlanRequest {
    let agents = configured
        .agents
        .iter()
        .zip(scans)
        .map(|(agent, scan)| AgentInput {
            name: agent.seen.name.clone(),
            weight: agent.weight,
            // The mode says who is drained; the planner adds it.
            state: if agent.state == AgentState::Drained { AgentState::Member } else { agent.state },
            zone: agent.zone.clone(),
            times_known: scan.as_ref().is_none_or(|scan| scan.times_known),
            origin: scan.as_ref().map(|scan| scan.origin.clone()),
        })
        .collect();
    let mut rate = spec.rate;
    let mode = match configured.purpose {
        RunMode::Drain => Mode::Drain { agents: spec.agents.clone() },
        RunMode::Recovery => Mode::Recovery { lost: configured.lost.clone() },
        RunMode::Manual => Mode::Manual { agents: spec.agents.clone() },
        // Fullness by memory says who is too full and by how much, but not how many copies that is.
        RunMode::Deviation | RunMode::Plan => match (&configured.decision.fullest, spec.measure) {
            (Some(fullest), crate::spec::Measure::Memory) => {
                rate = rate.or(configured.decision.rate);
                Mode::Manual { agents: vec![fullest.clone()] }
            }
            _ => Mode::Deviation,
        },
    };
    PlanRequest {
        tolerance: spec.tolerance,
        rate,
        max_moves: spec.max_moves,
        max_bytes: spec.max_bytes.map(|size| size.0),
        vector_bytes,
        chunk: spec.chunk,
        seed: spec.seed,
        restore_unseen: match spec.restore_unseen {
            Restore::Auto => RestoreUnseen::Auto,
            Restore::Always => RestoreUnseen::Always,
            Restore::Never => RestoreUnseen::Never,
        },
        memory: (spec.memory_limit.in_memory() / 2).max(1 << 20),
        ..PlanRequest::new(agents, mode, configured.index_replica)
    }
}

/// Runs the planner on a blocking thread, with the lists in `work_dir`.
pub(crate) async fn run_planner(
    cx: &TaskContext,
    request: PlanRequest,
    lists: ScannedCopies,
) -> Result<(PlanDocument, BTreeMap<String, IdListRef>, BTreeMap<String, ReportedIds>), Failure> {
    let work_dir = cx.work_dir().clone();
    let (cancel, ids) = (cx.cancelled().clone(), Arc::new(AtomicU64::new(0)));
    let seen = ids.clone();
    let failed = |error: std::io::Error| {
        Failure::transient("work_failed", "the lists of the plan cannot be written").caused_by(&error)
    };
    let work = tokio::task::spawn_blocking(move || {
        let mut sink = ListFiles::new(&work_dir).map_err(failed)?;
        let scratch_path = work_dir.join("plan").join("scratch");
        let scratch = File::options().read(true).write(true).create(true).truncate(true).open(&scratch_path);
        let mut scratch = FileScratch::new(scratch.map_err(failed)?);
        let mut passed = 0;
        let mut last = (None::<Reading>, 0);
        let mut watch = |progress: crate::calculate::Progress| {
            if last.0 != Some(progress.reading) {
                passed += last.1;
            }
            last = (Some(progress.reading), progress.ids);
            seen.store(passed + progress.ids, Ordering::Relaxed);
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let planned = plan(&request, &lists, &mut scratch, &mut sink, &mut watch);
        // Planned or not, it is of no further use.
        let _ = std::fs::remove_file(&scratch_path);
        let planned = planned.map_err(|error| refusal(&error))?;
        let (files, reported) = sink.close().map_err(failed)?;
        Ok((planned.document, files, reported))
    });
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            planned = &mut work => return planned.map_err(|_| Failure::interrupted())?,
            () = cx.clock().sleep(Duration::from_millis(500)) => {
                cx.progress(Progress::items(ids.load(Ordering::Relaxed), None));
            }
        }
    }
}

/// Bytes of one vector: from a backup, or from a live agent; 0 if nobody tells.
async fn vector_bytes(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    configured: &Configured,
    scans: &[Option<Scanned>],
) -> Result<u64, Failure> {
    if let Some(dimension) = scans.iter().flatten().find_map(|scan| scan.dimension) {
        return Ok(dimension * 4);
    }
    for (agent, scan) in configured.agents.iter().zip(scans) {
        let Some(scan) = scan.as_ref().filter(|scan| scan.copies > 0 && agent.seen.is_reachable()) else { continue };
        let path = cx.work_dir().join(&scan.file.path);
        let samples = first_ids(&path).unwrap_or_default();
        let Ok(client) = AgentClient::new(&agent.seen.name, &agent.seen.address, client_settings(spec)?) else {
            continue;
        };
        for id in samples {
            match client.within(cx).get_object(&id).await {
                Ok(Some(found)) => return Ok(found.vector.len() as u64 * 4),
                Ok(None) => {}
                Err(failure) if failure.class == ErrorClass::Interrupted => return Err(failure),
                Err(_) => break,
            }
        }
    }
    Ok(0)
}

fn first_ids(path: &Path) -> Result<Vec<String>, windlass_index_backup::BackupError> {
    let mut reader = CopiesReader::open(path)?;
    let (mut copy, mut ids) = (Copy::default(), Vec::new());
    while ids.len() < SAMPLES && reader.next(&mut copy)? {
        if is_movable(&copy.id)
            && let Ok(id) = String::from_utf8(copy.id.clone())
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The scans by position of their agents. A file that is not on this machine is made again.
async fn scans(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    input: &Input,
) -> Result<(Vec<Option<Scanned>>, BTreeMap<String, String>), Failure> {
    let mut found = Vec::with_capacity(input.configured.agents.len());
    let mut given_up = BTreeMap::new();
    for (n, agent) in input.configured.agents.iter().enumerate() {
        let name = &agent.seen.name;
        let scanned = match input.scans.get(&n.to_string()) {
            Some(scanned) => scanned.clone(),
            // The scan of one of several lost agents is not required: its result is looked for on disk.
            None => match std::fs::read(result_path(cx.work_dir(), n))
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
            {
                Some(scanned) => scanned,
                None => {
                    given_up.insert(name.clone(), "its backup could not be used; see its scan".to_owned());
                    found.push(None);
                    continue;
                }
            },
        };
        if is_intact(cx.work_dir(), &scanned.file) {
            found.push(Some(scanned));
        } else {
            let scan_input = ScanInput { index: n, agent: agent.clone() };
            found.push(Some(scan(cx, spec, &scan_input).await?));
        }
    }
    Ok((found, given_up))
}

/// A wrong replica number would add or remove copies of nearly every id. It shows in the copies themselves.
fn doubt_replicas(spec: &RebalanceSpec, plan: &PlanDocument) -> Option<Failure> {
    let ids = plan.ids.ids;
    if spec.force || matches!(plan.mode, Mode::Recovery { .. }) || ids < 10 {
        return None;
    }
    let (count, what) = match (plan.ids.surplus * 2 > ids, plan.ids.lacking * 2 > ids) {
        (true, _) => (plan.ids.surplus, "more"),
        (_, true) => (plan.ids.lacking, "fewer"),
        _ => return None,
    };
    let message = format!(
        "index_replica is {}, but {count} of {ids} ids have {what} copies than that: the number is most likely wrong",
        plan.index_replica
    );
    Some(
        Failure::permanent("index_replica_mismatch", message)
            .hint("correct index_replica; set force if the copies are really to be brought to that number")
            .detail("stage", "calculate"),
    )
}

/// How chunks are executed, as `spec` wants it.
pub(crate) fn move_settings(spec: &RebalanceSpec, replicas: u32) -> MoveSettings {
    let milliseconds = |span: crate::spec::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
    let rate = spec.rate_limit.unwrap_or_default();
    MoveSettings {
        parallelism: spec.parallelism as usize,
        per_agent_parallelism: spec.per_agent_parallelism as usize,
        moves_per_second: rate.moves,
        bytes_per_second: rate.bytes.map(|bytes| bytes.0 as f64),
        durability: match spec.durability() {
            Durability::Queued => moves::Durability::Queued,
            Durability::Committed => moves::Durability::Committed,
            Durability::Saved => moves::Durability::Saved,
            Durability::BackedUp => moves::Durability::BackedUp,
        },
        commit: match spec.commit {
            Commit::Call => moves::CommitMode::Call,
            Commit::Wait => moves::CommitMode::Wait,
        },
        verify: match spec.verify {
            Verify::Exact => moves::Verify::Exact,
            Verify::Close => moves::Verify::Close,
            Verify::Timestamp => moves::Verify::Timestamp,
        },
        journal: spec.journals(replicas),
        max_failures: spec.max_failures,
        call_timeout_ms: milliseconds(spec.call_timeout),
        commit_timeout_ms: milliseconds(spec.commit_timeout),
        ca_file: spec.cluster.ca_file.clone(),
        ..MoveSettings::default()
    }
}

/// What the chunks of a plan are made into tasks with.
pub(crate) struct Execution<'e> {
    pub(crate) spec: &'e RebalanceSpec,
    /// The task of stage 1.
    pub(crate) configure: TaskId,
    pub(crate) configured: &'e Configured,
    pub(crate) plan: &'e PlanDocument,
    pub(crate) lists: &'e BTreeMap<String, IdListRef>,
    /// Put before the names of the tasks, so that those of a sweep differ from those of the plan.
    pub(crate) prefix: String,
}

/// The tasks of a plan, and the last of them, which ends after all others.
pub(crate) struct Tasks {
    pub(crate) tasks: Vec<TaskSpec>,
    pub(crate) chunks: Vec<TaskId>,
    pub(crate) last: TaskId,
}

impl Execution<'_> {
    fn address(&self, name: &str) -> Option<AgentAddress> {
        self.configured
            .agents
            .iter()
            .find(|agent| agent.seen.name == name)
            .map(crate::configure::ConfiguredAgent::address)
    }

    fn input(&self, chunk: &Chunk, planned: u64) -> Option<MoveInput> {
        let restore = chunk.kind == ChunkKind::Restore;
        let origin = || self.plan.agents.iter().find(|agent| agent.name == chunk.source)?.origin.clone();
        Some(MoveInput {
            cluster: self.configured.cluster.clone(),
            chunk: chunk.number,
            kind: chunk.kind,
            source: if restore { None } else { Some(self.address(&chunk.source)?) },
            destination: match &chunk.destination {
                Some(name) => Some(self.address(name)?),
                None => None,
            },
            agents: self.configured.living(),
            index_replica: self.configured.index_replica,
            list: self.lists.get(chunk.list.as_ref()?)?.clone(),
            backup: if restore {
                let origin = origin()?;
                Some(BackupRef { agent: chunk.source.clone(), key: origin.key, etag: origin.etag })
            } else {
                None
            },
            planned,
            settings: move_settings(self.spec, self.configured.index_replica),
        })
    }

    /// One task per chunk, and one per kind that waits for its chunks: so the number of dependencies grows with the
    /// chunks and not with their square.
    pub(crate) fn tasks(&self, cx: &TaskContext) -> Result<Tasks, Failure> {
        let planned = self.plan.chunks.iter().map(|chunk| chunk.ids).sum();
        let mut made = Tasks { tasks: Vec::new(), chunks: Vec::new(), last: cx.spec().id };
        let kinds = [ChunkKind::Refresh, ChunkKind::Trim, ChunkKind::Fill, ChunkKind::Restore, ChunkKind::Move];
        for kind in kinds {
            let before = made.last;
            let phase = cx.new_task(PHASE, format!("{}{}", self.prefix, kind.name()));
            let mut phase = if before == cx.spec().id { phase.requires(before) } else { phase.after(before) };
            let mut any = false;
            for chunk in self.plan.chunks.iter().filter(|chunk| chunk.kind == kind) {
                let input = self.input(chunk, planned).ok_or_else(|| {
                    let message =
                        format!("chunk {} of the plan names an agent or a list that is not there", chunk.number);
                    Failure::permanent("plan_corrupt", message)
                })?;
                let mut task = cx
                    .new_task(MOVE_TASK, format!("{}{}-{:06}", self.prefix, kind.name(), chunk.number))
                    .size(Progress::items(0, Some(chunk.ids)))
                    .input(serde_json::to_value(input).unwrap_or_default());
                // The copies that a trim leaves are the newest only once they were refreshed; the other kinds look
                // at the living copies themselves and only want to come later.
                task = if before == cx.spec().id || kind == ChunkKind::Trim {
                    task.requires(before)
                } else {
                    task.after(before)
                };
                phase = if kind == ChunkKind::Refresh { phase.requires(task.id) } else { phase.after(task.id) };
                made.chunks.push(task.id);
                made.tasks.push(task);
                any = true;
            }
            if any {
                made.last = phase.id;
                made.tasks.push(phase);
            }
        }
        Ok(made)
    }
}

/// The task type `rebalance.calculate`.
#[derive(Debug, Default)]
pub struct CalculateTask;

#[async_trait]
impl TaskType for CalculateTask {
    fn name(&self) -> &'static str {
        CALCULATE
    }

    fn policy(&self) -> Policy {
        patient()
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: Input = serde_json::from_value(cx.input().clone()).map_err(|error| {
            Failure::permanent("bad_input", "the input of the calculation cannot be read").caused_by(&error)
        })?;
        let (scans, given_up) = scans(cx, &spec, &input).await?;
        let mut configured = input.configured.clone();
        configured.lost.retain(|name| !given_up.contains_key(name));
        if configured.purpose == RunMode::Recovery && configured.lost.is_empty() {
            let message =
                format!("no lost agent can be recovered: {}", given_up.keys().cloned().collect::<Vec<_>>().join(", "));
            return Err(Failure::permanent("backup_missing", message).detail("stage", "calculate"));
        }
        let mut warnings = Vec::new();
        let bytes = vector_bytes(cx, &spec, &configured, &scans).await?;
        if bytes == 0 && spec.max_bytes.is_some() {
            warnings.push("the size of a vector is unknown: max_bytes could not be kept to".to_owned());
        }
        let evens_out = matches!(configured.purpose, RunMode::Deviation | RunMode::Manual);
        let (moved, moved_since) = if evens_out && !spec.hold_off.0.is_zero() {
            History::of(cx.work_dir(), &spec.cluster_name()).moved(cx.clock().wall(), spec.hold_off.0)
        } else {
            (Vec::new(), 0)
        };
        let files = scans.iter().map(|scan| scan.as_ref().map(|scan| cx.work_dir().join(&scan.file.path))).collect();
        let mut request = request(&spec, &configured, &scans, bytes);
        // A lost agent without a list has nothing to recover and must not count as empty.
        request.agents.retain(|agent| !given_up.contains_key(&agent.name));
        let files = keep_listed(files, &input.configured, &given_up);
        let (plan, lists, reported) = run_planner(cx, request, ScannedCopies { files, moved, moved_since }).await?;
        if let Some(failure) = doubt_replicas(&spec, &plan) {
            return Err(failure);
        }
        if !scans.iter().flatten().all(|scan| scan.times_known) {
            warnings.push("some backups have no times: versions are told apart by the living agents only".to_owned());
        }
        for shortfall in &plan.shortfalls {
            warnings.push(format!("{} stays {:+} copies from its target", shortfall.agent, shortfall.excess));
        }
        for warning in &warnings {
            cx.warn("plan", warning.clone()).await;
        }
        let nothing = plan.is_empty() && evens_out;
        let add = if spec.only_plans() || nothing {
            Vec::new()
        } else {
            let execution = Execution {
                spec: &spec,
                configure: input.configure,
                configured: &configured,
                plan: &plan,
                lists: &lists,
                prefix: String::new(),
            };
            crate::finish::with_ending(cx, &execution)?
        };
        if add.is_empty() {
            clear(cx.work_dir());
        }
        cx.progress(Progress::items(plan.ids.ids, Some(plan.ids.ids)));
        let calculated =
            Calculated { plan, scans: scans.into_iter().flatten().collect(), reported, given_up, warnings };
        let output = serde_json::to_value(&calculated)
            .map_err(|error| Failure::permanent("output", "the plan cannot be stored").caused_by(&error))?;
        Ok(Finished { output, add })
    }
}

fn keep_listed(
    files: Vec<Option<PathBuf>>,
    configured: &Configured,
    given_up: &BTreeMap<String, String>,
) -> Vec<Option<PathBuf>> {
    let kept = configured.agents.iter().zip(files).filter(|(agent, _)| !given_up.contains_key(&agent.seen.name));
    kept.map(|(_, file)| file).collect()
}

/// Gives the space of the sorted copies back. The lists of the plan stay until the job is removed: undo reads them.
pub(crate) fn clear(work_dir: &Path) {
    // What cannot be removed now goes with the job.
    let _ = std::fs::remove_dir_all(work_dir.join("copies"));
}

/// The task type `rebalance.phase`: ends when all chunks of a kind have. Does nothing itself.
#[derive(Debug, Default)]
pub struct PhaseTask;

#[async_trait]
impl TaskType for PhaseTask {
    fn name(&self) -> &'static str {
        PHASE
    }

    fn policy(&self) -> Policy {
        patient()
    }

    async fn run(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}
