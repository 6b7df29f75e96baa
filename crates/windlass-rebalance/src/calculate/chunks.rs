//! Sorts the planned ids by what is done with them and hands them out in chunks.
//!
//! Ids come in the order of the merge and belong to many *flows* (a kind of step, a source, a destination). Each flow
//! has a buffer; when all buffers together reach their bound they are written to the scratch space as one piece each.
//! At the end each flow's pieces are read back in turn, so the ids of a flow stay in ascending order and only one
//! piece is in memory.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::error::{BoxError, CalculateError};
use super::inputs::Agent;
use super::parts::{Step, StepKind};

/// What is done with the ids of a chunk. Also the order of the phases: all chunks of a kind come before those of the
/// next, and a chunk may begin only when every chunk of the kinds before its own is finished. A trim relies on that:
/// the copies it leaves are the newest only once they were refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkKind {
    /// Brings the old copy on the destination up to date with the newest vector, which the source has.
    Refresh,
    /// Removes the copy on the source; R others hold the id. There is no destination.
    Trim,
    /// Puts one more copy on the destination, read from the source, which keeps its own.
    Fill,
    /// Puts a copy on the destination, with the vector taken from the backup of the source, a lost agent.
    Restore,
    /// Puts a copy on the destination and removes that of the source.
    Move,
}

impl ChunkKind {
    /// The word used for it in texts and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Trim => "trim",
            Self::Fill => "fill",
            Self::Restore => "restore",
            Self::Move => "move",
        }
    }
}

impl From<StepKind> for ChunkKind {
    fn from(kind: StepKind) -> Self {
        match kind {
            StepKind::Refresh => Self::Refresh,
            StepKind::Trim => Self::Trim,
            StepKind::Fill => Self::Fill,
            StepKind::Restore => Self::Restore,
            StepKind::Move => Self::Move,
        }
    }
}

/// One chunk of the plan: the unit of checkpoint and of commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Position in the plan, from 0.
    pub number: u64,
    /// What is done.
    pub kind: ChunkKind,
    /// The agent read from, or the one that loses its copy.
    pub source: String,
    /// The agent written to; `None` for a trim.
    pub destination: Option<String>,
    /// Number of ids.
    pub ids: u64,
    /// Where the sink put the ids, such as a digest.
    pub list: Option<String>,
}

/// One id of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedId<'i> {
    /// The id.
    pub id: &'i [u8],
    /// The newest time the plan knows for it, Unix nanoseconds.
    pub time: i64,
    /// Object number on the source, for taking the vector out of its backup.
    pub number: u32,
}

/// Why an id is reported and not acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// Marked as having different vectors under the same time.
    Conflicting,
    /// Empty or not UTF-8, so that no request can name it.
    NotMovable,
    /// An agent found its copy broken.
    Invalid,
    /// Lacks a copy, or stays on a drained agent, because no agent may take one more.
    Unplaceable,
    /// On a lost agent only, and not restored.
    Unseen,
}

/// Where the planner writes the ids. For each chunk, in ascending numbers: [`ChunkSink::begin`], as many
/// [`ChunkSink::id`] as the chunk has ids, ascending bytewise, then [`ChunkSink::finish`]. Reported ids come before
/// the first chunk. After an error the planner makes no further call.
pub trait ChunkSink {
    /// Begins a chunk.
    ///
    /// # Errors
    /// Whatever kept it from being stored.
    fn begin(&mut self, chunk: &Chunk) -> Result<(), BoxError>;

    /// Adds an id to the chunk.
    ///
    /// # Errors
    /// Whatever kept it from being stored.
    fn id(&mut self, id: PlannedId<'_>) -> Result<(), BoxError>;

    /// Ends the chunk and says where its ids are, for [`Chunk::list`].
    ///
    /// # Errors
    /// Whatever kept it from being stored.
    fn finish(&mut self) -> Result<Option<String>, BoxError>;

    /// Takes an id that is reported; of each kind at most `max_listed`, ascending bytewise.
    ///
    /// # Errors
    /// Whatever kept it from being stored.
    fn reported(&mut self, why: Reported, id: &[u8]) -> Result<(), BoxError>;
}

/// Scratch space: bytes are appended and read back once. Used only when the planned ids do not fit into the memory
/// allowed; about the length of an id plus 16 bytes for each planned step.
pub trait Scratch {
    /// Appends the bytes and returns the offset at which they lie.
    ///
    /// # Errors
    /// Whatever kept them from being written.
    fn append(&mut self, bytes: &[u8]) -> Result<u64, BoxError>;

