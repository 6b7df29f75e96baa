//! What can go wrong with a table.

use std::path::PathBuf;

use windlass_blob::{BlobError, ErrorKind};

/// Why something could not be done with a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A definition, a batch or an option is not what it has to be.
    #[error("{0}")]
    Invalid(String),
    /// More than goes into one batch.
    #[error("{0}; send it in parts")]
    TooLarge(String),
    /// Object storage failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The disk failed.
    #[error("{what} {}: {cause}", .path.display())]
    Disk {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// Bytes on disk or in object storage are not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The table changed meanwhile, or is not there any more.
    #[error("{0}")]
    Changed(String),
    /// The table was dropped.
    #[error("{0}")]
    Dropped(String),
    /// Too much late data waits; the same batch may come again later.
    #[error(
        "{pending} bytes of rows wait to be merged, and {hard} is the limit of the table: nothing was taken in; run a backfill, then send the batch again"
    )]
    Full {
        /// Bytes that wait.
        pending: u64,
        /// The limit.
        hard: u64,
    },
    /// Another process writes to the log.
    #[error("the log {} is being written to by another process; wait for it, or send the rows to it", .0.display())]
    Held(PathBuf),
    /// The table needs a feature of the format that this program does not know.
    #[error("{0}")]
    Unsupported(String),
    /// Stopped on request.
    #[error("stopped on request")]
    Cancelled,
}

/// What most functions of this crate return.
pub type Result<T, E = TableError> = std::result::Result<T, E>;

impl TableError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    pub(crate) fn disk(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Disk { what, path, cause }
    }

    /// Whether doing the same again later may succeed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Blob(error) => {
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Changed | ErrorKind::Other)
            }
            Self::Disk { cause, .. } => cause.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Changed(_) | Self::Full { .. } | Self::Held(_) => true,
            Self::Invalid(_)
            | Self::TooLarge(_)
            | Self::Damaged(_)
            | Self::Dropped(_)
            | Self::Unsupported(_)
            | Self::Cancelled => false,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::TooLarge(_) => "too_large",
            Self::Blob(error) => error.kind().name(),
            Self::Disk { .. } => "disk",
            Self::Damaged(_) => "damaged",
            Self::Changed(_) => "changed",
            Self::Dropped(_) => "dropped",
            Self::Full { .. } => "full",
            Self::Held(_) => "held",
            Self::Unsupported(_) => "unsupported",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a library was doing when the disk failed.
fn disk_while(what: &impl std::fmt::Display, cause: std::io::Error) -> TableError {
    TableError::Disk { what: "the disk failed:", path: PathBuf::from(what.to_string()), cause }
}

/// An error of the Arrow library while `what` was done.
pub(crate) fn arrow(what: impl std::fmt::Display) -> impl FnOnce(arrow_schema::ArrowError) -> TableError {
    move |error| match error {
        arrow_schema::ArrowError::IoError(_, cause) => disk_while(&what, cause),
        error => TableError::Damaged(format!("{what}: {error}")),
    }
}

/// An error of the Parquet library while `what` was done. What object storage said on the way is handed on as it is.
pub(crate) fn parquet(what: impl std::fmt::Display) -> impl FnOnce(parquet::errors::ParquetError) -> TableError {
    move |error| match error {
        parquet::errors::ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(cause) => disk_while(&what, *cause),
            Err(cause) => TableError::Damaged(format!("{what}: {cause}")),
        },
        error => TableError::Damaged(format!("{what}: {error}")),
    }
}
