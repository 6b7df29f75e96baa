//! What can be wrong with a backup, as one error type with stable codes.

use std::fmt;
use std::io;

use serde::{Serialize, Serializer};

/// The stable name of what went wrong. Reports, tests and people's scripts rely on [`Code::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The source of the bytes failed; the cause is carried unchanged.
    DownloadFailed,
    /// The first bytes belong to no known compression and to no tar.
    CompressionUnknown,
    /// The configured compression contradicts the first bytes.
    CompressionMismatch,
    /// The compressed stream ends early.
    CompressionTruncated,
    /// The compressed stream is damaged.
    CompressionCorrupt,
    /// The stream asks for more memory, or unpacks to more bytes, than is allowed.
    CompressionLimit,
    /// The archive ends inside a header or a file.
    ArchiveTruncated,
    /// A header of the archive is damaged.
    ArchiveCorrupt,
    /// The archive has no id map, and nothing says that the agent is empty.
    KvsdbMissing,
    /// The id map ends early.
    KvsdbTruncated,
    /// The id map is damaged.
    KvsdbCorrupt,
    /// The file holds something else than a map of ids to numbers.
    KvsdbWrongType,
    /// An object number does not fit 32 bits.
    KvsdbValueOutOfRange,
    /// A message or an id is longer than any agent can have written or be sent.
    KvsdbTooLarge,
    /// The timestamp file is missing or unreadable. A warning, unless the file is all that was asked for.
    TimestampsUnreadable,
    /// The agent itself marked this index as invalid.
    BackupInvalid,
    /// The id map is a leftover: the metadata says that the agent holds nothing.
    BackupStale,
    /// The id map holds fewer than half of the ids that the metadata promises.
    BackupCountMismatch,
    /// The stored vectors are in a form that cannot be read.
    ObjectsUnsupported,
    /// The file of stored vectors is damaged.
    ObjectsCorrupt,
    /// A file of sorted copies is torn or damaged.
    CopiesCorrupt,
    /// The work directory could not be written or read.
    WorkFailed,
    /// The caller asked to stop.
    Cancelled,
}

impl Code {
    /// The code as reports spell it, for example `kvsdb_truncated`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DownloadFailed => "download_failed",
            Self::CompressionUnknown => "compression_unknown",
            Self::CompressionMismatch => "compression_mismatch",
            Self::CompressionTruncated => "compression_truncated",
            Self::CompressionCorrupt => "compression_corrupt",
            Self::CompressionLimit => "compression_limit",
            Self::ArchiveTruncated => "archive_truncated",
            Self::ArchiveCorrupt => "archive_corrupt",
            Self::KvsdbMissing => "kvsdb_missing",
            Self::KvsdbTruncated => "kvsdb_truncated",
            Self::KvsdbCorrupt => "kvsdb_corrupt",
            Self::KvsdbWrongType => "kvsdb_wrong_type",
            Self::KvsdbValueOutOfRange => "kvsdb_value_out_of_range",
            Self::KvsdbTooLarge => "kvsdb_too_large",
            Self::TimestampsUnreadable => "timestamps_unreadable",
            Self::BackupInvalid => "backup_invalid",
            Self::BackupStale => "backup_stale",
            Self::BackupCountMismatch => "backup_count_mismatch",
            Self::ObjectsUnsupported => "objects_unsupported",
            Self::ObjectsCorrupt => "objects_corrupt",
            Self::CopiesCorrupt => "copies_corrupt",
            Self::WorkFailed => "work_failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Which layer found the trouble; the offset of an error counts the bytes of that layer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Reading the object; offsets count its bytes.
    Download,
    /// Undoing the compression; offsets count compressed bytes.
    Unpack,
    /// Walking the archive; offsets count decompressed bytes.
    Archive,
    /// Decoding an id map or a timestamp file; offsets count the bytes of that file.
    Decode,
    /// Reading stored vectors; offsets count the bytes of that file.
    Objects,
    /// Weighing what was found: metadata against counts.
    Judge,
    /// Sorting in the work directory; offsets count the bytes of the work file.
    Sort,
}

impl Stage {
    fn doing(self) -> &'static str {
        match self {
            Self::Download => "read the backup object",
            Self::Unpack => "decompress the backup",
            Self::Archive => "walk the archive",
            Self::Decode => "decode",
            Self::Objects => "read the stored vectors",
            Self::Judge => "check the backup",
            Self::Sort => "sort the ids",
        }
    }
}

/// Why a backup could not be read: what was being done, on what, where, and why it failed.
///
/// The first cause wins: when the download breaks, every layer above hands that error on instead of
/// reporting the early end that it saw.
#[derive(Debug)]
pub struct BackupError {
    /// The stable code.
    pub code: Code,
    /// The layer that found it.
    pub stage: Stage,
    /// Byte offset in that layer's stream.
    pub offset: u64,
    /// The entry or file concerned, escaped for printing; empty when it is the whole object.
    pub entry: String,
    /// What is wrong and, where there is something to do about it, what.
    pub message: String,
    /// The cause, unchanged, if another component reported it.
    pub source: Option<io::Error>,
}

impl BackupError {
    pub(crate) fn new(code: Code, stage: Stage, offset: u64, message: impl Into<String>) -> Self {
        Self { code, stage, offset, entry: String::new(), message: message.into(), source: None }
    }

    pub(crate) fn work(what: &str, source: io::Error) -> Self {
        let message = format!("{what}; check the space and the permissions of the work directory");
        Self::new(Code::WorkFailed, Stage::Sort, 0, message).caused_by(source)
    }

    pub(crate) fn caused_by(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// Names the entry unless a lower layer has named one already.
    pub(crate) fn in_entry(mut self, entry: &str) -> Self {
        if self.entry.is_empty() {
            entry.clone_into(&mut self.entry);
        }
        self
    }
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stage.doing())?;
        if !self.entry.is_empty() {
            write!(f, " {}", self.entry)?;
        }
        write!(f, " at byte {}: {} ({})", self.offset, self.message, self.code)
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl Serialize for BackupError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("BackupError", 6)?;
        out.serialize_field("code", &self.code)?;
        out.serialize_field("stage", &self.stage)?;
        out.serialize_field("offset", &self.offset)?;
        out.serialize_field("entry", &self.entry)?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("cause", &self.source.as_ref().map(ToString::to_string))?;
        out.end()
    }
}
