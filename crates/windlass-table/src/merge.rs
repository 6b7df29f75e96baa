//! Merging a day: its files and its patch in, new files and counters out. Memory is bounded by what it is told it may
//! have, not by the day nor by the patch.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use windlass_clock::Entropy;

use crate::changes::{Changed, Spill};
use crate::crowd::{Crowd, is_small};
use crate::day::Day;
use crate::definition::{Definition, Layout, Shape};
use crate::delta::Deleted;
use crate::edits::{Edits, edits};
use crate::error::{Result, TableError};
use crate::fold::Effects;
use crate::keys::Keys;
use crate::output::{Output, Written};
use crate::parts::{bytes, parts, split};
use crate::patch::Patch;
use crate::probe::{BaseFile, Hits, batches, chains, open, probe};
use crate::query::Wanted;
use crate::splice::{Batches, Part, Stream, splice};

/// What becomes of a file of the day.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is as it was.
    Stays,
    /// It is not part of the day any more.
    Goes,
    /// These rows of it do not count any more, among them those that did not count before.
    Hides(Deleted),
}

/// What merging a day came to.
#[derive(Debug)]
pub struct Merged {
    /// Files that come to the day, on this machine.
    pub files: Vec<Written>,
    /// What becomes of each file that it had.
    pub fates: Vec<Fate>,
    /// What happened to the keys.
    pub effects: Effects,
    /// Rows that were older than what is stored.
    pub stale: u64,
}

/// What merging works with.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Where files are written.
    pub folder: &'a Path,
    /// For their names.
    pub entropy: &'a dyn Entropy,
    /// Bytes of memory that it may have.
    pub memory: u64,
    /// Says whether to go on.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").field("folder", &self.folder).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// Merges files of patches into a day as its table's layout wants it. A day in which nothing changes stays as it is.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `go_on` fails with.
pub fn merge(
    base: &[BaseFile],
    patches: &[PathBuf],
    definition: &Definition,
    shape: &Shape,
    means: &Means<'_>,
) -> Result<Merged> {
    let Found { changed, hidden, kept, effects, stale } =
        find(base, patches, shape, definition.layout == Layout::CopyOnWrite, means)?;
    if changed.is_empty() {
        return Ok(Merged { files: Vec::new(), fates: vec![Fate::Stays; base.len()], effects, stale });
    }
    let beside = match definition.layout {
        Layout::CopyOnWrite => None,
        Layout::MergeOnRead => hide(base, &hidden, definition)?,
    };
    let mut output = Output::new(means, definition, shape, base)?;
    let fates = match beside {
        Some(fates) => {
            splice(changed.rows(shape)?, shape, |rows| {
                (means.go_on)()?;
                output.write(rows)
            })?;
            fates
        }
        None => {
            stream(base, Some(&changed), kept, shape, |rows| {
                (means.go_on)()?;
                output.write(rows)
            })?;
            vec![Fate::Goes; base.len()]
        }
    };
    Ok(Merged { files: output.finish()?, fates, effects, stale })
}

/// What becomes of each file when what changes is written beside them; `None`: too much would be hidden or scattered then,
/// and the day is written anew.
fn hide(base: &[BaseFile], hidden: &[Deleted], definition: &Definition) -> Result<Option<Vec<Fate>>> {
    // What is written beside them is a small file more.
    let mut crowd = Crowd { small: 1, files: 1, ..Crowd::default() };
    let mut fates = Vec::with_capacity(base.len());
    for (file, hidden) in base.iter().zip(hidden) {
        let rows = open(&file.path)?.metadata().file_metadata().num_rows();
        let rows = u64::try_from(rows).unwrap_or(0);
        if hidden.len() >= rows {
            fates.push(Fate::Goes);
            continue;
        }
        crowd.rows += rows;
        crowd.hidden += hidden.len();
        let bytes = std::fs::metadata(&file.path).map_err(TableError::disk("look at", &file.path))?.len();
        crowd.small += usize::from(is_small(bytes, definition));
        fates.push(match hidden.len() == file.deleted.len() {
            true => Fate::Stays,
            false => Fate::Hides(hidden.clone()),
        });
    }
    Ok((!crowd.is_too_much()).then_some(fates))
}

/// Writes a day's files anew, without what does not count, and without changing any row.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `go_on` fails with.
pub(crate) fn gather(
    base: &[BaseFile],
    definition: &Definition,
    shape: &Shape,
    means: &Means<'_>,
) -> Result<Vec<Written>> {
    let mut output = Output::new(means, definition, shape, base)?;
    stream(base, None, None, shape, |rows| {
        (means.go_on)()?;
        output.write(rows)
    })?;
    output.finish()
}

