//! A table on this machine: its folder with the ingest log, and the place of its data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use windlass_blob::{BlobStore, BlobUrl, Context, Honoured, Place};

use crate::day::Day;
use crate::definition::{DAY_COLUMN, Definition, Layout};
use crate::delta::DEFINITION;
use crate::delta::{Action, Add, CommitInfo, DeltaLog, Metadata, Protocol, Snapshot, TableLog, Txn};
use crate::dropped::{self, is_dropped};
use crate::error::{Result, TableError};
use crate::log::{Identity, Lsn};

/// The file that makes a folder the home of a table.
pub(crate) const DESCRIPTOR: &str = "table.json";
/// The property that lets a table have deletion vectors.
const VECTORS: &str = "delta.enableDeletionVectors";

/// What the home of a table says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Where its data lies.
    pub url: String,
    /// How many ingest logs it has.
    pub shards: u32,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    home: PathBuf,
    descriptor: Descriptor,
    log: DeltaLog,
}

/// How a table is made.
#[derive(Clone, Debug, Default)]
pub struct Creation {
    /// Where its data shall lie; `None`: in its home.
    pub url: Option<String>,
    /// How many ingest logs it has.
    pub shards: u32,
    /// Up to when it counts as archived, in seconds since 1970.
    pub cutoff: Option<i64>,
    /// A folder with data files that it begins with, named `day=YYYY-MM-DD/….parquet`. They are copied.
    pub import: Option<PathBuf>,
}

impl Table {
    /// Makes a table. Repeating it with the same definition is no error: the first attempt may have been cut short.
    ///
    /// # Errors
    ///
    /// That there is another table, that the place does not keep what conditional writes promise, and whatever the disk
    /// and the store say.
    pub async fn create(home: &Path, definition: &Definition, creation: Creation, context: &Context) -> Result<Self> {
        definition.check()?;
        let shards = creation.shards.max(1);
        // Looked at before anything is made.
        let found = match &creation.import {
            Some(folder) => crate::import::find(folder)?,
            None => Vec::new(),
        };
        let table = Self::prepare(home, definition, &creation, context).await?;
        let known = &table.descriptor;
        if !known.id.is_empty() && known.shards != shards {
            return Err(TableError::invalid(format!(
                "the table {} is there already, with {} shard(s); their number cannot be changed to {shards}",
                known.name, known.shards
            )));
        }
        let snapshot = table.log.snapshot().await?;
        if snapshot.metadata.is_some() && is_dropped(&snapshot) {
            return Err(TableError::invalid(format!(
                "the data of a table that was dropped lies at {}; choose another place, or delete it there",
                known.url
            )));
        }
        if snapshot.version < 0 {
            let now = context.clock.wall().as_millisecond();
            let id = uuid(context.entropy.next_u128());
            let mut actions = vec![
                Action::CommitInfo(CommitInfo {
                    timestamp: now,
                    operation: "CREATE TABLE".to_owned(),
                    engine_info: Some(engine()),
                    txn_id: Some(id.clone()),
                    ..CommitInfo::default()
                }),
                Action::Protocol(protocol(definition.layout)),
                Action::MetaData(Box::new(metadata(definition, id, now)?)),
            ];
            for (day, path) in found {
                let (store, entropy) = (table.store(), &*context.entropy);
                let add = crate::import::import(store, day, &path, definition, entropy, now).await?;
                actions.push(Action::Add(Box::new(add)));
            }
            for shard in (0..shards).filter(|_| creation.cutoff.is_some()) {
                let (app_id, version) = (archive_app(&definition.name, shard), creation.cutoff.unwrap_or(0));
                actions.push(Action::Txn(Txn { app_id, version, last_updated: Some(now) }));
            }
            if !table.log.put(0, &actions).await? {
                return Err(TableError::Changed(format!(
                    "somebody else has just made a table at {}",
                    table.descriptor.url
                )));
            }
        } else if snapshot.definition().ok().as_ref() != Some(definition) {
            return Err(TableError::invalid(format!(
                "there is a table at {} already, with another definition; choose another place, or drop it first",
                table.descriptor.url
            )));
        }
        let id = table.log.snapshot().await?.metadata.map(|metadata| metadata.id).unwrap_or_default();
        let table = Self { descriptor: Descriptor { id, shards, ..table.descriptor }, ..table };
        let text = serde_json::to_string_pretty(&table.descriptor)
            .map_err(|error| TableError::invalid(format!("the table cannot be described: {error}")))?;
        let (path, fresh) = (home.join(DESCRIPTOR), home.join(".table.json.new"));
        std::fs::write(&fresh, text + "\n")
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(TableError::disk("write", path))?;
        dropped::forget(home)?;
        Ok(table)
    }

