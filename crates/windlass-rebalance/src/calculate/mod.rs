//! Works out which copies have to go where: the planner of a rebalance.
//!
//! Input is, for every agent, a list of its copies sorted by id; output is a [`PlanDocument`] and, chunk by chunk, the
//! ids it talks about. The planner does no I/O of its own, is not async, holds no id list, and gives the same plan for
//! the same input.
//!
//! # How it works
//!
//! 1. **Count.** The lists are merged (`merge`) and each id is put into a *class*: which agents hold the newest copy,
//!    which an older one, whether it is in hold-off (`classes`). Only the number of ids per class is kept.
//! 2. **Solve.** A pure function of those numbers (`repair`, `moves`, with `targets` for how much is wanted where)
//!    cuts each class into *parts*: so many ids undergo these steps, so many those (`parts`, `solution`).
//! 3. **Select.** Of a class, the ids with the smallest hashes of (id, seed) are the first part, the next ones the
//!    second, and so on. The lists are merged again to find the hash at each border exactly, keeping only the hashes
//!    near it (`select`).
//! 4. **Write.** The lists are merged a last time; each id's part is known from its class and hash, and the id goes
//!    to the chunks of its steps (`chunks`).
//!
//! # What is decided how
//!
//! * Steps are planned in the order trim, refresh, fill (or restore), move, each on the counts that the ones before
//!   lead to, and executed in the order of [`ChunkKind`].
//! * Trims and fills pour copies as if one by one from the fullest and to the emptiest agent, by copies per weight.
//!   A drained holder counts as the fullest of all. Among holders, one in a crowded zone goes first; among takers,
//!   one in a zone without a copy.
//! * Moves go from the largest count/target ratio to the smallest, a quarter of what is missing at a time. Overfull
//!   agents come down to their targets; after that, underfull agents rise to theirs. Where the agents below target
//!   cannot take what an overfull one has, others take it as long as they stay inside the band. There are never more
//!   moves than the sum of what the agents have above their targets. In a plan that evens out no id moves twice, and
//!   an id never moves to where one of its zones gets more crowded.
//! * An agent of which ids may be taken in several classes gives from each in proportion to its size, first from
//!   those that no other overfull agent needs. So hashes decide among ids with the same holders.
//! * Drained agents are emptied one after the other; an id on two of them moves twice. Ids in hold-off stay: a
//!   caller who wants a drain to be complete gives it no hold-off list.
//! * A recovery fills and restores ids of lost agents. It trims, refreshes and moves nothing.
//! * `max_moves` and `max_bytes` bound transfers of every kind together, repairs first.
//!
//! # Memory
//!
//! [`PlanRequest::memory`] is dealt out in sixteenths: 4 to the classes, 4 to the parts, 3 to the hashes near the
//! borders, up to 6 to the ids not yet in a chunk (the hashes are gone by then). Three agents have a few dozen
//! classes, a hundred agents with R = 3 have 166 000, at 40 to 70 bytes each. Ids of classes beyond the limit are
//! counted, left alone, and reported as [`IdCounts::scattered`]. The lists themselves (one id and one read buffer each)
//! come on top. [`Planned::peak_bytes`] says what was really held.

mod budget;
mod chunks;
mod classes;
mod document;
mod error;
mod inputs;
mod merge;
mod moves;
mod parts;
mod plan;
mod repair;
mod select;
mod solution;
mod targets;
#[cfg(test)]
mod tests;

pub use chunks::{Chunk, ChunkKind, ChunkSink, FileScratch, MemoryScratch, PlannedId, Reported, Scratch};
pub use document::{AgentPlan, FORMAT, Flow, IdCounts, PlanDocument, Reason, ReportCounts, Shortfall, Totals};
pub use error::{BoxError, CalculateError};
pub use inputs::{
    AgentIndex, AgentInput, AgentState, CopyEntry, CopyLists, DEFAULT_MEMORY, ListOrigin, Mark, Mode, PlanRequest,
    RestoreUnseen, SortedCopies, SortedIds,
};
pub use plan::{Planned, Progress, Reading, Watch, plan};
pub use targets::{Fullness, Trigger, copies_to_move, trigger};
