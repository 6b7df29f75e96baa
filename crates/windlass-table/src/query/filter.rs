//! Which rows are wanted: conditions on columns, checked by row, and by what is known of many rows at once.

use arrow_array::{Array, ArrayRef, Datum, RecordBatch, Scalar};
use arrow_buffer::BooleanBuffer;
use arrow_ord::cmp;

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::day::Day;
use crate::definition::Shape;
use crate::error::{Result, arrow};
use crate::rows::array;

/// A condition on rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    node: Node,
}

/// What a value is compared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// A condition on one column. None of the first three holds for a null.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    Compare(Compare, Cell),
    In(Vec<Cell>),
    NotIn(Vec<Cell>),
    IsNull,
    IsNotNull,
}

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The day that a row is in.
    Day,
    /// A column of the table.
    Column(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Test(Subject, Test),
}

/// What is known of a column in many rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Nothing that is not null is less than the first or more than the second.
    pub(crate) bounds: Option<(Cell, Cell)>,
    /// Whether all may be null, and whether any may be.
    pub(crate) all_null: Option<bool>,
    pub(crate) any_null: Option<bool>,
}

impl Compare {
    fn negated(self) -> Self {
        match self {
            Self::Equal => Self::Unequal,
            Self::Unequal => Self::Equal,
            Self::Less => Self::MoreOrEqual,
            Self::LessOrEqual => Self::More,
            Self::More => Self::LessOrEqual,
            Self::MoreOrEqual => Self::Less,
        }
    }

    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::More => order.is_gt(),
            Self::MoreOrEqual => order.is_ge(),
        }
    }

    /// Whether a value between two may be so.
    fn may(self, least: &Cell, most: &Cell, than: &Cell) -> bool {
        match self {
            Self::Equal => !least.order(than).is_gt() && !most.order(than).is_lt(),
            Self::Unequal => !(least.order(than).is_eq() && most.order(than).is_eq()),
            Self::Less | Self::LessOrEqual => self.holds(least.order(than)),
            Self::More | Self::MoreOrEqual => self.holds(most.order(than)),
        }
    }
}

impl Test {
    fn negated(self) -> Self {
        match self {
            Self::Compare(compare, cell) => Self::Compare(compare.negated(), cell),
            Self::In(cells) => Self::NotIn(cells),
            Self::NotIn(cells) => Self::In(cells),
            Self::IsNull => Self::IsNotNull,
            Self::IsNotNull => Self::IsNull,
        }
    }

    /// Whether it holds for a value that is not null.
    fn holds(&self, cell: &Cell) -> bool {
        match self {
            Self::Compare(compare, than) => compare.holds(cell.order(than)),
            Self::In(cells) => cells.contains(cell),
            Self::NotIn(cells) => !cells.contains(cell),
            Self::IsNull => false,
            Self::IsNotNull => true,
        }
    }

    fn may(&self, known: &Known) -> bool {
        match self {
            Self::IsNull => known.any_null != Some(false),
            _ if known.all_null == Some(true) => false,
            Self::IsNotNull => true,
            Self::Compare(compare, than) => {
                known.bounds.as_ref().is_none_or(|(least, most)| compare.may(least, most, than))
            }
            Self::In(cells) => known
                .bounds
                .as_ref()
                .is_none_or(|(least, most)| cells.iter().any(|cell| Compare::Equal.may(least, most, cell))),
            Self::NotIn(cells) => {
                known.bounds.as_ref().is_none_or(|(least, most)| !(least.order(most).is_eq() && cells.contains(least)))
            }
        }
    }

    fn passes(&self, column: &ArrayRef, of: &ColumnType) -> Result<BooleanBuffer> {
        let one = |compare: Compare, cell: &Cell| compare_all(compare, column, cell, of);
        match self {
            Self::Compare(compare, cell) => one(*compare, cell),
            Self::In(cells) => {
                let mut all = BooleanBuffer::new_unset(column.len());
                for cell in cells {
                    all = &all | &one(Compare::Equal, cell)?;
                }
                Ok(all)
            }
            Self::NotIn(cells) => {
                let mut all = valid(column);
                for cell in cells {
                    all = &all & &one(Compare::Unequal, cell)?;
                }
                Ok(all)
            }
            Self::IsNull => Ok(!&valid(column)),
            Self::IsNotNull => Ok(valid(column)),
        }
    }
}

fn valid(column: &ArrayRef) -> BooleanBuffer {
    column.nulls().map_or_else(|| BooleanBuffer::new_set(column.len()), |nulls| nulls.inner().clone())
}

fn compare_all(compare: Compare, column: &ArrayRef, cell: &Cell, of: &ColumnType) -> Result<BooleanBuffer> {
    let than = Scalar::new(array(std::iter::once(cell), of));
    let (column, than): (&dyn Datum, &dyn Datum) = (column, &than);
    let compared = match compare {
        Compare::Equal => cmp::eq(column, than),
        Compare::Unequal => cmp::neq(column, than),
        Compare::Less => cmp::lt(column, than),
        Compare::LessOrEqual => cmp::lt_eq(column, than),
        Compare::More => cmp::gt(column, than),
        Compare::MoreOrEqual => cmp::gt_eq(column, than),
    };
    let compared = compared.map_err(arrow("compare a column"))?;
    Ok(match compared.nulls() {
        Some(nulls) => compared.values() & nulls.inner(),
        None => compared.values().clone(),
    })
}

impl Node {
    /// What holds where this does not. Of what is null neither holds.
    pub(crate) fn negated(self) -> Self {
        let each = |nodes: Vec<Self>| nodes.into_iter().map(Self::negated).collect();
        match self {
            Self::All(nodes) => Self::Any(each(nodes)),
            Self::Any(nodes) => Self::All(each(nodes)),
            Self::Test(subject, test) => Self::Test(subject, test.negated()),
        }
    }

