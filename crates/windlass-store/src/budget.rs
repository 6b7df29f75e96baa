//! Limits on what one transaction and one value may hold.
//!
//! They lie below what an etcd with default flags accepts (128 operations, 128 compares, 1.5 MiB per request),
//! so that a job which runs embedded runs on etcd unchanged. Larger values go to a blob and are referred to by
//! digest.

use crate::{StoreError, Txn};

/// Most changes in one transaction.
pub const OPS: usize = 96;
/// Most conditions in one transaction.
pub const COMPARES: usize = 96;
/// Most bytes of keys and values in one transaction.
pub const TXN_BYTES: usize = 512 * 1024;
/// Most bytes of one value.
pub const VALUE_BYTES: usize = 128 * 1024;
/// Most bytes of one key.
pub const KEY_BYTES: usize = 1024;
/// Entries that a reader asks for at once.
pub const PAGE_ENTRIES: usize = 1000;

/// Checks `txn` against the limits.
///
/// # Errors
///
/// [`StoreError::Budget`] that names the limit, the size found and the key.
pub fn check(txn: &Txn) -> Result<(), StoreError> {
    let over = |what: String| Err(StoreError::Budget(what));
    if txn.ops.len() > OPS {
        return over(format!("{} changes, at most {OPS}", txn.ops.len()));
    }
    if txn.compares.len() > COMPARES {
        return over(format!("{} conditions, at most {COMPARES}", txn.compares.len()));
    }
    let bytes = txn.bytes();
    if bytes > TXN_BYTES {
        return over(format!("{bytes} bytes, at most {TXN_BYTES}"));
    }
    let mut keys = std::collections::HashSet::with_capacity(txn.ops.len());
    for op in &txn.ops {
        let key = op.key();
        if key.is_empty() || key.len() > KEY_BYTES {
            return over(format!("a key of {} bytes, allowed are 1 to {KEY_BYTES}", key.len()));
        }
        if !keys.insert(key) {
            return over(format!("two changes of key {key}"));
        }
        if let crate::Op::Put { value, .. } = op
            && value.len() > VALUE_BYTES
        {
            return over(format!("a value of {} bytes under {key}, at most {VALUE_BYTES}", value.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_enforced_at_its_edge() {
        let puts = |n: usize| (0..n).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), "v"));
        assert_eq!(check(&puts(OPS)), Ok(()));
        assert!(check(&puts(OPS + 1)).is_err());
        assert_eq!(check(&Txn::new().put("k", vec![0; VALUE_BYTES])), Ok(()));
        assert!(check(&Txn::new().put("k", vec![0; VALUE_BYTES + 1])).is_err());
        assert!(check(&Txn::new().put("k", "1").delete("k")).is_err());
        assert!(check(&Txn::new().put("", "1")).is_err());
        let big = (0..5).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), vec![0; VALUE_BYTES]));
        assert!(check(&big).is_err());
    }
}
