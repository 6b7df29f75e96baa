//! What bytes are read from.

use std::fs::File;

use windlass_distribute::wire::agent::{Checksum, Reason};

/// Why a transfer does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It failed.
    Failed(Reason, String),
    /// Somebody wants it to end.
    Cancelled,
    /// The process ends; the next one goes on.
    Shutdown,
}

impl Stop {
    /// A failure of the node's own disk, told apart by its cause.
    pub(super) fn disk(what: &str, error: &std::io::Error) -> Self {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let reason = if full { Reason::NoSpace } else { Reason::Io };
        Self::Failed(reason, format!("{what}: {error}"))
    }
}

/// What went wrong at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// May be better the next time.
    Passing(Reason, String),
    /// Will not be.
    Final(Reason, String),
    /// Not the source's fault.
    Stop(Stop),
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// The file as the source has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) size: u64,
    /// Without: nobody can tell two versions apart, and nothing is resumed.
    pub(super) version: Option<String>,
    pub(super) checksum: Option<Checksum>,
}

/// Takes bytes in their order.
pub(super) type Take<'t> = &'t mut dyn FnMut(&[u8]) -> Result<(), Stop>;

/// A file at a source.
pub(super) trait Source: Sync {
    /// Looks at the file. At the end of a transfer the checksum is `wanted`, if the source can tell.
    fn look(&self, wanted: bool) -> Result<Seen, Trouble>;

    /// Something that reads the version that was seen, and fails with [`Reason::SourceChanged`] at any other.
    fn reader<'s>(&'s self, seen: &'s Seen) -> Box<dyn Reader + 's>;

    /// Makes the file share the source's blocks, if both are on one file system that can.
    fn share(&self, _to: &File) -> bool {
        false
    }
}

/// Reads ranges.
pub(super) trait Reader {
    /// Reads `length` bytes from `at`. What was taken before trouble stays taken.
    fn read(&mut self, at: u64, length: u64, take: Take<'_>) -> Result<(), Trouble>;
}
