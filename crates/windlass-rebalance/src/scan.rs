//! Stages 2 to 4 for one agent, the task `rebalance.scan`: its backup is streamed, unpacked, decoded and sorted into
//! a file of copies on local disk. Where that is asked for, the live agent is listed instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_index_backup::{CollectedCopies, Copy, Watch};
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::{ErrorClass, Failure};
use windlass_vald::object::list::response::Payload;

use crate::agent::AgentClient;
use crate::backups::{Backups, Found, Reading, SCANS, backup_failure};
use crate::calculate::{AgentState, ListOrigin};
use crate::configure::{ConfiguredAgent, client_settings};
use crate::copies::CopySorter;
use crate::patience::patient;
use crate::spec::{ListLive, RebalanceSpec};

/// The name of the task type.
pub const SCAN: &str = "rebalance.scan";

/// How often progress is reported: often enough for a person who watches.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Copies handed to the sorter at once while an agent is listed.
const BATCH: usize = 512;

/// The input of a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanInput {
    /// Position of the agent among all agents of the job.
    pub index: usize,
    /// The agent.
    pub agent: ConfiguredAgent,
}

/// A file of copies on local disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesFile {
    /// Below the job's work directory.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its footer, which holds the number of copies and a hash of them, as hexadecimal digits. The copies themselves
    /// are checked against it whenever the file is read to its end.
    pub footer: String,
}

/// Something odd about a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oddity {
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scanned {
    /// The agent.
    pub agent: String,
    /// Position of the agent among all agents of the job.
    pub index: usize,
    /// Where the copies were read from.
    pub origin: ListOrigin,
    /// Last change of the backup; `None` for a listing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Size of the backup in bytes; 0 for a listing.
    pub size: u64,
    /// Bytes of the backup that were read.
    pub bytes_read: u64,
    /// Distinct ids.
    pub copies: u64,
    /// Whether the times of the ids are known.
    pub times_known: bool,
    /// Ids without a time.
    pub without_time: u64,
    /// Ids that the agent found to be broken.
    pub invalid: u64,
    /// Ids that no request can carry.
    pub not_movable: u64,
    /// How the backup was packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Elements of a vector, where the backup tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<u64>,
    /// What is odd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Oddity>,
    /// The copies.
    pub file: CopiesFile,
}

/// Where the copies of the agent at `index` go, below the work directory.
fn copies_path(index: usize) -> String {
    format!("copies/{index}.copies")
}

/// Where a scan leaves its result beside the store's record, for a calculation that goes on without a failed scan.
pub(crate) fn result_path(work_dir: &Path, index: usize) -> PathBuf {
    work_dir.join(format!("copies/{index}.json"))
}

/// Length of the footer of a file of copies.
const FOOTER: u64 = 28;