/// The rows of a day as they would be with the patches merged. Where nothing changes, only what is wanted is read: other
/// columns may be null then, and rows that are not wanted missing.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `sink` fails with.
pub(crate) fn read(
    (day, base): (Day, &[BaseFile]),
    patches: &[PathBuf],
    shape: &Shape,
    wanted: &Wanted,
    means: &Means<'_>,
    sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let found = find(base, patches, shape, false, means)?;
    match found.changed.is_empty() {
        true => wanted.read((day, base), shape, sink),
        false => stream(base, Some(&found.changed), None, shape, sink),
    }
}

/// All rows of each file.
type Decoded = Vec<Vec<RecordBatch>>;

/// What patches come to.
struct Found {
    changed: Changed,
    /// By file: rows that do not count any more, or never did.
    hidden: Vec<Deleted>,
    /// The files' rows, if they were decoded and are few.
    kept: Option<Decoded>,
    effects: Effects,
    stale: u64,
}

/// What the patches come to. `keep`: the files' rows are of use.
fn find(base: &[BaseFile], patches: &[PathBuf], shape: &Shape, keep: bool, means: &Means<'_>) -> Result<Found> {
    let mut hidden: Vec<Deleted> = base.iter().map(|file| file.deleted.clone()).collect();
    let mut hide = |edits: &Edits| {
        for (hidden, changes) in hidden.iter_mut().zip(&edits.changes).filter(|(_, changes)| !changes.is_empty()) {
            *hidden = hidden.with(changes.iter().map(|(position, _)| *position));
        }
    };
    let parts = parts(bytes(patches)?, means.memory);
    if parts < 2 {
        let (edits, kept) = find_part(base, patches, shape, keep, means)?;
        hide(&edits);
        let (effects, stale) = (edits.effects.clone(), edits.stale);
        return Ok(Found { changed: Changed::Held(edits), hidden, kept, effects, stale });
    }
    let (mut spills, mut effects, mut stale) = (Vec::new(), Effects::default(), 0);
    for (n, path) in split(patches, parts, shape, means.folder)?.into_iter().enumerate() {
        let part = [path];
        let (edits, _) = find_part(base, &part, shape, false, means)?;
        hide(&edits);
        effects.add(&edits.effects);
        stale += edits.stale;
        if !edits.is_empty() {
            spills.push(Spill::write(&edits, means.folder, &format!("part-{n}"), shape)?);
        }
        let [path] = part;
        std::fs::remove_file(&path).map_err(TableError::disk("remove", path))?;
    }
    Ok(Found { changed: Changed::Kept(spills), hidden, kept: None, effects, stale })
}

fn find_part(
    base: &[BaseFile],
    patches: &[PathBuf],
    shape: &Shape,
    keep: bool,
    means: &Means<'_>,
) -> Result<(Edits, Option<Decoded>)> {
    let patches = Patch::read_files(patches, shape)?;
    let keys = Keys::of(&patches, shape)?;
    let mut hits = if keys.len() == 0 { Hits::default() } else { probe(base, &keys, shape, keep, means.go_on)? };
    let kept = hits.kept.take();
    Ok((edits(&patches, &keys, &hits, base.len(), shape)?, kept))
}

fn stream(
    base: &[BaseFile],
    changed: Option<&Changed>,
    kept: Option<Decoded>,
    shape: &Shape,
    sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut kept: Vec<Option<Vec<RecordBatch>>> = match kept {
        Some(kept) => kept.into_iter().map(Some).collect(),
        None => Vec::new(),
    };
    kept.resize_with(base.len(), || None);
    let mut streams = Vec::new();
    for chain in chains(base, shape)? {
        let mut of_chain = Vec::with_capacity(chain.len());
        for n in chain {
            let (file, rows) = (&base[n], kept[n].take());
            let open = move || -> Result<Batches<'_>> {
                Ok(match rows {
                    Some(rows) => Box::new(rows.into_iter().map(Ok)),
                    None => Box::new(batches(&file.path, shape)?),
                })
            };
            let changes = changed.map_or_else(Vec::new, |changed| changed.of_file(n));
            of_chain.push(Part::new(open, changes, Some(&file.deleted)));
        }
        streams.push(Stream::new(of_chain));
    }
    streams.extend(changed.map_or_else(Vec::new, Changed::inserts));
    splice(streams, shape, sink)
}
