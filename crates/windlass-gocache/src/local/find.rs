//! Looking an action up.

use std::fs::{self, File, Metadata};
use std::io;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use windlass_gocache_remote::{ActionId, Entry, OutputId};

use super::{LocalStore, Record, STAMP_EVERY, Unreadable};

/// What looking an action up came to.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Hit {
        /// What the action points to.
        entry: Entry,
        /// The file with exactly these bytes.
        path: String,
    },
    /// It is there, and has to be hashed before it is given out: see [`Doubt::resolve`].
    Doubtful(Doubt),
    /// It is not there.
    Absent,
    /// It was there, and damaged.
    Damaged,
}

/// An entry whose output has to be hashed before it is given out.
#[derive(Debug)]
pub struct Doubt {
    store: LocalStore,
    action: ActionId,
    record: Record,
    path: String,
}

impl Doubt {
    /// How many bytes have to be hashed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.entry.size
    }

    /// Hashes the output. What is right is given out, and sealed, so that it is not hashed again.
    #[must_use]
    pub fn resolve(self) -> Found {
        let Self { store, action, record, path } = self;
        store.confirm(action, record, path)
    }
}

impl LocalStore {
    /// Looks an action up: one small file read, one file looked at. The disk's failures count as absence.
    #[must_use]
    pub fn find(&self, action: &ActionId) -> Found {
        let (record, used) = match self.read_record(action) {
            Ok(Some(found)) => found,
            Ok(None) | Err(Unreadable::Disk(_)) => return Found::Absent,
            Err(Unreadable::Fault(_)) => {
                self.drop_record(action);
                return Found::Damaged;
            }
        };
        let path = self.output_path(&record.entry.output);
        let Ok(file) = fs::symlink_metadata(&path) else { return Found::Absent };
        if !file.is_file() || file.len() != record.entry.size {
            self.drop_damaged(action, &record);
            return Found::Damaged;
        }
        if self.inner.verify || !self.inner.seals.holds(record.seal, &file) {
            return Found::Doubtful(Doubt { store: self.clone(), action: *action, record, path });
        }
        self.hit(action, used, record.entry, path, &file)
    }

    fn confirm(&self, action: ActionId, mut record: Record, path: String) -> Found {
        let read = File::open(&path).and_then(|file| Ok((file.metadata()?, self.hash(&file)?)));
        let Ok((file, found)) = read else { return Found::Absent };
        if found != (record.entry.output, record.entry.size) {
            self.drop_damaged(&action, &record);
            return Found::Damaged;
        }
        let seal = self.inner.seals.seal(&file);
        self.remember(record.entry.output, seal);
        if record.seal != seal && seal != 0 {
            record.seal = seal;
            // Another process may have put the action anew meanwhile; its record must stay. If it cannot be written,
            // it is hashed again the next time.
            if self.action(&action) == Some(record.entry) {
                let _ = self.write_record(&action, &record);
            }
        }
        self.hit(&action, self.now(), record.entry, path, &file)
    }

    fn hit(&self, action: &ActionId, used: SystemTime, entry: Entry, path: String, file: &Metadata) -> Found {
        match self.stamp_output(&path, file) {
            Ok(true) => {}
            Ok(false) => return Found::Absent,
            // A folder that cannot be written has no gc either.
            Err(_) => return Found::Hit { entry, path },
        }
        if self.is_old(used) {
            let now = Timestamps { last_access: omit(), last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW } };
            // Gone or not writable: then it is only stamped later.
            let _ = rustix::fs::utimensat(CWD, self.action_path(action), &now, AtFlags::empty());
        }
        Found::Hit { entry, path }
    }

    /// Notes that an output is used. `false`: it was removed meanwhile.
    ///
    /// The stamp is the time of access, because that of the last change tells whether somebody wrote to the file.
    pub(super) fn stamp_output(&self, path: &str, file: &Metadata) -> io::Result<bool> {
        if !self.is_old(last_use(file)) {
            return Ok(true);
        }
        let _held = self.share_use()?;
        let now = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, last_modification: omit() };
        match rustix::fs::utimensat(CWD, path, &now, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a use that was noted at `stamp` has to be noted again. One from the future is as good as none.
    fn is_old(&self, stamp: SystemTime) -> bool {
        let now = self.now();
        now.duration_since(stamp).map_or_else(|error| error.duration() > STAMP_EVERY, |age| age > STAMP_EVERY)
    }

    /// Keeps others from removing anything until it is dropped.
    pub(super) fn share_use(&self) -> io::Result<File> {
        self.lock_use(FlockOperation::LockShared)
    }

    /// Keeps others from bringing anything old back to use until it is dropped.
    pub(super) fn own_use(&self) -> io::Result<File> {
        self.lock_use(FlockOperation::LockExclusive)
    }

    fn lock_use(&self, how: FlockOperation) -> io::Result<File> {
        let path = self.inner.state.join("use.lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        rustix::fs::flock(&file, how)?;
        Ok(file)
    }

    /// Removes a record that cannot be read. Another process may have replaced it: then it stays.
    fn drop_record(&self, action: &ActionId) {
        let Ok(_held) = self.own_use() else { return };
        if matches!(self.read_record(action), Err(Unreadable::Fault(_))) {
            let _ = fs::remove_file(self.action_path(action));
        }
    }

    /// Removes an output that is damaged, unless it has been repaired meanwhile. If the output is right after all, it
    /// is the record that lies about it.
    fn drop_damaged(&self, action: &ActionId, record: &Record) {
        let Ok(_held) = self.own_use() else { return };
        let path = self.output_path(&record.entry.output);
        match self.output_is_right(&record.entry.output) {
            Ok(Some(false)) => drop(fs::remove_file(&path)),
            Ok(Some(true))
                if fs::metadata(&path).is_ok_and(|there| there.len() != record.entry.size)
                    && self.action(action) == Some(record.entry) =>
            {
                let _ = fs::remove_file(self.action_path(action));
            }
            _ => {}
        }
    }

    /// Whether the file of an output holds what its name says. `None`: there is no file.
    pub(super) fn output_is_right(&self, output: &OutputId) -> io::Result<Option<bool>> {
        let path = self.output_path(output);
        let there = match fs::symlink_metadata(&path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !there.is_file() {
            return Ok(Some(false));
        }
        Ok(Some(self.hash(&open_quietly(&path)?)?.0 == *output))
    }
}

/// Opens a file for a look that is no use of it, so that checking a store does not make everything in it look used.
fn open_quietly(path: &str) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOATIME.bits().cast_signed();
        // Only the owner may.
        if let Ok(file) = fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            return Ok(file);
        }
    }
    File::open(path)
}

/// When an output was last used or written, as far as its file tells.
pub(super) fn last_use(file: &Metadata) -> SystemTime {
    let written = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    file.accessed().map_or(written, |read| read.max(written))
}

fn omit() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}