    async fn prepare(home: &Path, definition: &Definition, creation: &Creation, context: &Context) -> Result<Self> {
        std::fs::create_dir_all(home).map_err(TableError::disk("make the folder", home))?;
        if home.join(DESCRIPTOR).exists() {
            let known = Self::open(home, context)?;
            if known.descriptor.name != definition.name {
                return Err(TableError::invalid(format!(
                    "{} is the home of the table {} already",
                    home.display(),
                    known.descriptor.name
                )));
            }
            return Ok(known);
        }
        let url = match &creation.url {
            Some(url) => url.clone(),
            None => {
                let data = std::path::absolute(home.join("data")).map_err(TableError::disk("find", home))?;
                let url = url::Url::from_file_path(&data).map_err(|()| {
                    TableError::invalid(format!("{} is no folder that a URL can name", data.display()))
                })?;
                format!("{url}?create=true")
            }
        };
        let log = DeltaLog::new(BlobStore::open_text(&url, context)?);
        // One writer wins because the store refuses the second; a store that does not would lose rows without a word.
        let keeps = log.store().probe_conditional_put("_delta_log").await?;
        if keeps.create != Honoured::Yes {
            return Err(TableError::Unsupported(format!(
                "{url} does not refuse to write over an object that is there, which a table rests on; choose another store"
            )));
        }
        let descriptor = Descriptor { name: definition.name.clone(), id: String::new(), url, shards: 1 };
        Ok(Self { home: home.to_path_buf(), descriptor, log })
    }

