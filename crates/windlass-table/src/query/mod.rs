//! Some columns and rows of a table, in an order of one's own: what people and tests look at. For anything beyond that
//! there are programs that know SQL, and read the same files.

mod filter;
mod order;
mod parse;
mod print;
mod wanted;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, BooleanArray, Date32Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;

use crate::column::ColumnType;
use crate::day::Day;
use crate::definition::{DAY_COLUMN, Shape};
use crate::delta::Snapshot;
use crate::error::{Result, TableError, arrow};
use crate::home::Table;
use crate::query::order::{By, Sorter};
use crate::run::{Around, blocking};
use crate::scan::{Selection, scan_wanted, version};

pub use filter::Filter;
pub(crate) use filter::Known;
pub use print::{Printed, print};
pub(crate) use wanted::Wanted;

/// What is wanted of the rows that are selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The columns, `day` among them; `None`: all.
    pub columns: Option<Vec<String>>,
    /// A condition, as [`Filter::parse`] reads it.
    pub condition: Option<String>,
    /// The columns by which the rows are ordered, each with a `-` in front if the largest comes first. None: by days, and
    /// in these as the table has them.
    pub order: Vec<String>,
    /// At most so many rows.
    pub limit: Option<u64>,
}

/// A column that is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    Day,
    Column(usize),
}

/// A query that fits its table.
#[derive(Clone, Debug)]
struct Fitted {
    /// The columns that are handed on first; others are there to sort by.
    chosen: Vec<Chosen>,
    shown: usize,
    by: Vec<By>,
    filter: Option<Filter>,
    limit: u64,
    schema: SchemaRef,
}

impl Fitted {
    fn of(query: &Query, shape: &Shape) -> Result<Self> {
        let find = |name: &str, what: &str| {
            if name.eq_ignore_ascii_case(DAY_COLUMN) {
                return Ok(Chosen::Day);
            }
            let found = shape.schema.column_with_name(name).map(|(at, _)| Chosen::Column(at));
            found.ok_or_else(|| {
                let all: Vec<&str> = shape.schema.fields().iter().map(|field| field.name().as_str()).collect();
                TableError::invalid(format!(
                    "{what}: there is no column {name:?}; there are {DAY_COLUMN}, {}",
                    all.join(", ")
                ))
            })
        };
        let mut chosen = match &query.columns {
            Some(names) => names.iter().map(|name| find(name, "the columns")).collect::<Result<Vec<_>>>()?,
            None => std::iter::once(Chosen::Day).chain((0..shape.types.len()).map(Chosen::Column)).collect(),
        };
        if let Some(twice) = (1..chosen.len()).find(|n| chosen[..*n].contains(&chosen[*n])) {
            let name = query.columns.as_ref().map_or("", |names| names[twice].as_str());
            return Err(TableError::invalid(format!("the columns: {name} is there twice")));
        }
        let shown = chosen.len();
        let mut by = Vec::with_capacity(query.order.len());
        for name in &query.order {
            let (name, descending) = match name.strip_prefix('-') {
                Some(name) => (name, true),
                None => (name.as_str(), false),
            };
            let column = find(name, "the order")?;
            let at = chosen.iter().position(|known| *known == column).unwrap_or_else(|| {
                chosen.push(column);
                chosen.len() - 1
            });
            by.push(By { column: at, descending });
        }
        let filter = query.condition.as_deref().map(|text| Filter::parse(text, shape)).transpose()?;
        let fields: Vec<Field> = chosen
            .iter()
            .map(|chosen| match chosen {
                Chosen::Day => Field::new(DAY_COLUMN, DataType::Date32, false),
                Chosen::Column(at) => shape.schema.field(*at).clone(),
            })
            .collect();
        let limit = query.limit.unwrap_or(u64::MAX);
        Ok(Self { chosen, shown, by, filter, limit, schema: Arc::new(Schema::new(fields)) })
    }

    fn wanted(&self, shape: &Shape) -> Wanted {
        let mut columns = vec![false; shape.types.len()];
        for chosen in &self.chosen {
            if let Chosen::Column(at) = chosen {
                columns[*at] = true;
            }
        }
        for at in self.filter.iter().flat_map(Filter::columns) {
            columns[at] = true;
        }
        Wanted { columns, filter: self.filter.clone() }
    }

