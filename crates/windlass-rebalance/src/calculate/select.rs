//! Finds, for each class, the hashes at which one part ends and the next begins.
//!
//! The ids of a class are thought of as sorted by the hash of (id, seed); a part is a run in that order. A *cut* is
//! the rank at which a run ends. To find the hash of that rank exactly without holding the ids, the lists are read
//! once more: hashes spread evenly, so the one looked for lies in a small window around `rank / ids`, and only the
//! hashes inside the window are kept and counted, together with the number below it. Should the rank lie outside (or
//! too many hashes inside, which needs ids made for the purpose), the window is moved or divided into 1 024 bins,
//! each reading making it at least that much smaller. Windows are worked on in rounds such that all of a round fit
//! into the memory allowed; usually there is one round.

use std::ops::Range;

use super::classes::ClassIndex;

/// Hash of an id under the plan's seed. Ids with the smallest hashes move first.
pub(crate) fn hash(id: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(id, seed)
}

/// The end of a run: ids with a smaller hash are before it, and so are the first `ties` ids with this very hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Border {
    pub(crate) hash: u64,
    pub(crate) ties: u64,
}

/// The rank of which the hash is looked for: `rank` ids of the class lie before the cut.
#[derive(Debug)]
struct Cut {
    class: ClassIndex,
    rank: u64,
    /// Bounds within which the hash of the last id before the cut lies, both included.
    low: u64,
    high: u64,
    /// The part of these bounds looked at in this round.
    window: (u64, u64),
    /// The most ids that can be in the window.
    expected: u64,
    found: Option<Border>,
    tally: Tally,
}

#[derive(Debug)]
struct Tally {
    below: u64,
    within: u64,
    /// Hashes in the window, as long as they are no more than expected; else the window was divided.
    hashes: Vec<u64>,
    overflow: bool,
    bins: Vec<u64>,
}

const BINS: u64 = 1024;
/// A window of up to so many hashes is collected; a larger one is divided.
const MOST_COLLECTED: u64 = 1 << 17;

/// All cuts of a plan.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// Sorted by class.
    cuts: Vec<Cut>,
    /// Range of `cuts` under work in this round.
    round: Range<usize>,
    most_bytes: usize,
}

impl Cuts {
    /// Takes (class, ids of the class, rank) in ascending order of classes; ranks are above 0 and at most the ids.
    pub(crate) fn new(wanted: impl IntoIterator<Item = (ClassIndex, u64, u64)>, most_bytes: usize) -> Self {
        let cuts = wanted.into_iter().map(|(class, ids, rank)| Cut::new(class, ids, rank)).collect();
        Self { cuts, round: 0..0, most_bytes }
    }

    /// Prepares the next reading of the lists; false when every border is known.
    pub(crate) fn begin_round(&mut self) -> bool {
        let Some(first) = self.cuts.iter().position(|cut| cut.found.is_none()) else {
            return false;
        };
        let mut bytes = 0;
        let mut end = first;
        while let Some(cut) = self.cuts.get_mut(end) {
            bytes += cut.bytes();
            if end > first && bytes > self.most_bytes {
                break;
            }
            cut.begin();
            end += 1;
        }
        self.round = first..end;
        true
    }

    /// Bytes the windows of this round may hold.
    pub(crate) fn round_bytes(&self) -> usize {
        self.cuts[self.round.clone()].iter().map(Cut::bytes).sum::<usize>() + self.cuts.capacity() * size_of::<Cut>()
    }

    /// Whether the hash of an id of the class is of interest in this round, so that it need not be computed if not.
    pub(crate) fn wants(&self, class: ClassIndex) -> Option<usize> {
        let cuts = &self.cuts[self.round.clone()];
        let at = self.round.start + cuts.partition_point(|cut| cut.class < class);
        (at < self.round.end && self.cuts[at].class == class).then_some(at)
    }

