//! Reading no more of a day's files than is wanted.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};

use crate::day::Day;
use crate::definition::Shape;
use crate::error::Result;
use crate::probe::{BaseFile, Opened, chains};
use crate::query::filter::{Filter, Known};
use crate::splice::{Batches, Part, Stream, splice};

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// By column of the table: whether its values are.
    pub(crate) columns: Vec<bool>,
    /// Rows for which this does not hold are not.
    pub(crate) filter: Option<Filter>,
}

impl Wanted {
    /// Everything.
    pub(crate) fn all(shape: &Shape) -> Self {
        Self { columns: vec![true; shape.types.len()], filter: None }
    }

    /// Whether any row of a day may be.
    pub(crate) fn may_be_in(&self, day: Day) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may(day, &|_| Known::default()))
    }

    /// Gives the rows of a day's files to `sink`, in their order. Columns that are not wanted are null, and row groups in
    /// which no row is wanted are left out.
    pub(crate) fn read(
        &self,
        (day, base): (Day, &[BaseFile]),
        shape: &Shape,
        sink: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let chains = chains(base, shape)?;
        let mut columns = self.columns.clone();
        if chains.len() > 1 {
            // They are merged by these.
            shape.order.iter().for_each(|at| columns[*at] = true);
        }
        let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
        let fields: Vec<Field> = shape.schema.fields().iter().map(nullable).collect();
        let read: Vec<Field> =
            fields.iter().zip(&columns).filter(|(_, wanted)| **wanted).map(|(f, _)| f.clone()).collect();
        let all = columns.iter().all(|wanted| *wanted);
        let schema = if all { shape.schema.clone() } else { Arc::new(Schema::new(fields)) };
        let read: SchemaRef = Arc::new(Schema::new(read));
        let narrow = Shape { schema: schema.clone(), ..shape.clone() };
        let mut streams = Vec::with_capacity(chains.len());
        for chain in chains {
            let mut parts = Vec::new();
            for n in chain {
                let file = &base[n];
                let opened = Arc::new(Opened::new(&file.path)?);
                for (group, first) in opened.all_groups() {
                    let known = |at: usize| opened.known(group, at, shape);
                    if self.filter.as_ref().is_some_and(|filter| !filter.may(day, &known)) {
                        continue;
                    }
                    let (opened, read, schema) = (opened.clone(), read.clone(), schema.clone());
                    let open = move || -> Result<Batches<'_>> {
                        let reader = opened.read(group, Some(&read), None)?;
                        Ok(Box::new(reader.map(move |rows| opened.conform(rows, &schema))))
                    };
                    parts.push(Part::new(open, Vec::new(), Some(&file.deleted)).from(first));
                }
            }
            streams.push(Stream::new(parts));
        }
        splice(streams, &narrow, sink)
    }
}
