//! The remote of the Go build cache: outputs of builds in object storage, shared by all builders.
//!
//! [`Remote`] is what a program that serves `go` holds for one run. It answers lookups from an index read once, brings
//! outputs in large ranges before they are asked for, and uploads what `go` puts behind its back, from a queue on disk
//! that survives the process. Nothing the remote does or says can fail a build, and no byte of it enters the local
//! store unhashed.
//!
//! How it is stored is written down in `docs/format-gocache-remote.md`. No write depends on a condition: objects have
//! names of their own and never change, and what they mean follows from a listing.
//!
//! # Reading
//!
//! The first lookup opens the network: index and manifests are read at the same time. A manifest says what a run of
//! the same project used, in order; what the local store lacks of it is fetched in ranges of packs, several at once.
//! A lookup waits for the output it needs and puts its range before all others. What a complete index does not know is
//! absent without a request.
//!
//! # Writing
//!
//! An offered entry is in a journal before [`Remote::offer`] returns. An uploader packs the outputs that the remote
//! lacks, then publishes a segment of the index, then marks the journal: in this order, so that a kill between any two
//! of them costs work and no entry.
//!
//! # Failing
//!
//! Each request has a deadline, each place a breaker, each cause one warning.

mod breaker;
mod cause;
mod check;
mod config;
mod fetch;
mod frame;
mod garbage;
mod id;
mod index;
mod journal;
mod local;
mod merge;
mod name;
mod outcome;
mod pack;
mod place;
mod plan;
mod queue;
mod remote;
mod seed;
mod source;
mod table;
mod upkeep;
mod upload;

pub use cause::Cause;
pub use check::{Check, doctor};
pub use config::{
    Layout, QueueLimits, RemoteConfig, SEED_VARIABLES, SeedError, SeedVariables, TemplateError, TemplateValues,
};
pub use frame::{FormatError, decode_extent};
pub use garbage::{GcPlan, GcPolicy, GcStep, Holdings, PackFile, SegmentFile, plan_gc};
pub use id::{ActionId, Entry, OutputId};
#[doc(hidden)]
pub use journal::replay_journal;
pub use journal::waiting;
pub use local::{Incoming, LocalOutputs};
pub use name::Name;
pub use outcome::{Closed, Counters, Lookup, Prefetched};
#[doc(hidden)]
pub use place::Steps;
pub use remote::Remote;
pub use seed::{action_name, data_name, decode_action, encode_action};
#[doc(hidden)]
pub use table::seal;
pub use table::{Location, Record, Table, TableDraft, TableKind};
pub use upkeep::{Flaw, Inspection, RemotePlace, StepDone, UpkeepError, Verification};