    /// Takes the hash of one id, at the place [`Cuts::wants`] gave for its class.
    pub(crate) fn see(&mut self, at: usize, hash: u64) {
        let class = self.cuts[at].class;
        let end = self.round.end;
        for cut in self.cuts[at..end].iter_mut().take_while(|cut| cut.class == class) {
            if cut.found.is_none() {
                cut.see(hash);
            }
        }
    }

    /// Ends a reading: borders are found or their windows narrowed. An error says that the ids of a class are not
    /// those counted before.
    pub(crate) fn end_round(&mut self) -> Result<(), ClassIndex> {
        for cut in &mut self.cuts[self.round.clone()] {
            if cut.found.is_none() {
                cut.end().map_err(|()| cut.class)?;
            }
        }
        Ok(())
    }

    /// Class and border of each cut, in the order the cuts were given.
    pub(crate) fn borders(self) -> impl Iterator<Item = (ClassIndex, Border)> {
        self.cuts.into_iter().filter_map(|cut| Some((cut.class, cut.found?)))
    }
}

impl Cut {
    fn new(class: ClassIndex, ids: u64, rank: u64) -> Self {
        // Six standard deviations of the number of ids below a hash, and a few ids for small classes.
        let (n, p) = (ids as f64, rank as f64 / ids as f64);
        let reach = 6.0 * (n * p * (1.0 - p)).sqrt() + 16.0;
        let hash_at = |rank: f64| ((rank / n).clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let window = (hash_at(rank as f64 - reach), hash_at(rank as f64 + reach));
        let expected = ((4.0 * reach) as u64).min(ids);
        let found = (rank >= ids).then_some(Border { hash: u64::MAX, ties: u64::MAX });
        Self { class, rank, low: 0, high: u64::MAX, window, expected, found, tally: Tally::empty() }
    }

    fn bytes(&self) -> usize {
        if self.found.is_some() {
            0
        } else if self.expected <= MOST_COLLECTED {
            self.expected as usize * size_of::<u64>()
        } else {
            BINS as usize * size_of::<u64>()
        }
    }

    fn begin(&mut self) {
        self.tally = Tally::empty();
        if self.found.is_none() && self.expected > MOST_COLLECTED {
            self.tally.bins = vec![0; BINS as usize];
        }
    }

    fn see(&mut self, hash: u64) {
        let (low, high) = self.window;
        if hash < low {
            self.tally.below += 1;
        } else if hash <= high {
            self.tally.within += 1;
            if !self.tally.bins.is_empty() {
                let bin = (hash - low) / bin_width(low, high);
                self.tally.bins[bin as usize] += 1;
            } else if (self.tally.hashes.len() as u64) < self.expected {
                self.tally.hashes.push(hash);
            } else {
                self.tally.overflow = true;
            }
        }
    }

    fn end(&mut self) -> Result<(), ()> {
        let tally = std::mem::replace(&mut self.tally, Tally::empty());
        let (low, high) = self.window;
        if self.rank <= tally.below {
            // The rank is below the window: between the bounds known so far and it.
            if low <= self.low {
                return Err(());
            }
            self.high = low - 1;
            self.narrow(self.low, self.high, tally.below);
        } else if self.rank > tally.below + tally.within {
            if high >= self.high {
                return Err(());
            }
            self.low = high + 1;
            // Nothing is known about how many there are; divide it.
            self.narrow(self.low, self.high, u64::MAX);
        } else if tally.bins.is_empty() && !tally.overflow {
            let place = self.rank - tally.below - 1;
            let mut hashes = tally.hashes;
            let (before, &mut hash, _) = hashes.select_nth_unstable(place as usize);
            let smaller = before.iter().filter(|&&other| other < hash).count() as u64;
            self.found = Some(Border { hash, ties: place + 1 - smaller });
        } else if tally.bins.is_empty() {
            (self.low, self.high) = (low, high);
            self.narrow(low, high, u64::MAX);
        } else {
            let width = bin_width(low, high);
            let mut below = tally.below;
            let bin = tally.bins.iter().position(|&count| {
                below += count;
                below >= self.rank
            });
            let bin = bin.ok_or(())?;
            let count = tally.bins[bin];
            self.low = low + width * bin as u64;
            self.high = self.low.saturating_add(width - 1).min(high);
            if self.low == self.high {
                // All of the bin have this very hash.
                self.found = Some(Border { hash: self.low, ties: self.rank - (below - count) });
            } else {
                self.narrow(self.low, self.high, count);
            }
        }
        Ok(())
    }

    fn narrow(&mut self, low: u64, high: u64, expected: u64) {
        self.window = (low, high);
        self.expected = expected;
    }
}

/// Rounded up, so that no hash of the window lies beyond the last bin.
fn bin_width(low: u64, high: u64) -> u64 {
    (high - low) / BINS + 1
}

impl Tally {
    fn empty() -> Self {
        Self { below: 0, within: 0, hashes: Vec::new(), overflow: false, bins: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for the cuts in the given hashes and compares them with sorting.
    #[track_caller]
    fn check(hashes: &[u64], ranks: &[u64], most_rounds: usize) {
        let wanted = ranks.iter().map(|&rank| (3, hashes.len() as u64, rank));
        let mut cuts = Cuts::new(wanted, 1 << 16);
        let mut rounds = 0;
        while cuts.begin_round() {
            rounds += 1;
            assert!(rounds <= most_rounds, "more than {most_rounds} rounds");
            assert_eq!(cuts.wants(2), None);
            for &hash in hashes {
                let at = cuts.wants(3).unwrap();
                cuts.see(at, hash);
            }
            cuts.end_round().unwrap();
        }
        let mut sorted = hashes.to_vec();
        sorted.sort_unstable();
        for (&rank, (_, border)) in ranks.iter().zip(cuts.borders()) {
            let smaller = hashes.iter().filter(|&&hash| hash < border.hash).count() as u64;
            let equal = hashes.iter().filter(|&&hash| hash == border.hash).count() as u64;
            assert_eq!(smaller + border.ties.min(equal), rank.min(hashes.len() as u64));
            if rank < hashes.len() as u64 {
                assert_eq!(border.hash, sorted[rank as usize - 1]);
            }
        }
    }

    fn even(count: u64) -> Vec<u64> {
        (0..count).map(|at| hash(&at.to_be_bytes(), 7)).collect()
    }

    #[test]
    fn cuts_of_evenly_spread_hashes_are_found_in_one_round() {
        check(&even(1), &[1], 1);
        check(&even(10), &[1, 5, 9, 10], 1);
        check(&even(20_000), &[1, 300, 10_000, 19_999], 1);
    }

    #[test]
    fn many_cuts_take_several_rounds_within_the_memory() {
        check(&even(20_000), &(1..200).map(|at| at * 100).collect::<Vec<_>>(), 200);
    }

    #[test]
    fn hashes_made_to_be_close_together_are_found_all_the_same() {
        let narrow: Vec<u64> = (0..100_000).map(|at| 5_000_000 + at % 70_000).collect();
        check(&narrow, &[1, 50_000, 99_999], 40);
        check(&vec![9; 100_000], &[1, 77_777], 40);
        check(&vec![u64::MAX; 1000], &[1, 999], 40);
        check(&vec![0; 1000], &[1, 999], 40);
    }

    #[test]
    fn a_class_that_lost_ids_between_readings_is_found_out() {
        let mut cuts = Cuts::new([(0, 1000, 500)], 1 << 20);
        let mut outcome = Ok(());
        while outcome.is_ok() && cuts.begin_round() {
            for hash in even(10) {
                cuts.see(0, hash);
            }
            outcome = cuts.end_round();
        }
        assert_eq!(outcome, Err(0));
    }
}
