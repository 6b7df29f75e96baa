//! Streams of sorted rows made one, with rows replaced and removed on the way. Holds one batch of each stream.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::iter::Peekable;

use arrow_array::{ArrayRef, RecordBatch, make_array};
use arrow_data::transform::MutableArrayData;
use arrow_ord::ord::{DynComparator, make_comparator};
use arrow_schema::SortOptions;
use arrow_select::interleave::interleave_record_batch;

use crate::changes::Changes;
use crate::definition::Shape;
use crate::delta::Deleted;
use crate::edits::Change;
use crate::error::{Result, arrow};

/// Pieces of fewer rows than this on average are put together row by row: to begin a piece costs as much as some rows.
const SHORT: usize = 16;

/// Rows, a batch at a time.
pub(crate) type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch>> + 'a>;
type Positions<'a> = Peekable<Box<dyn Iterator<Item = u64> + 'a>>;

/// Sorted rows of one origin, and what becomes of them.
pub(crate) struct Part<'a> {
    open: Box<dyn FnOnce() -> Result<Batches<'a>> + 'a>,
    changes: Vec<Changes<'a>>,
    deleted: Option<&'a Deleted>,
    /// The position of its first row.
    first: u64,
}

impl<'a> Part<'a> {
    /// Rows that are read only when it is their turn.
    pub(crate) fn new(
        open: impl FnOnce() -> Result<Batches<'a>> + 'a,
        changes: Vec<Changes<'a>>,
        deleted: Option<&'a Deleted>,
    ) -> Self {
        Self { open: Box::new(open), changes, deleted, first: 0 }
    }

    /// Rows whose first one has this position.
    pub(crate) fn from(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Rows that stay as they are.
    pub(crate) fn of(rows: impl Iterator<Item = Result<RecordBatch>> + 'a) -> Self {
        Self::new(move || Ok(Box::new(rows)), Vec::new(), None)
    }
}

/// Sorted rows: those of its parts, one after the other.
pub(crate) struct Stream<'a> {
    parts: VecDeque<Part<'a>>,
    rest: Option<Batches<'a>>,
    changes: Vec<Changes<'a>>,
    deleted: Positions<'a>,
    batch: Option<RecordBatch>,
    place: Place,
    /// The next row of the batch.
    at: usize,
    /// The position of the batch's first row in its part.
    first: u64,
    done: bool,
}

/// What becomes of a row: nothing comes in its place, or this row of these changes.
type Instead = Option<(usize, usize)>;

impl<'a> Stream<'a> {
    pub(crate) fn new(parts: impl IntoIterator<Item = Part<'a>>) -> Self {
        let nothing: Box<dyn Iterator<Item = u64> + 'a> = Box::new(std::iter::empty());
        Self {
            parts: parts.into_iter().collect(),
            rest: None,
            changes: Vec::new(),
            deleted: nothing.peekable(),
            batch: None,
            place: Place::default(),
            at: 0,
            first: 0,
            done: false,
        }
    }

    fn rows(&self) -> usize {
        self.batch.as_ref().map_or(0, RecordBatch::num_rows)
    }

