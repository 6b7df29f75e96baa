//! Executes the chunks of a plan: copies, checks and removes vectors without ever losing one.

mod id_list;
mod input;

pub use id_list::{IdListError, IdListWriter, ListedId, read_id_list};
pub use input::{
    AgentAddress, BackupRef, ChunkKind, CommitMode, Durability, IdListRef, MoveInput, MoveSettings, Verify,
};
