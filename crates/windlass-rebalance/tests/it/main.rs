//! The kind as a whole, on a real engine, against a stand-in cluster and real object storage.

#![allow(missing_docs, reason = "tests")]

mod backups;
mod jobs;
mod matrix;
mod rig;
mod stages;
