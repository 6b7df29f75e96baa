//! The folder that an agent lists, fills and empties.
//!
//! Names are resolved within it and links are not followed. Copies grow in the folder `temp.downloaded` inside, which
//! no listing shows; they become visible by one rename that never replaces anything.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;
use windlass_distribute::input::space::StatFs;
use windlass_distribute::name::{self, GROWING};
use windlass_distribute::wire::agent::{Checksum, Inventory, InventoryEnd, Item, Name, version_of};

/// Where a file's checksum is kept, with the version that it belongs to.
const CHECKSUM_ATTRIBUTE: &str = "user.windlass.blake3";

/// The folder. Everything here blocks.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    dir: OwnedFd,
    temp: OwnedFd,
    state: PathBuf,
    changes: AtomicU64,
    /// Publishing and deleting look before they act; one at a time.
    acting: Mutex<()>,
    /// The names of the last listing that was given out in pages, and its generation.
    listed: Mutex<Option<Listed>>,
    /// Bytes of the disk that its files may take; all there are without.
    capacity: Option<u64>,
    /// Bytes that its files take, in one generation.
    counted: Mutex<Option<(u64, u64)>>,
    /// Held as long as this process serves the folder.
    _lock: File,
}

#[derive(Clone, Debug)]
struct Listed {
    generation: u64,
    names: Arc<Vec<Name>>,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The system refused.
    #[error("{what} {}: {error}", .path.display())]
    System {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        error: io::Error,
    },
    /// Another process serves it.
    #[error("{} is served by another agent already (it holds {})", .folder.display(), .lock.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        lock: PathBuf,
    },
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes.
    pub(crate) size: u64,
    /// When it was changed last.
    pub(crate) mtime_ns: i64,
    /// Which file of the file system it is.
    pub(crate) inode: u64,
    /// Its version.
    pub(crate) version: String,
}

impl Found {
    fn of(stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let mtime_ns = i64::try_from(ns).unwrap_or(i64::MAX);
        Self { size, mtime_ns, inode: stat.st_ino, version: version_of(size, i128::from(mtime_ns)) }
    }

    /// What an open file is.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn open(file: &File) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }
}

/// What a deletion found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// It is gone.
    Gone,
    /// There was none.
    NotThere,
    /// Another version is there, and stays.
    Other(String),
    /// It is a folder, and stays.
    Folder,
}

