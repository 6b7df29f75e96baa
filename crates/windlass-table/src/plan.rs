//! What a run will do: reads the log behind the checkpoint, checks every row, and sorts the late ones by day.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::batch::Batch;
use crate::check::{RowCounts, Rules, Verdict};
use crate::day::Day;
use crate::definition::{Definition, Shape, Uniqueness};
use crate::delta::Add;
use crate::error::{Result, TableError};
use crate::fold::Effects;
use crate::log::{Lsn, Reader};
use crate::patch::Patch;
use crate::rows::cell;

/// Bytes of rows that are held before they are written to their days.
const HELD: usize = 8 << 20;
/// Rows of one batch that are taken at a time.
const TAKEN: usize = 16_384;

/// Which rows of the log a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The table holds what is late up to here.
    pub from: Lsn,
    /// The run merges up to here.
    pub to: Lsn,
    /// What happened before this is late, in microseconds since 1970.
    pub cutoff: i64,
    /// The run archives what happened before this.
    pub new_cutoff: i64,
}

impl Window {
    /// Whether the run takes a row that was found live or late before the new cutoff.
    fn takes(&self, lsn: Lsn, event: i64) -> bool {
        event < self.new_cutoff && (lsn > self.from || event >= self.cutoff)
    }
}

/// A day that a run changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DayPlan {
    /// The day.
    pub day: Day,
    /// The object with its rows to merge.
    pub patch: String,
    /// How many there are.
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// The day's files as the run found them.
    pub base: Vec<Add>,
}

/// What a run will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    /// The run.
    pub run: String,
    /// Tells it from other plans of the run, which a death may have made necessary.
    #[serde(default)]
    pub id: String,
    /// The shard.
    pub shard: u32,
    /// The version it rests on.
    pub base_version: i64,
    /// The rows it takes.
    pub window: Window,
    /// The table as it was then.
    pub definition: Definition,
    /// Rows, by what becomes of them.
    pub counts: RowCounts,
    /// Bytes of the log that it merges.
    pub log_bytes: u64,
    /// Batches that it merges.
    pub batches: u64,
    /// The days, ascending.
    pub days: Vec<DayPlan>,
    /// What happens to the keys, by day, when that is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<BTreeMap<Day, Effects>>,
    /// Whether more waits behind it.
    pub more: bool,
}

/// What reading the log gave.
#[derive(Debug)]
pub(crate) struct Sorted {
    pub(crate) window: Window,
    pub(crate) counts: RowCounts,
    pub(crate) log_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) more: bool,
    /// By day: the file of patches, and rows in it. With uniqueness in the whole table all rows are of one file, in
    /// the order of the log, under the day 0.
    pub(crate) days: BTreeMap<Day, (PathBuf, u64)>,
}

/// How the log is read.
pub(crate) struct Reading<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) shape: &'a Shape,
    /// From where to where; `to` is set by what is found.
    pub(crate) window: Window,
    /// Bytes of the log that one run takes.
    pub(crate) most_bytes: u64,
    /// Where files of patches go.
    pub(crate) folder: &'a Path,
    /// Where rows go that are not merged.
    pub(crate) dead: Option<&'a Path>,
}

/// Reads the log and sorts its rows by day.
pub(crate) fn sort(log: &Reader, reading: &Reading<'_>, go_on: &dyn Fn() -> Result<()>) -> Result<Sorted> {
    let window = reading.window;
    let mut sorter = Sorter {
        reading,
        rules: Rules::of(reading.definition),
        counts: RowCounts::default(),
        held: BTreeMap::new(),
        held_bytes: 0,
        days: BTreeMap::new(),
        dead: DeadLetters::new(reading.dead)?,
    };
    let (mut log_bytes, mut batches, mut more) = (0_u64, 0_u64, false);
    let mut to = window.from;
    // Rows that were live when they were passed are still to be found in what is merged otherwise.
    let start = if window.new_cutoff > window.cutoff { Lsn::default() } else { window.from };
    log.read(start, |lsn, batch, bytes| {
        go_on()?;
        let fresh = lsn > window.from;
        if fresh && batches > 0 && log_bytes + bytes as u64 > reading.most_bytes {
            more = true;
            return Ok(false);
        }
        sorter.batch(lsn, &batch)?;
        if fresh {
            log_bytes += bytes as u64;
            batches += 1;
            to = lsn;
        }
        Ok(true)
    })?;
    sorter.flush()?;
    sorter.dead.finish()?;
    Ok(Sorted { window: Window { to, ..window }, counts: sorter.counts, log_bytes, batches, more, days: sorter.days })
}

