//! The program as people and scripts see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall end where it stands")]

mod cluster;
mod crash;
mod documents;
mod inspect;
mod job_files;
mod jobs;
mod stand_in;
