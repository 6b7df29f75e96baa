//! Which file belongs on which server.
//!
//! A load balancer writes which files are asked for; nodes answer what they hold and how full they are; the origin
//! has everything. Out of one snapshot of all that, a [`World`], the pure function [`decide()`] says which files are
//! copied where and which are deleted, and why.
//!
//! | module | |
//! |---|---|
//! | [`hours`] | hours of the day, in which something may be done or not |
//! | [`name`] | names are bytes; each is kept once and known by a number |
//! | [`input`] | readers of everything that comes from outside: bad lines are counted and shown, never fatal |
//! | [`world`] | the snapshot: catalogue, hits, origin, nodes, open transfers, and what is remembered |
//! | [`mod@decide`] | the rules, one file each, and what came out |
//! | [`legacy`] | the decisions of the program that this one replaces, for shadow runs |
//! | [`invariants`] | what may never happen, checked over any decisions |
//! | [`scenario`] | a captured world in a folder, read and decided |
//! | [`wire`] | what the old programs say to each other over HTTP, without the network |
//! | [`sample`] | made-up worlds of any size |
//!
//! Nothing here opens a connection or takes the time.

pub mod decide;
pub mod document;
pub mod hours;
pub mod input;
pub mod invariants;
pub mod legacy;
pub mod name;
pub mod sample;
pub mod scenario;
pub mod settings;
pub mod wire;
pub mod world;

pub use decide::{Decisions, decide};
pub use name::{FileId, Names};
pub use settings::{Fleet, NodeIx, Settings};
pub use world::World;