struct Sorter<'a> {
    reading: &'a Reading<'a>,
    rules: Rules,
    counts: RowCounts,
    held: BTreeMap<Day, Vec<Patch>>,
    held_bytes: usize,
    days: BTreeMap<Day, (PathBuf, u64)>,
    dead: DeadLetters,
}

impl Sorter<'_> {
    fn batch(&mut self, lsn: Lsn, batch: &Batch) -> Result<()> {
        let (shape, window) = (self.reading.shape, self.reading.window);
        let named = |at: usize| batch.column(shape.schema.field(at).name());
        let events = named(shape.event_time).cloned();
        let events = events.as_ref().and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
        let keys: Vec<Option<&ArrayRef>> = shape.primary_key.iter().map(|at| named(*at)).collect();
        let fresh = lsn > window.from;
        let mut taken: BTreeMap<Day, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.len() {
            let event = events.filter(|events| events.is_valid(row)).map(|events| events.value(row));
            let has_key = keys.iter().all(|key| key.is_some_and(|key| key.is_valid(row)));
            let verdict = self.rules.judge(event, has_key, batch.arrival(), window.cutoff);
            if !matches!(verdict, Verdict::Live | Verdict::Late) {
                if fresh {
                    self.counts.count(verdict);
                    self.dead.note(lsn, row, verdict, batch, shape)?;
                }
                continue;
            }
            let Some(event) = event else { continue };
            if !window.takes(lsn, event) {
                if fresh {
                    self.counts.count(Verdict::Live);
                }
                continue;
            }
            match (fresh, verdict) {
                (true, Verdict::Late) => self.counts.count(Verdict::Late),
                (true, _) => {
                    self.counts.rows_in += 1;
                    self.counts.rows_archived += 1;
                }
                (false, _) => self.counts.rows_archived += 1,
            }
            let day = match shape.uniqueness {
                Uniqueness::Day => Day::of(event),
                Uniqueness::Table => Day(0),
            };
            taken.entry(day).or_default().push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        for (day, rows) in taken {
            for rows in rows.chunks(TAKEN) {
                let patch = Patch::of_batch(batch, shape, rows)?;
                self.held_bytes += patch.bytes();
                self.held.entry(day).or_default().push(patch);
                if self.held_bytes >= HELD {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        for (day, patches) in std::mem::take(&mut self.held) {
            let path = self.reading.folder.join(format!("{day}.patch"));
            let (_, rows) = self.days.entry(day).or_insert_with(|| (path.clone(), 0));
            // What an earlier attempt has left there is not part of this one.
            let mut options = OpenOptions::new();
            options.create(true).write(true).append(*rows > 0).truncate(*rows == 0);
            let file = options.open(&path).map_err(TableError::disk("open", &path))?;
            let mut file = BufWriter::new(file);
            let patch = Patch::concat(&patches)?;
            *rows += patch.len() as u64;
            patch.write(&mut file)?;
            file.flush().map_err(TableError::disk("write", &path))?;
        }
        self.held_bytes = 0;
        Ok(())
    }
}

/// Rows that are not merged, one JSON object a line.
struct DeadLetters {
    file: Option<(PathBuf, BufWriter<File>)>,
    path: Option<PathBuf>,
}

impl DeadLetters {
    fn new(path: Option<&Path>) -> Result<Self> {
        if let Some(path) = path {
            // Of an earlier attempt at this run.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TableError::disk("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(Self { file: None, path: path.map(Path::to_path_buf) })
    }

    fn note(&mut self, lsn: Lsn, row: usize, verdict: Verdict, batch: &Batch, shape: &Shape) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let (path, file) = match &mut self.file {
            Some(open) => open,
            None => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(TableError::disk("make the folder", folder))?;
                }
                let file = File::create(path).map_err(TableError::disk("make the file", path))?;
                self.file.insert((path.clone(), BufWriter::new(file)))
            }
        };
        let mut cells = Map::new();
        let sent = batch.sent();
        for (at, field) in shape.schema.fields().iter().enumerate() {
            let Some(array) = batch.column(field.name()) else { continue };
            let place = sent.as_ref().and_then(|sent| sent.place(field.name()));
            if let (Some(sent), Some(place)) = (&sent, place)
                && !sent.has(row, place)
            {
                continue;
            }
            let column = &shape.types[at];
            cells.insert(field.name().clone(), cell(array, column, row).to_json(column));
        }
        let line = json!({ "lsn": lsn.0, "row": row, "reason": verdict.name(), "cells": cells });
        writeln!(file, "{line}").map_err(TableError::disk("write", path.as_path()))
    }

    fn finish(self) -> Result<()> {
        let Some((path, file)) = self.file else { return Ok(()) };
        let file = file.into_inner().map_err(|error| TableError::disk("write", &path)(error.into_error()))?;
        file.sync_all().map_err(TableError::disk("sync", path))
    }
}
