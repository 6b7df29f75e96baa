//! Ids, states, plans and progress of Windlass: values and rules, no input or output, nothing async.
//!
//! * [`task`] and [`job`] hold the two state machines. Each has one `apply`; the live engine and recovery both
//!   go through it, and nothing else changes a state.
//! * [`plan`] is the DAG of tasks and everything that is checked before one is stored.
//! * [`reference`](mod@reference) resolves what a task's input takes from outputs of its dependencies.
//! * [`effect`] is the ledger of changes to the outside world.
//! * [`policy`] decides what follows a failure; [`failure`] is what failures look like to people and to code.
//! * [`schedule`] says when a standing job is due.
//! * [`quantity`] reads sizes and lengths of time as people write them.
//! * [`progress`] estimates the time left without pretending to know more than it does.

pub mod effect;
pub mod failure;
pub mod id;
pub mod job;
pub mod log;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod quantity;
pub mod reference;
pub mod schedule;
pub mod task;

pub use failure::{ErrorClass, Failure};
pub use id::{Digest, Epoch, JobId, TaskId, WorkerId};
