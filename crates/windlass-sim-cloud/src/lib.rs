//! A simulated OpenStack cloud: one HTTP server that speaks as much of Keystone, Neutron, Nova, Cinder and Glance as a recovery
//! touches, with their defaults, their statuses and their refusals.
//!
//! * [`SimCloud`] is the server. Its state can be looked at, changed behind everybody's back, and compared.
//! * [`Rule`] makes calls fail: by method, path and number; before the effect, after it, or late.
//!
//! Whatever real services do otherwise is a fault of this crate.

mod compute;
mod faults;
mod identity;
mod image;
mod network;
mod oracle;
mod ports;
mod server;
mod state;
mod volume;
mod volume_moves;

pub use faults::{Rule, What};
pub use server::SimCloud;
pub use state::{Backend, Options};
