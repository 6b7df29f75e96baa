//! The messages of `proto/etcd.proto`, and what all answers have in common.
#![allow(missing_docs, clippy::pedantic, unreachable_pub, reason = "generated")]

tonic::include_proto!("etcdserverpb");

/// An answer with etcd's usual header.
pub(crate) trait Answer: prost::Message + Default + 'static {
    /// The header, which every answer of a healthy etcd has.
    fn header(&self) -> Option<&ResponseHeader>;

    /// The revision in the header; 0 when there is none.
    fn revision(&self) -> i64 {
        self.header().map_or(0, |header| header.revision)
    }
}

macro_rules! answers {
    ($($answer:ident,)*) => {
        $(impl Answer for $answer {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

answers! {
    RangeResponse, TxnResponse, CompactionResponse, WatchResponse, LeaseGrantResponse,
    LeaseRevokeResponse, LeaseKeepAliveResponse, AuthenticateResponse, StatusResponse, AlarmResponse,
    DefragmentResponse,
}