    /// Goes to the next batch that has rows, if there is one.
    fn advance(&mut self) -> Result<()> {
        self.place = Place::default();
        self.at = 0;
        self.first += self.rows() as u64;
        loop {
            let Some(rest) = &mut self.rest else {
                let Some(part) = self.parts.pop_front() else {
                    (self.batch, self.done) = (None, true);
                    return Ok(());
                };
                self.rest = Some((part.open)()?);
                self.changes = part.changes;
                let deleted: Box<dyn Iterator<Item = u64> + 'a> = match part.deleted {
                    Some(deleted) => Box::new(deleted.iter().skip_while(move |position| *position < part.first)),
                    None => Box::new(std::iter::empty()),
                };
                self.deleted = deleted.peekable();
                self.first = part.first;
                continue;
            };
            match rest.next().transpose()? {
                None => self.rest = None,
                Some(batch) if batch.num_rows() == 0 => {}
                batch => {
                    self.batch = batch;
                    return Ok(());
                }
            }
        }
    }

    /// The next row before `upto` that does not stay.
    fn next_before(&mut self, upto: u64) -> Result<Option<(u64, Instead)>> {
        let mut position = self.deleted.peek().copied().unwrap_or(u64::MAX);
        let mut from = None;
        for (n, changes) in self.changes.iter_mut().enumerate() {
            if let Some(at) = changes.peek()?
                && at <= position
            {
                (position, from) = (at, Some(n));
            }
        }
        if position >= upto {
            return Ok(None);
        }
        if self.deleted.peek() == Some(&position) {
            self.deleted.next();
        }
        let change = from.and_then(|n| self.changes[n].take().map(|change| (n, change)));
        Ok(Some(match change {
            Some((n, Change::Replace(row))) => (position, Some((n, row))),
            _ => (position, None),
        }))
    }
}

/// Where a batch is among those gathered, if it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    epoch: u64,
    index: usize,
}

/// Rows of one batch, one after the other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    batch: usize,
    start: usize,
    end: usize,
}

/// What will be handed on next.
struct Gathering {
    /// Counts what was handed on, from 1.
    epoch: u64,
    batches: Vec<RecordBatch>,
    pieces: Vec<Piece>,
}

impl Gathering {
    fn add(&mut self, place: &mut Place, batch: &RecordBatch, start: usize, end: usize) {
        if place.epoch != self.epoch {
            *place = Place { epoch: self.epoch, index: self.batches.len() };
            self.batches.push(batch.clone());
        }
        self.pieces.push(Piece { batch: place.index, start, end });
    }

    /// Puts the pieces together and hands them on.
    fn flush(&mut self, shape: &Shape, sink: &mut impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.epoch += 1;
        let (batches, pieces) = (std::mem::take(&mut self.batches), std::mem::take(&mut self.pieces));
        if let [one] = pieces.as_slice() {
            return sink(&batches[one.batch].slice(one.start, one.end - one.start));
        }
        let rows: usize = pieces.iter().map(|piece| piece.end - piece.start).sum();
        if rows < pieces.len() * SHORT {
            return sink(&Self::row_by_row(&batches, &pieces, rows)?);
        }
        let columns: Vec<ArrayRef> = (0..shape.types.len())
            .map(|at| -> Result<ArrayRef> {
                let data: Vec<_> = batches.iter().map(|batch| batch.column(at).to_data()).collect();
                let mut built = MutableArrayData::new(data.iter().collect(), false, rows);
                for piece in &pieces {
                    built.try_extend(piece.batch, piece.start, piece.end).map_err(arrow("put merged rows together"))?;
                }
                Ok(make_array(built.freeze()))
            })
            .collect::<Result<_>>()?;
        sink(&RecordBatch::try_new(shape.schema.clone(), columns).map_err(arrow("put merged rows together"))?)
    }

    /// Puts many short pieces together.
    fn row_by_row(batches: &[RecordBatch], pieces: &[Piece], rows: usize) -> Result<RecordBatch> {
        let mut places = Vec::with_capacity(rows);
        for piece in pieces {
            places.extend((piece.start..piece.end).map(|row| (piece.batch, row)));
        }
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        interleave_record_batch(&batches, &places).map_err(arrow("put merged rows together"))
    }
}

/// Compares a row of one batch with a row of another.
type Compare = Vec<DynComparator>;

fn comparators(left: &RecordBatch, right: &RecordBatch, order: &[usize]) -> Result<Compare> {
    let options = SortOptions { descending: false, nulls_first: true };
    let one = |at: &usize| make_comparator(left.column(*at), right.column(*at), options);
    order.iter().map(one).collect::<Result<_, _>>().map_err(arrow("compare rows"))
}

