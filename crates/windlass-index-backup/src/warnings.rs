//! What is odd about a backup without making it unusable.

use serde::Serialize;

/// Kept of each code: one bad archive can warn about every entry, and nobody reads the thousandth.
const KEPT_PER_CODE: usize = 8;

/// One oddity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A stable name, for example `timestamps_unreadable`.
    pub code: &'static str,
    /// What was seen.
    pub message: String,
}

/// A bounded list of warnings.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    list: Vec<Warning>,
}

impl Warnings {
    pub(crate) fn add(&mut self, code: &'static str, message: impl FnOnce() -> String) {
        if self.list.iter().filter(|known| known.code == code).count() < KEPT_PER_CODE {
            self.list.push(Warning { code, message: message() });
        }
    }

    /// Adds the warning unless one of that code is there already.
    pub(crate) fn add_once(&mut self, code: &'static str, message: impl FnOnce() -> String) {
        if self.list.iter().all(|known| known.code != code) {
            self.add(code, message);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.list)
    }

    pub(crate) fn absorb(&mut self, other: &mut Self) {
        self.list.append(&mut other.list);
    }
}