/// Describes the finished file at `path` below `work_dir`.
fn describe(work_dir: &Path, path: &str) -> std::io::Result<CopiesFile> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(work_dir.join(path))?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(FOOTER)))?;
    let mut footer = Vec::new();
    file.take(FOOTER).read_to_end(&mut footer)?;
    Ok(CopiesFile { path: path.to_owned(), bytes, footer: hex(&footer) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the file of an earlier scan is still there, as it was written.
#[must_use]
pub(crate) fn is_intact(work_dir: &Path, file: &CopiesFile) -> bool {
    describe(work_dir, &file.path).is_ok_and(|found| found == *file)
}

fn work_failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::transient("work_failed", format!("{what} in the work directory failed"))
        .caused_by(error)
        .hint("check the space and the permissions of the work directory")
}

/// Scans one agent: its backup, or the agent itself where the spec says so.
pub(crate) async fn scan(cx: &TaskContext, spec: &RebalanceSpec, input: &ScanInput) -> Result<Scanned, Failure> {
    let folder = cx.work_dir().join("copies");
    std::fs::create_dir_all(&folder).map_err(|error| work_failed("making a folder", &error))?;
    let name = &input.agent.seen.name;
    let can_list = input.agent.seen.is_reachable() && input.agent.state != AgentState::Lost;
    if spec.list_live == ListLive::Always && can_list {
        return list(cx, spec, input).await;
    }
    match from_backup(cx, spec, input).await {
        Err(failure) if failure.class == ErrorClass::Permanent && spec.list_live == ListLive::Fallback && can_list => {
            cx.warn("listed_live", format!("{name} is listed itself, because {failure}")).await;
            let mut scanned = list(cx, spec, input).await?;
            scanned.warnings.push(Oddity { code: failure.code.clone(), message: failure.to_string() });
            Ok(scanned)
        }
        other => other,
    }
}

async fn from_backup(cx: &TaskContext, spec: &RebalanceSpec, input: &ScanInput) -> Result<Scanned, Failure> {
    let agent = input.agent.seen.name.as_str();
    let backups = Backups::open(spec, cx.clock(), cx.entropy(), cx.cancelled())?;
    let mut keys = Vec::new();
    // A lost agent's vectors may be needed: numbers and vectors must then come from the same archive.
    if input.agent.state != AgentState::Lost {
        keys.extend(spec.kvsdb_key(agent));
    }
    keys.push(spec.backup_key(agent));
    let found = backups.find(agent, &keys).await?;

    // An earlier attempt may have got this far.
    if let Some(earlier) = cx.last_checkpoint().and_then(|value| serde_json::from_value::<Scanned>(value.clone()).ok())
        && earlier.origin.key == found.key
        && earlier.origin.etag.is_some()
        && earlier.origin.etag == found.meta.etag
        && is_intact(cx.work_dir(), &earlier.file)
    {
        return Ok(earlier);
    }
    read(cx, spec, input, &backups, found).await
}

fn too_old(spec: &RebalanceSpec, agent: &str, found: &Found, age: Duration) -> Failure {
    let hours = age.as_secs_f64() / 3600.0;
    let message = format!(
        "the backup {} of agent {agent} is {hours:.1} h old, more than max_backup_age ({})",
        found.key, spec.max_backup_age
    );
    Failure::permanent("backup_stale", message)
        .hint("let the agent save and upload its index, raise max_backup_age, or set force")
        .detail("stage", "download")
        .detail("agent", agent)
        .detail("object", found.key.clone())
}

async fn read(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    input: &ScanInput,
    backups: &Backups,
    mut found: Found,
) -> Result<Scanned, Failure> {
    let agent = input.agent.seen.name.as_str();
    let mut warnings = Vec::new();
    let age = backups.age(&found);
    if age > spec.max_backup_age.0 {
        if !spec.force {
            return Err(too_old(spec, agent, &found, age));
        }
        let message = format!("used although it is {:.1} h old, because of force", age.as_secs_f64() / 3600.0);
        warnings.push(Oddity { code: "backup_old".into(), message });
    }
    let path = copies_path(input.index);
    let out = cx.work_dir().join(&path);
    let how = Reading::of(spec, cx.work_dir().join("copies"));
    let watch: Arc<Watch> = Arc::default();
    let collected = {
        let collect = backups.collect(agent, &mut found, &how, &watch, &out);
        tokio::pin!(collect);
        loop {
            tokio::select! {
                biased;
                () = cx.cancelled().cancelled(), if !watch.is_stopped() => watch.stop(),
                collected = &mut collect => break collected?,
                () = cx.clock().sleep(REPORT_EVERY) => report(cx, &watch, None),
            }
        }
    };
    report(cx, &watch, Some(found.meta.size));
    warnings.extend(
        collected
            .warnings
            .iter()
            .map(|warning| Oddity { code: warning.code.to_owned(), message: warning.message.clone() }),
    );
    differing_counts(input, &collected, &mut warnings);
    let age_seconds = backups.age(&found).as_secs();
    let scanned = Scanned {
        agent: agent.to_owned(),
        index: input.index,
        origin: ListOrigin {
            key: found.key.clone(),
            etag: found.meta.etag.clone(),
            age_seconds: Some(age_seconds),
            read_mode: how.mode.name().to_owned(),
        },
        modified: Some(found.meta.modified),
        size: found.meta.size,
        bytes_read: collected.bytes_read,
        copies: collected.count,
        times_known: collected.timestamps.is_some(),
        without_time: collected.timestamps.as_ref().map_or(collected.count, |times| times.missing),
        invalid: collected.invalid_count,
        not_movable: collected.not_movable,
        compression: Some(collected.compression.as_str().to_owned()),
        dimension: collected.objects.as_ref().map(|objects| objects.dimension as u64).filter(|n| *n > 0),
        warnings,
        file: describe(cx.work_dir(), &path).map_err(|error| work_failed("looking at the sorted copies", &error))?,
    };
    Ok(scanned)
}

/// Says so when the live agent holds far more or fewer ids than its backup: the plan is then made from old news.
fn differing_counts(input: &ScanInput, collected: &CollectedCopies, warnings: &mut Vec<Oddity>) {
    let Some(live) = input.agent.copies().filter(|_| input.agent.state != AgentState::Lost) else { return };
    let apart = live.abs_diff(collected.count);
    if apart > 100 && apart * 4 > live.max(collected.count) {
        let message = format!(
            "the agent holds {live} copies, but its backup has {}: most of what happened since is not in the plan",
            collected.count
        );
        warnings.push(Oddity { code: "backup_differs".into(), message });
    }
}

fn report(cx: &TaskContext, watch: &Watch, size: Option<u64>) {
    // A fast read ends long before the end of the object: what was read is then all there was to read.
    let total = size.map(|_| watch.bytes_read());
    cx.progress(Progress {
        done_items: watch.ids(),
        total_items: size.map(|_| watch.ids()),
        done_bytes: watch.bytes_read(),
        total_bytes: total,
    });
}

/// Lists the live agent: everything it holds, including what is newer than its backup. Transfers all vectors.
async fn list(cx: &TaskContext, spec: &RebalanceSpec, input: &ScanInput) -> Result<Scanned, Failure> {
    let path = copies_path(input.index);
    let listed = list_agent(cx, spec, &input.agent, &cx.work_dir().join(&path)).await?;
    Ok(Scanned {
        agent: input.agent.seen.name.clone(),
        index: input.index,
        origin: ListOrigin {
            key: format!("live listing of {}", input.agent.seen.address),
            etag: None,
            age_seconds: Some(0),
            read_mode: "live".into(),
        },
        modified: None,
        size: 0,
        bytes_read: 0,
        copies: listed.copies,
        times_known: listed.with_time > 0 || listed.copies == 0,
        without_time: listed.copies.saturating_sub(listed.with_time),
        invalid: 0,
        not_movable: listed.not_movable,
        compression: None,
        dimension: listed.dimension,
        warnings: Vec::new(),
        file: describe(cx.work_dir(), &path).map_err(|error| work_failed("looking at the sorted copies", &error))?,
    })
}

/// What a listing of a live agent gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) copies: u64,
    with_time: u64,
    not_movable: u64,
    dimension: Option<u64>,
}

