//! The keys of patches: which rows each has, and which rows of files have them.

use std::hash::{BuildHasher as _, RandomState};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Array as _, ArrayRef};
use arrow_row::{RowConverter, SortField};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::definition::Shape;
use crate::error::{Result, TableError, arrow};
use crate::patch::Patch;
use crate::rows::cell;

/// No row.
const NONE: u32 = u32::MAX;

/// The keys of patches, each with its rows in the order in which they apply. Held in a few large pieces: there are many.
pub(crate) struct Keys {
    converter: RowConverter,
    /// Encoded keys, one behind the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Open addressing: a key's number and one, or 0.
    slots: Vec<u32>,
    seed: u64,
    /// By key: its first row and its last one.
    first: Vec<u32>,
    last: Vec<u32>,
    /// By row: the next row of its key.
    next: Vec<u32>,
    /// By patch: the number of its first row.
    starts: Vec<u32>,
    bounds: Vec<Bounds>,
}

/// What values of one key column there are.
enum Bounds {
    /// Ascending.
    Integers(Vec<i64>),
    Between(Cell, Cell),
}

impl Bounds {
    fn of(patches: &[Patch], at: usize, column: &ColumnType) -> Self {
        let mut integers = Vec::new();
        let mut between: Option<(Cell, Cell)> = None;
        for patch in patches {
            let array = patch.column(at);
            if let Some(values) = array.as_primitive_opt::<Int64Type>().filter(|values| values.null_count() == 0) {
                integers.extend_from_slice(values.values());
                continue;
            }
            for row in 0..patch.len() {
                match cell(array, column, row) {
                    Cell::Int(value) => integers.push(value),
                    cell => {
                        let (least, most) = between.get_or_insert_with(|| (cell.clone(), cell.clone()));
                        if cell.order(least).is_lt() {
                            *least = cell;
                        } else if cell.order(most).is_gt() {
                            *most = cell;
                        }
                    }
                }
            }
        }
        match between {
            Some((least, most)) if integers.is_empty() => Self::Between(least, most),
            _ => {
                integers.sort_unstable();
                integers.dedup();
                Self::Integers(integers)
            }
        }
    }

    /// Whether a value lies between two, both included.
    fn meets(&self, least: &Cell, most: &Cell) -> bool {
        match (self, least, most) {
            (Self::Integers(values), Cell::Int(least), Cell::Int(most)) => {
                values.get(values.partition_point(|value| value < least)).is_some_and(|value| value <= most)
            }
            (Self::Integers(_), ..) => true,
            (Self::Between(first, last), least, most) => !last.order(least).is_lt() && !first.order(most).is_gt(),
        }
    }
}

impl Keys {
    pub(crate) fn of(patches: &[Patch], shape: &Shape) -> Result<Self> {
        let fields = shape.primary_key.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
        let converter = RowConverter::new(fields).map_err(arrow("prepare for reading keys"))?;
        let rows: usize = patches.iter().map(Patch::len).sum();
        if rows >= NONE as usize {
            return Err(TableError::invalid("too many rows in one run"));
        }
        let bounds = shape.primary_key.iter().map(|at| Bounds::of(patches, *at, &shape.types[*at])).collect();
        let mut keys = Self {
            converter,
            bytes: Vec::new(),
            ends: Vec::new(),
            slots: vec![0; (rows * 2).next_power_of_two().max(16)],
            seed: RandomState::new().hash_one(rows),
            first: Vec::new(),
            last: Vec::new(),
            next: vec![NONE; rows],
            starts: Vec::with_capacity(patches.len()),
            bounds,
        };
        let mut number = 0;
        for patch in patches {
            keys.starts.push(number);
            let columns: Vec<ArrayRef> = shape.primary_key.iter().map(|at| patch.column(*at).clone()).collect();
            let encoded = keys.converter.convert_columns(&columns).map_err(arrow("read keys"))?;
            for key in &encoded {
                keys.add(key.as_ref(), number);
                number += 1;
            }
        }
        Ok(keys)
    }

    fn add(&mut self, key: &[u8], row: u32) {
        let slot = self.slot(key);
        match self.slots[slot].checked_sub(1) {
            Some(id) => {
                let last = std::mem::replace(&mut self.last[id as usize], row);
                self.next[last as usize] = row;
            }
            None => {
                self.bytes.extend_from_slice(key);
                self.ends.push(self.bytes.len());
                self.first.push(row);
                self.last.push(row);
                // There are fewer keys than rows, and fewer rows than `NONE`.
                self.slots[slot] = u32::try_from(self.ends.len()).unwrap_or(NONE);
            }
        }
    }

