//! What the status codes of agents mean, decided in one place.

use tonic::{Code, Status};

/// What an agent, or the way to it, answered instead of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The id is not there.
    NotFound,
    /// The id, or this very vector, is there already.
    AlreadyExists,
    /// The request can never be right: another dimension, an id the agent does not take.
    InvalidArgument(String),
    /// Nothing to commit.
    FailedPrecondition(String),
    /// The index is being flushed: the agent has to be left alone for a while.
    Aborted(String),
    /// May pass by itself.
    Busy {
        /// What the agent or the network said.
        message: String,
        /// Whether a change may have been made all the same.
        unknown: bool,
    },
    /// The agent's release does not know the method.
    Unimplemented(String),
    /// Repeating cannot help: no permission, a read replica.
    Fatal(String),
}

impl CallError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Aborted(_) | Self::Busy { .. })
    }

    /// What was said, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::InvalidArgument(message)
            | Self::FailedPrecondition(message)
            | Self::Aborted(message)
            | Self::Busy { message, .. }
            | Self::Unimplemented(message)
            | Self::Fatal(message) => message,
        }
    }
}

/// The only place where status codes of agents are given a meaning.
#[must_use]
pub fn classify(status: &Status) -> CallError {
    let message = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::NotFound => CallError::NotFound,
        Code::AlreadyExists => CallError::AlreadyExists,
        Code::InvalidArgument => CallError::InvalidArgument(message),
        Code::FailedPrecondition => CallError::FailedPrecondition(message),
        Code::Aborted => CallError::Aborted(message),
        Code::Unimplemented => CallError::Unimplemented(message),
        // Only the text tells a read replica from an agent in trouble.
        Code::Internal if status.message().contains("read replica") => CallError::Fatal(message),
        // The request was refused as a whole, before anything of it was looked at.
        Code::ResourceExhausted => CallError::Busy { message, unknown: false },
        // A connection that broke is UNAVAILABLE, UNKNOWN or CANCELLED, depending on where it broke.
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled => {
            CallError::Busy { message, unknown: true }
        }
        Code::Ok | Code::PermissionDenied | Code::Unauthenticated | Code::OutOfRange | Code::DataLoss => {
            CallError::Fatal(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_meaning() {
        let of = |code| classify(&Status::new(code, "text"));
        assert_eq!(of(Code::NotFound), CallError::NotFound);
        assert_eq!(of(Code::AlreadyExists), CallError::AlreadyExists);
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::Cancelled] {
            assert!(matches!(of(code), CallError::Busy { unknown: true, .. }), "{code:?}");
        }
        assert!(matches!(of(Code::ResourceExhausted), CallError::Busy { unknown: false, .. }));
        assert!(of(Code::Aborted).may_pass() && of(Code::Unavailable).may_pass());
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented, Code::InvalidArgument] {
            assert!(!of(code).may_pass(), "{code:?}");
        }
        assert_eq!(of(Code::InvalidArgument).message(), "InvalidArgument: text");
    }

    #[test]
    fn a_read_replica_is_told_from_an_agent_in_trouble() {
        let refused = Status::internal("write operation to read replica is not possible");
        assert!(matches!(classify(&refused), CallError::Fatal(_)));
        assert!(classify(&Status::internal("out of memory")).may_pass());
    }
}