impl Folder {
    /// Opens a folder, makes what is missing inside, and holds it against other agents.
    ///
    /// # Errors
    /// When it cannot be used or another agent serves it.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let fault = |what, path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| FolderError::System { what, path, error }
        };
        let path = path.canonicalize().map_err(fault("find the folder", path))?;
        let temp_path = path.join(OsStr::from_bytes(GROWING));
        let state = temp_path.join("state");
        std::fs::create_dir_all(&state).map_err(fault("make the folder", &state))?;
        let lock_path = state.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(fault("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(FolderError::Held { folder: path, lock: lock_path }),
            Err(error) => return Err(fault("lock", &lock_path)(error.into())),
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fault("open the folder", path)(error.into()))
        };
        let dir = open(&path, flags)?;
        // A link in its place would lead copies out of the folder.
        let temp = open(&temp_path, flags | OFlags::NOFOLLOW)?;
        Ok(Self {
            path,
            dir,
            temp,
            state,
            changes: AtomicU64::new(0),
            acting: Mutex::new(()),
            listed: Mutex::new(None),
            capacity: None,
            counted: Mutex::new(None),
            _lock: lock,
        })
    }

    /// Uses at most so many bytes of the disk.
    #[must_use]
    pub(crate) fn of_capacity(mut self, capacity: Option<u64>) -> Self {
        self.capacity = capacity;
        self
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the agent keeps its records.
    #[must_use]
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Where copies grow.
    #[must_use]
    pub(crate) fn temp_path(&self, name: &str) -> PathBuf {
        self.path.join(OsStr::from_bytes(GROWING)).join(name)
    }

    /// How full the file system is, or the part of it that this folder may fill.
    ///
    /// # Errors
    /// When it does not say.
    pub(crate) fn space(&self) -> io::Result<StatFs> {
        let stat = rustix::fs::fstatfs(&self.dir)?;
        let bsize = u64::try_from(stat.f_bsize).unwrap_or(0);
        let disk = StatFs { blocks: stat.f_blocks, bfree: stat.f_bfree, bavail: stat.f_bavail, bsize };
        let Some(capacity) = self.capacity else { return Ok(disk) };
        let used = self.bytes()?;
        let left = capacity.saturating_sub(used).min(disk.bavail.saturating_mul(bsize));
        // More than the capacity is in use when it was lowered, or files came from elsewhere.
        Ok(StatFs { blocks: used.saturating_add(left), bfree: left, bavail: left, bsize: 1 })
    }

    /// Bytes of all files, counted again after each change.
    fn bytes(&self) -> io::Result<u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the count: what changes meanwhile makes another generation.
        let generation = self.generation()?;
        if let Some((known, bytes)) = *counted
            && known == generation
        {
            return Ok(bytes);
        }
        let mut bytes = 0_u64;
        for name in self.names()? {
            bytes = bytes.saturating_add(self.look(&name)?.map_or(0, |found| found.size));
        }
        *counted = Some((generation, bytes));
        Ok(bytes)
    }

    /// Counts the changes: what the agent did itself, and what the folder's own time of change tells of others.
    ///
    /// # Errors
    /// When the folder cannot be looked at.
    pub(crate) fn generation(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.dir)?;
        let ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Ok(u64::try_from(ns).unwrap_or(0).wrapping_add(self.changes.load(Ordering::SeqCst)))
    }

    /// What is there under a name. `None`: no file, or something else than a file.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn look(&self, name: &Name) -> io::Result<Option<Found>> {
        match rustix::fs::statat(&self.dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(Some(Found::of(&stat))),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether anything at all has that name.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn taken(&self, name: &Name) -> io::Result<bool> {
        match rustix::fs::statat(&self.dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file for reading. `None` as for [`Folder::look`].
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn read(&self, name: &Name) -> io::Result<Option<(File, Found)>> {
        // A pipe must not hold up who opens it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.dir, name.as_bytes(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| (file, Found::of(&stat))))
    }

    /// The checksum of a file, where it is known for this very version.
    #[must_use]
    pub(crate) fn checksum(&self, name: &Name, version: &str) -> Option<Checksum> {
        let path = self.path.join(OsStr::from_bytes(name.as_bytes()));
        let mut value = [0; 256];
        let length = rustix::fs::lgetxattr(&path, CHECKSUM_ATTRIBUTE, &mut value).ok()?;
        let text = std::str::from_utf8(value.get(..length)?).ok()?;
        let (of, checksum) = text.split_once(' ')?;
        (of == version).then(|| Checksum::from_hex(checksum)).flatten()
    }

    /// Notes a checksum at a file. Not every file system can.
    pub(crate) fn note_checksum(file: &File, version: &str, checksum: &Checksum) {
        let value = format!("{version} {checksum}");
        if let Err(error) = rustix::fs::fsetxattr(file, CHECKSUM_ATTRIBUTE, value.as_bytes(), XattrFlags::empty()) {
            tracing::debug!(%error, "the file system keeps no checksums");
        }
    }

    /// Files behind `after` in byte order, at most `limit`.
    ///
    /// # Errors
    /// When the folder cannot be listed to its end: half a listing is none.
    pub(crate) fn inventory(&self, after: Option<&Name>, limit: usize) -> io::Result<Inventory> {
        // Before the listing: what changes meanwhile makes another generation.
        let generation = self.generation()?;
        let known = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names = match known {
            Some(listed) if listed.generation == generation && after.is_some() => listed.names,
            _ => Arc::new(self.names()?),
        };
        let start = after.map_or(0, |after| names.partition_point(|name| name <= after));
        let mut items = Vec::with_capacity(limit.min(names.len() - start));
        let mut rest = names[start..].iter();
        for name in rest.by_ref().take(limit) {
            // One that vanished since, or is no file, is none.
            let Some(found) = self.look(name)? else { continue };
            let checksum = self.checksum(name, &found.version);
            let Found { size, mtime_ns, version, .. } = found;
            items.push(Item { name: name.clone(), size, mtime_ns, version, checksum });
        }
        let more = rest.next().is_some();
        let end = InventoryEnd { count: items.len() as u64, generation, more };
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = more.then_some(Listed { generation, names });
        Ok(Inventory { items, end })
    }

    fn names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let file = entry.file_name().into_vec();
            if kind.is_file() && name::legal(&file).is_ok() {
                names.extend(Name::new(file));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes exactly this version.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn delete(&self, name: &Name, version: &str) -> io::Result<Deleted> {
        let _one = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        let stat = match rustix::fs::statat(&self.dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Deleted::NotThere),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(Deleted::Folder),
            FileType::RegularFile => {}
            _ => return Ok(Deleted::Other("something else than a file".to_owned())),
        }
        let found = Found::of(&stat);
        if found.version != version {
            return Ok(Deleted::Other(found.version));
        }
        match rustix::fs::unlinkat(&self.dir, name.as_bytes(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Deleted::NotThere),
            Err(error) => return Err(error.into()),
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(Deleted::Gone)
    }

    /// Gives a copy that has grown its name. Never replaces anything: `false` when the name is taken.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn publish(&self, temp: &str, name: &Name) -> io::Result<bool> {
        let _one = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (temp.as_bytes(), name.as_bytes());
        match rustix::fs::renameat_with(&self.temp, from, &self.dir, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            // Some file systems cannot; a second name and the loss of the first come to the same.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                match rustix::fs::linkat(&self.temp, from, &self.dir, to, AtFlags::empty()) {
                    Ok(()) => rustix::fs::unlinkat(&self.temp, from, AtFlags::empty())?,
                    Err(Errno::EXIST) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    /// Puts the names of the folder on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.dir)?;
        rustix::fs::fsync(&self.temp)?;
        Ok(())
    }
}

/// Writes a small file so that either the old or the new one is there, whatever happens.
///
/// # Errors
/// When the disk refuses; the old one is then still there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        // On a full disk not even the half of it may stay.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn an_inventory_comes_in_pages_and_shows_files_only() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        for file in ["B", "A b#", "C%41", "D"] {
            std::fs::write(base.path().join(file), file).unwrap();
        }
        std::fs::create_dir(base.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", base.path().join("link")).unwrap();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = folder.inventory(after.as_ref(), 3).unwrap();
            assert_eq!(page.end.count, page.items.len() as u64);
            after = page.items.last().map(|item| item.name.clone());
            found.extend(page.items.into_iter().map(|item| item.name.to_string()));
            if !page.end.more {
                break;
            }
        }
        assert_eq!(found, ["A b#", "B", "C%41", "D"]);
        assert!(folder.read(&name("link")).unwrap().is_none() && folder.look(&name("folder")).unwrap().is_none());
        assert!(matches!(Folder::open(base.path()), Err(FolderError::Held { .. })), "one agent to a folder");
    }

    #[test]
    fn only_the_version_that_is_named_is_deleted() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        let before = folder.generation().unwrap();
        std::fs::write(base.path().join("A"), "x").unwrap();
        std::fs::create_dir(base.path().join("F")).unwrap();
        let found = folder.look(&name("A")).unwrap().unwrap();
        assert_eq!(folder.delete(&name("A"), "1-1").unwrap(), Deleted::Other(found.version.clone()));
        assert_eq!(folder.delete(&name("F"), "1-1").unwrap(), Deleted::Folder);
        assert_eq!(folder.delete(&name("A"), &found.version).unwrap(), Deleted::Gone);
        assert_eq!(folder.delete(&name("A"), &found.version).unwrap(), Deleted::NotThere);
        assert_ne!(folder.generation().unwrap(), before);
    }

    #[test]
    fn a_capacity_counts_the_files_of_the_folder_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap().of_capacity(Some(1000));
        let used = |folder: &Folder| (folder.space().unwrap().space().used, folder.space().unwrap().space().avail);
        assert_eq!(used(&folder), (0, 1000));
        std::fs::write(folder.temp_path("t"), vec![0; 300]).unwrap();
        assert!(folder.publish("t", &name("A")).unwrap());
        assert_eq!(used(&folder), (300, 700));
        std::fs::write(folder.temp_path("t"), vec![0; 900]).unwrap();
        assert!(folder.publish("t", &name("B")).unwrap());
        assert_eq!(used(&folder), (1200, 0));
    }

    #[test]
    fn publishing_replaces_nothing() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        std::fs::write(folder.temp_path("t"), "new").unwrap();
        std::fs::write(base.path().join("A"), "old").unwrap();
        assert!(!folder.publish("t", &name("A")).unwrap());
        assert_eq!(std::fs::read(base.path().join("A")).unwrap(), b"old");
        assert!(folder.publish("t", &name("B")).unwrap());
        assert_eq!(std::fs::read(base.path().join("B")).unwrap(), b"new");
        assert!(!folder.temp_path("t").exists());
    }
}
