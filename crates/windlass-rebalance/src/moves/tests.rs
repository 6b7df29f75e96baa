//! Chunks against a stand-in cluster over real gRPC, under an attempt that can be stopped anywhere.

mod chunks;
mod crashes;
mod rig;
mod trouble;
mod undoing;
