//! What a day's patch comes to: rows to replace, rows to remove, rows to insert.

use arrow_array::builder::ArrayBuilder as _;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};

use crate::definition::Shape;
use crate::error::{Result, arrow};
use crate::fold::{Applied, Effect, Effects, apply, effect};
use crate::keys::Keys;
use crate::patch::Patch;
use crate::probe::{Hit, Hits};
use crate::rows::{Builder, Row, row};

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
    pub(crate) before: Option<(Hit, Row)>,
    pub(crate) after: Option<Row>,
}

/// Applies every key's rows in their order, and hands on what came of each. Returns how many rows were older than what is
/// stored.
pub(crate) fn outcomes(
    patches: &[Patch],
    keys: &Keys,
    hits: &Hits,
    shape: &Shape,
    mut each: impl FnMut(Outcome) -> Result<()>,
) -> Result<u64> {
    let mut stale = 0;
    for key in 0..keys.len() {
        let before = hits.of(key).map(|(hit, rows, at)| (hit, row(rows, &shape.types, at)));
        // Nothing as long as it is as it was before.
        let mut now: Option<Option<Row>> = None;
        for (patch, at) in keys.rows_of(key) {
            let old = match &now {
                Some(row) => row.as_ref(),
                None => before.as_ref().map(|(_, row)| row),
            };
            match apply(old, &patches[patch], at, shape) {
                Applied::Row(row) => now = Some(Some(row)),
                Applied::Gone => now = Some(None),
                Applied::Stale => stale += 1,
            }
        }
        let after = now.unwrap_or_else(|| before.as_ref().map(|(_, row)| row.clone()));
        each(Outcome { before, after })?;
    }
    Ok(stale)
}

/// Rows that are gathered one by one, as columns.
struct Gathered {
    columns: Vec<Builder>,
    rows: usize,
}

impl Gathered {
    fn new(shape: &Shape) -> Self {
        Self { columns: shape.types.iter().map(|column| Builder::new(column, 0)).collect(), rows: 0 }
    }

    fn push(&mut self, row: &Row) {
        self.columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
        self.rows += 1;
    }

    fn finish(mut self, shape: &Shape) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Builder::finish).collect();
        RecordBatch::try_new(shape.schema.clone(), columns).map_err(arrow("put rows together"))
    }
}

/// What a day's patch comes to, given the rows that it hits.
pub(crate) fn edits(patches: &[Patch], keys: &Keys, hits: &Hits, files: usize, shape: &Shape) -> Result<Edits> {
    let mut changes: Vec<Vec<(u64, Change)>> = vec![Vec::new(); files];
    let (mut replacements, mut inserts) = (Gathered::new(shape), Gathered::new(shape));
    let mut effects = Effects::default();
    let stale = outcomes(patches, keys, hits, shape, |Outcome { before, after }| {
        let what = effect(before.as_ref().map(|(_, row)| row), after.as_ref(), shape);
        effects.count(what);
        match (what, before, after) {
            (Effect::Updated, Some((hit, _)), Some(row)) => {
                changes[hit.file as usize].push((hit.position, Change::Replace(replacements.rows)));
                replacements.push(&row);
            }
            (Effect::Resorted, Some((hit, _)), Some(row)) => {
                changes[hit.file as usize].push((hit.position, Change::Remove));
                inserts.push(&row);
            }
            (Effect::Deleted, Some((hit, _)), _) => changes[hit.file as usize].push((hit.position, Change::Remove)),
            (Effect::Inserted, _, Some(row)) => inserts.push(&row),
            _ => {}
        }
        Ok(())
    })?;
    for changes in &mut changes {
        changes.sort_unstable_by_key(|(position, _)| *position);
    }
    Ok(Edits {
        changes,
        replacements: replacements.finish(shape)?,
        inserts: in_order(&inserts.finish(shape)?, shape)?,
        effects,
        stale,
    })
}

/// Rows in the order of the day.
pub(crate) fn in_order(found: &RecordBatch, shape: &Shape) -> Result<RecordBatch> {
    let fields = shape.order.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
    let converter = RowConverter::new(fields).map_err(arrow("prepare for sorting rows"))?;
    let columns: Vec<ArrayRef> = shape.order.iter().map(|at| found.column(*at).clone()).collect();
    let encoded = converter.convert_columns(&columns).map_err(arrow("sort rows"))?;
    let mut order: Vec<u32> = (0..u32::try_from(found.num_rows()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
    let order = arrow_array::UInt32Array::from(order);
    arrow_select::take::take_record_batch(found, &order).map_err(arrow("sort rows"))
}
