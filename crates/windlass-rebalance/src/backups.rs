//! The place where the agents' backups are, and what its errors mean to the job.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use windlass_blob::{
    BlobError, BlobStore, BlockingReader, Context, Environment, ErrorKind, Meta, ReadOptions, RetryPolicy, Settings,
    Timeouts,
};
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_engine::context::TaskContext;
use windlass_index_backup::{BackupError, Code, CopiesReader, Copy, Place, Stage, Watch, collect_copies, read_vectors};
use windlass_model::{ErrorClass, Failure};

use crate::journal::JournalWriter;
use crate::moves::{BackedUpId, BackupAccess, BackupRef, BackupState, WantedVector};
use crate::spec::{Packing, ReadMode, RebalanceSpec, SecretPlace};

/// Backups that are read at the same time in one process. The memory limit is divided by it.
pub(crate) const SCANS: usize = 4;

/// Reads that begin anew because the object changed under way.
const RESTARTS: u32 = 3;

/// Where the agents' backups are.
#[derive(Clone, Debug)]
pub struct Backups {
    store: BlobStore,
    clock: SharedClock,
}

/// One backup object as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its key.
    pub key: String,
    /// Its state; reads are pinned to it.
    pub meta: Meta,
}

/// The value of a secret, read at the moment it is needed and kept nowhere.
fn reveal(variable: &str, place: &SecretPlace) -> Result<String, Failure> {
    let missing = |message: String| {
        Failure::permanent("secret_missing", message).hint("set it where the job runs; job files only name secrets")
    };
    match place {
        SecretPlace::Env(name) => std::env::var(name).map_err(|_| {
            missing(format!("{variable} is to come from the environment variable {name}, which is not set"))
        }),
        SecretPlace::File(path) => {
            std::fs::read_to_string(path).map(|text| text.trim_end().to_owned()).map_err(|error| {
                missing(format!("{variable} is to come from the file {path}, which cannot be read")).caused_by(&error)
            })
        }
    }
}

