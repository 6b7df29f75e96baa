//! Lines that could not be used.

use serde::Serialize;

use crate::name::Shown;

/// Examples kept of one input.
const EXAMPLES: usize = 20;

/// Bytes kept of an example.
const LONGEST: usize = 200;

/// A line that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Its number, from 1.
    pub line: u64,
    /// Its beginning, as people read it.
    pub text: String,
    /// Why it was passed over.
    pub why: &'static str,
}

/// How many lines of an input could not be used, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Malformed {
    /// All of them.
    pub count: u64,
    /// The first ones.
    pub examples: Vec<Example>,
}

impl Malformed {
    /// Counts a line.
    pub fn add(&mut self, line: u64, text: &[u8], why: &'static str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            let text = Shown(&text[..text.len().min(LONGEST)]).to_string();
            self.examples.push(Example { line, text, why });
        }
    }

    /// Counts those of another reading of the same input.
    pub fn join(&mut self, other: Self) {
        self.count += other.count;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut malformed = Malformed::default();
        for line in 1..=1000 {
            malformed.add(line, &[0xff; 100_000], "is no text");
        }
        assert_eq!(malformed.count, 1000);
        assert_eq!(malformed.examples.len(), EXAMPLES);
        assert!(malformed.examples.iter().all(|example| example.text.len() <= 4 * LONGEST));
    }
}
