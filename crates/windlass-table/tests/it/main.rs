//! Tables as a whole, on a local folder and in S3.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod beside;
mod clocks;
mod crashes;
mod creating;
mod disk;
mod expiry;
mod generator;
mod ingest_log;
mod oracle;
mod parts;
mod query;
mod s3;
mod sample;
mod upkeep;
mod world;
