//! How fast a transfer may go, by the hour.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_distribute::hours::Hours;

use crate::spec::DistributeSpec;

/// How fast transfers may go that begin in these hours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// When.
    pub hours: Hours,
    /// Bits per second of each transfer; without it as fast as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
}

impl DistributeSpec {
    /// How fast a transfer from this source may go that begins now: what the first hours of the table say that cover the
    /// moment, or `bits_per_second`, and never more than its part of what the source may send.
    pub(crate) fn bits_per_second(&self, source: &str, now: i64) -> Option<u64> {
        let local = self.rules.local(now);
        let row = self.bandwidth.iter().find(|row| row.hours.cover(local));
        let usual = row.map_or(self.bits_per_second, |row| row.bits_per_second);
        let at_once = u64::from(self.rules.max_outbound_per_source.max(1));
        let part = self.node(source).and_then(|node| node.bits_per_second).map(|all| (all / at_once).max(1));
        usual.into_iter().chain(part).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_hours_that_cover_the_moment_count_and_the_source_never_sends_more_than_it_may() {
        let spec = DistributeSpec::parse(&json!({
            "inputs": { "grades": "/g", "history": "/h", "origin": { "folders": ["/san"] } },
            "nodes": [
                { "address": "10.0.0.1:1", "source": true, "destination": false, "bits_per_second": 1_000 },
                { "address": "10.0.0.2:1" },
            ],
            "rules": { "max_outbound_per_source": 2, "tz_offset": 3600 },
            "bits_per_second": 700,
            "bandwidth": [
                { "hours": { "from": "01:00", "to": "06:00" } },
                { "hours": { "from": "00:00", "to": "12:00" }, "bits_per_second": 100 },
            ],
        }))
        .unwrap();
        let at = |hour: i64| hour * 3600 - 3600;
        let speeds = |source: &str| [2, 7, 12].map(|hour| spec.bits_per_second(source, at(hour)));
        assert_eq!(speeds("10.0.0.1:1"), [Some(500), Some(100), Some(500)]);
        assert_eq!(speeds("10.0.0.2:1"), [None, Some(100), Some(700)]);
    }
}
