//! Reading and appending to `_delta_log/`.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use windlass_blob::{BlobStore, ErrorKind, PutMode};

use crate::day::Day;
use crate::definition::{DAY_COLUMN, Definition};
use crate::delta::action::{Action, Add, CommitInfo, DeletionVector, Metadata, Protocol, Remove, Txn};
use crate::delta::checkpoint;
use crate::error::{Result, TableError};

/// Where the entries lie.
pub(crate) const FOLDER: &str = "_delta_log";
/// Most bytes of one entry.
const LARGEST_ENTRY: u64 = 256 << 20;
/// Entries between two checkpoints.
const CHECKPOINT_EVERY: i64 = 10;
/// The property that holds the definition.
pub(crate) const DEFINITION: &str = "windlass.table";
/// Lets a reader of the log forget how far a job has come: must not be set.
const EXPIRES: &str = "delta.setTransactionRetentionDuration";

/// The table at one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The version; -1 before there is a table.
    pub version: i64,
    /// What it takes to read and write it.
    pub protocol: Option<Protocol>,
    /// What it is.
    pub metadata: Option<Metadata>,
    /// Its files, by path.
    pub files: BTreeMap<String, Add>,
    /// Files that left it, or another vector of deleted rows took the place of theirs, and that may still be read by
    /// somebody.
    pub removed: BTreeMap<String, Remove>,
    /// How far each application has come.
    pub txns: BTreeMap<String, Txn>,
}

impl Snapshot {
    /// Before there is a table.
    #[must_use]
    pub fn none() -> Self {
        Self { version: -1, ..Self::default() }
    }

    /// How far an application has come.
    #[must_use]
    pub fn txn(&self, app: &str) -> Option<i64> {
        self.txns.get(app).map(|txn| txn.version)
    }

    /// The table's definition.
    ///
    /// # Errors
    ///
    /// That it is no table of this program.
    pub fn definition(&self) -> Result<Definition> {
        let text = self.metadata.as_ref().and_then(|metadata| metadata.configuration.get(DEFINITION));
        let text = text.ok_or_else(|| {
            TableError::Unsupported(format!(
                "the table has no property {DEFINITION}: it was not made by `windlass table create`"
            ))
        })?;
        Definition::parse(text)
    }

    /// The table's id.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub fn id(&self) -> Result<u128> {
        let id = self.metadata.as_ref().map(|metadata| metadata.id.replace('-', ""));
        let id = id.and_then(|id| u128::from_str_radix(&id, 16).ok());
        id.ok_or_else(|| TableError::Unsupported("the table's id is no UUID".to_owned()))
    }

    /// The files of a day, by path.
    #[must_use]
    pub fn of_day(&self, day: Day) -> Vec<&Add> {
        let name = day.to_string();
        let of_day = |add: &&Add| add.partition_values.get(DAY_COLUMN).and_then(Option::as_deref) == Some(&name);
        self.files.values().filter(of_day).collect()
    }

    /// The files by day.
    ///
    /// # Errors
    ///
    /// A file without a day.
    pub fn by_day(&self) -> Result<BTreeMap<Day, Vec<Add>>> {
        let mut days: BTreeMap<Day, Vec<Add>> = BTreeMap::new();
        for add in self.files.values() {
            let day = add.partition_values.get(DAY_COLUMN).and_then(Option::as_deref);
            let day = day.ok_or_else(|| TableError::Unsupported(format!("the file {} belongs to no day", add.path)))?;
            days.entry(day.parse()?).or_default().push(add.clone());
        }
        Ok(days)
    }

    /// The keys of the objects that this version consists of.
    #[must_use]
    pub fn objects(&self) -> BTreeSet<String> {
        let mut keys: BTreeSet<String> = self.files.values().map(Add::key).collect();
        keys.extend(self.files.values().filter_map(|add| add.deletion_vector.as_ref()?.key()));
        keys
    }

    /// The keys of the objects that this version consists of, and of those that are known to have left the table.
    #[must_use]
    pub fn known_objects(&self) -> BTreeSet<String> {
        let mut keys = self.objects();
        for remove in self.removed.values() {
            keys.insert(remove.key());
            keys.extend(remove.deletion_vector.as_ref().and_then(DeletionVector::key));
        }
        keys
    }

    /// Whether this program may change the table.
    ///
    /// # Errors
    ///
    /// What of it this program does not know.
    pub fn may_write(&self) -> Result<()> {
        let Some(protocol) = &self.protocol else {
            return Err(TableError::Unsupported("there is no table here".to_owned()));
        };
        let unknown = |features: &Option<Vec<String>>| {
            features.iter().flatten().find(|feature| feature.as_str() != "deletionVectors").cloned()
        };
        let (reader, writer) = (protocol.min_reader_version, protocol.min_writer_version);
        let feature = unknown(&protocol.reader_features).or_else(|| unknown(&protocol.writer_features));
        if let Some(feature) = feature {
            return Err(TableError::Unsupported(format!(
                "the table needs the feature {feature}, which this program does not know"
            )));
        }
        let known = (reader == 1 && writer <= 2) || (reader == 3 && writer == 7);
        if !known {
            return Err(TableError::Unsupported(format!(
                "the table needs reader version {reader} and writer version {writer}; this program knows 1 and 2, or 3 and 7 with deletionVectors"
            )));
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.configuration.contains_key(EXPIRES)) {
            return Err(TableError::Unsupported(format!(
                "the table has the property {EXPIRES}, which makes it forget how far it was merged: remove the property"
            )));
        }
        Ok(())
    }

    /// Applies the actions of the next entry.
    pub fn apply(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Remove(remove) = action {
                // A file with other rows deleted is another one, which may be there already when this is a checkpoint.
                let vector = |of: &Option<DeletionVector>| of.as_ref().map(DeletionVector::unique_id);
                let there = self.files.get(&remove.path);
                if there.is_some_and(|add| vector(&add.deletion_vector) == vector(&remove.deletion_vector)) {
                    self.files.remove(&remove.path);
                }
                let logical = logical(&remove.path, remove.deletion_vector.as_ref());
                self.removed.insert(logical, (**remove).clone());
            }
        }
        for action in actions {
            match action {
                Action::Add(add) => {
                    self.removed.remove(&logical(&add.path, add.deletion_vector.as_ref()));
                    self.files.insert(add.path.clone(), (**add).clone());
                }
                Action::Protocol(protocol) => self.protocol = Some(protocol.clone()),
                Action::MetaData(metadata) => self.metadata = Some((**metadata).clone()),
                Action::Txn(txn) => {
                    self.txns.insert(txn.app_id.clone(), txn.clone());
                }
                Action::Remove(_) | Action::CommitInfo(_) => {}
            }
        }
    }
}

