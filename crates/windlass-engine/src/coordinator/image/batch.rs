//! Changes of a job that become durable together.

use std::collections::BTreeMap;

use windlass_model::TaskId;
use windlass_store::{Op, keys};

/// Changes that become durable together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    ops: BTreeMap<String, Op>,
    bytes: usize,
    /// Keys that must not exist when the batch is committed: exclusive names that it takes.
    pub(crate) absent: Vec<String>,
    /// Names the batch at crash points: its most telling change.
    pub(crate) label: &'static str,
    /// Tasks that were claimed: to be started once the batch is durable.
    pub(crate) starts: Vec<TaskId>,
}

/// The name of a batch that a round has led to.
pub(crate) const ROUND: &str = "reconcile";
/// Changes per batch after which it is committed before more are added. Below the store's limit by the most
/// that one step adds.
const BATCH_OPS: usize = 80;
/// Bytes per batch, likewise.
const BATCH_BYTES: usize = 256 * 1024;

impl Batch {
    pub(crate) fn put(&mut self, key: String, value: bytes::Bytes) {
        self.bytes += key.len() + value.len();
        self.ops.insert(key.clone(), Op::Put { key, value, lease: None });
    }

    pub(crate) fn delete(&mut self, key: String) {
        self.bytes += key.len();
        self.ops.insert(key.clone(), Op::Delete(key));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it deletes the key.
    pub(crate) fn deletes(&self, key: &str) -> bool {
        matches!(self.ops.get(key), Some(Op::Delete(_)))
    }

    /// Places in pools that it gives back.
    pub(crate) fn places_given_back(&self) -> impl Iterator<Item = (&str, u32)> {
        let below = self.ops.range(keys::SLOTS.to_owned()..).take_while(|(key, _)| key.starts_with(keys::SLOTS));
        below.filter(|(_, op)| matches!(op, Op::Delete(_))).filter_map(|(key, _)| keys::pool_of_slot(key))
    }

    /// Operations that fit in before it is full.
    pub(crate) fn room(&self) -> usize {
        BATCH_OPS.saturating_sub(self.ops.len())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ops.len() >= BATCH_OPS || self.bytes >= BATCH_BYTES
    }

    pub(crate) fn into_ops(self) -> Vec<Op> {
        self.ops.into_values().collect()
    }

    pub(super) fn label(&mut self, label: &'static str) {
        // A round is told by its name, whatever goes with it.
        if self.label != ROUND {
            self.label = label;
        }
    }
}