impl Backups {
    /// Opens the place named in `spec`. Makes no request to it.
    ///
    /// # Errors
    ///
    /// Secrets that are missing, or settings that do not fit.
    pub fn open(
        spec: &RebalanceSpec,
        clock: &SharedClock,
        entropy: &SharedEntropy,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let place = spec.backups.place();
        let mut secrets = Vec::new();
        for (variable, secret) in &place.credentials {
            secrets.push((variable.clone(), reveal(variable, secret)?));
        }
        let process = Environment::process();
        let environment = Environment::from_fn(move |name| {
            let own = secrets.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone());
            own.or_else(|| process.get(name))
        });
        let context = Context {
            clock: clock.clone(),
            entropy: entropy.clone(),
            environment,
            settings: Settings {
                retry: RetryPolicy {
                    attempts: NonZeroU32::new(place.attempts).unwrap_or(NonZeroU32::MIN),
                    cap: place.backoff_cap.0,
                    ..RetryPolicy::default()
                },
                timeouts: Timeouts { connect: place.connect_timeout.0, idle: place.idle_timeout.0 },
            },
            observer: None,
        };
        let store = BlobStore::open_text(&place.url, &context).map_err(|error| blob_failure(&error, None))?;
        Ok(Self { store: store.with_cancel(cancel.clone()), clock: clock.clone() })
    }

    /// The store itself.
    #[must_use]
    pub fn store(&self) -> &BlobStore {
        &self.store
    }

    /// The first of `keys` that there is.
    ///
    /// # Errors
    ///
    /// `object_not_found`, naming all keys that were looked for.
    pub async fn find(&self, agent: &str, keys: &[String]) -> Result<Found, Failure> {
        for key in keys {
            match self.store.try_head(key).await {
                Ok(Some(meta)) => return Ok(Found { key: key.clone(), meta }),
                Ok(None) => {}
                // A missing bucket is not a missing backup, but the cure is the same: look at the place.
                Err(error) => return Err(blob_failure(&error, Some((agent, key)))),
            }
        }
        let urls: Vec<String> = keys.iter().map(|key| self.store.url().of_key(key)).collect();
        let message = format!("agent {agent} has no backup: there is no {}", urls.join(" and no "));
        Err(Failure::permanent("object_not_found", message)
            .hint("check backups, backup_key and suffix; an agent writes its backup with its first saved index")
            .detail("stage", "download")
            .detail("agent", agent)
            .detail("object", keys.last().cloned().unwrap_or_default()))
    }

    /// The age of a backup now. A store whose clock is ahead gives 0.
    #[must_use]
    pub fn age(&self, found: &Found) -> std::time::Duration {
        age(self.clock.wall(), found.meta.modified)
    }

    /// Starts to read `found`, pinned to its state.
    async fn reader(&self, agent: &str, found: &Found) -> Result<BlockingReader, Failure> {
        let options = ReadOptions { pin: Some(found.meta.clone()), ..ReadOptions::default() };
        let reader = self.store.get_stream(&found.key, options).await;
        Ok(BlockingReader::new(reader.map_err(|error| blob_failure(&error, Some((agent, &found.key))))?))
    }

    /// Reads the copies of `agent` out of `found` into the file `out`, sorted by id. Starts anew, at most three
    /// times, when the object changes under way; `found` is then the state that was read in the end. Ends soon after
    /// the `watch` is stopped.
    ///
    /// # Errors
    ///
    /// The codes of backups, with stage, agent, object and offset.
    pub async fn collect(
        &self,
        agent: &str,
        found: &mut Found,
        how: &Reading,
        watch: &Arc<Watch>,
        out: &Path,
    ) -> Result<windlass_index_backup::CollectedCopies, Failure> {
        let mut restarts = 0;
        loop {
            let attempt = match self.reader(agent, found).await {
                Ok(reader) => {
                    let (options, out) = (how.options(watch.clone()), out.to_owned());
                    let work = tokio::task::spawn_blocking(move || collect_copies(reader, &options, &out));
                    match work.await {
                        Ok(Ok(collected)) => return Ok(collected),
                        Ok(Err(error)) => backup_failure(&error, agent, &found.key),
                        Err(_) => Failure::interrupted(),
                    }
                }
                Err(failure) => failure,
            };
            if attempt.code != "object_changed" || restarts == RESTARTS {
                return Err(attempt);
            }
            restarts += 1;
            *found = self.find(agent, std::slice::from_ref(&found.key)).await?;
        }
    }

    /// Hands the vectors with the object numbers `wanted` (ascending) out of the backup of `agent` to `each`, in
    /// ascending order, in one pass and never more than one vector in memory; `state` goes along and comes back. Cancel
    /// safe: dropping it ends the read.
    ///
    /// # Errors
    ///
    /// The codes of backups; `object_changed` when the object is not in the state `etag` any more.
    pub async fn vectors<T: Send + 'static>(
        &self,
        backup: &BackupRef,
        how: &Reading,
        wanted: Vec<u32>,
        state: T,
        each: fn(&mut T, u32, &[f32]) -> std::io::Result<()>,
    ) -> Result<T, Failure> {
        let (agent, key) = (backup.agent.as_str(), backup.key.as_str());
        let found = self.find(agent, &[key.to_owned()]).await?;
        if backup.etag.is_some() && found.meta.etag != backup.etag {
            let message = format!("the backup {key} of agent {agent} is not the one that the plan was made from");
            return Err(Failure::permanent("object_changed", message)
                .hint("plan again from the new backup")
                .detail("agent", agent)
                .detail("object", key));
        }
        let watch: Arc<Watch> = Arc::default();
        let _stop = StopOnDrop(watch.clone());
        let wanted = Arc::new(wanted);
        // Where the index lies in the archive decides which file of vectors is meant. Both places are tried, the
        // usual one first; a backup without vectors at one of them has handed none out.
        let mut state = state;
        for place in [Place::Top, Place::Origin] {
            let reader = self.reader(agent, &found).await?;
            let (options, wanted) = (how.options(watch.clone()), wanted.clone());
            let work = tokio::task::spawn_blocking(move || {
                let wants = |number: u32| wanted.binary_search(&number).is_ok();
                let mut given = 0_u64;
                let done = read_vectors(reader, &options, place, None, wants, |number, vector| {
                    given += 1;
                    each(&mut state, number, vector)
                });
                (state, given, done)
            });
            let (back, given, done) = work.await.map_err(|_| Failure::interrupted())?;
            state = back;
            match done {
                Ok(_) => return Ok(state),
                Err(error) if place == Place::Top && given == 0 && error.code == Code::ObjectsUnsupported => {}
                Err(error) => return Err(backup_failure(&error, agent, key)),
            }
        }
        Ok(state)
    }
}

/// The backups of the job that a task belongs to, for its moves.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobBackups;