    /// Fills `into` with the bytes from `offset` on, all of which were appended.
    ///
    /// # Errors
    /// Whatever kept them from being read.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), BoxError>;
}

/// Scratch space in memory, for small plans and tests.
#[derive(Debug, Default)]
pub struct MemoryScratch(Vec<u8>);

impl Scratch for MemoryScratch {
    fn append(&mut self, bytes: &[u8]) -> Result<u64, BoxError> {
        let offset = self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        Ok(offset)
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), BoxError> {
        let start = usize::try_from(offset)?;
        let bytes = self.0.get(start..start + into.len()).ok_or("the scratch space is shorter than what was read")?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// Scratch space in an empty file opened for reading and writing. The file is the caller's to remove.
#[derive(Debug)]
pub struct FileScratch<F> {
    file: F,
    end: u64,
}

impl<F: Read + Write + Seek> FileScratch<F> {
    /// Uses a file of which the contents do not matter.
    pub fn new(file: F) -> Self {
        Self { file, end: 0 }
    }
}

impl<F: Read + Write + Seek> Scratch for FileScratch<F> {
    fn append(&mut self, bytes: &[u8]) -> Result<u64, BoxError> {
        let offset = self.end;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        self.end += bytes.len() as u64;
        Ok(offset)
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), BoxError> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(into)?;
        Ok(())
    }
}

struct Flow {
    step: Step,
    planned: u64,
    seen: u64,
    buffer: Vec<u8>,
    pieces: Vec<(u64, usize)>,
}

/// Collects the ids of all flows.
pub(crate) struct Flows<'s> {
    flows: Vec<Flow>,
    index: BTreeMap<Step, usize>,
    scratch: &'s mut dyn Scratch,
    buffered: usize,
    most_bytes: usize,
}

impl<'s> Flows<'s> {
    /// Flows with their planned numbers of ids. About twice `most_bytes` are held while ids come in.
    pub(crate) fn new(planned: &BTreeMap<Step, u64>, scratch: &'s mut dyn Scratch, most_bytes: usize) -> Self {
        let flows = planned
            .iter()
            .map(|(&step, &planned)| Flow { step, planned, seen: 0, buffer: Vec::new(), pieces: Vec::new() })
            .collect();
        let index = planned.keys().enumerate().map(|(at, &step)| (step, at)).collect();
        Self { flows, index, scratch, buffered: 0, most_bytes }
    }

    /// The flow of a step that was planned.
    pub(crate) fn of(&self, step: Step) -> Option<usize> {
        self.index.get(&step).copied()
    }

    pub(crate) fn push(&mut self, flow: usize, id: PlannedId<'_>, budget: &mut Budget) -> Result<(), CalculateError> {
        let flow = &mut self.flows[flow];
        flow.seen += 1;
        let before = flow.buffer.capacity();
        let length = u32::try_from(id.id.len()).map_err(|source| CalculateError::Scratch { source: source.into() })?;
        flow.buffer.extend_from_slice(&length.to_le_bytes());
        flow.buffer.extend_from_slice(&id.time.to_le_bytes());
        flow.buffer.extend_from_slice(&id.number.to_le_bytes());
        flow.buffer.extend_from_slice(id.id);
        budget.charge(flow.buffer.capacity() - before);
        self.buffered += RECORD + id.id.len();
        if self.buffered >= self.most_bytes {
            self.spill(budget)?;
        }
        Ok(())
    }

