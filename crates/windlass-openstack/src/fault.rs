//! What went wrong with a call, and whether it can have changed anything.

use std::fmt;
use std::time::Duration;

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was sent: no connection, no name, no TLS.
    Unsent,
    /// It was sent, and no whole answer came.
    NoAnswer,
    /// The service answered with this status.
    Status(u16),
    /// The answer is not what it should be.
    Malformed,
    /// It cannot be tried at all: a secret or a file is missing, or the catalogue lacks the service.
    Setup,
}

/// Whether a call that failed can have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effectless {
    /// Surely nothing.
    Surely,
    /// Nobody can tell.
    Unknown,
}

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFault {
    /// What was called: `POST network /routers at b`.
    pub what: String,
    /// Whether the call was one that changes something.
    pub changes: bool,
    /// Why.
    pub cause: Cause,
    /// What the service, or the connection, said.
    pub message: String,
    /// What the service calls the request.
    pub request_id: Option<String>,
    /// How long it asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl CallFault {
    /// The status, when there is one.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self.cause {
            Cause::Status(status) => Some(status),
            Cause::Unsent | Cause::NoAnswer | Cause::Malformed | Cause::Setup => None,
        }
    }

    /// Whether the thing is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::Status(404))
    }

    /// Whether it is in the way of something else, or something else of it.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self.cause, Cause::Status(409))
    }

    /// Whether a quota is used up: Nova and Neutron say so with 403 or 409, Cinder with 413.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self.cause, Cause::Status(403 | 409 | 413)) && self.message.to_ascii_lowercase().contains("quota")
    }

    /// Whether the same call may succeed later by itself.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.cause {
            Cause::Unsent | Cause::NoAnswer => true,
            // The block service says by the same status, with a time to wait, that a limit is reached.
            Cause::Status(413) => self.retry_after.is_some() && !self.is_quota(),
            Cause::Status(status) => matches!(status, 408 | 425 | 429) || status >= 500,
            Cause::Malformed | Cause::Setup => false,
        }
    }

    /// Whether it can have changed anything.
    #[must_use]
    pub const fn effectless(&self) -> Effectless {
        match self.cause {
            // 503 is said before a request is taken up, all other faults of a server at any moment.
            Cause::NoAnswer | Cause::Malformed | Cause::Status(500..=502 | 504..=599) if self.changes => {
                Effectless::Unknown
            }
            _ => Effectless::Surely,
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Unsent => write!(f, "{}: no connection", self.what)?,
            Cause::NoAnswer => write!(f, "{}: no answer", self.what)?,
            Cause::Status(status) => write!(f, "{} answered {status}", self.what)?,
            Cause::Malformed => write!(f, "{}: the answer cannot be read", self.what)?,
            Cause::Setup => write!(f, "{} cannot be called", self.what)?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match &self.request_id {
            Some(id) => write!(f, " ({id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallFault {}

/// The text of a service's error body: each puts it elsewhere.
pub(crate) fn message(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::from_utf8_lossy(body).chars().take(300).collect();
    };
    let inner = value.as_object().and_then(|map| map.values().next());
    let found = inner.and_then(|inner| match inner {
        serde_json::Value::String(text) => Some(text.clone()),
        inner => inner.get("message").and_then(serde_json::Value::as_str).map(str::to_owned),
    });
    found.unwrap_or_else(|| value.to_string()).chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(cause: Cause, changes: bool) -> CallFault {
        CallFault { what: "x".into(), changes, cause, message: String::new(), request_id: None, retry_after: None }
    }

    #[test]
    fn only_calls_that_change_something_can_have_done_so() {
        assert_eq!(fault(Cause::NoAnswer, true).effectless(), Effectless::Unknown);
        assert_eq!(fault(Cause::NoAnswer, false).effectless(), Effectless::Surely);
        assert_eq!(fault(Cause::Status(500), true).effectless(), Effectless::Unknown);
        assert_eq!(fault(Cause::Status(503), true).effectless(), Effectless::Surely);
        assert_eq!(fault(Cause::Status(409), true).effectless(), Effectless::Surely);
        assert_eq!(fault(Cause::Unsent, true).effectless(), Effectless::Surely);
        assert!(fault(Cause::Status(429), true).may_pass() && !fault(Cause::Status(400), true).may_pass());
    }

    #[test]
    fn a_limit_that_is_reached_does_not_pass_by_waiting() {
        let refused = |message: &str| CallFault {
            message: message.into(),
            retry_after: Some(Duration::ZERO),
            ..fault(Cause::Status(413), true)
        };
        let full = refused("VolumeSizeExceedsAvailableQuota: exceeds allowed gigabytes quota.");
        assert!(full.is_quota() && !full.may_pass());
        let often = refused("This request was rate-limited.");
        assert!(!often.is_quota() && often.may_pass());
    }

    #[test]
    fn each_service_s_message_is_found() {
        assert_eq!(message(br#"{"NeutronError": {"message": "in use", "type": "x"}}"#), "in use");
        assert_eq!(message(br#"{"conflictingRequest": {"code": 409, "message": "stopped"}}"#), "stopped");
        assert_eq!(message(br#"{"NeutronError": "plain"}"#), "plain");
        assert_eq!(message(b"<html>"), "<html>");
    }
}