#[async_trait]
impl BackupAccess<TaskContext> for JobBackups {
    async fn holds(
        &self,
        cx: &TaskContext,
        agent: &str,
        saved_at: Timestamp,
        ids: &[BackedUpId],
    ) -> Result<BackupState, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let backups = Backups::open(&spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let mut found = match backups.find(agent, &[spec.backup_key(agent)]).await {
            Ok(found) => found,
            Err(failure) if failure.code == "object_not_found" => return Ok(BackupState::NotYet),
            Err(failure) => return Err(failure),
        };
        if found.meta.modified <= saved_at {
            return Ok(BackupState::NotYet);
        }
        let folder = cx.work_dir().join("backed-up");
        std::fs::create_dir_all(&folder).map_err(|error| {
            Failure::transient("work_failed", "making a folder in the work directory failed").caused_by(&error)
        })?;
        let out = folder.join(format!("{}.copies", cx.spec().id));
        let how = Reading::of(&spec, folder.clone());
        let watch: Arc<Watch> = Arc::default();
        let _stop = StopOnDrop(watch.clone());
        let collected = backups.collect(agent, &mut found, &how, &watch, &out).await;
        let state = match collected {
            Ok(collected) => {
                let (ids, path) = (ids.to_vec(), out.clone());
                let times = collected.timestamps.is_some();
                let compared = tokio::task::spawn_blocking(move || lacking(&path, &ids, times)).await;
                compared.map_err(|_| Failure::interrupted())?.map_err(|error| backup_failure(&error, agent, &found.key))
            }
            // Torn while the next upload is under way: a later look finds a whole one.
            Err(failure) if failure.code == "object_changed" => return Ok(BackupState::NotYet),
            Err(failure) => Err(failure),
        };
        let _ = std::fs::remove_file(&out);
        let lacking = state?;
        Ok(if lacking.is_empty() { BackupState::Holds } else { BackupState::Lacks(lacking) })
    }

    async fn restore(
        &self,
        cx: &TaskContext,
        backup: &BackupRef,
        wanted: Vec<WantedVector>,
        into: JournalWriter,
    ) -> Result<JournalWriter, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let backups = Backups::open(&spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let how = Reading::of(&spec, cx.work_dir().join("restored"));
        std::fs::create_dir_all(&how.scratch).map_err(|error| {
            Failure::transient("work_failed", "making a folder in the work directory failed").caused_by(&error)
        })?;
        let mut numbers: Vec<u32> = wanted.iter().map(|vector| vector.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut wanted = wanted;
        wanted.sort_by_key(|vector| vector.number);
        let (_, into) = backups
            .vectors(backup, &how, numbers, (wanted, into), |(wanted, into), number, vector| {
                let first = wanted.partition_point(|one| one.number < number);
                for one in wanted[first..].iter().take_while(|one| one.number == number) {
                    into.append(one.place, &one.id, one.time, vector)?;
                }
                Ok(())
            })
            .await?;
        Ok(into)
    }
}

/// The positions of `ids` that the file of copies lacks or has in an older version.
fn lacking(path: &Path, ids: &[BackedUpId], times: bool) -> Result<Vec<usize>, BackupError> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by(|&a, &b| ids[a].id.cmp(&ids[b].id));
    let mut reader = CopiesReader::open(path)?;
    let (mut copy, mut more) = (Copy::default(), true);
    let mut lacks = Vec::new();
    let mut begun = false;
    for at in order {
        let wanted = &ids[at];
        while more && (!begun || copy.id.as_slice() < &*wanted.id) {
            more = reader.next(&mut copy)?;
            begun = true;
        }
        let held = more && copy.id.as_slice() == &*wanted.id;
        let new_enough = !times || copy.time == 0 || copy.time >= wanted.time;
        if !held || !new_enough {
            lacks.push(at);
        }
    }
    lacks.sort_unstable();
    Ok(lacks)
}

