//! Chunks against a stand-in cluster over real gRPC, under an attempt that can be stopped anywhere.

mod agents;
mod chunks;
mod crashes;
mod rig;
mod storms;
mod trouble;
mod undoing;
