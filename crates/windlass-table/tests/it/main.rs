//! Tables as a whole, on a local folder.

#![allow(missing_docs)]

mod crashes;
mod ingest_log;
mod sample;
mod world;
