//! The program as people and scripts see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall end where it stands")]

mod browser;
#[path = "../../../windlass-server/tests/browser/chromium.rs"]
mod chromium;
mod cluster;
mod crash;
mod documents;
mod inspect;
mod job_files;
mod jobs;
mod old_states;
mod server;
mod servers;
mod stand_in;
#[expect(dead_code, reason = "the tests of the pages themselves use the rest")]
#[path = "../../../windlass-server/tests/browser/tab.rs"]
mod tab;
mod tables;
