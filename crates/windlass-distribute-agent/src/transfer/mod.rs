//! Transfers: what was ordered, how far it is, and how it ends.
//!
//! | module | |
//! |---|---|
//! | [`table`] | all transfers: taken, cancelled, reported; the one that runs them |
//! | [`record`] | what survives this process |
//! | [`run`] | one transfer from its beginning to its end |
//! | [`copy`] | parts in parallel, hashed while they are written, put down in the [`sidecar`] |
//! | [`source`] | what bytes are read from: [`fetch`] over HTTP, [`local`] from a folder |
//! | [`program`] | the copying program of the old agents |
//! | [`bucket`], [`pace`], [`tree`] | bandwidth; changed while a transfer runs; the checksum of a file whose parts come in any order |

pub(crate) mod bucket;
mod copy;
mod fetch;
mod local;
mod pace;
mod program;
pub(crate) mod record;
mod run;
mod sidecar;
mod source;
pub(crate) mod table;
pub(crate) mod tree;