    /// The slot of a key, or the one in which it would be.
    fn slot(&self, key: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hash(self.seed, key) & mask as u64).unwrap_or(0);
        while let Some(id) = self.slots[slot].checked_sub(1) {
            if self.key(id as usize) == key {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn key(&self, id: usize) -> &[u8] {
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[id]]
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many rows they have.
    pub(crate) fn rows(&self) -> usize {
        self.next.len()
    }

    /// The rows of a key, in their order: the patch, and the row of it.
    pub(crate) fn rows_of(&self, key: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut row = self.first[key];
        std::iter::from_fn(move || {
            if row == NONE {
                return None;
            }
            let patch = self.starts.partition_point(|start| *start <= row) - 1;
            let found = (patch, (row - self.starts[patch]) as usize);
            row = self.next[row as usize];
            Some(found)
        })
    }

    /// Which rows of `columns`, which are those of the key, have one of these keys: row and key.
    pub(crate) fn hits(&self, columns: &[ArrayRef], found: &mut Vec<(u32, u32)>) -> Result<()> {
        let encoded = self.converter.convert_columns(columns).map_err(arrow("read keys"))?;
        for (at, key) in (0_u32..).zip(&encoded) {
            if let Some(id) = self.slots[self.slot(key.as_ref())].checked_sub(1) {
                found.push((at, id));
            }
        }
        Ok(())
    }

    /// Whether a key may have a value of the key's `n`-th column between two, both included.
    pub(crate) fn meet(&self, n: usize, least: &Cell, most: &Cell) -> bool {
        self.bounds.get(n).is_none_or(|bounds| bounds.meets(least, most))
    }
}

/// A hash that nobody outside can aim at, because of its seed.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |a: u64, b: u64| {
        let both = u128::from(a) * u128::from(b);
        (both as u64) ^ ((both >> 64) as u64)
    };
    let mut state = seed ^ (bytes.len() as u64).wrapping_mul(ODD);
    let (parts, rest) = bytes.as_chunks::<8>();
    for part in parts {
        state = mix(state ^ u64::from_le_bytes(*part), ODD ^ seed.rotate_left(29));
    }
    let rest = rest.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    mix(state ^ rest, ODD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Definition;
    use crate::batch::Batch;
    use arrow_array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    fn definition() -> Definition {
        Definition::parse(
            r#"{"name": "t", "event_time": "at", "primary_key": ["id", "part"], "columns": [
                {"name": "at", "type": "timestamp", "nullable": false},
                {"name": "id", "type": "int64", "nullable": false},
                {"name": "part", "type": "string", "nullable": false}]}"#,
        )
        .unwrap()
    }

    fn patch(ids: &[i64], parts: &[&str]) -> Patch {
        let definition = definition();
        let at = TimestampMicrosecondArray::from(vec![0; ids.len()]).with_timezone("UTC");
        let rows = RecordBatch::try_from_iter([
            ("at", Arc::new(at) as ArrayRef),
            ("id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("part", Arc::new(StringArray::from(parts.to_vec()))),
        ]);
        let batch = Batch::new(&definition, &rows.unwrap(), Default::default(), 0, None, None).unwrap();
        let all: Vec<u32> = (0..ids.len() as u32).collect();
        Patch::of_batch(&batch, &definition.shape(), &all).unwrap()
    }

    #[test]
    fn rows_of_a_key_come_in_their_order_over_all_patches() {
        let patches = [patch(&[7, 8, 7], &["a", "a", "a"]), patch(&[], &[]), patch(&[7, 7], &["b", "a"])];
        let keys = Keys::of(&patches, &definition().shape()).unwrap();
        assert_eq!((keys.len(), keys.rows()), (3, 5));
        let all: Vec<Vec<(usize, usize)>> = (0..3).map(|key| keys.rows_of(key).collect()).collect();
        assert_eq!(all, [vec![(0, 0), (0, 2), (2, 1)], vec![(0, 1)], vec![(2, 0)]]);
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let ids: Vec<i64> = (0..5000).map(|n| n * 3).collect();
        let keys = Keys::of(&[patch(&ids, &vec!["x"; 5000])], &definition().shape()).unwrap();
        let base: Vec<i64> = (0..15_000).collect();
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(base)),
            Arc::new(StringArray::from_iter_values((0..15_000).map(|n| if n % 2 == 0 { "x" } else { "y" }))),
        ];
        let mut found = Vec::new();
        keys.hits(&columns, &mut found).unwrap();
        assert_eq!(found.len(), 2500);
        assert!(found.iter().all(|(at, id)| at % 6 == 0 && at / 3 == *id));
    }

    #[test]
    fn bounds_exclude_only_what_cannot_be_there() {
        let keys = Keys::of(&[patch(&[10, 500, 20], &["f", "m", "g"])], &definition().shape()).unwrap();
        let int = |least, most| keys.meet(0, &Cell::Int(least), &Cell::Int(most));
        assert!(int(0, 10) && int(20, 20) && int(15, 600) && !int(21, 499) && !int(501, 900) && !int(-5, 9));
        let text = |least: &str, most: &str| keys.meet(1, &Cell::Text(least.into()), &Cell::Text(most.into()));
        assert!(text("a", "f") && text("h", "k") && text("m", "z") && !text("a", "e") && !text("n", "z"));
    }
}