struct StopOnDrop(Arc<Watch>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The time from `then` to `now`, 0 if it is negative.
pub(crate) fn age(now: Timestamp, then: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// How backups are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// How they are packed.
    pub packing: Packing,
    /// How far they are read.
    pub mode: ReadMode,
    /// Bytes of memory for one read.
    pub memory: usize,
    /// Limit on the decompressed bytes.
    pub max_plain_bytes: u64,
    /// Reads backups that their agent marked as invalid.
    pub force: bool,
    /// Where sorted runs go.
    pub scratch: PathBuf,
}

impl Reading {
    /// As `spec` wants it, with files under `scratch`.
    #[must_use]
    pub fn of(spec: &RebalanceSpec, scratch: PathBuf) -> Self {
        Self {
            packing: spec.compression,
            mode: spec.read_mode(),
            memory: spec.memory_limit.in_memory() / SCANS,
            max_plain_bytes: spec.max_plain_bytes.0,
            force: spec.force,
            scratch,
        }
    }

    fn options(&self, watch: Arc<Watch>) -> windlass_index_backup::ReadOptions {
        windlass_index_backup::ReadOptions {
            compression: self.packing.name().parse().unwrap_or_default(),
            read_mode: match self.mode {
                ReadMode::Fast => windlass_index_backup::ReadMode::Fast,
                ReadMode::Full => windlass_index_backup::ReadMode::Full,
            },
            memory_limit: self.memory,
            max_plain_bytes: self.max_plain_bytes,
            force: self.force,
            work_dir: self.scratch.clone(),
            watch,
            ..windlass_index_backup::ReadOptions::default()
        }
    }
}

/// What an error of object storage means to the job. `of` names the agent and the key, where there are any.
#[must_use]
pub fn blob_failure(error: &BlobError, of: Option<(&str, &str)>) -> Failure {
    let (code, class) = match error.kind() {
        ErrorKind::Cancelled => return Failure::interrupted(),
        ErrorKind::NotFound => ("object_not_found", ErrorClass::Permanent),
        ErrorKind::Changed => ("object_changed", ErrorClass::Permanent),
        ErrorKind::Unavailable => ("download_failed", ErrorClass::Transient),
        _ => ("download_failed", ErrorClass::Permanent),
    };
    let message = match of {
        Some((agent, _)) => format!("the backup of agent {agent} cannot be read: {error}"),
        None => format!("the place of the backups cannot be used: {error}"),
    };
    let failure = Failure::new(code, class, message).detail("stage", "download").detail("kind", error.kind().name());
    match of {
        Some((agent, key)) => failure.detail("agent", agent).detail("object", key),
        None => failure,
    }
}

/// What a backup that cannot be used means to the job.
#[must_use]
pub fn backup_failure(error: &BackupError, agent: &str, key: &str) -> Failure {
    let source = error.source.as_ref();
    // The first cause wins: what broke the download, not what the reader saw of it.
    if let Some(blob) = source.and_then(BlobError::in_io) {
        return blob_failure(blob, Some((agent, key))).detail("offset", error.offset);
    }
    let class = match error.code {
        Code::Cancelled => return Failure::interrupted(),
        // A full disk passes when somebody clears it; the next attempts may find that done.
        Code::WorkFailed | Code::DownloadFailed | Code::CopiesCorrupt => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    let mut failure = Failure::new(
        error.code.as_str(),
        class,
        format!("the backup {} of agent {agent} cannot be used: {error}", key.escape_debug()),
    )
    .detail("stage", stage_name(error.stage))
    .detail("agent", agent)
    .detail("object", key)
    .detail("offset", error.offset);
    if !error.entry.is_empty() {
        failure = failure.detail("entry", error.entry.clone());
    }
    if let Some(source) = source {
        failure = failure.caused_by(source);
    }
    match hint(error.code) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Download => "download",
        Stage::Unpack | Stage::Archive => "unpack",
        _ => "decode",
    }
}

fn hint(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::KvsdbMissing => "let the agent save its index, or list the live agent: list_live: fallback",
        Code::BackupInvalid => "let the agent save its index again, or set force to use the backup all the same",
        Code::BackupStale => "the agent was emptied after this backup; let it save its index again",
        Code::CompressionMismatch | Code::CompressionUnknown => {
            "leave compression at auto, or name what the agents use"
        }
        Code::CompressionLimit => "raise memory_limit or max_plain_bytes if the backup is trusted",
        Code::ObjectsUnsupported => "vectors can be restored only from backups of in-memory indexes",
        Code::CompressionTruncated | Code::ArchiveTruncated | Code::KvsdbTruncated | Code::BackupCountMismatch => {
            "the upload was cut short; let the agent save its index and upload it again"
        }
        Code::WorkFailed => "check the space and the permissions of the work directory",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_never_negative() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(age(at(10), at(4)).as_secs(), 6);
        assert_eq!(age(at(4), at(10)).as_secs(), 0);
    }

    #[test]
    fn ids_that_a_backup_lacks_or_has_in_an_older_version_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut writer = windlass_index_backup::CopiesWriter::create(&path).unwrap();
        for (id, time) in [("a", 5), ("c", 5), ("d", 0)] {
            writer.push(id.as_bytes(), time, 1, false).unwrap();
        }
        writer.finish().unwrap();
        let wanted = |id: &str, time| BackedUpId { id: id.as_bytes().into(), time };
        let ids = [wanted("e", 1), wanted("c", 6), wanted("a", 5), wanted("b", 1), wanted("d", 9), wanted("", 1)];
        assert_eq!(lacking(&path, &ids, true).unwrap(), [0, 1, 3, 5]);
        assert_eq!(lacking(&path, &ids, false).unwrap(), [0, 3, 5]);
        assert_eq!(lacking(&path, &[], true).unwrap(), [0; 0]);
    }

    #[test]
    fn a_secret_that_is_missing_is_named_with_its_place() {
        let failure = reveal("AWS_SECRET_ACCESS_KEY", &SecretPlace::File("/nonexistent/key".into())).unwrap_err();
        assert_eq!(failure.code, "secret_missing");
        assert!(failure.message.contains("AWS_SECRET_ACCESS_KEY") && failure.message.contains("/nonexistent/key"));
    }
}
