//! A transaction of the contract as one of etcd's, and etcd's answer as one of the contract.
//!
//! When a condition does not hold, etcd runs the transaction's other branch instead: reads of all compared keys, at
//! the very revision at which the conditions were looked at.

use windlass_store::{Committed, Compare, Entry, Op, StoreError, Txn};

use crate::keyspace::{Keyspace, revision};
use crate::wire::compare::{CompareTarget, TargetUnion};
use crate::wire::request_op::Request;
use crate::wire::response_op::Response;
use crate::wire::{self, Answer, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest};

/// No key was ever changed or created by this revision: a condition with it does not hold.
const NEVER: i64 = -1;

/// The request for `txn`.
pub(crate) fn request(space: &Keyspace, txn: Txn) -> TxnRequest {
    TxnRequest {
        compare: txn.compares.iter().map(|compare| condition(space, compare)).collect(),
        failure: txn.compares.iter().map(|compare| op(Request::Range(look(space, compare)))).collect(),
        success: txn.ops.into_iter().map(|change| op(self::change(space, change))).collect(),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn change(space: &Keyspace, op: Op) -> Request {
    match op {
        Op::Put { key, value, lease } => Request::Put(PutRequest {
            key: space.stored(&key),
            value,
            lease: lease.map_or(0, |lease| i64::try_from(lease.0).unwrap_or(i64::MAX)),
        }),
        Op::Delete(key) => Request::DeleteRange(DeleteRangeRequest { key: space.stored(&key) }),
    }
}

fn condition(space: &Keyspace, compare: &Compare) -> wire::Compare {
    let equal = |key, target, union| wire::Compare {
        key,
        target: i32::from(target),
        target_union: Some(union),
        ..wire::Compare::default()
    };
    // An absent key compares as one with revision 0, which is why a condition that asks for 0 must never hold.
    let number = |revision: windlass_store::Revision| match i64::try_from(revision.0) {
        Ok(number) if number > 0 => number,
        _ => NEVER,
    };
    match compare {
        Compare::Absent(key) => equal(space.stored(key), CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Compare::Version(key, at) => {
            equal(space.stored(key), CompareTarget::Mod, TargetUnion::ModRevision(number(*at)))
        }
        Compare::Created(key, at) => {
            equal(space.stored(key), CompareTarget::Create, TargetUnion::CreateRevision(number(*at)))
        }
        Compare::NoneUnder(prefix) => {
            let (key, range_end) = space.range(prefix);
            // Has to hold for every key in the range; it does when there is none.
            let none = equal(key, CompareTarget::Create, TargetUnion::CreateRevision(0));
            wire::Compare { range_end, ..none }
        }
    }
}

fn look(space: &Keyspace, compare: &Compare) -> RangeRequest {
    match compare {
        Compare::Absent(key) | Compare::Version(key, _) | Compare::Created(key, _) => {
            RangeRequest { key: space.stored(key), ..RangeRequest::default() }
        }
        Compare::NoneUnder(prefix) => {
            let (key, range_end) = space.range(prefix);
            RangeRequest { key, range_end, limit: 1, ..RangeRequest::default() }
        }
    }
}

/// The answer to a transaction.
pub(crate) fn answer(space: &Keyspace, answer: wire::TxnResponse) -> Result<Committed, StoreError> {
    if answer.succeeded {
        return Ok(Committed::At(revision(answer.revision())));
    }
    let present: Result<Vec<Option<Entry>>, StoreError> =
        answer.responses.into_iter().map(|response| first(space, response)).collect();
    Ok(Committed::Conflict(present?))
}

fn first(space: &Keyspace, response: ResponseOp) -> Result<Option<Entry>, StoreError> {
    match response.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next().map(|kv| space.entry(kv)).transpose(),
        // Nothing was changed, whatever etcd says about it.
        _ => Err(StoreError::Unavailable("etcd answered a conflict with something other than reads".to_owned())),
    }
}
