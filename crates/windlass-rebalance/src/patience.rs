//! How often the process that runs a task may die before the task is given up.

use windlass_model::policy::Policy;

/// Deaths of the process in a row, without a checkpoint or a new change in between, before a task is taken for the
/// cause.
///
/// All tasks under way die with their process, whichever is to blame: with many small chunks waiting for their turn
/// under a rate limit, a few restarts of a machine catch the same chunks before they get anywhere. Every task of this
/// kind can be repeated from where it stands, so trying again costs little; a task that really kills its process
/// still ends the job before long.
const DEATHS: u32 = 20;

/// The usual policy of the tasks of this kind.
pub(crate) fn patient() -> Policy {
    Policy { poison_after: DEATHS, ..Policy::default() }
}
