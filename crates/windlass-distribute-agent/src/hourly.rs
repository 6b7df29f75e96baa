//! How fast bytes may flow at which hours.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_distribute::hours::{Hours, TimeOfDay};

use crate::agent::Agent;
use crate::transfer::bucket::Bucket;

/// How often it is looked what time it is.
const LOOK: Duration = Duration::from_secs(5);

/// A limit at some hours of every day: `08:00-23:00=200000000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourlyRate {
    /// When it holds.
    pub hours: Hours,
    /// The limit.
    pub bits_per_second: u64,
}

impl FromStr for HourlyRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (hours, bits) = text.split_once('=').ok_or("write FROM-TO=BITS, such as 08:00-23:00=200000000")?;
        let (from, to) = hours.split_once('-').ok_or("write the hours as FROM-TO, such as 08:00-23:00")?;
        let time = |text: &str| TimeOfDay::read(text).ok_or(format!("`{text}` is no time of day, such as 08:00"));
        let bits: u64 = bits.parse().map_err(|_| format!("`{bits}` is no number of bits a second"))?;
        if bits == 0 {
            return Err("at 0 bits a second a file never comes".to_owned());
        }
        let hours = Hours { from: time(from)?, to: time(to)?, days: Vec::new() };
        Ok(Self { hours, bits_per_second: bits })
    }
}

impl fmt::Display for HourlyRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}={}", self.hours.from, self.hours.to, self.bits_per_second)
    }
}

/// The limit at a moment: the lowest of those that hold. `local` is in seconds since 1970 by the clock that counts.
fn at(rates: &[HourlyRate], local: i64) -> Option<u64> {
    rates.iter().filter(|rate| rate.hours.cover(local)).map(|rate| rate.bits_per_second).min()
}

/// Sets the limits of the hour.
pub(crate) fn set(agent: &Agent) {
    let config = &agent.config;
    let local = agent.clock.wall().as_second().saturating_add(config.utc_offset_sec);
    let one = |bucket: &Bucket, rates: &[HourlyRate], what: &str| {
        if let Some(rate) = bucket.cap(at(rates, local)) {
            tracing::info!(bits_per_second = rate, "the limit of the hour for what is {what} has changed");
        }
    };
    one(agent.transfers.bucket(), &config.rates, "fetched");
    one(&agent.serving, &config.serve_rates, "served");
}

/// Looks again and again what time it is, until told to stop.
pub(crate) async fn keep(agent: Arc<Agent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = agent.clock.sleep(LOOK) => set(&agent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_the_hour_counts() {
        let rates: Vec<HourlyRate> = ["08:00-23:00=200", "20:00-22:00=100"].map(|text| text.parse().unwrap()).to_vec();
        let limits = [7, 8, 20, 21, 22, 23].map(|hour| at(&rates, hour * 3600));
        assert_eq!(limits, [None, Some(200), Some(100), Some(100), Some(200), None]);
        assert_eq!(rates[0].to_string(), "08:00-23:00=200");
    }

    #[test]
    fn what_is_no_limit_is_told() {
        for bad in ["", "08:00=1", "8-9=1", "08:00-09:00=x", "08:00-09:00=0", "08:00-25:00=1"] {
            assert!(bad.parse::<HourlyRate>().is_err(), "{bad}");
        }
    }
}
