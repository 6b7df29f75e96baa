//! What the remote answers.

use std::time::Duration;

use serde::Serialize;

use crate::id::Entry;

/// The answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is in the remote, and its output is in the local store now, as is the action.
    Found(Entry),
    /// The remote surely has not got it.
    Absent,
    /// The remote could not be asked, or not in time. As good as absent for the build.
    Unavailable,
}

/// What was left when the remote was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// Entries still to be uploaded. They are remembered, and a later run or `flush` uploads them.
    pub left: u64,
    /// Bytes of their outputs, uncompressed.
    pub left_bytes: u64,
    /// Warnings that were held back because their cause had been named before.
    pub held_back: u64,
}

/// What a remote did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Lookups.
    pub lookups: u64,
    /// Lookups answered with an output.
    pub found: u64,
    /// Lookups answered as surely absent.
    pub absent: u64,
    /// Lookups that could not be answered.
    pub unavailable: u64,
    /// Requests made, second tries included.
    pub requests: u64,
    /// Requests that failed.
    pub failed_requests: u64,
    /// Bytes read from the remote.
    pub bytes_read: u64,
    /// Bytes written to the remote.
    pub bytes_written: u64,
    /// Outputs taken from the remote into the local store.
    pub outputs_read: u64,
    /// Their bytes, uncompressed.
    pub output_bytes_read: u64,
    /// Outputs written to the remote.
    pub outputs_written: u64,
    /// Entries published in the remote's index.
    pub actions_written: u64,
    /// Outputs not written because the remote had them or another action of this run brought them.
    pub deduplicated: u64,
    /// Entries dropped from the queue because it was full or their output was gone.
    pub dropped: u64,
    /// Outputs or index parts refused because their bytes were wrong.
    pub rejected: u64,
    /// Time callers waited in lookups, all of them added up, in milliseconds.
    pub waited_ms: u64,
}

/// What a prefetch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prefetched {
    /// Actions that the manifests name.
    pub actions: u64,
    /// Outputs fetched.
    pub outputs: u64,
    /// Outputs that were local already.
    pub local: u64,
    /// Outputs that could not be had.
    pub missing: u64,
}

impl Counters {
    /// The time waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms)
    }
}
