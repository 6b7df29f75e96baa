//! What a day's patch comes to: rows to replace, rows to remove, rows to insert.

use std::collections::BTreeSet;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};

use crate::definition::Shape;
use crate::error::{Result, arrow};
use crate::fold::{Applied, Effect, Effects, apply, effect};
use crate::patch::Patch;
use crate::probe::{Hit, Keys};
use crate::rows::{Row, batch};

/// What becomes of a row of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It goes.
    Remove,
    /// This row of the replacements takes its place.
    Replace(usize),
}

/// What a day's patch comes to.
#[derive(Debug)]
pub(crate) struct Edits {
    /// By file: what becomes of which row, ascending.
    pub(crate) changes: Vec<Vec<(u64, Change)>>,
    /// Rows that take the place of others.
    pub(crate) replacements: RecordBatch,
    /// Rows that are new in their place, in the order of the day.
    pub(crate) inserts: RecordBatch,
    /// What happened to the keys.
    pub(crate) effects: Effects,
    /// Rows that were older than what is stored.
    pub(crate) stale: u64,
}

impl Edits {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.inserts.num_rows() == 0 && self.changes.iter().all(Vec::is_empty)
    }
}

/// A key's row before and after.
pub(crate) struct Outcome {
    pub(crate) before: Option<Hit>,
    pub(crate) after: Option<Row>,
}

/// Applies every key's rows in their order.
pub(crate) fn outcomes(patches: &[Patch], keys: &Keys, hits: Vec<Hit>, shape: &Shape) -> (Vec<Outcome>, u64) {
    let mut before: Vec<Option<Hit>> = Vec::new();
    before.resize_with(keys.rows.len(), || None);
    for hit in hits {
        let place = &mut before[hit.key as usize];
        // A second row of a key is a fault of whoever wrote the files; it stays as it is.
        if place.is_none() {
            *place = Some(hit);
        }
    }
    let mut stale = 0;
    let mut found = Vec::with_capacity(before.len());
    for (before, rows) in before.into_iter().zip(&keys.rows) {
        let mut now = before.as_ref().map(|hit| hit.row.clone());
        for (patch, row) in rows {
            match apply(now.as_ref(), &patches[*patch as usize], *row as usize, shape) {
                Applied::Row(row) => now = Some(row),
                Applied::Gone => now = None,
                Applied::Stale => stale += 1,
            }
        }
        found.push(Outcome { before, after: now });
    }
    (found, stale)
}

/// What a day's patch comes to, given the rows that it hits.
pub(crate) fn edits(patches: &[Patch], keys: &Keys, hits: Vec<Hit>, files: usize, shape: &Shape) -> Result<Edits> {
    let (outcomes, stale) = outcomes(patches, keys, hits, shape);
    let mut changes: Vec<Vec<(u64, Change)>> = vec![Vec::new(); files];
    let (mut replacements, mut inserts): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
    let mut effects = Effects::default();
    for Outcome { before, after } in outcomes {
        let what = effect(before.as_ref().map(|hit| &hit.row), after.as_ref(), shape);
        effects.count(what);
        match (what, before, after) {
            (Effect::Updated, Some(hit), Some(row)) => {
                changes[hit.file].push((hit.position, Change::Replace(replacements.len())));
                replacements.push(row);
            }
            (Effect::Resorted, Some(hit), Some(row)) => {
                changes[hit.file].push((hit.position, Change::Remove));
                inserts.push(row);
            }
            (Effect::Deleted, Some(hit), _) => changes[hit.file].push((hit.position, Change::Remove)),
            (Effect::Inserted, _, Some(row)) => inserts.push(row),
            _ => {}
        }
    }
    for changes in &mut changes {
        changes.sort_unstable_by_key(|(position, _)| *position);
    }
    Ok(Edits {
        changes,
        replacements: batch(&replacements, &shape.schema, &shape.types)?,
        inserts: in_order(&inserts, shape)?,
        effects,
        stale,
    })
}

/// Rows in the order of the day.
pub(crate) fn in_order(rows: &[Row], shape: &Shape) -> Result<RecordBatch> {
    let found = batch(rows, &shape.schema, &shape.types)?;
    let fields = shape.order.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
    let converter = RowConverter::new(fields).map_err(arrow("prepare for sorting rows"))?;
    let columns: Vec<ArrayRef> = shape.order.iter().map(|at| found.column(*at).clone()).collect();
    let encoded = converter.convert_columns(&columns).map_err(arrow("sort rows"))?;
    let mut order: Vec<u32> = (0..u32::try_from(rows.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
    let order = arrow_array::UInt32Array::from(order);
    arrow_select::take::take_record_batch(&found, &order).map_err(arrow("sort rows"))
}

/// The positions of a file's rows that stay hidden or go.
pub(crate) fn hidden(deleted: &[u64], changes: &[(u64, Change)]) -> Vec<(u64, Change)> {
    if deleted.is_empty() {
        return changes.to_vec();
    }
    let known: BTreeSet<u64> = changes.iter().map(|(position, _)| *position).collect();
    let mut all: Vec<(u64, Change)> = changes.to_vec();
    all.extend(deleted.iter().filter(|at| !known.contains(at)).map(|at| (*at, Change::Remove)));
    all.sort_unstable_by_key(|(position, _)| *position);
    all
}
