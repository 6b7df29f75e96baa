//! Merging a day: its files and its patch in, new files and counters out. Memory is bounded by the patch, not by the
//! day.

use std::path::Path;

use arrow_array::RecordBatch;
use windlass_clock::Entropy;

use crate::definition::{Definition, Shape};
use crate::edits::{Edits, edits, hidden};
use crate::error::Result;
use crate::fold::Effects;
use crate::output::{Output, Written};
use crate::patch::Patch;
use crate::probe::{BaseFile, Keys, batches, probe};
use crate::splice::{Stream, splice};

/// What merging a day came to.
#[derive(Debug)]
pub struct Merged {
    /// The day's files now, on this machine; `None`: they are as they were.
    pub files: Option<Vec<Written>>,
    /// What happened to the keys.
    pub effects: Effects,
    /// Rows that were older than what is stored.
    pub stale: u64,
}

/// Merges a day by writing its files anew, if anything changes.
///
/// # Errors
///
/// Damage, whatever the disk says, and what `go_on` fails with.
pub fn rewrite(
    base: &[BaseFile],
    patches: &[Patch],
    definition: &Definition,
    shape: &Shape,
    folder: &Path,
    entropy: &dyn Entropy,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Merged> {
    let edits = find(base, patches, shape, go_on)?;
    if edits.is_empty() {
        return Ok(Merged { files: None, effects: edits.effects, stale: edits.stale });
    }
    let mut output = Output::new(folder, definition, shape, entropy);
    stream(base, &edits, shape, |rows| {
        go_on()?;
        output.write(rows)
    })?;
    Ok(Merged { files: Some(output.finish()?), effects: edits.effects, stale: edits.stale })
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
    let edits = find(base, patches, shape, &|| Ok(()))?;
    stream(base, &edits, shape, sink)
}

fn find(base: &[BaseFile], patches: &[Patch], shape: &Shape, go_on: &dyn Fn() -> Result<()>) -> Result<Edits> {
    let keys = Keys::of(patches, shape)?;
    let hits = if keys.rows.is_empty() { Vec::new() } else { probe(base, &keys, shape, go_on)? };
    edits(patches, &keys, hits, base.len(), shape)
}

fn stream(base: &[BaseFile], edits: &Edits, shape: &Shape, sink: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
    let changes: Vec<_> =
        base.iter().zip(&edits.changes).map(|(file, changes)| hidden(&file.deleted, changes)).collect();
    let mut streams = Vec::with_capacity(base.len() + 1);
    for (file, changes) in base.iter().zip(&changes) {
        streams.push(Stream::new(batches(&file.path, shape)?, changes));
    }
    if edits.inserts.num_rows() > 0 {
        streams.push(Stream::new(std::iter::once(Ok(edits.inserts.clone())), &[]));
    }
    splice(streams, &edits.replacements, shape, sink)
}
