//! What went wrong with a call, above all: whether it may have done something.
//!
//! etcd answers with a gRPC code and a text; codes alone do not tell a refusal from an open outcome, so the texts
//! of <https://pkg.go.dev/go.etcd.io/etcd/api/v3/v3rpc/rpctypes> are compared. What is not known to have been
//! refused before it was proposed counts as open.

use std::error::Error;
use std::fmt;

use tonic::{Code, Status};
use windlass_store::StoreError;

/// A call that brought no answer.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// What was attempted.
    what: &'static str,
    /// On which member.
    member: String,
    /// Why it failed, in the words of whoever refused it.
    why: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There was no connection: nothing was sent.
    NotSent,
    /// The member sees no leader and has not taken the request.
    NoLeader,
    /// etcd is behind with its work and has not taken the request.
    Busy,
    /// The quota is used up. A transaction may have been applied all the same: the one that reached the quota is.
    NoSpace,
    /// The request exceeds a limit that etcd was started with.
    TooLarge,
    /// The answer exceeds what this client takes.
    AnswerTooLarge,
    /// The lease does not exist.
    LeaseGone,
    /// The revision is no longer kept.
    Compacted,
    /// The token is missing, has expired, or is older than the last change of users and roles.
    Login,
    /// The user may not do this.
    Denied,
    /// etcd has found itself damaged.
    Corrupt,
    /// etcd knows what is asked and does not want it.
    Refused,
    /// It may have been done, or may still be.
    Open,
}

impl Fault {
    pub(crate) fn new(kind: Kind, what: &'static str, member: &str, why: impl fmt::Display) -> Self {
        Self { kind, what, member: member.to_owned(), why: why.to_string() }
    }

    pub(crate) fn of(status: &Status, what: &'static str, member: &str) -> Self {
        let why = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
        Self { kind: kind(status), what, member: member.to_owned(), why }
    }

    /// Whether the call surely did nothing.
    pub(crate) fn is_harmless(&self) -> bool {
        !matches!(self.kind, Kind::Open | Kind::NoSpace)
    }

    /// Whether another member may do better.
    pub(crate) fn is_the_members(&self) -> bool {
        matches!(self.kind, Kind::NotSent | Kind::NoLeader | Kind::Open)
    }

    /// As an answer to a call that changes nothing, or may simply be made again.
    pub(crate) fn into_error(self) -> StoreError {
        match self.kind {
            Kind::LeaseGone => StoreError::LeaseGone,
            Kind::TooLarge => StoreError::Budget(format!(
                "{self}; etcd was started with smaller limits than its defaults (--max-request-bytes, --max-txn-ops)"
            )),
            Kind::Corrupt => StoreError::Unusable(format!("{self}; restore etcd from a snapshot")),
            Kind::NoSpace => StoreError::Unavailable(format!(
                "{self}; etcd's database has reached its quota (--quota-backend-bytes) and takes no more data: delete \
                 what is not needed, compact, defragment each member, then disarm the alarm \
                 (etcdctl compact; etcdctl defrag; etcdctl alarm disarm), or raise the quota"
            )),
            Kind::Login => StoreError::Unavailable(format!(
                "{self}; etcd asks for a user: name one (?user=NAME&password-file=PATH) or give a client certificate"
            )),
            Kind::Denied => StoreError::Unavailable(format!(
                "{self}; grant the user's role readwrite on the store's prefix (etcdctl role grant-permission)"
            )),
            _ => StoreError::Unavailable(self.to_string()),
        }
    }

    /// As an answer to a commit.
    pub(crate) fn into_commit_error(self) -> StoreError {
        if self.is_harmless() {
            return self.into_error();
        }
        // Says also what to do about it.
        match self.into_error() {
            StoreError::Unavailable(why) => StoreError::Unknown(why),
            other => other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the etcd member {}: {}", self.what, self.member, self.why)
    }
}

fn kind(status: &Status) -> Kind {
    if let Some(source) = status.source() {
        return if was_not_sent(source) { Kind::NotSent } else { Kind::Open };
    }
    of_text(status.message()).unwrap_or_else(|| match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Kind::Refused,
        Code::Unauthenticated => Kind::Login,
        Code::PermissionDenied => Kind::Denied,
        Code::DataLoss => Kind::Corrupt,
        _ => Kind::Open,
    })
}

/// What a text of etcd's means; also texts that come as the reason of a cancelled watch.
pub(crate) fn of_text(text: &str) -> Option<Kind> {
    // The gateway between gRPC and the text sometimes adds to the front.
    let ends = |end: &str| text.ends_with(end);
    if text.contains("decoded message length too large") {
        return Some(Kind::AnswerTooLarge);
    }
    [
        // From the interceptor, before the request is looked at.
        ("etcdserver: no leader", Kind::NoLeader),
        ("raft proposal dropped", Kind::NoLeader),
        ("etcdserver: too many requests", Kind::Busy),
        ("etcdserver: mvcc: database space exceeded", Kind::NoSpace),
        ("etcdserver: request is too large", Kind::TooLarge),
        ("etcdserver: too many operations in txn request", Kind::TooLarge),
        ("etcdserver: requested lease not found", Kind::LeaseGone),
        ("required revision has been compacted", Kind::Compacted),
        ("etcdserver: invalid auth token", Kind::Login),
        ("etcdserver: revision of auth store is old", Kind::Login),
        ("auth: revision in header is old", Kind::Login),
        ("etcdserver: user name is empty", Kind::Login),
        ("etcdserver: permission denied", Kind::Denied),
        ("etcdserver: corrupt cluster", Kind::Corrupt),
    ]
    .into_iter()
    .find_map(|(end, kind)| ends(end).then_some(kind))
}

/// Whether a failure of the transport happened while connecting, before any request was written.
fn was_not_sent(source: &(dyn Error + 'static)) -> bool {
    let mut next = Some(source);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_before_it_was_proposed_is_harmless() {
        let fault = |code: Code, text: &str| Fault::of(&Status::new(code, text), "commit", "a:1");
        for (code, text, kind, harmless) in [
            (Code::Unavailable, "etcdserver: no leader", Kind::NoLeader, true),
            (Code::Unavailable, "etcdserver: request timed out", Kind::Open, false),
            (Code::Unavailable, "etcdserver: leader changed", Kind::Open, false),
            (Code::Unavailable, "etcdserver: server stopped", Kind::Open, false),
            (Code::DeadlineExceeded, "context deadline exceeded", Kind::Open, false),
            (Code::Unknown, "whatever", Kind::Open, false),
            (Code::ResourceExhausted, "etcdserver: too many requests", Kind::Busy, true),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Kind::NoSpace, false),
            (Code::InvalidArgument, "etcdserver: request is too large", Kind::TooLarge, true),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Kind::Login, true),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Kind::Login, true),
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Denied, true),
            (Code::NotFound, "etcdserver: requested lease not found", Kind::LeaseGone, true),
        ] {
            let fault = fault(code, text);
            assert_eq!((fault.kind, fault.is_harmless()), (kind, harmless), "{text}");
            let error = fault.into_commit_error();
            assert_eq!(matches!(error, StoreError::Unknown(_)), !harmless, "{text}: {error}");
        }
    }

    #[test]
    fn the_message_says_what_on_whom_why_and_what_next() {
        let status = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        let text = Fault::of(&status, "commit", "db1:2379").into_error().to_string();
        for part in ["commit on the etcd member db1:2379", "space exceeded", "defragment each member", "alarm disarm"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