    fn columns(&self, found: &mut Vec<usize>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.columns(found)),
            Self::Test(Subject::Column(at), _) => found.push(*at),
            Self::Test(Subject::Day, _) => {}
        }
    }

    fn may(&self, day: Day, known: &dyn Fn(usize) -> Known) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.may(day, known)),
            Self::Any(nodes) => nodes.iter().any(|node| node.may(day, known)),
            Self::Test(Subject::Day, test) => test.holds(&Cell::Int(day.0.into())),
            Self::Test(Subject::Column(at), test) => test.may(&known(*at)),
        }
    }

    fn passes(&self, day: Day, rows: &RecordBatch, shape: &Shape) -> Result<BooleanBuffer> {
        let count = rows.num_rows();
        match self {
            Self::All(nodes) => {
                let mut all = BooleanBuffer::new_set(count);
                for node in nodes {
                    all = &all & &node.passes(day, rows, shape)?;
                }
                Ok(all)
            }
            Self::Any(nodes) => {
                let mut any = BooleanBuffer::new_unset(count);
                for node in nodes {
                    any = &any | &node.passes(day, rows, shape)?;
                }
                Ok(any)
            }
            Self::Test(Subject::Day, test) => Ok(match test.holds(&Cell::Int(day.0.into())) {
                true => BooleanBuffer::new_set(count),
                false => BooleanBuffer::new_unset(count),
            }),
            Self::Test(Subject::Column(at), test) => test.passes(rows.column(*at), &shape.types[*at]),
        }
    }
}

impl Filter {
    /// Reads a condition such as `city = 'Oslo' AND (fare >= 10 OR note IS NULL)`. The names are those of the table's
    /// columns, and `day`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn parse(text: &str, shape: &Shape) -> Result<Self> {
        Ok(Self { node: super::parse::parse(text, shape)? })
    }

    /// The columns that it looks at.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut found = Vec::new();
        self.node.columns(&mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether it may hold for a row of a day of which so much is known.
    pub(crate) fn may(&self, day: Day, known: &dyn Fn(usize) -> Known) -> bool {
        self.node.may(day, known)
    }

    /// For which rows it holds.
    pub(crate) fn passes(&self, day: Day, rows: &RecordBatch, shape: &Shape) -> Result<BooleanBuffer> {
        self.node.passes(day, rows, shape)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::Definition;

    fn shape() -> Shape {
        Definition::parse(
            r#"{"name": "t", "event_time": "at", "primary_key": ["id"], "columns": [
                {"name": "at", "type": "timestamp", "nullable": false},
                {"name": "id", "type": "int64", "nullable": false},
                {"name": "city", "type": "string"}, {"name": "fare", "type": "float64"}]}"#,
        )
        .unwrap()
        .shape()
    }

    fn passing(text: &str) -> Vec<usize> {
        let shape = shape();
        let at = TimestampMicrosecondArray::from(vec![0, 86_400_000_000, 1, 2]).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(at),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
            Arc::new(StringArray::from(vec![Some("Oslo"), None, Some("Lima"), Some("O'Hare")])),
            Arc::new(Float64Array::from(vec![Some(1.5), Some(2.0), None, Some(-1.0)])),
        ];
        let rows = RecordBatch::try_new(shape.schema.clone(), columns).unwrap();
        let filter = Filter::parse(text, &shape).unwrap();
        filter.passes(Day(1), &rows, &shape).unwrap().set_indices().collect()
    }

    #[test]
    fn conditions_hold_for_the_rows_that_they_name_and_never_for_nulls() {
        let cases: [(&str, &[usize]); 16] = [
            ("id = 2", &[1]),
            ("id <> 2 and id != 4", &[0, 2]),
            ("city < 'Oslo'", &[2, 3]),
            ("not city < 'Oslo'", &[0]),
            ("city = 'O''Hare'", &[3]),
            ("city IS NULL or fare is null", &[1, 2]),
            ("city is not null and not fare is null", &[0, 3]),
            ("id in (1, 4, 9)", &[0, 3]),
            ("city not in ('Lima')", &[0, 3]),
            ("not (id = 1 or fare > 1)", &[3]),
            ("fare >= 1.5 and fare <= 2", &[0, 1]),
            ("fare between -1 and 1.5", &[0, 3]),
            ("at >= '1970-01-02'", &[1]),
            ("at < '1970-01-01T00:00:00.000002Z'", &[0, 2]),
            ("day = '1970-01-02' and id < 3", &[0, 1]),
            ("day > '1970-01-02'", &[]),
        ];
        for (text, wanted) in cases {
            assert_eq!(passing(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_known_of_many_rows_excludes_only_what_cannot_be_among_them() {
        let known = |at: usize| match at {
            1 => Known { bounds: Some((Cell::Int(10), Cell::Int(20))), all_null: Some(false), any_null: Some(false) },
            2 => Known { all_null: Some(true), ..Known::default() },
            _ => Known::default(),
        };
        let may = |text: &str| Filter::parse(text, &shape()).unwrap().may(Day(5), &known);
        for text in ["id = 10", "id <= 10", "id > 19", "id in (3, 15)", "id <> 10", "fare = 3", "city is null"] {
            assert!(may(text), "{text}");
        }
        for text in ["id = 9", "id < 10", "id > 20", "id in (3, 25)", "id is null", "city = 'x'", "city is not null"] {
            assert!(!may(text), "{text}");
        }
        assert!(may("id = 9 or id = 12") && !may("id = 12 and day < '1970-01-01'"));
    }
}