    fn spill(&mut self, budget: &mut Budget) -> Result<(), CalculateError> {
        for flow in self.flows.iter_mut().filter(|flow| !flow.buffer.is_empty()) {
            let offset = self.scratch.append(&flow.buffer).map_err(|source| CalculateError::Scratch { source })?;
            flow.pieces.push((offset, flow.buffer.len()));
            budget.release(flow.buffer.capacity());
            budget.charge(size_of::<(u64, usize)>());
            flow.buffer = Vec::new();
        }
        self.buffered = 0;
        Ok(())
    }

    /// Writes all chunks and returns their list. Fails when a flow has not exactly the ids planned.
    pub(crate) fn write(
        mut self,
        agents: &[Agent],
        chunk: u32,
        sink: &mut dyn ChunkSink,
        budget: &mut Budget,
    ) -> Result<Vec<Chunk>, CalculateError> {
        if let Some(flow) = self.flows.iter().find(|flow| flow.seen != flow.planned) {
            let Flow { step, planned, seen, .. } = flow;
            let kind = ChunkKind::from(step.kind).name();
            let source = &agents[usize::from(step.from)].input.name;
            let detail = format!("{planned} ids were to {kind} from agent {source}, but {seen} were found");
            return Err(CalculateError::ListsChanged { detail });
        }
        let mut writer = Writer { chunks: Vec::new(), open: None, left: 0, agents, chunk: u64::from(chunk), sink };
        for flow in std::mem::take(&mut self.flows) {
            writer.left = flow.planned;
            for &(offset, length) in &flow.pieces {
                let mut piece = vec![0; length];
                budget.charge(length);
                self.scratch.read(offset, &mut piece).map_err(|source| CalculateError::Scratch { source })?;
                writer.write(flow.step, &piece)?;
                budget.release(length);
            }
            writer.write(flow.step, &flow.buffer)?;
            budget.release(flow.buffer.capacity());
        }
        Ok(writer.chunks)
    }
}

/// Bytes of a record besides the id: its length, time and number.
const RECORD: usize = 4 + 8 + 4;

struct Writer<'w> {
    chunks: Vec<Chunk>,
    /// Ids still to come for the chunk that is open.
    open: Option<u64>,
    /// Ids still to come for the flow.
    left: u64,
    agents: &'w [Agent],
    chunk: u64,
    sink: &'w mut dyn ChunkSink,
}

impl Writer<'_> {
    fn write(&mut self, step: Step, mut records: &[u8]) -> Result<(), CalculateError> {
        while let Some((head, rest)) = records.split_first_chunk::<RECORD>() {
            let [a, b, c, d, time @ .., w, x, y, z] = *head;
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let (Some(id), Some(after)) = (rest.get(..length), rest.get(length..)) else {
                let source = "a record read back is not the one written".into();
                return Err(CalculateError::Scratch { source });
            };
            let planned = PlannedId { id, time: i64::from_le_bytes(time), number: u32::from_le_bytes([w, x, y, z]) };
            self.id(step, planned)?;
            records = after;
        }
        Ok(())
    }

    fn id(&mut self, step: Step, id: PlannedId<'_>) -> Result<(), CalculateError> {
        let number = self.chunks.len() as u64;
        let failed = |source| CalculateError::Sink { what: format!("chunk {number}"), source };
        let name = |agent: u16| self.agents[usize::from(agent)].input.name.clone();
        let open = match self.open {
            Some(open) => open,
            None => {
                let ids = self.left.min(self.chunk);
                let kind = ChunkKind::from(step.kind);
                let destination = (kind != ChunkKind::Trim).then(|| name(step.to));
                let chunk = Chunk { number, kind, source: name(step.from), destination, ids, list: None };
                self.sink.begin(&chunk).map_err(failed)?;
                self.chunks.push(chunk);
                self.left -= ids;
                ids
            }
        };
        let failed = |source| CalculateError::Sink { what: "the ids of a chunk".to_owned(), source };
        self.sink.id(id).map_err(failed)?;
        self.open = (open > 1).then(|| open - 1);
        if self.open.is_none() {
            let list = self.sink.finish().map_err(failed)?;
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.list = list;
            }
        }
        Ok(())
    }
}
