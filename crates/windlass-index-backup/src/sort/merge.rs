//! Merges sorted runs into one order.

use std::fs::File;
use std::hint::select_unpredictable;
use std::io::Read;

use super::run::Run;
use super::{Record, common_prefix, key_of};
use crate::error::{BackupError, Stage};
use crate::gob::MAX_ID_BYTES;
use crate::input::Watch;

/// How much a processor fetches at once.
const CACHE_LINE: usize = 64;

/// The number that begins at `at`, and where it ends.
#[inline]
fn number_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    // Most lengths take one byte.
    if let Some(&byte) = bytes.get(at)
        && byte < 0x80
    {
        return Some((u64::from(byte), at + 1));
    }
    for (index, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((number, at + index + 1));
        }
    }
    None
}

/// Where the current record of a source lies in its buffer.
#[derive(Clone, Copy)]
struct Here {
    id: usize,
    id_end: usize,
    value: u64,
    end: usize,
}

/// Reads one run through a window in which the current record always lies whole.
struct Source {
    file: File,
    run: Run,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes still in the file.
    unread: u64,
    here: Option<Here>,
}

impl Source {
    fn open(run: Run) -> Result<Self, BackupError> {
        let file = File::open(&run.path).map_err(|error| BackupError::work("open a run of sorted ids", error))?;
        let (unread, buffer) = (run.bytes, vec![0; run.buffer()]);
        Ok(Self { file, run, buffer, start: 0, end: 0, unread, here: None })
    }

    /// The current id and value; `None` at the end of the run.
    #[inline]
    fn current(&self) -> Option<(&[u8], u64)> {
        self.here.map(|here| (&self.buffer[here.id..here.id_end], here.value))
    }

    #[inline]
    fn locate(&self) -> Option<Here> {
        let bytes = &self.buffer[..self.end];
        let (length, id) = number_at(bytes, self.start)?;
        let id_end = id + length as usize;
        let (value, end) = number_at(bytes, id_end)?;
        Some(Here { id, id_end, value, end })
    }

    /// Steps over the current record and makes sure that the next one is whole.
    #[inline]
    fn advance(&mut self, watch: &Watch) -> Result<(), BackupError> {
        if let Some(here) = self.here {
            self.start = here.end;
        }
        self.here = self.locate();
        if self.here.is_none() && self.unread > 0 {
            self.refill(watch)?;
            self.here = self.locate();
        }
        // The records behind this one are wanted when this run wins again, which is a while from now: have them
        // fetched meanwhile. Nothing waits for the byte that is read here.
        let ahead = self.start + 2 * CACHE_LINE;
        std::hint::black_box(self.buffer.get(ahead).copied());
        Ok(())
    }

    #[cold]
    fn refill(&mut self, watch: &Watch) -> Result<(), BackupError> {
        watch.check(Stage::Sort, self.run.bytes - self.unread)?;
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let space = (self.buffer.len() - self.end) as u64;
        let wanted = space.min(self.unread) as usize;
        let into = &mut self.buffer[self.end..self.end + wanted];
        self.file.read_exact(into).map_err(|error| BackupError::work("read a run of sorted ids", error))?;
        self.end += wanted;
        self.unread -= wanted as u64;
        Ok(())
    }
}

/// A source in the tree, with the key of its current record beside it. An exhausted source has the largest key and
/// loses all ties.
#[derive(Clone, Copy, Default)]
struct Player {
    key: u64,
    source: u64,
}

/// Merges runs with a tree of losers: each inner node holds the loser of the match below it, so that replacing
/// the winner costs one comparison per level.
pub(crate) struct Merge<'w> {
    sources: Vec<Source>,
    losers: Vec<Player>,
    winner: Player,
    prefix: Vec<u8>,
    /// The record handed out last.
    current: Vec<u8>,
    watch: &'w Watch,
}

