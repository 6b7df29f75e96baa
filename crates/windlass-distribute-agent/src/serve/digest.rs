//! Checksums of what is served. Bytes are hashed on their way out, so that whoever fetched a file can ask at the end what
//! it should have been, and nothing has to be read twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::Hasher;
use windlass_distribute::wire::agent::{Checksum, Name};

use crate::transfer::tree::{PartHash, Parts};

/// Files that are remembered; the one that nobody asked for longest goes first.
const MOST: usize = 64;
/// Bytes that are hashed as one, at least. A power of two.
const UNIT: u64 = 1 << 20;
/// Units of a file, at most (or twice as many): that bounds what is remembered of it.
const UNITS: u64 = 16_384;
/// What nobody has fetched is read for an answer up to so many bytes; with more the answer is that it is not known.
const READ: u64 = 256 << 20;
/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// The files that were asked for last.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<VecDeque<Arc<Digest>>>);

/// What is known of one version of a file.
#[derive(Debug)]
pub(crate) struct Digest {
    name: Name,
    version: String,
    parts: Parts,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Units(Vec<Option<PartHash>>),
    Whole(Checksum),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Digests {
    /// What is known of a file, to be added to.
    pub(crate) fn of(&self, name: &Name, version: &str, size: u64) -> Arc<Digest> {
        let mut all = lock(&self.0);
        let known = all.iter().position(|known| known.name == *name && known.version == version);
        let digest = known.and_then(|at| all.remove(at)).unwrap_or_else(|| {
            let unit = UNIT.max((size / UNITS).next_power_of_two());
            let parts = Parts { size, part: unit };
            let units = vec![None; usize::try_from(parts.count()).unwrap_or(0)];
            let state = Mutex::new(State::Units(units));
            Arc::new(Digest { name: name.clone(), version: version.to_owned(), parts, state })
        });
        all.push_front(digest.clone());
        all.truncate(MOST);
        digest
    }
}

impl Digest {
    /// The checksum of the whole, if all of it was hashed.
    pub(crate) fn whole(&self) -> Option<Checksum> {
        match &*lock(&self.state) {
            State::Whole(checksum) => Some(*checksum),
            State::Units(_) => None,
        }
    }

    fn knows(&self, unit: u64) -> bool {
        match &*lock(&self.state) {
            State::Whole(_) => true,
            State::Units(units) => usize::try_from(unit).ok().and_then(|at| units.get(at)).is_none_or(Option::is_some),
        }
    }

    fn put(&self, unit: u64, hash: PartHash) {
        let mut state = lock(&self.state);
        if let State::Units(units) = &mut *state
            && let Some(slot) = usize::try_from(unit).ok().and_then(|at| units.get_mut(at))
        {
            *slot = Some(hash);
        }
        self.merge(&mut state);
    }

    fn merge(&self, state: &mut State) {
        let State::Units(units) = state else { return };
        if units.iter().all(Option::is_some) {
            let hashes: Vec<PartHash> = units.iter().copied().flatten().collect();
            *state = State::Whole(self.parts.checksum(&hashes));
        }
    }

    /// Reads what is missing, if it is not too much, and gives the checksum of the whole. Blocks.
    pub(crate) fn complete(self: &Arc<Self>, file: &File) -> io::Result<Option<Checksum>> {
        let missing: Vec<u64> = (0..self.parts.count()).filter(|unit| !self.knows(*unit)).collect();
        if missing.iter().map(|unit| self.parts.length(*unit)).sum::<u64>() > READ {
            return Ok(None);
        }
        let mut buffer = vec![0; BUFFER];
        for unit in missing {
            let start = self.parts.start(unit);
            Hashing::from(self.clone(), start).read(file, start + self.parts.length(unit), &mut buffer)?;
        }
        // An empty file has no units.
        self.merge(&mut lock(&self.state));
        Ok(self.whole())
    }
}

/// Bytes of a file in their order, hashed unit by unit. What is known already is passed over.
#[derive(Debug)]
pub(crate) struct Hashing {
    digest: Arc<Digest>,
    at: u64,
    hasher: Option<Hasher>,
}

impl Hashing {
    /// Begins where sending begins.
    pub(crate) fn from(digest: Arc<Digest>, at: u64) -> Self {
        Self { digest, at, hasher: None }
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        let Parts { size, part } = self.digest.parts;
        while !bytes.is_empty() {
            let unit = self.at / part;
            if self.at.is_multiple_of(part) {
                self.hasher = (!self.digest.knows(unit)).then(|| self.digest.parts.hasher(unit));
            }
            let end = ((unit + 1) * part).min(size);
            let left = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
            if left == 0 {
                return;
            }
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            if let Some(hasher) = &mut self.hasher {
                hasher.update(now);
            }
            self.at += now.len() as u64;
            bytes = rest;
            if self.at == end
                && let Some(hasher) = self.hasher.take()
            {
                self.digest.put(unit, self.digest.parts.finish(&hasher));
            }
        }
    }

