//! Tables as a whole, on a local folder.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod beside;
mod crashes;
mod creating;
mod generator;
mod ingest_log;
mod oracle;
mod query;
mod sample;
mod upkeep;
mod world;
