//! When to try again, and how an error of the layers below becomes one of ours.

use std::error::Error as StdError;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use object_store::client::{HttpError, HttpErrorKind};
use windlass_clock::Entropy;

use crate::error::ErrorKind;
use crate::wire::Refusal;

/// How often and how patiently transient errors are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Requests in a row that may fail before the operation does. Progress (a chunk of a stream, a page of a listing,
    /// a part of an upload) starts the count afresh.
    pub attempts: NonZeroU32,
    /// Longest wait before the second request; doubles with each further one. The wait is drawn evenly from nothing
    /// to this, so that many clients do not come back at once.
    pub base: Duration,
    /// Upper limit of the doubling.
    pub cap: Duration,
    /// Longest wait a server can ask for with `Retry-After`; it wins over the computed wait.
    pub retry_after_cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::new(6).expect("six is not zero"),
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            retry_after_cap: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// No second tries.
    #[must_use]
    pub fn never() -> Self {
        Self { attempts: NonZeroU32::MIN, ..Self::default() }
    }

    /// The wait after the `failures`th failure in a row, counted from 1.
    pub(crate) fn wait(&self, failures: u32, asked: Option<Duration>, entropy: &dyn Entropy) -> Duration {
        if let Some(asked) = asked {
            return asked.min(self.retry_after_cap);
        }
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.base.saturating_mul(1 << doublings).min(self.cap);
        longest.mul_f64(entropy.fraction())
    }
}

/// The outcome of one failed request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) cause: String,
    pub(crate) hint: Option<&'static str>,
    /// What the server asked for, still unparsed.
    pub(crate) retry_after: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), hint: None, retry_after: None }
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }
}

/// Seconds, or a date, as HTTP has it (RFC 9110, 10.2.3). `None` for anything else.
pub(crate) fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // `io::Error` hides what it carries from `source`.
        if let Some(found) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|inner| (inner as &(dyn StdError + 'static)).downcast_ref::<T>())
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The one place where an error of the store layer gets its kind.
pub(crate) fn classify(error: &object_store::Error) -> Failure {
    if let Some(refusal) = find::<Refusal>(error) {
        return classify_refusal(refusal);
    }
    if let Some(http) = find::<HttpError>(error) {
        return classify_transport(http);
    }
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Failure::new(ErrorKind::NotFound, "it does not exist"),
        E::AlreadyExists { .. } => Failure::new(ErrorKind::Precondition, "it exists already"),
        E::Precondition { .. } | E::NotModified { .. } => {
            Failure::new(ErrorKind::Precondition, "it is not the version expected")
        }
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            Failure::new(ErrorKind::AccessDenied, "the store refused").hint(CHECK_RIGHTS)
        }
        E::InvalidPath { source } => Failure::new(ErrorKind::Invalid, format!("a key cannot be used: {source}")),
        E::NotSupported { .. } | E::NotImplemented { .. } => {
            Failure::new(ErrorKind::Invalid, "this kind of store cannot do that")
        }
        E::UnknownConfigurationKey { key, .. } => Failure::new(ErrorKind::Invalid, format!("unknown setting {key}")),
        other => match find::<io::Error>(other) {
            Some(io) => classify_io(io),
            None => Failure::new(ErrorKind::Other, other.to_string()),
        },
    }
}

const CHECK_RIGHTS: &str = "check that the credentials in the environment may do this";

fn classify_refusal(refusal: &Refusal) -> Failure {
    let cause = refusal.to_string();
    let mut failure = match (refusal.status, refusal.code.as_deref()) {
        (_, Some("ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException")) => {
            Failure::new(ErrorKind::AccessDenied, cause).hint("renew the session token")
        }
        (_, Some("RequestTimeTooSkewed")) => {
            Failure::new(ErrorKind::AccessDenied, cause).hint("set this machine's clock")
        }
        (_, Some("SignatureDoesNotMatch" | "InvalidAccessKeyId" | "InvalidToken" | "NotSignedUp")) => {
            Failure::new(ErrorKind::AccessDenied, cause).hint("check access key, secret and session token")
        }
        (_, Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect")) => {
            Failure::new(ErrorKind::Invalid, cause).hint("check the region and the endpoint")
        }
        (_, Some("SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "Throttling")) => {
            Failure::new(ErrorKind::Unavailable, cause)
        }
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => {
            Failure::new(ErrorKind::AccessDenied, cause).hint(CHECK_RIGHTS)
        }
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT, _) => Failure::new(ErrorKind::Unavailable, cause),
        (StatusCode::NOT_FOUND, Some("NoSuchBucket" | "ContainerNotFound")) => {
            Failure::new(ErrorKind::NotFound, "the bucket does not exist")
                .hint("check the bucket's name and the endpoint")
        }
        (StatusCode::NOT_FOUND, _) => Failure::new(ErrorKind::NotFound, cause),
        // Ranges are asked for only within the size seen before.
        (StatusCode::RANGE_NOT_SATISFIABLE, _) => Failure::new(ErrorKind::Changed, cause),
        // Meant for ever: trying again does not teach the server.
        (StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED, _) => {
            Failure::new(ErrorKind::Invalid, cause)
        }
        (status, _) if status.is_server_error() => Failure::new(ErrorKind::Unavailable, cause),
        (status, _) if status.is_redirection() => {
            Failure::new(ErrorKind::Invalid, cause).hint("check the region and the endpoint")
        }
        _ => Failure::new(ErrorKind::Other, cause),
    };
    failure.retry_after.clone_from(&refusal.retry_after);
    failure
}

