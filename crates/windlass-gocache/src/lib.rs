//! The Go build cache on the local disk: the protocol of GOCACHEPROG, the store, and the loop that serves it.
//!
//! [`serve()`] is what `go` talks to. [`local::LocalStore`] is the folder; its `gc`, `clean`, `verify`, `stats` and `why`
//! return plain values. The remote is behind [`serve::RemoteCache`].

pub mod config;
pub mod disk;
pub mod local;
pub mod network;
pub mod program;
pub mod serve;
pub mod wire;

pub use config::Config;
pub use serve::serve;
