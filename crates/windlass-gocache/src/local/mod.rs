//! The store on the local disk.
//!
//! One file per output, named by its hash, and one small record per action. Everything is written to a temporary name
//! in the same folder and renamed, outputs before the records that point to them, so any number of processes use one
//! folder without asking each other, and one that is killed leaves at worst a temporary file behind.
//!
//! The only lock that matters, `use.lock`, is between those who remove and those who bring a long unused file back to
//! use: [`LocalStore::gc`] holds it for moments, [`LocalStore::find`] takes it only for files whose last use was noted
//! more than [`STAMP_EVERY`] ago, because only those may be removed.

mod clean;
mod doors;
mod find;
mod gc;
mod incoming;
mod layout;
mod live;
mod record;
mod runs;
mod seal;
mod sizes;
mod verify;
mod walk;
mod why;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use windlass_clock::{SharedClock, SystemEntropy};
use windlass_gocache_remote::{ActionId, Entry, OutputId};

pub use clean::{Cleaned, Cleaning};
pub use doors::{OpenError, OpenOptions};
pub use find::{Doubt, Found};
pub use gc::{Collected, Limits};
pub use incoming::{Published, Writing};
pub use layout::Layout;
pub use live::Live;
pub use record::{Record, RecordFault};
pub use runs::{End, Run};
pub use sizes::Stats;
pub use verify::{Damage, Verified};
pub use why::{ActionState, OutputState, Why};

use seal::Seals;

/// How often the use of a file is written down at most.
pub const STAMP_EVERY: Duration = Duration::from_secs(3600);

/// How many outputs are remembered as found right by this process.
const REMEMBERED: usize = 1 << 16;

/// A folder of outputs and of records that point to them. Clones share everything.
#[derive(Clone, Debug)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The folder, absolute, with a slash at the end.
    root: String,
    layout: Layout,
    /// Locks, history, and what the remote keeps.
    state: PathBuf,
    /// The remote's folder in it.
    remote: PathBuf,
    verify: bool,
    clock: SharedClock,
    seals: Seals,
    /// Drawn once per process, so that temporary names never meet.
    process: u64,
    temporaries: AtomicU64,
    /// Outputs that this process has hashed on their way in, with their seals.
    fresh: Mutex<std::collections::HashMap<OutputId, u64>>,
}

impl LocalStore {
    fn new(root: String, state: PathBuf, options: &OpenOptions, clock: SharedClock) -> Self {
        let remote = state.join("remote");
        let inner = Inner {
            root,
            layout: options.layout,
            state,
            remote,
            verify: options.verify,
            clock,
            seals: Seals::of_this_boot(),
            process: SystemEntropy::real().next_u64(),
            temporaries: AtomicU64::new(0),
            fresh: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        Path::new(&self.inner.root)
    }

    /// How the folder is laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.inner.layout
    }

    /// The folder for what is neither output nor record: locks, history, the remote's queue.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.inner.state
    }

    /// The folder of the remote's own.
    #[must_use]
    pub fn remote_state(&self) -> &Path {
        &self.inner.remote
    }

    /// The path of an output, whether it is there or not.
    #[must_use]
    pub fn output_path(&self, output: &OutputId) -> String {
        let mut path = self.path();
        self.inner.layout.output(output, &mut path);
        path
    }

    /// The path of an action's record, whether it is there or not.
    #[must_use]
    pub fn action_path(&self, action: &ActionId) -> String {
        let mut path = self.path();
        self.inner.layout.action(action, &mut path);
        path
    }

    /// Opens an output whose length and hash were found right. `None` when it is not there or damaged.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn open_output(&self, output: &OutputId) -> io::Result<Option<File>> {
        let file = match File::open(self.output_path(output)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if self.remembered(output).is_some_and(|seal| self.inner.seals.holds(seal, &metadata)) {
            return Ok(Some(file));
        }
        if !metadata.is_file() || self.hash(&file)?.0 != *output {
            return Ok(None);
        }
        self.remember(*output, self.inner.seals.seal(&metadata));
        io::Seek::rewind(&mut &file)?;
        Ok(Some(file))
    }

    /// Whether the output is there. Its hash is not looked at.
    #[must_use]
    pub fn contains(&self, output: &OutputId, size: u64) -> bool {
        std::fs::metadata(self.output_path(output)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// What the action points to, whether its output is there or not.
    #[must_use]
    pub fn action(&self, action: &ActionId) -> Option<Entry> {
        self.read_record(action).ok().flatten().map(|(record, _)| record.entry)
    }

    /// Ties an action to an output that is there. The last one to do so wins.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    pub fn put_action(&self, action: &ActionId, entry: &Entry) -> io::Result<()> {
        let seal = match self.remembered(&entry.output) {
            // What this process has hashed on its way in may have been replaced since.
            Some(seal) => {
                let file = std::fs::metadata(self.output_path(&entry.output))?;
                if self.inner.seals.holds(seal, &file) { seal } else { 0 }
            }
            None => 0,
        };
        self.write_record(action, &Record { entry: *entry, seal })
    }

    /// Ties an action to an output that was just published. The last one to do so wins.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    pub fn put_published(&self, action: &ActionId, entry: &Entry, published: Published) -> io::Result<()> {
        self.write_record(action, &Record { entry: *entry, seal: published.seal })
    }

    pub(crate) fn write_record(&self, action: &ActionId, record: &Record) -> io::Result<()> {
        self.publish(&record.encode(self.inner.layout, action), &self.action_path(action))
    }

    /// Reads a record, and when it was last used. `Ok(None)`: there is none.
    fn read_record(&self, action: &ActionId) -> Result<Option<(Record, SystemTime)>, Unreadable> {
        let mut file = match File::open(self.action_path(action)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Unreadable::Disk(error)),
        };
        let mut bytes = [0; record::LONGEST + 1];
        let length = loop {
            match file.read(&mut bytes) {
                // A file gives less than it is asked for only at its end. Asking again would cost a call for each get.
                Ok(read) if read < bytes.len() => break read,
                Ok(_) => return Err(Unreadable::Fault(RecordFault::Length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Unreadable::Disk(error)),
            }
        };
        let record = Record::parse(self.inner.layout, action, &bytes[..length]).map_err(Unreadable::Fault)?;
        let used = file.metadata().and_then(|file| file.modified()).map_err(Unreadable::Disk)?;
        Ok(Some((record, used)))
    }

    fn path(&self) -> String {
        let mut path = String::with_capacity(self.inner.root.len() + 80);
        path.push_str(&self.inner.root);
        path
    }

    /// A name next to `path` that nobody else uses.
    fn temporary_beside(&self, path: &str) -> String {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut name = String::with_capacity(folder.len() + 48);
        name.push_str(folder);
        name.push('/');
        layout::temporary(self.inner.process, self.inner.temporaries.fetch_add(1, Ordering::Relaxed), &mut name);
        name
    }

    fn now(&self) -> SystemTime {
        SystemTime::from(self.inner.clock.wall())
    }

    fn remember(&self, output: OutputId, seal: u64) {
        let mut fresh = self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.len() >= REMEMBERED {
            fresh.clear();
        }
        fresh.insert(output, seal);
    }

    fn remembered(&self, output: &OutputId) -> Option<u64> {
        self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner).get(output).copied()
    }
}

/// Why a record could not be read.
#[derive(Debug)]
enum Unreadable {
    /// The disk failed.
    Disk(io::Error),
    /// What is there is no record of this action.
    Fault(RecordFault),
}