fn classify_transport(error: &HttpError) -> Failure {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        // Each layer likes to repeat the one below.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = source.source();
    }
    let detail = parts.join(": ");
    if detail.contains("certificate") || detail.contains("UnknownIssuer") {
        return Failure::new(ErrorKind::Invalid, format!("no trust in the server's certificate: {detail}"))
            .hint("name the authority's PEM file in SSL_CERT_FILE or AWS_CA_BUNDLE");
    }
    match error.kind() {
        HttpErrorKind::Connect => Failure::new(ErrorKind::Unavailable, format!("no connection: {detail}"))
            .hint("check that the endpoint is right and reachable from here"),
        HttpErrorKind::Timeout => Failure::new(ErrorKind::Unavailable, format!("no answer in time: {detail}")),
        _ => Failure::new(ErrorKind::Unavailable, format!("the connection broke: {detail}")),
    }
}

pub(crate) fn classify_io(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(ErrorKind::NotFound, "it does not exist"),
        io::ErrorKind::PermissionDenied => {
            Failure::new(ErrorKind::AccessDenied, error.to_string()).hint("check the folder's owner and mode")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::new(ErrorKind::Other, error.to_string()).hint("free some space")
        }
        _ => Failure::new(ErrorKind::Other, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use windlass_clock::Seeded;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_stay_below_it() {
        let policy = RetryPolicy { cap: Duration::from_secs(10), ..RetryPolicy::default() };
        let entropy = Seeded::new(1);
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (40, 10), (u32::MAX, 10)] {
            let waits: Vec<_> = (0..200).map(|_| policy.wait(failures, None, &entropy)).collect();
            let longest = Duration::from_secs(longest);
            assert!(waits.iter().all(|wait| *wait <= longest));
            assert!(waits.iter().any(|wait| *wait > longest.mul_f64(0.8)), "the whole span is used");
            assert!(waits.iter().any(|wait| *wait < longest.mul_f64(0.2)), "down to nothing");
        }
    }

    #[test]
    fn retry_after_wins_over_the_computed_wait_up_to_its_own_cap() {
        let policy = RetryPolicy::default();
        let entropy = Seeded::new(1);
        assert_eq!(policy.wait(1, Some(Duration::from_secs(77)), &entropy), Duration::from_secs(77));
        assert_eq!(policy.wait(1, Some(Duration::from_secs(9999)), &entropy), policy.retry_after_cap);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(37)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO), "already over");
        for nonsense in ["", "soon", "-5", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(parse_retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }

    #[test]
    fn refusals_get_the_kind_a_caller_can_act_on() {
        let kind = |status: u16, code: Option<&str>| {
            let status = StatusCode::from_u16(status).unwrap();
            let refusal = Refusal { status, code: code.map(str::to_owned), message: None, retry_after: None };
            classify_refusal(&refusal).kind
        };
        assert_eq!(kind(403, Some("SignatureDoesNotMatch")), ErrorKind::AccessDenied);
        assert_eq!(kind(400, Some("ExpiredToken")), ErrorKind::AccessDenied);
        assert_eq!(kind(401, None), ErrorKind::AccessDenied);
        assert_eq!(kind(503, Some("SlowDown")), ErrorKind::Unavailable);
        assert_eq!(kind(429, None), ErrorKind::Unavailable);
        assert_eq!(kind(500, None), ErrorKind::Unavailable);
        assert_eq!(kind(501, Some("NotImplemented")), ErrorKind::Invalid);
        assert_eq!(kind(301, Some("PermanentRedirect")), ErrorKind::Invalid);
        assert_eq!(kind(400, Some("AuthorizationHeaderMalformed")), ErrorKind::Invalid);
        assert_eq!(kind(416, None), ErrorKind::Changed);
        assert_eq!(kind(418, None), ErrorKind::Other);
    }
}