    /// Opens a table.
    ///
    /// # Errors
    ///
    /// That there is none, and whatever the disk says.
    pub fn open(home: &Path, context: &Context) -> Result<Self> {
        let path = home.join(DESCRIPTOR);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(dropped) = dropped::find(home)? {
                    return Err(dropped.error());
                }
                return Err(TableError::invalid(format!(
                    "there is no table in {}: {} is missing; `windlass table ls` shows which there are",
                    home.display(),
                    path.display()
                )));
            }
            Err(error) => return Err(TableError::disk("read", path)(error)),
        };
        let descriptor: Descriptor =
            serde_json::from_str(&text).map_err(|error| TableError::damaged(format!("{}: {error}", path.display())))?;
        let store = BlobStore::open_text(&descriptor.url, context)?;
        Ok(Self { home: home.to_path_buf(), descriptor, log: DeltaLog::new(store) })
    }

    /// Its folder on this machine.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What the folder says about it.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its log of versions.
    #[must_use]
    pub fn log(&self) -> &DeltaLog {
        &self.log
    }

    /// Its objects.
    #[must_use]
    pub fn store(&self) -> &BlobStore {
        self.log.store()
    }

    /// The folder of its data, when that is on this machine.
    #[must_use]
    pub fn local_data(&self) -> Option<PathBuf> {
        match self.descriptor.url.parse::<BlobUrl>().ok()?.place() {
            Place::File { root, .. } => Some(root.clone()),
            _ => None,
        }
    }

    /// The folder of a shard's ingest log.
    ///
    /// # Errors
    ///
    /// That there is no such shard.
    pub fn log_folder(&self, shard: u32) -> Result<PathBuf> {
        if shard >= self.descriptor.shards {
            let (name, shards) = (&self.descriptor.name, self.descriptor.shards);
            return Err(TableError::invalid(format!(
                "table {name} has {shards} shard(s), numbered from 0; there is no {shard}"
            )));
        }
        Ok(self.home.join("log").join(shard.to_string()))
    }

    /// The folder of a shard's rows that were not merged.
    #[must_use]
    pub fn dead_folder(&self, shard: u32) -> PathBuf {
        self.home.join("dead").join(shard.to_string())
    }

    /// Whose log the shard's is.
    ///
    /// # Errors
    ///
    /// That the table's id is none.
    pub fn identity(&self, shard: u32) -> Result<Identity> {
        let table = u128::from_str_radix(&self.descriptor.id.replace('-', ""), 16)
            .map_err(|_| TableError::damaged(format!("{:?} is no id of a table", self.descriptor.id)))?;
        Ok(Identity { table, shard })
    }

    /// How far a shard is merged, and up to when it is archived, in microseconds.
    #[must_use]
    pub fn progress(&self, snapshot: &Snapshot, shard: u32) -> (Lsn, i64) {
        let name = &self.descriptor.name;
        let merged = snapshot.txn(&backfill_app(name, shard)).and_then(|lsn| u64::try_from(lsn).ok()).unwrap_or(0);
        let cutoff =
            snapshot.txn(&archive_app(name, shard)).map_or(i64::MIN, |cutoff| cutoff.saturating_mul(1_000_000));
        (Lsn(merged), cutoff)
    }

    /// The newest version, if the table is still there and may be written.
    ///
    /// # Errors
    ///
    /// [`TableError::Dropped`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let snapshot = self.log.snapshot().await?;
        if is_dropped(&snapshot) {
            return Err(TableError::Dropped(format!("the table {} was dropped", self.descriptor.name)));
        }
        snapshot.may_write()?;
        Ok(snapshot)
    }

    /// Changes the table's properties in a commit of its own.
    ///
    /// # Errors
    ///
    /// That somebody else changes it all the time, and whatever the store says.
    pub async fn alter(
        &self,
        operation: &str,
        context: &Context,
        change: impl Fn(&mut Metadata) -> Result<()>,
    ) -> Result<i64> {
        self.change(operation, context, None, change).await
    }

    async fn change(
        &self,
        operation: &str,
        context: &Context,
        protocol: Option<Protocol>,
        change: impl Fn(&mut Metadata) -> Result<()>,
    ) -> Result<i64> {
        for _ in 0..20 {
            let snapshot = self.snapshot().await?;
            let Some(mut metadata) = snapshot.metadata.clone() else { continue };
            change(&mut metadata)?;
            let info = CommitInfo {
                timestamp: context.clock.wall().as_millisecond(),
                operation: operation.to_owned(),
                engine_info: Some(engine()),
                txn_id: Some(uuid(context.entropy.next_u128())),
                run_id: None,
                operation_metrics: Map::new(),
            };
            let mut actions = vec![Action::CommitInfo(info), Action::MetaData(Box::new(metadata))];
            actions.extend(protocol.clone().map(Action::Protocol));
            if self.log.put(snapshot.version + 1, &actions).await? {
                return Ok(snapshot.version + 1);
            }
        }
        Err(TableError::Changed(format!("the table {} changes all the time; try again", self.descriptor.name)))
    }

    /// Adds a column at the end.
    ///
    /// # Errors
    ///
    /// That it does not fit, and as [`Table::alter`].
    pub async fn evolve(&self, column: crate::definition::Column, context: &Context) -> Result<i64> {
        self.alter("ADD COLUMNS", context, |metadata| {
            let text = metadata.configuration.get(DEFINITION).cloned().unwrap_or_default();
            let mut definition = Definition::parse(&text)?;
            if !column.nullable {
                return Err(TableError::invalid(format!(
                    "the column {} has to be nullable: rows are there that lack it",
                    column.name
                )));
            }
            definition.evolve(column.clone())?;
            metadata.schema_string = definition.schema_string();
            metadata.configuration.insert(DEFINITION.to_owned(), describe(&definition)?);
            Ok(())
        })
        .await
    }

    /// Drops a column. What files hold of it is not read any more, and its name is not given again.
    ///
    /// # Errors
    ///
    /// That the table cannot do without it, and as [`Table::alter`].
    pub async fn drop_column(&self, name: &str, context: &Context) -> Result<i64> {
        self.alter("DROP COLUMNS", context, |metadata| {
            let text = metadata.configuration.get(DEFINITION).cloned().unwrap_or_default();
            let mut definition = Definition::parse(&text)?;
            definition.drop_column(name)?;
            metadata.schema_string = definition.schema_string();
            metadata.configuration.insert(DEFINITION.to_owned(), describe(&definition)?);
            Ok(())
        })
        .await
    }

    /// Changes how changed days are written from now on. What is there stays as it is, until a day changes or is
    /// compacted. Going to `merge_on_read` makes the table one of a newer protocol, and it stays one.
    ///
    /// # Errors
    ///
    /// As [`Table::alter`].
    pub async fn relayout(&self, layout: Layout, context: &Context) -> Result<i64> {
        self.change("SET LAYOUT", context, (layout == Layout::MergeOnRead).then(|| protocol(layout)), |metadata| {
            let text = metadata.configuration.get(DEFINITION).cloned().unwrap_or_default();
            let definition = Definition { layout, ..Definition::parse(&text)? };
            metadata.configuration.remove(VECTORS);
            metadata.configuration.extend(configuration(&definition)?);
            Ok(())
        })
        .await
    }

    /// A file that is in the table's place already, as an action.
    ///
    /// # Errors
    ///
    /// That its statistics cannot be written.
    pub fn add(day: Day, key: &str, bytes: u64, stats: &crate::delta::Stats, now_ms: i64) -> Result<Add> {
        let stats = serde_json::to_string(stats)
            .map_err(|error| TableError::invalid(format!("statistics cannot be written: {error}")))?;
        Ok(Add {
            path: key.to_owned(),
            partition_values: BTreeMap::from([(DAY_COLUMN.to_owned(), Some(day.to_string()))]),
            size: i64::try_from(bytes).unwrap_or(i64::MAX),
            modification_time: now_ms,
            data_change: true,
            stats: Some(stats),
            deletion_vector: None,
        })
    }
}

