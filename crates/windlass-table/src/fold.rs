//! What a row to merge makes of the row that is there: a pure function, and the heart of the matter.

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::definition::Shape;
use crate::patch::{Op, Patch, RowOp};
use crate::rows::{Row, cell};

/// What applying a row came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// The key's row is this one now.
    Row(Row),
    /// The key has no row now.
    Gone,
    /// The stored row is newer; nothing happened.
    Stale,
}

/// Applies row `n` of `patch` to `old`, the key's row if it has one.
#[must_use]
pub fn apply(old: Option<&Row>, patch: &Patch, n: usize, shape: &Shape) -> Applied {
    let (ops, row_op) = patch.ops(n);
    let read = |at: usize| cell(patch.column(at), &shape.types[at], n);
    if row_op != RowOp::Put
        && let (Some(version), Some(old)) = (shape.version, old)
    {
        let (stored, given) = (&old[version], read(version));
        if !given.is_null() && !stored.is_null() && given.order(stored).is_lt() {
            return Applied::Stale;
        }
    }
    if row_op == RowOp::Delete {
        return Applied::Gone;
    }
    let mut row: Row = match old {
        Some(old) => old.clone(),
        None => shape.defaults.clone().into(),
    };
    for (at, op) in ops.enumerate().take(row.len()) {
        if op == Op::Keep {
            continue;
        }
        let given = read(at);
        // The default of a row that is just inserted is not what a number is added to.
        let stored = old.map_or(&Cell::Null, |old| &old[at]);
        row[at] = match op {
            Op::Keep => continue,
            Op::Set => given,
            Op::Add | Op::Min | Op::Max if stored.is_null() => given,
            Op::Add => stored.plus(&given, &shape.types[at]),
            Op::Min if given.order(stored).is_lt() => given,
            Op::Max if given.order(stored).is_gt() => given,
            Op::Min | Op::Max => stored.clone(),
        };
    }
    Applied::Row(row)
}

/// What a run did to one key, comparing before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It has a row now.
    Inserted,
    /// Cells changed that it is not sorted by.
    Updated,
    /// A sort column changed.
    Resorted,
    /// It lives in another day now.
    Moved,
    /// It has no row any more.
    Deleted,
    /// Nothing.
    NoEffect,
}

/// What a run did to a key of one day.
#[must_use]
pub fn effect(before: Option<&Row>, after: Option<&Row>, shape: &Shape) -> Effect {
    match (before, after) {
        (None, None) => Effect::NoEffect,
        (None, Some(_)) => Effect::Inserted,
        (Some(_), None) => Effect::Deleted,
        (Some(before), Some(after)) if before == after => Effect::NoEffect,
        (Some(before), Some(after)) => {
            if shape.sort.iter().any(|at| before[*at] != after[*at]) {
                Effect::Resorted
            } else {
                Effect::Updated
            }
        }
    }
}

/// What runs did, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// Keys that got a row.
    pub inserted: u64,
    /// Keys whose cells changed.
    pub updated: u64,
    /// Keys whose place in the order changed.
    pub resorted: u64,
    /// Keys that moved to this day.
    pub moved: u64,
    /// Keys that lost their row.
    #[serde(default)]
    pub deleted: u64,
    /// Keys that are as they were.
    pub no_effect: u64,
}

impl Effects {
    /// Counts one key.
    pub fn count(&mut self, effect: Effect) {
        match effect {
            Effect::Inserted => self.inserted += 1,
            Effect::Updated => self.updated += 1,
            Effect::Resorted => self.resorted += 1,
            Effect::Moved => self.moved += 1,
            Effect::Deleted => self.deleted += 1,
            Effect::NoEffect => self.no_effect += 1,
        }
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.inserted + self.updated + self.resorted + self.moved + self.deleted + self.no_effect
    }

    /// Adds what another part of the run did.
    pub fn add(&mut self, other: &Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.resorted += other.resorted;
        self.moved += other.moved;
        self.deleted += other.deleted;
        self.no_effect += other.no_effect;
    }
}
