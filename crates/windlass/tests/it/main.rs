//! The program as people and scripts see it.

mod documents;
mod inspect;
mod job_files;
mod jobs;
mod stand_in;