/// The application that stands for merging.
#[must_use]
pub fn backfill_app(table: &str, shard: u32) -> String {
    format!("backfill:{table}:{shard}")
}

/// The application that stands for archiving.
#[must_use]
pub fn archive_app(table: &str, shard: u32) -> String {
    format!("archive:{table}:{shard}")
}

/// Who writes.
#[must_use]
pub fn engine() -> String {
    concat!("windlass ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// A random id as UUIDs are written.
#[must_use]
pub fn uuid(random: u128) -> String {
    let random = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{random:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn describe(definition: &Definition) -> Result<String> {
    serde_json::to_string(definition)
        .map_err(|error| TableError::invalid(format!("the definition cannot be written: {error}")))
}

fn metadata(definition: &Definition, id: String, now: i64) -> Result<Metadata> {
    let format = serde_json::from_value(serde_json::json!({ "provider": "parquet", "options": {} }))
        .map_err(|error| TableError::invalid(error.to_string()))?;
    Ok(Metadata {
        id,
        name: Some(definition.name.clone()),
        description: None,
        format,
        schema_string: definition.schema_string(),
        partition_columns: vec![DAY_COLUMN.to_owned()],
        configuration: configuration(definition)?,
        created_time: Some(now),
    })
}

fn configuration(definition: &Definition) -> Result<BTreeMap<String, String>> {
    let mut configuration = BTreeMap::from([(DEFINITION.to_owned(), describe(definition)?)]);
    if definition.layout == Layout::MergeOnRead {
        configuration.insert(VECTORS.to_owned(), "true".to_owned());
    }
    Ok(configuration)
}

/// What a program has to know to read and write a table of a layout.
fn protocol(layout: Layout) -> Protocol {
    let features = (layout == Layout::MergeOnRead).then(|| vec!["deletionVectors".to_owned()]);
    Protocol {
        min_reader_version: if features.is_some() { 3 } else { 1 },
        min_writer_version: if features.is_some() { 7 } else { 2 },
        reader_features: features.clone(),
        writer_features: features,
    }
}

/// Counters of a commit.
pub(crate) fn metrics(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
