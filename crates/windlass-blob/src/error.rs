//! What can go wrong with object storage, in nine kinds a caller can act on.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;

/// What a caller can do about an error. The text of the error is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object, bucket or folder is not there. Trying again does not help.
    NotFound,
    /// The store knows who asks, or does not want to, and says no. A person must change rights or credentials.
    AccessDenied,
    /// The object became another one while it was being read. Start over from its beginning.
    Changed,
    /// The condition of a write did not hold: it exists already, or is not the version expected.
    Precondition,
    /// The store could not be reached, is overloaded, or stopped answering. May work later: every retry the policy
    /// allows has been made already.
    Unavailable,
    /// What arrived or was stored is not what should be there.
    Corrupt,
    /// The caller cancelled.
    Cancelled,
    /// The URL, key, environment or settings are wrong. A person must change them.
    Invalid,
    /// Anything else, such as a full local disk.
    Other,
}

impl ErrorKind {
    /// The stable name, in snake case, for reports and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "object_not_found",
            Self::AccessDenied => "access_denied",
            Self::Changed => "object_changed",
            Self::Precondition => "precondition_failed",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Cancelled => "cancelled",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was being done when an error struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening a URL. No request is made.
    Open,
    /// Asking for an object's size and version.
    Head,
    /// Reading an object or a part of it.
    Get,
    /// Writing a small object in one request.
    Put,
    /// Starting a multipart upload.
    BeginUpload,
    /// Uploading one part.
    PutPart,
    /// Publishing a multipart upload.
    CompleteUpload,
    /// Throwing an unfinished multipart upload away.
    AbortUpload,
    /// Copying within the store.
    Copy,
    /// Moving within the store.
    Rename,
    /// Removing an object.
    Delete,
    /// Reading one page of a listing.
    List,
}

impl Operation {
    /// All of them, in the order of [`crate::Counts`].
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::Head,
        Self::Get,
        Self::Put,
        Self::BeginUpload,
        Self::PutPart,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::Copy,
        Self::Rename,
        Self::Delete,
        Self::List,
    ];

    /// The verb for messages.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Head => "look up",
            Self::Get => "read",
            Self::Put => "write",
            Self::BeginUpload => "begin the upload of",
            Self::PutPart => "upload a part of",
            Self::CompleteUpload => "complete the upload of",
            Self::AbortUpload => "abort the upload of",
            Self::Copy => "copy",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// An error of object storage.
///
/// The message says what was attempted, on which URL, how often and for how long, why it failed and what to do; it
/// never contains a secret. There is no `source`: the errors below quote signed headers and query strings.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct BlobError(Box<Detail>);

#[derive(Clone, Debug)]
struct Detail {
    kind: ErrorKind,
    operation: Operation,
    url: String,
    cause: String,
    hint: Option<String>,
    tries: u32,
    elapsed: Duration,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.operation.verb(), self.url)?;
        if self.tries > 1 {
            write!(f, " after {} tries in {:.1} s", self.tries, self.elapsed.as_secs_f64())?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl BlobError {
    pub(crate) fn new(kind: ErrorKind, operation: Operation, url: impl fmt::Display, cause: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            operation,
            url: url.to_string(),
            cause: cause.into(),
            hint: None,
            tries: 1,
            elapsed: Duration::ZERO,
        }))
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_tries(mut self, tries: u32, elapsed: Duration) -> Self {
        self.0.tries = tries;
        self.0.elapsed = elapsed;
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The URL of the object, without secrets.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Why, without the rest of the message.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    /// How many requests were made since the last progress, this one included.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// The [`BlobError`] inside an error of a [`crate::BlockingReader`], if that is where it came from.
    #[must_use]
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl From<BlobError> for io::Error {
    fn from(error: BlobError) -> Self {
        // Never `Interrupted`: the standard library's read loops try again on it for ever.
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AccessDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The usual result of this crate.
pub type Result<T, E = BlobError> = std::result::Result<T, E>;
