//! The `recover` kind: brings a group of instances up on another site.
//!
//! * [`inventory`] is what there is at the protected site; [`reader`] reads it.
//! * [`spec`] is what a job is told: sites, mapping, start order, diagnosis, volumes.
//! * [`findings`] is what is wrong with a plan, all at once; `survey` adds what the target site says to it.
//! * `order` says which instances come before which, `hook` what is done besides.
//! * `graph` turns plan and inventory into tasks; `task` has one file for each sort of thing that is made.
//! * `images` finds images at the target site by their content.
//! * `work` is how every one of them changes the outside, `mark` how it is told by; `mover` moves volumes.
//! * [`access`] is what can be done at a site, [`drift`] what has changed since an inventory was read.
//! * [`record`] is what is kept of a plan.
//! * `sweep` looks once more for what is left, `report` says what a job has come to.

pub mod access;
pub mod drift;
pub mod findings;
mod graph;
mod hook;
mod images;
pub mod inventory;
mod kind;
mod mark;
mod mover;
mod order;
mod preflight;
pub mod reader;
pub mod record;
mod report;
mod sites;
pub mod spec;
mod survey;
mod sweep;
mod taken;
mod task;
mod work;

pub use kind::RecoverKind;
pub use sites::RecoverConfig;
pub use survey::Survey;
pub use task::REVERSE;
pub use windlass_openstack::{CallFault, Cloud, Site};
