//! What a proxy does to a request, and what it saw of it.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one request. Byte counts are of the answer's body.
#[derive(Clone)]
pub enum Fault {
    /// Forwards request and answer unchanged.
    Pass,
    /// Closes the connection without an answer. The request never reaches the server.
    Refuse,
    /// Lets the server do its work, then closes the connection without an answer.
    LoseAnswer,
    /// Sends this many bytes of the body, then breaks the connection.
    CutAfter(u64),
    /// Sends this many bytes of the body, then nothing more, with the connection open.
    HangAfter(u64),
    /// Never answers. The request never reaches the server.
    Hang,
    /// Waits, then forwards.
    Delay(Duration),
    /// Answers itself with an S3 error document.
    Status {
        /// HTTP status code.
        status: u16,
        /// S3 error code, such as `SlowDown`.
        code: &'static str,
        /// Value of the `Retry-After` header, if any.
        retry_after: Option<&'static str>,
    },
    /// Inverts every bit of the byte at this offset of the body.
    FlipByte(u64),
    /// Forwards the body at about this many bytes per second.
    Throttle(u64),
    /// Calls this before forwarding; used to change the object between two requests.
    Call(Arc<dyn Fn() + Send + Sync>),
}

impl Fault {
    /// A 503 `SlowDown` with the given `Retry-After`, if any.
    #[must_use]
    pub fn slow_down(retry_after: Option<&'static str>) -> Self {
        Self::Status { status: 503, code: "SlowDown", retry_after }
    }

    /// The error document's status with its usual code: 403, 404, 412, 429, 500 or 503.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let code = match status {
            403 => "AccessDenied",
            404 => "NoSuchKey",
            412 => "PreconditionFailed",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            _ => "Unexpected",
        };
        Self::Status { status, code, retry_after: None }
    }

    /// A 400 `ExpiredToken`: what a session token that is too old is answered with.
    #[must_use]
    pub fn expired_token() -> Self {
        Self::Status { status: 400, code: "ExpiredToken", retry_after: None }
    }

    /// A 403 `RequestTimeTooSkewed`: what a client whose clock is wrong is answered with.
    #[must_use]
    pub fn wrong_clock() -> Self {
        Self::Status { status: 403, code: "RequestTimeTooSkewed", retry_after: None }
    }

    /// A 404 `NoSuchBucket`.
    #[must_use]
    pub fn no_bucket() -> Self {
        Self::Status { status: 404, code: "NoSuchBucket", retry_after: None }
    }
}

/// Why a word names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no fault `{0}`; known are pass, refuse, lose-answer, hang, slow-down, expired-token, wrong-clock, \
         no-bucket, and with a number delay (ms), status, cut, hang-after, flip (bytes), throttle (bytes per second)"
)]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    /// `pass`, `hang`, `delay 20`, `status 503`, `cut 1000`, …: faults as a script for a stand-alone proxy names them.
    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        let mut words = text.split_whitespace();
        let name = words.next().ok_or_else(unknown)?;
        let number = words.next().map(str::parse::<u64>).transpose().map_err(|_| unknown())?;
        if words.next().is_some() {
            return Err(unknown());
        }
        Ok(match (name, number) {
            ("pass", None) => Self::Pass,
            ("refuse", None) => Self::Refuse,
            ("lose-answer", None) => Self::LoseAnswer,
            ("hang", None) => Self::Hang,
            ("slow-down", None) => Self::slow_down(None),
            ("expired-token", None) => Self::expired_token(),
            ("wrong-clock", None) => Self::wrong_clock(),
            ("no-bucket", None) => Self::no_bucket(),
            ("delay", Some(time)) => Self::Delay(Duration::from_millis(time)),
            ("status", Some(code)) => Self::status(u16::try_from(code).map_err(|_| unknown())?),
            ("cut", Some(bytes)) => Self::CutAfter(bytes),
            ("hang-after", Some(bytes)) => Self::HangAfter(bytes),
            ("flip", Some(offset)) => Self::FlipByte(offset),
            ("throttle", Some(rate)) => Self::Throttle(rate),
            _ => return Err(unknown()),
        })
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("Pass"),
            Self::Refuse => f.write_str("Refuse"),
            Self::LoseAnswer => f.write_str("LoseAnswer"),
            Self::CutAfter(bytes) => write!(f, "CutAfter({bytes})"),
            Self::HangAfter(bytes) => write!(f, "HangAfter({bytes})"),
            Self::Hang => f.write_str("Hang"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
            Self::Status { status, code, .. } => write!(f, "Status({status} {code})"),
            Self::FlipByte(offset) => write!(f, "FlipByte({offset})"),
            Self::Throttle(rate) => write!(f, "Throttle({rate})"),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

/// How much passed a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Requests of any kind, those that were answered by the script included.
    pub requests: u64,
    /// Bytes of request bodies, as announced by their headers.
    pub bytes_up: u64,
    /// Bytes of answer bodies that were sent on to the client.
    pub bytes_down: u64,
}

/// One request as the proxy saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts from 0 in order of arrival.
    pub number: usize,
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query without the question mark; empty if there is none.
    pub query: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The `If-None-Match` header.
    pub if_none_match: Option<String>,
}

impl Seen {
    /// Whether this is a page of a listing.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.method == "GET" && self.query.contains("list-type=2")
    }
}

type Choose = dyn Fn(&Seen) -> Fault + Send + Sync;

/// Decides what happens to each request.
pub struct Script(Decide);

enum Decide {
    Each(Mutex<VecDeque<Fault>>),
    By(Box<Choose>),
}

impl Script {
    /// Forwards everything.
    #[must_use]
    pub fn pass() -> Self {
        Self::each([])
    }

    /// The first request gets the first fault and so on; everything after the last one passes.
    pub fn each(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self(Decide::Each(Mutex::new(faults.into_iter().collect())))
    }

    /// A function of the request decides.
    pub fn by(choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> Self {
        Self(Decide::By(Box::new(choose)))
    }

    pub(super) fn decide(&self, seen: &Seen) -> Fault {
        match &self.0 {
            Decide::Each(faults) => {
                faults.lock().expect("no one panics with the script in hand").pop_front().unwrap_or(Fault::Pass)
            }
            Decide::By(choose) => choose(seen),
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Decide::Each(faults) => f.debug_tuple("Script::each").field(faults).finish(),
            Decide::By(_) => f.write_str("Script::by(function)"),
        }
    }
}

/// The body of an S3 error answer.
pub(super) fn error_document(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_words() {
        for (text, expected) in [
            ("pass", "Pass"),
            (" delay 20 ", "Delay(20ms)"),
            ("status 403", "Status(403 AccessDenied)"),
            ("slow-down", "Status(503 SlowDown)"),
            ("expired-token", "Status(400 ExpiredToken)"),
            ("cut 1000", "CutAfter(1000)"),
            ("flip 7", "FlipByte(7)"),
            ("hang", "Hang"),
        ] {
            assert_eq!(format!("{:?}", text.parse::<Fault>().unwrap()), expected);
        }
        for wrong in ["", "delay", "delay x", "pass 3", "status 70000", "cut 1 2", "other"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }
}
