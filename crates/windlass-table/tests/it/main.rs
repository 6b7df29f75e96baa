//! Tables as a whole, on a local folder.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod crashes;
mod creating;
mod ingest_log;
mod sample;
mod world;
