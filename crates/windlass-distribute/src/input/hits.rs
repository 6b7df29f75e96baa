//! Requests of the last minutes: which files rise.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::documents::Named;
use crate::name::Names;

/// Most requests that are kept; more within the window are counted as dropped.
const MOST: usize = 4_000_000;

/// Lines so far ahead of the clock do not count.
const AHEAD_SEC: i64 = 60;

/// Most requests of one line that is pushed.
const MOST_PUSHED: u32 = 100_000;

/// What a pushed line says beside the name.
#[derive(Deserialize)]
struct Pushed {
    hits: Option<u32>,
    time: Option<i64>,
}

/// A sliding window of requests. 4 bytes a request.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    names: Names,
    /// By second.
    seconds: BTreeMap<i64, Vec<u32>>,
    kept: usize,
    /// Requests that found no room.
    pub dropped: u64,
}

impl Hits {
    /// Counts a request.
    pub fn add(&mut self, time: i64, file: &[u8]) {
        if self.kept >= MOST {
            self.dropped += 1;
            return;
        }
        let Some(id) = self.names.intern(file) else {
            self.dropped += 1;
            return;
        };
        self.seconds.entry(time).or_default().push(id.number());
        self.kept += 1;
    }

    /// Counts requests that somebody pushes, a JSON document per line: `{"name":"A.mpg","hits":3,"time":1767193195}`.
    /// Without `hits` it is one, without `time` it is now. All lines count or none. Returns how many requests came.
    ///
    /// # Errors
    /// What is wrong with the first line that is.
    pub fn push(&mut self, lines: &[u8], now: i64) -> Result<u64, String> {
        let mut requests = Vec::new();
        for (line, number) in lines.split(|byte| *byte == b'\n').zip(1_u64..) {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let fault = |why: &str| format!("line {number} {why}");
            let name = Named::read(line).map_err(fault)?;
            let said: Pushed =
                serde_json::from_slice(line).map_err(|error| fault(&format!("cannot be read: {error}")))?;
            let (hits, time) = (said.hits.unwrap_or(1), said.time.unwrap_or(now));
            if hits > MOST_PUSHED || (time - now).abs() > 86_400 {
                return Err(fault("has more than 100000 requests, or a time that is a day off"));
            }
            requests.push((time, name, hits));
        }
        let mut all = 0;
        for (time, name, hits) in requests {
            (0..hits).for_each(|_| self.add(time, name.as_bytes()));
            all += u64::from(hits);
        }
        Ok(all)
    }

    /// The time of the newest request.
    #[must_use]
    pub fn newest(&self) -> Option<i64> {
        self.seconds.last_key_value().map(|(second, _)| *second)
    }

    /// Forgets what is older than `from`.
    pub fn forget_before(&mut self, from: i64) {
        let kept = self.seconds.split_off(&from);
        let gone = std::mem::replace(&mut self.seconds, kept);
        self.kept -= gone.values().map(Vec::len).sum::<usize>();
        // Names of requests long past would stay for ever.
        if self.names.len() > 4096.max(4 * self.kept) {
            let mut names = Names::default();
            for files in self.seconds.values_mut() {
                for file in files {
                    if let Some(id) = names.intern(self.names.get(crate::FileId::of(*file))) {
                        *file = id.number();
                    }
                }
            }
            self.names = names;
        }
    }

    /// Files with at least `base` requests within `window` seconds before `now`, in byte order.
    #[must_use]
    pub fn rising(&self, now: i64, window: i64, base: u32) -> Vec<(Vec<u8>, u32)> {
        self.rising_until(now - window, now.saturating_add(AHEAD_SEC), base)
    }

    /// As [`Hits::rising`], for given ends, both included.
    #[must_use]
    pub fn rising_until(&self, from: i64, to: i64, base: u32) -> Vec<(Vec<u8>, u32)> {
        let mut counts = vec![0_u32; self.names.len()];
        if from <= to {
            for files in self.seconds.range(from..=to).map(|(_, files)| files) {
                for file in files {
                    counts[*file as usize] += 1;
                }
            }
        }
        let risen = counts.iter().zip(0_u32..).filter(|(hits, _)| **hits >= base.max(1));
        let mut risen: Vec<(Vec<u8>, u32)> =
            risen.map(|(hits, file)| (self.names.get(crate::FileId::of(file)).to_vec(), *hits)).collect();
        risen.sort_unstable();
        risen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let mut hits = Hits::default();
        for time in 100..110 {
            hits.add(time, b"A");
        }
        hits.add(1000, b"FUTURE");
        assert_eq!(hits.rising(110, 10, 10), [(b"A".to_vec(), 10)]);
        assert_eq!(hits.rising(111, 10, 9), [(b"A".to_vec(), 9)]);
        assert_eq!(hits.rising(111, 10, 10), []);
        assert_eq!(hits.rising(110, 10, 1).len(), 1, "what lies in the future does not count");
        hits.forget_before(105);
        assert_eq!(hits.rising(110, 10, 1), [(b"A".to_vec(), 5)]);
    }

    #[test]
    fn names_of_the_past_are_forgotten() {
        let mut hits = Hits::default();
        for time in 0..10_000 {
            hits.add(time, format!("F{time}").as_bytes());
        }
        hits.forget_before(9_990);
        assert_eq!(hits.names.len(), 10);
        assert_eq!(hits.rising(10_000, 10, 1).len(), 10);
    }

    #[test]
    fn pushed_requests_count_all_or_none() {
        let mut hits = Hits::default();
        assert_eq!(hits.push(b"{\"name\":\"A\",\"hits\":3}\n\n{\"encoded_name\":\"%42\",\"time\":990}\n", 1000), Ok(4));
        assert_eq!(hits.rising(1000, 600, 1), [(b"A".to_vec(), 3), (b"B".to_vec(), 1)]);
        for bad in
            ["{\"name\":\"a/b\"}", "x", "{\"name\":\"A\",\"hits\":-1}", "{\"name\":\"A\",\"time\":0}", "{\"hits\":1}"]
        {
            let lines = format!("{{\"name\":\"A\"}}\n{bad}\n");
            assert!(hits.push(lines.as_bytes(), 1_767_193_200).unwrap_err().starts_with("line 2 "), "{bad}");
        }
        assert_eq!(hits.rising(1000, 600, 3).len(), 1, "nothing of those came in");
    }
}