fn compare(with: &Compare, left: usize, right: usize) -> Ordering {
    with.iter().map(|compare| compare(left, right)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Gives the rows of all streams to `sink`, in the order of the table.
pub(crate) fn splice(
    mut streams: Vec<Stream<'_>>,
    shape: &Shape,
    mut sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let count = streams.len();
    let mut compares: Vec<Option<Compare>> = Vec::new();
    compares.resize_with(count * count, || None);
    let mut gathering = Gathering { epoch: 1, batches: Vec::new(), pieces: Vec::new() };
    loop {
        for n in 0..count {
            if streams[n].done || streams[n].at < streams[n].rows() {
                continue;
            }
            // So that no more than a batch of each stream is held.
            gathering.flush(shape, &mut sink)?;
            streams[n].advance()?;
            for other in 0..count {
                compares[n * count + other] = None;
                compares[other * count + n] = None;
            }
        }
        let active: Vec<usize> = (0..count).filter(|n| streams[*n].at < streams[*n].rows()).collect();
        let Some(mut least) = active.first().copied() else { break };
        for n in active.iter().skip(1) {
            if order(&streams, &mut compares, (*n, streams[*n].at), (least, streams[least].at), shape)?.is_lt() {
                least = *n;
            }
        }
        let mut limit: Option<usize> = None;
        for n in active.into_iter().filter(|n| *n != least) {
            let closer = match limit {
                None => true,
                Some(limit) => {
                    order(&streams, &mut compares, (n, streams[n].at), (limit, streams[limit].at), shape)?.is_lt()
                }
            };
            if closer {
                limit = Some(n);
            }
        }
        let start = streams[least].at;
        let end = match limit {
            None => streams[least].rows(),
            Some(limit) => {
                let head = streams[limit].at;
                let rows = streams[least].rows();
                // Most rows of a large stream come before the next row of a small one: look far first.
                let (mut inside, mut step) = (start, 1);
                while inside + step < rows
                    && order(&streams, &mut compares, (least, inside + step), (limit, head), shape)?.is_le()
                {
                    inside += step;
                    step *= 2;
                }
                let mut outside = (inside + step).min(rows);
                while inside + 1 < outside {
                    let middle = inside + (outside - inside) / 2;
                    if order(&streams, &mut compares, (least, middle), (limit, head), shape)?.is_le() {
                        inside = middle;
                    } else {
                        outside = middle;
                    }
                }
                outside
            }
        };
        take(&mut streams[least], start, end, &mut gathering)?;
    }
    gathering.flush(shape, &mut sink)
}

fn order(
    streams: &[Stream<'_>],
    compares: &mut [Option<Compare>],
    left: (usize, usize),
    right: (usize, usize),
    shape: &Shape,
) -> Result<Ordering> {
    let place = &mut compares[left.0 * streams.len() + right.0];
    if place.is_none()
        && let (Some(one), Some(other)) = (&streams[left.0].batch, &streams[right.0].batch)
    {
        *place = Some(comparators(one, other, &shape.order)?);
    }
    Ok(place.as_ref().map_or(Ordering::Equal, |with| compare(with, left.1, right.1)))
}

/// Takes rows of a stream, as its changes want them.
fn take(stream: &mut Stream<'_>, start: usize, end: usize, gathering: &mut Gathering) -> Result<()> {
    let mut from = start;
    let upto = stream.first + end as u64;
    while let Some((position, instead)) = stream.next_before(upto)? {
        // Changes are ascending, and none lies before what was taken already.
        let at = usize::try_from(position.saturating_sub(stream.first)).unwrap_or(end).clamp(from, end);
        if let Some(batch) = stream.batch.as_ref().filter(|_| at > from) {
            gathering.add(&mut stream.place, batch, from, at);
        }
        if let Some((n, row)) = instead {
            let (rows, place) = stream.changes[n].rows();
            gathering.add(place, rows, row, row + 1);
        }
        from = (at + 1).min(end);
    }
    if let Some(batch) = stream.batch.as_ref().filter(|_| end > from) {
        gathering.add(&mut stream.place, batch, from, end);
    }
    stream.at = end;
    Ok(())
}
