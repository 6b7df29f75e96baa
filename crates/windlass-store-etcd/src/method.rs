//! The calls that the store makes.

/// One method of etcd's API.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    /// Its path on the wire.
    pub(crate) path: &'static str,
    /// What the store wants of it, for messages.
    pub(crate) what: &'static str,
    /// Whether a call of which nobody knows what it did may simply be made again.
    pub(crate) is_repeatable: bool,
    /// Whether requests and answers are streams; the store then sends one request and takes one answer.
    pub(crate) is_stream: bool,
    /// Whether a member that sees no leader shall say so at once, rather than let the caller wait.
    pub(crate) needs_leader: bool,
}

const fn read(path: &'static str, what: &'static str) -> Method {
    Method { path, what, is_repeatable: true, is_stream: false, needs_leader: true }
}

/// Asks one member for itself.
const fn local(path: &'static str, what: &'static str) -> Method {
    Method { path, what, is_repeatable: true, is_stream: false, needs_leader: false }
}

pub(crate) const RANGE: Method = read("/etcdserverpb.KV/Range", "read");
pub(crate) const TXN: Method = Method { is_repeatable: false, ..read("/etcdserverpb.KV/Txn", "commit") };
pub(crate) const COMPACT: Method = read("/etcdserverpb.KV/Compact", "compact");
pub(crate) const WATCH: Method = Method { is_stream: true, ..read("/etcdserverpb.Watch/Watch", "watch") };
// A lease that nobody knows of runs out by itself.
pub(crate) const GRANT: Method = read("/etcdserverpb.Lease/LeaseGrant", "grant a lease");
pub(crate) const REVOKE: Method = read("/etcdserverpb.Lease/LeaseRevoke", "revoke a lease");
pub(crate) const KEEP_ALIVE: Method =
    Method { is_stream: true, ..read("/etcdserverpb.Lease/LeaseKeepAlive", "keep a lease alive") };
pub(crate) const AUTHENTICATE: Method = local("/etcdserverpb.Auth/Authenticate", "log in");
pub(crate) const STATUS: Method = local("/etcdserverpb.Maintenance/Status", "ask for the status");
pub(crate) const ALARM: Method = local("/etcdserverpb.Maintenance/Alarm", "ask for alarms");
pub(crate) const DEFRAGMENT: Method = local("/etcdserverpb.Maintenance/Defragment", "defragment");