/// A file and the rows of it that do not count, as one name.
fn logical(path: &str, vector: Option<&DeletionVector>) -> String {
    vector.map_or_else(|| path.to_owned(), |vector| format!("{path}#{}", vector.unique_id()))
}

/// What the jobs need of a table format.
#[async_trait]
pub trait TableLog: Send + Sync {
    /// The newest version.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// The entry of a version, if there is one.
    async fn entry(&self, version: i64) -> Result<Option<Vec<Action>>>;

    /// Makes `actions` the entry of `version`, if it has none. Says whether it did.
    async fn put(&self, version: i64, actions: &[Action]) -> Result<bool>;

    /// The newest checkpoint that is known of. Entries up to it may be gone, and their places are not free.
    async fn newest_checkpoint(&self) -> Result<Option<i64>>;
}

/// The files of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Versions that have a checkpoint.
    pub(crate) checkpoints: BTreeSet<i64>,
    /// Versions whose entry is there, each with when it was made, by the store's clock, in milliseconds since 1970.
    pub(crate) entries: Vec<(i64, i64)>,
}

/// A table in the format of Delta Lake.
#[derive(Clone, Debug)]
pub struct DeltaLog {
    store: BlobStore,
}

#[derive(Deserialize)]
struct LastCheckpoint {
    version: i64,
}

fn key(version: i64) -> String {
    format!("{FOLDER}/{version:020}.json")
}

pub(crate) fn checkpoint_key(version: i64) -> String {
    format!("{FOLDER}/{version:020}.checkpoint.parquet")
}

impl DeltaLog {
    /// The table under a place of objects.
    #[must_use]
    pub fn new(store: BlobStore) -> Self {
        Self { store }
    }

    /// Where it lies.
    #[must_use]
    pub fn store(&self) -> &BlobStore {
        &self.store
    }

    /// The newest version at most `most`.
    ///
    /// # Errors
    ///
    /// Damage, and whatever the store says.
    pub async fn at(&self, most: Option<i64>) -> Result<Snapshot> {
        let mut snapshot = Snapshot::none();
        let mut begin = match (self.last_checkpoint().await?, most) {
            (Some(version), Some(most)) if version > most => self.checkpoint_before(most).await?,
            (version, _) => version,
        };
        if begin.is_none() && most.is_none_or(|most| most >= 0) {
            match self.entry(0).await? {
                Some(actions) => {
                    snapshot.apply(&actions);
                    snapshot.version = 0;
                }
                // The log may have begun anew behind a checkpoint of which nothing else is known.
                None => begin = self.checkpoint_before(most.unwrap_or(i64::MAX)).await?,
            }
        }
        if let Some(version) = begin {
            snapshot = checkpoint::read(&self.store, version).await?;
        }
        while most.is_none_or(|most| snapshot.version < most) {
            let Some(actions) = self.entry(snapshot.version + 1).await? else { break };
            snapshot.apply(&actions);
            snapshot.version += 1;
        }
        if let Some(most) = most
            && snapshot.version < most
        {
            let newest = if snapshot.version < 0 { self.at_newest().await?.version } else { snapshot.version };
            return Err(TableError::invalid(if newest >= most {
                format!("version {most} of the table is so old that its log does not go back to it")
            } else {
                format!("the table has no version {most}; its newest is {newest}")
            }));
        }
        Ok(snapshot)
    }

