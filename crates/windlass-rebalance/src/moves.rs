//! Executes the chunks of a plan: copies, checks and removes vectors without ever losing one.
//!
//! A chunk goes through phases, each finished for all its ids before the next begins and written down before
//! anything rests on it:
//!
//! ```text
//!   look -> copy -> verify -> glance -> commit -> recheck -> remove -> audit -> settle
//!            ^ |                |                    |          |        |
//!            | +-- rescue       +-----> withdraw <---+----------+        +-> put back
//!            +-------------- reread <----------------+
//! ```
//!
//! * `entry` is what is known about one id, `decide` are the rules, as pure functions over it.
//! * `steps` asks the agents, `commit` brings one to its durability, `chunk` leads through the phases.
//! * `notes` and the journal are what outlives an attempt on disk; checkpoint and ledger name them.
//! * `undo` runs the same phases in the other direction.
//!
//! **Invariants.** Nothing is changed on any agent before the look at both is durable. An insert carries the time of
//! a version that is noted durably before it. A source's copy is removed only right after both agents were seen with
//! that version, and after the destination's has reached the durability asked for. An attempt that was told to stop
//! begins no further change.

mod access;
mod chunk;
mod commit;
mod decide;
mod entry;
mod id_list;
mod input;
mod notes;
mod outcomes;
mod share;
mod steps;
mod task;
mod undo;

pub use access::{BackedUpId, BackupAccess, BackupState, NoBackups, WantedVector};
pub use entry::{Outcome, Why};
pub use id_list::{IdListError, IdListWriter, ListedId, read_id_list};
pub use input::{
    AgentAddress, BackupRef, ChunkKind, CommitMode, Durability, IdListRef, MoveInput, MoveSettings, Verify,
};
pub use outcomes::{ListedOutcome, MoveOutput, shown};
pub use share::MoveShares;
pub use task::{CLEANUP_TASK, CleanupInput, MOVE_TASK, RebalanceCleanup, RebalanceMove, extra_copies};

#[cfg(test)]
mod tests;
