//! The Go build cache on the local disk: the protocol of GOCACHEPROG, the store, and the loop that serves it.

pub mod disk;
pub mod local;
pub mod wire;
