//! Why a plan could not be made.

use std::error::Error as StdError;

/// What a list, a scratch space or a sink says went wrong; the planner adds what it was doing and for which agent.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// A plan was refused or could not be calculated. Nothing has been moved, since planning changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalculateError {
    /// The request itself makes no sense; correct it and plan again. All faults found are listed, not only the first.
    #[error("the request for a plan cannot be used: {}", .faults.join("; "))]
    Request {
        /// One sentence per fault.
        faults: Vec<String>,
    },
    /// More copies are wanted than there are agents to put them on.
    #[error(
        "index_replica is {replicas}, but only {agents} agents remain to hold copies, so that {replicas} copies of an \
         id cannot be on different agents; add agents, name fewer agents, or lower index_replica"
    )]
    TooFewAgents {
        /// R, the wanted number of copies of an id.
        replicas: u32,
        /// Agents that are neither drained nor lost.
        agents: usize,
    },
    /// The best plan takes from, puts on, or removes from an agent that does not answer.
    #[error(
        "the plan needs agent {agent}, which does not answer ({copies} copies would be read from, put on or removed \
         from it); bring it back, or recover it as a lost agent first"
    )]
    NeedsUnreachable {
        /// The agent's name.
        agent: String,
        /// How many steps of the plan touch it.
        copies: u64,
    },
    /// The list of an agent's copies could not be read.
    #[error("read the list of copies of agent {agent}")]
    List {
        /// The agent's name.
        agent: String,
        /// What the list said.
        source: BoxError,
    },
    /// A list is not strictly ascending by id, so merging it would count copies wrongly.
    #[error(
        "the list of copies of agent {agent} is not in strictly ascending order of ids at entry {entry}; it is damaged \
         or names an id twice, make it again from the backup"
    )]
    NotSorted {
        /// The agent's name.
        agent: String,
        /// 1-based number of the entry that is out of order.
        entry: u64,
    },
    /// The list of ids in hold-off, or of conflicting ids, could not be read.
    #[error("read the list of {which} ids")]
    Marks {
        /// Which list.
        which: &'static str,
        /// What the list said.
        source: BoxError,
    },
    /// The list of ids in hold-off, or of conflicting ids, is not ascending.
    #[error("the list of {which} ids is not in ascending order at entry {entry}; make it again")]
    MarksNotSorted {
        /// Which list.
        which: &'static str,
        /// 1-based number of the entry that is out of order.
        entry: u64,
    },
    /// The scratch space failed, most likely because the disk is full.
    #[error("keep the planned ids in the scratch space")]
    Scratch {
        /// What the scratch space said.
        source: BoxError,
    },
    /// The place the chunks' id lists are written to failed.
    #[error("store {what} of the plan")]
    Sink {
        /// What was being stored.
        what: String,
        /// What the sink said.
        source: BoxError,
    },
    /// The lists gave other ids when they were read again.
    #[error(
        "the lists of copies changed while the plan was made ({detail}); nothing else may write to them, plan again"
    )]
    ListsChanged {
        /// What no longer fits.
        detail: String,
    },
    /// The caller asked to stop.
    #[error("planning was cancelled")]
    Cancelled,
}
