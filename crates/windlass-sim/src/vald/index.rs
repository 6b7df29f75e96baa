//! The committed entries of an agent.

use std::collections::BTreeMap;

use super::ids::{Id, Vector};

/// A committed vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Object number, from 1; freed ones are used again.
    pub number: u32,
    /// Unix nanoseconds.
    pub time: i64,
    /// The vector.
    pub vector: Vector,
}

/// The committed entries and the object numbers that are free.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    entries: BTreeMap<Id, Entry>,
    freed: Vec<u32>,
    highest: u32,
}

impl Index {
    /// The entries by id.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<Id, Entry> {
        &self.entries
    }

    pub(super) fn put(&mut self, id: Id, vector: Vector, time: i64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            // The engine removes and inserts, which gives the freed number right back.
            (entry.vector, entry.time) = (vector, time);
            return;
        }
        let number = self.freed.pop().unwrap_or_else(|| {
            self.highest += 1;
            self.highest
        });
        self.entries.insert(id, Entry { number, time, vector });
    }

    pub(super) fn set_time(&mut self, id: &str, time: i64) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.time = time;
        }
    }

    pub(super) fn take(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.freed.push(entry.number);
        }
    }
}
