//! The upload queue on disk: one journal per process, taken over when the process is gone.
//!
//! A journal is a file of records of 88 bytes that are only ever appended. Its owner holds a lock on it (`flock`) for
//! as long as it lives; nobody waits for that lock. Who finds a journal whose lock is free takes it over: its owner
//! is gone. A record that a kill cut short was never acknowledged, and is cut off.
//!
//! ```text
//! an entry: "P" 0 0 0, action (32), output (32), size (8), time (8), CRC-32 of the 84 bytes before (4)
//! done:     "D" 0 0 0, first and last entry, counted from 0, (8 each), zeros, CRC-32 (4)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use windlass_clock::Entropy;

use crate::id::{ActionId, Entry, OutputId};
use crate::place::Steps;

const RECORD: usize = 88;
/// A journal with more than this was not written by this program.
const MOST: u64 = 64 * 1024 * 1024;

/// An entry that waits, and which journal remembers it.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) action: ActionId,
    pub(crate) entry: Entry,
    pub(crate) journal: Arc<Journal>,
    pub(crate) number: u64,
}

/// A journal whose lock this process holds.
pub(crate) struct Journal {
    path: PathBuf,
    steps: Steps,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    entries: u64,
    done: u64,
}

fn sealed(kind: u8, fields: &[&[u8]]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0] = kind;
    let mut at = 4;
    for field in fields {
        record[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    let crc = crc32fast::hash(&record[..RECORD - 4]);
    record[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn eight(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

fn id(bytes: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[..32]);
    id
}

/// What a journal says: its entries, of each whether it is still to be done, and how many bytes are whole records.
pub(crate) fn replay(bytes: &[u8]) -> (Vec<(ActionId, Entry, bool)>, usize) {
    let mut entries: Vec<(ActionId, Entry, bool)> = Vec::new();
    let mut good = 0;
    for record in bytes.chunks_exact(RECORD) {
        if crc32fast::hash(&record[..RECORD - 4]).to_le_bytes() != record[RECORD - 4..] {
            break;
        }
        match record[0] {
            b'P' => {
                let entry = Entry {
                    output: OutputId::new(id(&record[36..])),
                    size: eight(&record[68..]),
                    time_unix_nanos: eight(&record[76..]) as i64,
                };
                entries.push((ActionId::new(id(&record[4..])), entry, true));
            }
            b'D' => {
                let (first, last) = (eight(&record[4..]), eight(&record[12..]));
                let last = last.min((entries.len() as u64).saturating_sub(1));
                for number in first..=last {
                    if let Some(entry) = entries.get_mut(number as usize) {
                        entry.2 = false;
                    }
                }
            }
            _ => break,
        }
        good += RECORD;
    }
    (entries, good)
}

/// How many entries a journal holds, and how many bytes of it are good: for tests that feed it anything.
#[doc(hidden)]
#[must_use]
pub fn replay_journal(bytes: &[u8]) -> (usize, usize) {
    let (entries, good) = replay(bytes);
    (entries.len(), good)
}

impl Journal {
    /// Begins a journal of this process's own.
    pub(crate) fn begin(folder: &Path, entropy: &dyn Entropy, steps: &Steps) -> io::Result<Arc<Self>> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{:032x}.queue", entropy.next_u128()));
        steps.pass("before begin journal")?;
        let file = OpenOptions::new().append(true).read(true).create_new(true).open(&path)?;
        // Between the two steps somebody may take the empty file over and remove it; then there is another name.
        if file.try_lock().is_err() || !still_named(&file, &path) {
            return Self::begin(folder, entropy, steps);
        }
        steps.pass("after begin journal")?;
        let inner = Mutex::new(Inner { file, entries: 0, done: 0 });
        Ok(Arc::new(Self { path, steps: steps.clone(), inner }))
    }

    /// Takes over the journals of processes that are gone, `most` of them, with what they had still to do.
    pub(crate) fn adopt(folder: &Path, most: usize, steps: &Steps) -> Vec<Item> {
        let Ok(found) = fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = found.filter_map(|one| Some(one.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "queue"));
        paths.sort();
        let mut items = Vec::new();
        let mut taken = 0;
        for path in paths {
            if taken == most {
                break;
            }
            if let Ok(Some(adopted)) = Self::adopt_one(&path, steps) {
                taken += 1;
                items.extend(adopted);
            }
        }
        items
    }

    /// Whether a process that is gone has left something.
    pub(crate) fn is_orphaned(folder: &Path) -> bool {
        let found = fs::read_dir(folder).into_iter().flatten().filter_map(|one| Some(one.ok()?.path()));
        let mut journals = found.filter(|path| path.extension().is_some_and(|extension| extension == "queue"));
        // The lock is let go at once: this only looks.
        journals.any(|path| File::open(&path).is_ok_and(|file| file.try_lock().is_ok()))
    }

    fn adopt_one(path: &Path, steps: &Steps) -> io::Result<Option<Vec<Item>>> {
        let file = OpenOptions::new().append(true).read(true).open(path)?;
        if file.try_lock().is_err() || !still_named(&file, path) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        (&file).take(MOST).read_to_end(&mut bytes)?;
        let (entries, good) = replay(&bytes);
        steps.pass("before cut journal")?;
        file.set_len(good as u64)?;
        steps.pass("after cut journal")?;
        let left = entries.iter().filter(|(_, _, open)| *open).count() as u64;
        let count = entries.len() as u64;
        let inner = Mutex::new(Inner { file, entries: count, done: count - left });
        let journal = Arc::new(Self { path: path.to_owned(), steps: steps.clone(), inner });
        if left == 0 {
            journal.remove()?;
        }
        let items = entries.into_iter().enumerate().filter(|(_, (_, _, open))| *open);
        let items = items.map(|(number, (action, entry, _))| Item {
            action,
            entry,
            journal: Arc::clone(&journal),
            number: number as u64,
        });
        Ok(Some(items.collect()))
    }

    /// Remembers an entry. Once this returns, a kill does not lose it.
    pub(crate) fn push(self: &Arc<Self>, action: ActionId, entry: Entry) -> io::Result<Item> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, time) = (entry.size.to_le_bytes(), entry.time_unix_nanos.to_le_bytes());
        let record = sealed(b'P', &[action.bytes(), entry.output.bytes(), &size, &time]);
        self.append(&mut inner, &record, "push")?;
        let number = inner.entries;
        inner.entries += 1;
        Ok(Item { action, entry, journal: Arc::clone(self), number })
    }

    fn append(&self, inner: &mut Inner, record: &[u8; RECORD], step: &str) -> io::Result<()> {
        self.steps.pass(&format!("before {step}"))?;
        let length = inner.file.metadata()?.len();
        if let Err(error) = inner.file.write_all(record) {
            // Half a record on a full disk would hide all that follow it.
            let _ = inner.file.set_len(length);
            return Err(error);
        }
        self.steps.pass(&format!("after {step}"))
    }

    /// Marks entries, whose numbers are sorted, as done. Removes the journal when all are.
    pub(crate) fn done(&self, numbers: &[u64]) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while at < numbers.len() {
            let first = numbers[at];
            let mut last = first;
            while at + 1 < numbers.len() && numbers[at + 1] == last + 1 {
                at += 1;
                last = numbers[at];
            }
            at += 1;
            let record = sealed(b'D', &[&first.to_le_bytes(), &last.to_le_bytes()]);
            self.append(&mut inner, &record, "done")?;
            inner.done += last - first + 1;
        }
        Ok(())
    }

    /// Whether nothing in it is still to be done.
    pub(crate) fn is_finished(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.done >= inner.entries
    }

    /// Removes the file; the lock goes with the last holder.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.steps.pass("before remove journal")?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.steps.pass("after remove journal"),
        }
    }
}