    /// Reads on to `end`: bytes that went out without having been seen here. They are in memory still.
    pub(crate) fn read(&mut self, file: &File, end: u64, buffer: &mut [u8]) -> io::Result<()> {
        while self.at < end {
            let unit = self.at / self.digest.parts.part;
            let over = (self.digest.parts.start(unit) + self.digest.parts.length(unit)).min(end);
            let begins = self.at.is_multiple_of(self.digest.parts.part);
            if (begins && self.digest.knows(unit)) || (!begins && self.hasher.is_none()) {
                (self.at, self.hasher) = (over, None);
                continue;
            }
            let want = usize::try_from(over - self.at).unwrap_or(usize::MAX).min(buffer.len());
            match file.read_at(&mut buffer[..want], self.at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.take(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|n| ((n * 31) >> 3) as u8).collect()
    }

    fn name() -> Name {
        Name::new("A").unwrap()
    }

    #[test]
    fn ranges_in_any_order_make_the_checksum_of_the_whole() {
        let size = 5 * (1 << 20) + 17;
        let all = bytes(size);
        let digests = Digests::default();
        let digest = digests.of(&name(), "1-1", size as u64);
        let send = |from: usize, to: usize, step: usize| {
            let mut hashing = Hashing::from(digests.of(&name(), "1-1", size as u64), from as u64);
            all[from..to].chunks(step).for_each(|piece| hashing.take(piece));
        };
        send(3 << 20, size, 100_000);
        // Half of a unit is worth nothing, and neither is one that begins in its middle.
        send(0, (1 << 20) - 1, 4096);
        send(5, 2 << 20, 1 << 20);
        assert_eq!(digest.whole(), None);
        send(0, 3 << 20, 777_777);
        assert_eq!(digest.whole().unwrap().0, *blake3::hash(&all).as_bytes());
        assert_eq!(digests.of(&name(), "1-2", size as u64).whole(), None, "another version is another file");
    }

    #[test]
    fn what_is_missing_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::default();
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 3_500_000] {
            let path = folder.path().join(size.to_string());
            std::fs::write(&path, bytes(size)).unwrap();
            let file = File::open(&path).unwrap();
            let digest = digests.of(&name(), &size.to_string(), size as u64);
            if size > 2 << 20 {
                Hashing::from(digest.clone(), 1 << 20).read(&file, 2 << 20, &mut [0; 1000]).unwrap();
            }
            let checksum = digest.complete(&file).unwrap().unwrap();
            assert_eq!(checksum.0, *blake3::hash(&bytes(size)).as_bytes(), "{size}");
        }
        let file = File::open(folder.path().join("1")).unwrap();
        assert!(digests.of(&name(), "longer", 10).complete(&file).is_err(), "a file that became shorter");
        assert_eq!(digests.of(&name(), "huge", READ + UNIT).complete(&file).unwrap(), None);
    }

    #[test]
    fn only_so_many_files_are_remembered() {
        let digests = Digests::default();
        for number in 0..MOST + 10 {
            digests.of(&name(), &number.to_string(), 1 << 40);
        }
        let all = lock(&digests.0);
        assert_eq!((all.len(), all.front().unwrap().version.as_str()), (MOST, "73"));
        assert!(all.front().unwrap().parts.count() <= 2 * UNITS);
    }
}