    async fn at_newest(&self) -> Result<Snapshot> {
        Box::pin(self.at(None)).await
    }

    async fn last_checkpoint(&self) -> Result<Option<i64>> {
        let found = self.store.get_bytes(&format!("{FOLDER}/_last_checkpoint"), 1 << 20).await;
        let bytes = match found {
            Ok((bytes, _)) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // One that is damaged or ahead of its checkpoint costs reading more entries, nothing else.
        let Ok(last) = serde_json::from_slice::<LastCheckpoint>(&bytes) else { return Ok(None) };
        let there = self.store.try_head(&checkpoint_key(last.version)).await?;
        Ok(there.map(|_| last.version))
    }

    /// The newest checkpoint that is not behind a version.
    async fn checkpoint_before(&self, most: i64) -> Result<Option<i64>> {
        Ok(self.files().await?.checkpoints.range(..=most).next_back().copied())
    }

    /// What there is of the log.
    pub(crate) async fn files(&self) -> Result<Files> {
        let mut files = Files::default();
        let mut pages = self.store.list_pages(&format!("{FOLDER}/"));
        while let Some(page) = pages.next_page().await? {
            for entry in page {
                let name = entry.key.rsplit('/').next().unwrap_or_default();
                let version = |end| {
                    let name = name.strip_suffix(end).filter(|name| name.len() == 20)?;
                    name.parse::<i64>().ok()
                };
                files.checkpoints.extend(version(".checkpoint.parquet"));
                files.entries.extend(version(".json").map(|version| (version, entry.meta.modified.as_millisecond())));
            }
        }
        Ok(files)
    }

    /// Deletes an entry and the checkpoint of its version.
    pub(crate) async fn forget(&self, version: i64) -> Result<()> {
        self.store.delete(&key(version)).await?;
        Ok(self.store.delete(&checkpoint_key(version)).await?)
    }

    /// Writes a checkpoint of `snapshot` when one is due. It only makes reading faster: when it fails the table is as good.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn checkpoint_if_due(&self, snapshot: &Snapshot, now_ms: i64) -> Result<bool> {
        if snapshot.version <= 0 || snapshot.version % CHECKPOINT_EVERY != 0 {
            return Ok(false);
        }
        let (bytes, actions) = checkpoint::write(snapshot, now_ms)?;
        let size = bytes.len();
        self.store.put_bytes(&checkpoint_key(snapshot.version), bytes.into(), PutMode::Overwrite).await?;
        let last = serde_json::json!({ "version": snapshot.version, "size": actions, "sizeInBytes": size });
        self.store
            .put_bytes(&format!("{FOLDER}/_last_checkpoint"), Bytes::from(last.to_string()), PutMode::Overwrite)
            .await?;
        Ok(true)
    }
}

#[async_trait]
impl TableLog for DeltaLog {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.at(None).await
    }

    async fn newest_checkpoint(&self) -> Result<Option<i64>> {
        self.last_checkpoint().await
    }

    async fn entry(&self, version: i64) -> Result<Option<Vec<Action>>> {
        match self.store.get_bytes(&key(version), LARGEST_ENTRY).await {
            Ok((bytes, _)) => parse(version, &bytes).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, version: i64, actions: &[Action]) -> Result<bool> {
        let mut text = String::new();
        for action in actions {
            let line = serde_json::to_string(action)
                .map_err(|error| TableError::invalid(format!("an action cannot be written: {error}")))?;
            text += &line;
            text.push('\n');
        }
        match self.store.put_bytes(&key(version), Bytes::from(text), PutMode::Create).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Precondition => Ok(false),
            // The answer may be lost after the entry was made: the entry itself tells.
            Err(error) => match self.entry(version).await {
                Ok(Some(found)) => Ok(same_commit(&found, actions)),
                _ => Err(error.into()),
            },
        }
    }
}

/// Whether two entries are of one attempt to commit.
fn same_commit(found: &[Action], ours: &[Action]) -> bool {
    let id = |actions: &[Action]| info(actions).and_then(|info| info.txn_id.clone());
    id(found).is_some() && id(found) == id(ours)
}

/// Who wrote an entry.
pub(crate) fn info(actions: &[Action]) -> Option<&CommitInfo> {
    actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => Some(info),
        _ => None,
    })
}

/// Reads an entry. Actions that this program does not know are for others, unless the protocol says otherwise.
fn parse(version: i64, bytes: &[u8]) -> Result<Vec<Action>> {
    let damaged = |why: String| TableError::damaged(format!("entry {version} of the table's log: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    let mut actions = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|error| damaged(error.to_string()))?;
        let known = ["protocol", "metaData", "add", "remove", "txn", "commitInfo"];
        if value.as_object().is_some_and(|object| known.iter().any(|name| object.contains_key(*name))) {
            actions.push(serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?);
        }
    }
    Ok(actions)
}