/// Lists `agent` into the file `out`, sorted by id.
pub(crate) async fn list_agent(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    agent: &ConfiguredAgent,
    out: &Path,
) -> Result<Listed, Failure> {
    let (name, address) = (agent.seen.name.as_str(), agent.seen.address.as_str());
    let client = AgentClient::new(name, address, client_settings(spec)?)
        .map_err(|error| Failure::permanent("bad_address", error.to_string()))?;
    let broken = |why: String| {
        Failure::transient("agent_unreachable", format!("the listing of agent {name} broke off: {why}"))
            .detail("stage", "decode")
            .detail("agent", name)
    };
    let mut stream = client.within(cx).stream_list().await?;

    let scratch = cx.work_dir().join("copies").join(format!("listing-{}", cx.spec().id));
    std::fs::create_dir_all(&scratch).map_err(|error| work_failed("making a folder", &error))?;
    let (batches, mut incoming) = mpsc::channel::<Vec<Copy>>(4);
    let (folder, out, memory) = (scratch.clone(), out.to_owned(), spec.memory_limit.in_memory() / SCANS);
    let sorting = tokio::task::spawn_blocking(move || {
        let mut sorter = CopySorter::new(&folder, memory);
        while let Some(batch) = incoming.blocking_recv() {
            for copy in batch {
                sorter.push(copy)?;
            }
        }
        sorter.finish(&out)
    });

    let mut listed = Listed::default();
    let mut batch = Vec::with_capacity(BATCH);
    let (mut seen, mut reported) = (0_u64, cx.clock().monotonic());
    loop {
        let message = tokio::select! {
            biased;
            () = cx.cancelled().cancelled() => return Err(Failure::interrupted()),
            message = stream.message() => message,
        };
        let Some(message) = message.map_err(|status| broken(status.to_string()))? else { break };
        match message.payload {
            Some(Payload::Vector(vector)) => {
                listed.with_time += u64::from(vector.timestamp > 0);
                listed.not_movable += u64::from(vector.id.is_empty());
                listed.dimension.get_or_insert(vector.vector.len() as u64);
                batch.push(Copy { id: vector.id.into_bytes(), time: vector.timestamp, number: 0, invalid: false });
            }
            Some(Payload::Status(status)) => return Err(broken(status.message)),
            None => {}
        }
        seen += 1;
        if batch.len() == BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            if batches.send(full).await.is_err() {
                break;
            }
        }
        let now = cx.clock().monotonic();
        if now.saturating_sub(reported) >= REPORT_EVERY {
            reported = now;
            cx.progress(Progress::items(seen, agent.copies()));
        }
    }
    // A sorter that has ended says why below.
    let _ = batches.send(batch).await;
    drop(batches);
    let sorted = sorting.await.map_err(|_| Failure::interrupted())?;
    let _ = std::fs::remove_dir_all(&scratch);
    listed.copies = sorted.map_err(|error| backup_failure(&error, name, "listing"))?;
    cx.progress(Progress::items(listed.copies, Some(listed.copies)));
    Ok(listed)
}

/// The task type `rebalance.scan`.
#[derive(Debug, Default)]
pub struct ScanTask;

#[async_trait]
impl TaskType for ScanTask {
    fn name(&self) -> &'static str {
        SCAN
    }

    fn policy(&self) -> Policy {
        // The object store's own retries come first.
        Policy { attempts: 3, ..patient() }
    }

    fn changes_outside(&self) -> bool {
        false
    }

    fn concurrency(&self) -> Option<usize> {
        Some(SCANS)
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: ScanInput = serde_json::from_value(cx.input().clone()).map_err(|error| {
            Failure::permanent("bad_input", "the input of the scan cannot be read").caused_by(&error)
        })?;
        let scanned = scan(cx, &spec, &input).await?;
        for warning in &scanned.warnings {
            cx.warn(&warning.code, format!("{}: {}", scanned.agent, warning.message)).await;
        }
        let output = serde_json::to_value(&scanned)
            .map_err(|error| Failure::permanent("output", "what the scan found cannot be stored").caused_by(&error))?;
        std::fs::write(result_path(cx.work_dir(), input.index), output.to_string())
            .map_err(|error| work_failed("writing the result of the scan", &error))?;
        cx.checkpoint(output.clone()).await?;
        Ok(Finished::with(output))
    }
}
