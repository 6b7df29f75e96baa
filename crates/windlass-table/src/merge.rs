//! Merging a day: its files and its patch in, new files and counters out. Memory is bounded by the patch, not by the
//! day.

use std::path::Path;

use arrow_array::RecordBatch;
use windlass_clock::Entropy;

use crate::crowd::{Crowd, is_small};
use crate::definition::{Definition, Layout, Shape};
use crate::delta::Deleted;
use crate::edits::{Edits, edits, in_order};
use crate::error::{Result, TableError, arrow};
use crate::fold::Effects;
use crate::keys::Keys;
use crate::output::{Output, Written};
use crate::patch::Patch;
use crate::probe::{BaseFile, Hits, batches, open, probe};
use crate::splice::{Stream, splice};

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

/// Merges a day as its table's layout wants it. A day in which nothing changes stays as it is.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `go_on` fails with.
pub fn merge(
    base: &[BaseFile],
    patches: &[Patch],
    definition: &Definition,
    shape: &Shape,
    folder: &Path,
    entropy: &dyn Entropy,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Merged> {
    let (edits, kept) = find(base, patches, shape, definition.layout == Layout::CopyOnWrite, go_on)?;
    let stays = vec![Fate::Stays; base.len()];
    if edits.is_empty() {
        return Ok(Merged { files: Vec::new(), fates: stays, effects: edits.effects, stale: edits.stale });
    }
    let mut output = Output::new(folder, definition, shape, entropy);
    let beside = match definition.layout {
        Layout::CopyOnWrite => None,
        Layout::MergeOnRead => hide(base, &edits, definition)?,
    };
    let fates = match beside {
        Some(fates) => {
            let rows = [&edits.replacements, &edits.inserts];
            let rows = arrow_select::concat::concat_batches(&shape.schema, rows).map_err(arrow("gather rows"))?;
            if rows.num_rows() > 0 {
                output.write(&in_order(&rows, shape)?)?;
            }
            fates
        }
        None => {
            stream(base, Some(&edits), kept, shape, |rows| {
                go_on()?;
                output.write(rows)
            })?;
            vec![Fate::Goes; base.len()]
        }
    };
    Ok(Merged { files: output.finish()?, fates, effects: edits.effects, stale: edits.stale })
}

/// What becomes of each file when what changes is written beside them; `None`: too much would be hidden or scattered then,
/// and the day is written anew.
fn hide(base: &[BaseFile], edits: &Edits, definition: &Definition) -> Result<Option<Vec<Fate>>> {
    // What is written beside them is a small file more.
    let mut crowd = Crowd { small: 1, files: 1, ..Crowd::default() };
    let mut fates = Vec::with_capacity(base.len());
    for (file, changes) in base.iter().zip(&edits.changes) {
        let rows = open(&file.path)?.metadata().file_metadata().num_rows();
        let rows = u64::try_from(rows).unwrap_or(0);
        let hidden = file.deleted.len() + changes.len() as u64;
        if hidden >= rows {
            fates.push(Fate::Goes);
            continue;
        }
        crowd.rows += rows;
        crowd.hidden += hidden;
        let bytes = std::fs::metadata(&file.path).map_err(TableError::disk("look at", &file.path))?.len();
        crowd.small += usize::from(is_small(bytes, definition));
        fates.push(match changes.is_empty() {
            true => Fate::Stays,
            false => Fate::Hides(file.deleted.with(changes.iter().map(|(position, _)| *position))),
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
    folder: &Path,
    entropy: &dyn Entropy,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Vec<Written>> {
    let mut output = Output::new(folder, definition, shape, entropy);
    stream(base, None, None, shape, |rows| {
        go_on()?;
        output.write(rows)
    })?;
    output.finish()
}

/// The rows of a day as they would be with the patch merged.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `sink` fails with.
pub fn read(
    base: &[BaseFile],
    patches: &[Patch],
    shape: &Shape,
    sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let (edits, _) = find(base, patches, shape, false, &|| Ok(()))?;
    stream(base, Some(&edits), None, shape, sink)
}

/// All rows of each file.
type Decoded = Vec<Vec<RecordBatch>>;

/// What the patches come to; and the files' rows, if they were decoded for that and are few. `keep`: they are of use.
fn find(
    base: &[BaseFile],
    patches: &[Patch],
    shape: &Shape,
    keep: bool,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<(Edits, Option<Decoded>)> {
    let keys = Keys::of(patches, shape)?;
    let mut hits = if keys.len() == 0 { Hits::default() } else { probe(base, &keys, shape, keep, go_on)? };
    let kept = hits.kept.take();
    Ok((edits(patches, &keys, &hits, base.len(), shape)?, kept))
}

fn stream(
    base: &[BaseFile],
    edits: Option<&Edits>,
    kept: Option<Decoded>,
    shape: &Shape,
    sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut streams = Vec::with_capacity(base.len() + 1);
    let mut kept = kept.map(Vec::into_iter);
    for (n, file) in base.iter().enumerate() {
        let changes = edits.map_or(&[][..], |edits| &edits.changes[n]);
        streams.push(match kept.as_mut().and_then(Iterator::next) {
            Some(rows) => Stream::new(rows.into_iter().map(Ok), changes, Some(&file.deleted)),
            None => Stream::new(batches(&file.path, shape)?, changes, Some(&file.deleted)),
        });
    }
    let nothing = RecordBatch::new_empty(shape.schema.clone());
    if let Some(edits) = edits.filter(|edits| edits.inserts.num_rows() > 0) {
        streams.push(Stream::new(std::iter::once(Ok(edits.inserts.clone())), &[], None));
    }
    splice(streams, edits.map_or(&nothing, |edits| &edits.replacements), shape, sink)
}