/// Whether the opened file is still the one of this name: its last owner may have removed it meanwhile.
fn still_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Entries and bytes in all journals of a folder, whoever owns them: what `stats` shows.
#[must_use]
pub fn waiting(state_dir: &Path) -> (u64, u64) {
    let Ok(found) = fs::read_dir(state_dir.join("queue")) else { return (0, 0) };
    let (mut count, mut bytes) = (0, 0);
    for path in found.filter_map(|one| Some(one.ok()?.path())) {
        let Ok(file) = File::open(&path) else { continue };
        let mut content = Vec::new();
        if file.take(MOST).read_to_end(&mut content).is_err() {
            continue;
        }
        for (_, entry, open) in replay(&content).0 {
            if open {
                count += 1;
                bytes += entry.size;
            }
        }
    }
    (count, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use windlass_clock::Seeded;

    use super::*;

    fn entry(number: u8) -> (ActionId, Entry) {
        let entry = Entry { output: OutputId::new([number; 32]), size: u64::from(number), time_unix_nanos: -5 };
        (ActionId::new([number; 32]), entry)
    }

    #[test]
    fn a_journal_is_adopted_only_when_its_owner_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let steps = Steps::default();
        let journal = Journal::begin(folder.path(), &Seeded::new(1), &steps).unwrap();
        for number in 0..5 {
            let (action, entry) = entry(number);
            journal.push(action, entry).unwrap();
        }
        journal.done(&[0, 1, 3]).unwrap();
        assert!(Journal::adopt(folder.path(), 9, &steps).is_empty(), "it lives");
        drop(journal);
        let items = Journal::adopt(folder.path(), 9, &steps);
        let found: Vec<_> = items.iter().map(|item| (item.action, item.entry)).collect();
        assert_eq!(found, [entry(2), entry(4)]);
        assert!(Journal::adopt(folder.path(), 9, &steps).is_empty(), "it has a new owner");
        let journal = Arc::clone(&items[0].journal);
        journal.done(&[2, 4]).unwrap();
        assert!(journal.is_finished());
        drop((items, journal));
        assert!(Journal::adopt(folder.path(), 9, &steps).is_empty(), "all is done");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "and the file is gone");
    }

    proptest! {
        #[test]
        fn a_cut_or_damaged_journal_keeps_what_came_before(count in 1u8..20, cut in any::<prop::sample::Index>(), flip in any::<bool>()) {
            let mut bytes = Vec::new();
            for number in 0..count {
                let (action, entry) = entry(number);
                let (size, time) = (entry.size.to_le_bytes(), entry.time_unix_nanos.to_le_bytes());
                bytes.extend_from_slice(&sealed(b'P', &[action.bytes(), entry.output.bytes(), &size, &time]));
            }
            let at = cut.index(bytes.len());
            if flip { bytes[at] ^= 1 } else { bytes.truncate(at) }
            let (entries, good) = replay(&bytes);
            prop_assert_eq!(entries.len(), at / RECORD);
            prop_assert_eq!(good, at / RECORD * RECORD);
            for (number, found) in entries.into_iter().enumerate() {
                let (action, entry) = entry(number as u8);
                prop_assert_eq!(found, (action, entry, true));
            }
        }
    }
}
