//! Reading a table: what is archived and, if wanted, what still waits in the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;

use crate::canonical::{Lines, TableDigest};
use crate::day::Day;
use crate::definition::{Shape, Uniqueness};
use crate::delta::{Add, Snapshot};
use crate::error::{Result, TableError};
use crate::home::Table;
use crate::log::{Lsn, Reader};
use crate::merge::{Means, read};
use crate::plan::{Reading, Window, sort};
use crate::probe::BaseFile;
use crate::query::Wanted;
use crate::run::{Around, blocking, fetch, resolve};

/// What is read.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The version; `None`: the newest.
    pub version: Option<i64>,
    /// The first day.
    pub from: Option<Day>,
    /// The last day.
    pub to: Option<Day>,
    /// Whether rows that still wait in the logs are read too.
    pub live: bool,
}

/// Gives the rows of a table to `sink`, day after day, in their order. Returns the version that was read.
///
/// # Errors
///
/// Damage, whatever the disk and the store say, and what `sink` fails with.
pub async fn scan<S>(table: &Table, selection: &Selection, around: &Around, sink: S) -> Result<(i64, S)>
where
    S: FnMut(Day, &RecordBatch, &Shape) -> Result<()> + Send + 'static,
{
    let snapshot = version(table, selection).await?;
    let wanted = Wanted::all(&snapshot.definition()?.shape());
    scan_wanted(table, snapshot, selection, wanted, around, sink).await
}

/// The version of a table that is read.
pub(crate) async fn version(table: &Table, selection: &Selection) -> Result<Snapshot> {
    match selection.version {
        None => table.snapshot().await,
        Some(version) => table.log().at(Some(version)).await,
    }
}

/// As [`scan`], but what is not wanted may be missing.
pub(crate) async fn scan_wanted<S>(
    table: &Table,
    snapshot: Snapshot,
    selection: &Selection,
    wanted: Wanted,
    around: &Around,
    sink: S,
) -> Result<(i64, S)>
where
    S: FnMut(Day, &RecordBatch, &Shape) -> Result<()> + Send + 'static,
{
    let wanted = Arc::new(wanted);
    if selection.live && selection.version.is_some() {
        return Err(TableError::invalid("rows that wait in the logs belong to the newest version only"));
    }
    let definition = snapshot.definition()?;
    let shape = definition.shape();
    let waiting = if selection.live { waiting(table, &snapshot, &shape, around).await? } else { Vec::new() };
    let by_day = snapshot.by_day()?;
    let waiting = match shape.uniqueness {
        Uniqueness::Day => waiting,
        // A row that waits may move its key from a day that is archived, or from one that only waits.
        Uniqueness::Table => {
            let patches = waiting.iter().flat_map(BTreeMap::values).map(|(path, _)| path.clone()).collect();
            let folder = around.folder("waiting")?;
            vec![resolve(table, patches, &by_day, shape.clone(), around, &folder).await?.0]
        }
    };
    let mut days: BTreeSet<Day> = by_day.keys().copied().collect();
    days.extend(waiting.iter().flat_map(BTreeMap::keys));
    let within = |day: &Day| {
        selection.from.is_none_or(|from| *day >= from)
            && selection.to.is_none_or(|to| *day <= to)
            && wanted.may_be_in(*day)
    };
    let mut sink = sink;
    for day in days.into_iter().filter(within) {
        (around.go_on)()?;
        let base = files(table, by_day.get(&day), around).await?;
        let patches: Vec<PathBuf> =
            waiting.iter().filter_map(|shard| shard.get(&day)).map(|(path, _)| path.clone()).collect();
        let (shape, wanted, folder) = (shape.clone(), wanted.clone(), around.folder("scan")?);
        let (entropy, go_on, memory) = (around.entropy.clone(), around.go_on.clone(), around.memory);
        sink = blocking(move || {
            let means = Means { folder: &folder, entropy: &*entropy, memory, go_on: &*go_on };
            read((day, &base), &patches, &shape, &wanted, &means, |rows| sink(day, rows, &shape))?;
            Ok(sink)
        })
        .await?;
    }
    Ok((snapshot.version, sink))
}

async fn files(table: &Table, adds: Option<&Vec<Add>>, around: &Around) -> Result<Vec<BaseFile>> {
    let mut files = Vec::new();
    for add in adds.into_iter().flatten() {
        files.push(fetch(table, add, around).await?);
    }
    Ok(files)
}

/// By shard and day: the rows that are in a log and not in the table.
async fn waiting(
    table: &Table,
    snapshot: &Snapshot,
    shape: &Shape,
    around: &Around,
) -> Result<Vec<BTreeMap<Day, (PathBuf, u64)>>> {
    let mut shards = Vec::new();
    for shard in 0..table.descriptor().shards {
        let (from, cutoff) = table.progress(snapshot, shard);
        let (log, identity) = (table.log_folder(shard)?, table.identity(shard)?);
        let folder = around.work.join(format!("waiting-{shard}"));
        std::fs::create_dir_all(&folder).map_err(TableError::disk("make the folder", &folder))?;
        let (definition, shape, go_on) = (snapshot.definition()?, shape.clone(), around.go_on.clone());
        let window = Window { from, to: Lsn::default(), cutoff, new_cutoff: i64::MAX };
        let sorted = blocking(move || {
            let reading = Reading {
                definition: &definition,
                shape: &shape,
                window,
                most_bytes: u64::MAX,
                folder: &folder,
                dead: None,
            };
            sort(&Reader::open(log, identity)?, &reading, &*go_on)
        })
        .await?;
        shards.push(sorted.days);
    }
    Ok(shards)
}

/// The digest of a table's rows.
///
/// # Errors
///
/// As [`scan`].
pub async fn digest(table: &Table, selection: &Selection, around: &Around) -> Result<TableDigest> {
    #[derive(Default)]
    struct State {
        digest: TableDigest,
        day: Option<(Day, Lines)>,
    }
    let state = Arc::new(Mutex::new(State::default()));
    let shared = state.clone();
    let (_, gathered) = scan(table, selection, around, move |day, rows, shape| {
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if state.day.as_ref().is_some_and(|(open, _)| *open != day)
            && let Some((open, lines)) = state.day.take()
        {
            state.digest.add(open, lines);
        }
        state.day.get_or_insert_with(|| (day, Lines::default())).1.add(rows, shape);
        Ok(())
    })
    .await?;
    drop(gathered);
    let mut state = std::mem::take(&mut *state.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some((day, lines)) = state.day.take() {
        state.digest.add(day, lines);
    }
    Ok(state.digest)
}
