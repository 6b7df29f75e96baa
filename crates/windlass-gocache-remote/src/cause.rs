//! Why the remote fails, in kinds that are named once each.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use windlass_blob::{BlobError, ErrorKind};

/// A reason that a person can do something about. Each is warned of once per run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// No connection.
    Down,
    /// Connected, and then silence.
    Hanging,
    /// It asks to slow down, or has errors of its own.
    Overloaded,
    /// It knows who asks and says no.
    Denied,
    /// It does not know the access key, or the signature is wrong.
    Credentials,
    /// The session token is over.
    Expired,
    /// This machine's clock is wrong.
    Clock,
    /// The bucket or folder is not there.
    Place,
    /// Connections break half-way.
    Cut,
    /// Bytes arrive that were never written.
    Damaged,
    /// The configuration cannot be used.
    Invalid,
    /// It costs more time than it saves.
    Slow,
    /// The index is too large to be read.
    TooLarge,
    /// The local disk refuses what the remote brings, or the queue.
    LocalDisk,
    /// Anything else.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &BlobError) -> Self {
        let text = error.cause();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match error.kind() {
            _ if has(&["RequestTimeTooSkewed", "RequestExpired"]) => Self::Clock,
            _ if has(&["ExpiredToken", "TokenRefreshRequired"]) => Self::Expired,
            ErrorKind::AccessDenied if has(&["Signature", "InvalidAccessKey", "InvalidToken"]) => Self::Credentials,
            ErrorKind::AccessDenied => Self::Denied,
            ErrorKind::NotFound => Self::Place,
            ErrorKind::Unavailable if has(&["no connection"]) => Self::Down,
            ErrorKind::Unavailable if has(&["no answer"]) => Self::Hanging,
            ErrorKind::Unavailable if has(&["the store answered"]) => Self::Overloaded,
            ErrorKind::Unavailable => Self::Cut,
            ErrorKind::Corrupt | ErrorKind::Changed => Self::Damaged,
            ErrorKind::Invalid => Self::Invalid,
            _ => Self::Other,
        }
    }

    /// Whether trying again soon cannot help.
    pub(crate) fn is_lasting(self) -> bool {
        matches!(self, Self::Denied | Self::Credentials | Self::Expired | Self::Clock | Self::Place | Self::Invalid)
    }

    /// The words with which a warning begins.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Down => "cannot be reached",
            Self::Hanging => "does not answer",
            Self::Overloaded => "is overloaded",
            Self::Denied => "denies access",
            Self::Credentials => "does not accept the credentials",
            Self::Expired => "says that the session token has expired",
            Self::Clock => "says that this machine's clock is wrong",
            Self::Place => "is not there",
            Self::Cut => "breaks connections",
            Self::Damaged => "has damaged objects",
            Self::Invalid => "cannot be used as configured",
            Self::Slow => "costs more time than it saves",
            Self::TooLarge => "has an index larger than the limit",
            Self::LocalDisk => "works, but the local disk does not take what it needs",
            Self::Other => "fails",
        }
    }
}

/// Says each cause once.
pub(crate) struct Warnings {
    said: Mutex<HashSet<Cause>>,
    held_back: AtomicU64,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

impl Warnings {
    pub(crate) fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { said: Mutex::default(), held_back: AtomicU64::new(0), say: Box::new(say) }
    }

    pub(crate) fn tell(&self, cause: Cause, place: &str, detail: &str) {
        let first = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(cause);
        if !first {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let space = if place.is_empty() { "" } else { " " };
        (self.say)(&format!(
            "the remote cache{space}{place} {}; the build goes on without it where it must: {detail}",
            cause.words()
        ));
    }

    pub(crate) fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }
}
