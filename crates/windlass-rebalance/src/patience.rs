//! How often the process that runs a task may die before the task is given up.

use windlass_model::policy::Policy;

/// Deaths of the process in a row, without a checkpoint or a new change in between, before a task is taken for the
/// cause.
///
/// All tasks under way die with their process, whichever is to blame. Under a rate limit the chunks share the rate, so
/// that it can take many short lives until one of them has copied all its ids and writes that down. Every task of this kind can be repeated from where it stands, so trying again costs little; and a task that
/// really kills its process is still given up in the end.
const DEATHS: u32 = 100;

/// The usual policy of the tasks of this kind.
pub(crate) fn patient() -> Policy {
    Policy { poison_after: DEATHS, ..Policy::default() }
}