    /// The rows of a batch that are wanted, with the columns that are.
    fn take(&self, day: Day, rows: &RecordBatch, shape: &Shape) -> Result<RecordBatch> {
        let passes = self.filter.as_ref().map(|filter| filter.passes(day, rows, shape)).transpose()?;
        let columns = self.chosen.iter().map(|chosen| -> ArrayRef {
            match chosen {
                Chosen::Day => Arc::new(Date32Array::from_value(day.0, rows.num_rows())),
                Chosen::Column(at) => rows.column(*at).clone(),
            }
        });
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns.collect(), &count)
            .map_err(arrow("pick columns"))?;
        match passes {
            Some(passes) if passes.count_set_bits() < rows.num_rows() => {
                filter_record_batch(&rows, &BooleanArray::new(passes, None)).map_err(arrow("pick rows"))
            }
            _ => Ok(rows),
        }
    }

    fn shown_schema(&self) -> Result<SchemaRef> {
        let shown: Vec<usize> = (0..self.shown).collect();
        self.schema.project(&shown).map(Arc::new).map_err(arrow("pick columns"))
    }

    fn shown_types(&self, shape: &Shape) -> Vec<ColumnType> {
        let shown = self.chosen.iter().take(self.shown);
        let of = |chosen: &Chosen| match chosen {
            Chosen::Day => ColumnType::Date,
            Chosen::Column(at) => shape.types[*at].clone(),
        };
        shown.map(of).collect()
    }

    /// Without the columns that were there to sort by.
    fn shown(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.shown).collect();
        rows.project(&all).map_err(arrow("pick columns"))
    }
}

/// How many rows there are.
///
/// # Errors
///
/// As [`query`].
pub async fn count(table: &Table, selection: &Selection, wanted: &Query, around: &Around) -> Result<u64> {
    let wanted = Query { columns: Some(Vec::new()), order: Vec::new(), ..wanted.clone() };
    let rows = Arc::new(AtomicU64::new(0));
    let counted = rows.clone();
    query(table, selection, &wanted, around, move |rows| {
        counted.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(())
    })
    .await?;
    Ok(rows.load(Ordering::Relaxed))
}

/// Hands rows of a table to `sink`.
///
/// # Errors
///
/// That the query does not fit the table, damage, whatever the disk and the store say, and what `sink` fails with.
pub async fn query<S>(table: &Table, selection: &Selection, query: &Query, around: &Around, mut sink: S) -> Result<()>
where
    S: FnMut(&RecordBatch) -> Result<()> + Send + 'static,
{
    let snapshot = version(table, selection).await?;
    let shape = snapshot.definition()?.shape();
    let fitted = Fitted::of(query, &shape)?;
    let wanted = fitted.wanted(&shape);
    if !fitted.by.is_empty() {
        return ordered(table, selection, (snapshot, wanted, fitted), around, sink).await;
    }
    let enough = Arc::new(AtomicBool::new(fitted.limit == 0));
    let has_enough = enough.clone();
    let mut left = fitted.limit;
    let scanned = scan_wanted(table, snapshot, selection, wanted, around, move |day, rows, shape| {
        if has_enough.load(Ordering::Relaxed) {
            return Err(TableError::Cancelled);
        }
        let mut rows = fitted.take(day, rows, shape)?;
        if rows.num_rows() as u64 >= left {
            rows = rows.slice(0, usize::try_from(left).unwrap_or(usize::MAX));
            has_enough.store(true, Ordering::Relaxed);
        }
        left -= rows.num_rows() as u64;
        if rows.num_rows() > 0 {
            sink(&rows)?;
        }
        if left == 0 { Err(TableError::Cancelled) } else { Ok(()) }
    });
    match scanned.await {
        Ok(_) => Ok(()),
        Err(TableError::Cancelled) if enough.load(Ordering::Relaxed) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn ordered<S>(
    table: &Table,
    selection: &Selection,
    (snapshot, wanted, fitted): (Snapshot, Wanted, Fitted),
    around: &Around,
    mut sink: S,
) -> Result<()>
where
    S: FnMut(&RecordBatch) -> Result<()> + Send + 'static,
{
    let folder = around.folder("sort")?;
    let limit = usize::try_from(fitted.limit).unwrap_or(usize::MAX);
    let memory = usize::try_from(around.memory).unwrap_or(usize::MAX);
    let sorter = Sorter::new(fitted.schema.clone(), fitted.by.clone(), limit, memory, &folder)?;
    let sorter = Arc::new(Mutex::new(Some(sorter)));
    let shared = sorter.clone();
    let by_columns = fitted.clone();
    let (_, gathered) = scan_wanted(table, snapshot, selection, wanted, around, move |day, rows, shape| {
        let rows = fitted.take(day, rows, shape)?;
        let mut sorter = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match sorter.as_mut() {
            Some(sorter) if rows.num_rows() > 0 => sorter.push(rows),
            _ => Ok(()),
        }
    })
    .await?;
    drop(gathered);
    let sorter = sorter.lock().unwrap_or_else(PoisonError::into_inner).take();
    blocking(move || match sorter {
        Some(sorter) => sorter.finish(|rows| sink(&by_columns.shown(rows)?)),
        None => Ok(()),
    })
    .await
}
