//! Streams of sorted rows made one, with rows replaced and removed on the way. Holds one batch of each stream.

use std::cmp::Ordering;
use std::iter::Peekable;

use arrow_array::{ArrayRef, RecordBatch, make_array};
use arrow_data::transform::MutableArrayData;
use arrow_ord::ord::{DynComparator, make_comparator};
use arrow_schema::SortOptions;

use crate::definition::Shape;
use crate::delta::Deleted;
use crate::edits::Change;
use crate::error::{Result, arrow};

/// What becomes of the rows of a stream: changes, and rows that do not count anyway, by position.
struct Changes<'a> {
    edits: &'a [(u64, Change)],
    deleted: Peekable<Box<dyn Iterator<Item = u64> + 'a>>,
}

impl Changes<'_> {
    /// The next change before `upto`.
    fn next_before(&mut self, upto: u64) -> Option<(u64, Change)> {
        let edit = self.edits.first().copied();
        let deleted = self.deleted.peek().copied();
        let position = edit.map_or(u64::MAX, |(position, _)| position).min(deleted.unwrap_or(u64::MAX));
        if position >= upto {
            return None;
        }
        if deleted == Some(position) {
            self.deleted.next();
        }
        match edit {
            Some((at, change)) if at == position => {
                self.edits = &self.edits[1..];
                Some((at, change))
            }
            _ => Some((position, Change::Remove)),
        }
    }
}

/// Sorted rows, a batch at a time.
pub(crate) struct Stream<'a> {
    rest: Box<dyn Iterator<Item = Result<RecordBatch>> + 'a>,
    changes: Changes<'a>,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    at: usize,
    /// The position of the batch's first row in the stream.
    first: u64,
    done: bool,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(
        rest: impl Iterator<Item = Result<RecordBatch>> + 'a,
        edits: &'a [(u64, Change)],
        deleted: Option<&'a Deleted>,
    ) -> Self {
        let deleted: Box<dyn Iterator<Item = u64> + 'a> = match deleted {
            Some(deleted) => Box::new(deleted.iter()),
            None => Box::new(std::iter::empty()),
        };
        let changes = Changes { edits, deleted: deleted.peekable() };
        Self { rest: Box::new(rest), changes, batch: None, at: 0, first: 0, done: false }
    }

    fn rows(&self) -> usize {
        self.batch.as_ref().map_or(0, RecordBatch::num_rows)
    }

    /// Goes to the next batch that has rows, if there is one.
    fn advance(&mut self) -> Result<()> {
        loop {
            self.first += self.rows() as u64;
            self.at = 0;
            self.batch = self.rest.next().transpose()?;
            match &self.batch {
                None => self.done = true,
                Some(batch) if batch.num_rows() == 0 => continue,
                Some(_) => {}
            }
            return Ok(());
        }
    }
}

/// Rows of one source, one after the other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    source: usize,
    start: usize,
    end: usize,
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
    replacements: &RecordBatch,
    shape: &Shape,
    mut sink: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let count = streams.len();
    let mut compares: Vec<Option<Compare>> = Vec::new();
    compares.resize_with(count * count, || None);
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        for n in 0..count {
            if streams[n].done || streams[n].at < streams[n].rows() {
                continue;
            }
            // What was taken of the batch refers to it.
            flush(&streams, replacements, shape, &mut pieces, &mut sink)?;
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
        take(&mut streams[least], least, start, end, count, &mut pieces);
    }
    flush(&streams, replacements, shape, &mut pieces, &mut sink)
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
fn take(stream: &mut Stream<'_>, n: usize, start: usize, end: usize, replacements: usize, pieces: &mut Vec<Piece>) {
    let mut from = start;
    let upto = stream.first + end as u64;
    while let Some((position, change)) = stream.changes.next_before(upto) {
        // Changes are ascending, and none lies before what was taken already.
        let at = usize::try_from(position.saturating_sub(stream.first)).unwrap_or(end).clamp(from, end);
        if at > from {
            pieces.push(Piece { source: n, start: from, end: at });
        }
        if let Change::Replace(row) = change {
            pieces.push(Piece { source: replacements, start: row, end: row + 1 });
        }
        from = (at + 1).min(end);
    }
    if end > from {
        pieces.push(Piece { source: n, start: from, end });
    }
    stream.at = end;
}

/// Puts the pieces together and hands them on.
fn flush(
    streams: &[Stream<'_>],
    replacements: &RecordBatch,
    shape: &Shape,
    pieces: &mut Vec<Piece>,
    sink: &mut impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    let source = |n: usize| if n == streams.len() { Some(replacements) } else { streams[n].batch.as_ref() };
    if let [one] = pieces.as_slice()
        && let Some(batch) = source(one.source)
    {
        let part = batch.slice(one.start, one.end - one.start);
        pieces.clear();
        return sink(&part);
    }
    // Only the sources that the pieces come from, numbered anew.
    let mut used: Vec<usize> = pieces.iter().map(|piece| piece.source).collect();
    used.sort_unstable();
    used.dedup();
    let batches: Vec<&RecordBatch> = used.iter().filter_map(|n| source(*n)).collect();
    let rows = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let columns: Vec<ArrayRef> = (0..shape.types.len())
        .map(|at| -> Result<ArrayRef> {
            let data: Vec<_> = batches.iter().map(|batch| batch.column(at).to_data()).collect();
            let mut built = MutableArrayData::new(data.iter().collect(), false, rows);
            for piece in pieces.iter() {
                if let Ok(n) = used.binary_search(&piece.source) {
                    built.try_extend(n, piece.start, piece.end).map_err(arrow("put merged rows together"))?;
                }
            }
            Ok(make_array(built.freeze()))
        })
        .collect::<Result<_>>()?;
    pieces.clear();
    sink(&RecordBatch::try_new(shape.schema.clone(), columns).map_err(arrow("put merged rows together"))?)
}