impl<'w> Merge<'w> {
    pub(super) fn open(runs: Vec<Run>, watch: &'w Watch) -> Result<Self, BackupError> {
        let mut prefix = runs.first().map(|run| run.prefix.clone()).unwrap_or_default();
        let mut sources = Vec::with_capacity(runs.len());
        for run in runs {
            prefix.truncate(common_prefix(&prefix, &run.prefix));
            let mut source = Source::open(run)?;
            source.advance(watch)?;
            sources.push(source);
        }
        let losers = vec![Player::default(); sources.len()];
        let current = Vec::with_capacity(MAX_ID_BYTES.min(256));
        let mut merge = Self { sources, losers, winner: Player::default(), prefix, current, watch };
        merge.build();
        Ok(merge)
    }

    /// What all ids of all runs begin with, cut to a few hundred bytes.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    #[inline]
    fn player(&self, source: usize) -> Player {
        let key = self.sources[source].current().map_or(u64::MAX, |(id, _)| key_of(id, self.prefix.len()));
        Player { key, source: source as u64 }
    }

    /// Plays all matches once. Leaf `s` sits below inner node `(s + count) / 2`.
    fn build(&mut self) {
        let count = self.sources.len();
        let mut winners = vec![Player::default(); 2 * count];
        for source in 0..count {
            winners[count + source] = self.player(source);
        }
        for node in (1..count).rev() {
            let (left, right) = (winners[2 * node], winners[2 * node + 1]);
            let left_wins = if left.key == right.key { self.before_in_full(left, right) } else { left.key < right.key };
            let (winner, loser) = if left_wins { (left, right) } else { (right, left) };
            winners[node] = winner;
            self.losers[node] = loser;
        }
        self.winner = winners.get(1).copied().unwrap_or_default();
    }

    /// Equal keys: whole ids decide, then the later run, whose value is the one that counts.
    #[cold]
    fn before_in_full(&self, a: Player, b: Player) -> bool {
        match (self.sources[a.source as usize].current(), self.sources[b.source as usize].current()) {
            (Some((id_a, _)), Some((id_b, _))) => id_a.cmp(id_b).then(b.source.cmp(&a.source)).is_lt(),
            (in_a, _) => in_a.is_some(),
        }
    }

    /// Steps the winner's source on and finds the next winner.
    #[inline]
    fn replace_winner(&mut self) -> Result<(), BackupError> {
        let source = self.winner.source as usize;
        self.sources[source].advance(self.watch)?;
        let mut winner = self.player(source);
        let mut node = (source + self.sources.len()) / 2;
        while node > 0 {
            let loser = self.losers[node];
            let swap =
                if loser.key == winner.key { self.before_in_full(loser, winner) } else { loser.key < winner.key };
            // Who wins is a coin toss, so it must not become a branch.
            let keys =
                (select_unpredictable(swap, loser.key, winner.key), select_unpredictable(swap, winner.key, loser.key));
            let sources = (
                select_unpredictable(swap, loser.source, winner.source),
                select_unpredictable(swap, winner.source, loser.source),
            );
            winner = Player { key: keys.0, source: sources.0 };
            self.losers[node] = Player { key: keys.1, source: sources.1 };
            node /= 2;
        }
        self.winner = winner;
        Ok(())
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, BackupError> {
        let Some((id, value)) = self.sources[self.winner.source as usize].current() else { return Ok(None) };
        self.current.clear();
        self.current.extend_from_slice(&(id.len() as u32).to_be_bytes());
        self.current.extend_from_slice(id);
        self.current.extend_from_slice(&value.to_be_bytes());
        let key = self.winner.key;
        self.replace_winner()?;
        // Older pairs of the same id come right behind.
        while self.winner.key == key
            && let Some((id, _)) = self.sources[self.winner.source as usize].current()
            && id == Record(&self.current).id()
        {
            self.replace_winner()?;
        }
        Ok(Some(Record(&self.current)))
    }
}
