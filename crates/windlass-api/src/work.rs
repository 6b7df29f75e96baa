//! How much there is to do and how far it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far something has got. A total that is absent is unknown, which is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Items finished.
    #[serde(default)]
    pub done_items: u64,
    /// Items in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_items: Option<u64>,
    /// Bytes finished.
    #[serde(default)]
    pub done_bytes: u64,
    /// Bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl From<windlass_model::progress::Progress> for Progress {
    fn from(from: windlass_model::progress::Progress) -> Self {
        Self {
            done_items: from.done_items,
            total_items: from.total_items,
            done_bytes: from.done_bytes,
            total_bytes: from.total_bytes,
        }
    }
}

impl From<Progress> for windlass_model::progress::Progress {
    fn from(from: Progress) -> Self {
        Self {
            done_items: from.done_items,
            total_items: from.total_items,
            done_bytes: from.done_bytes,
            total_bytes: from.total_bytes,
        }
    }
}

impl Progress {
    /// The finished part in `[0, 1]`: of bytes where they are known, else of items.
    #[must_use]
    pub fn fraction(&self) -> Option<f64> {
        windlass_model::progress::Progress::from(*self).fraction()
    }
}

/// Seconds left, as a range: what the recent rate and the rate since the start say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Eta {
    /// The sooner of the two.
    pub soonest_s: f64,
    /// The later of the two.
    pub latest_s: f64,
}

impl From<windlass_model::progress::Eta> for Eta {
    fn from(from: windlass_model::progress::Eta) -> Self {
        Self { soonest_s: from.soonest_s, latest_s: from.latest_s }
    }
}

/// Tasks by state and outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Not claimed.
    pub waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Not tried, because something before them failed.
    pub ignored: u64,
    /// Not tried, or given up, because the job was cancelled.
    pub cancelled: u64,
}

impl Counts {
    /// All tasks.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.waiting + self.running + self.ended()
    }

    /// Tasks that have ended.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.ignored + self.cancelled
    }
}
