//! The folder, and a spare one for when it cannot be used.
//!
//! `go` takes an error for a put as the end of some commands. So when the folder belongs to somebody else, can only be
//! read, or its disk is full, what is put goes to a folder under the system's temporary files instead.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use windlass_clock::SharedClock;
use windlass_gocache_remote::{ActionId, Entry, Incoming, LocalOutputs, OutputId};

use crate::local::{Found, Layout, Live, LocalStore, OpenOptions, Published, Writing};

/// Where outputs lie on this machine.
#[derive(Debug)]
pub struct Disk {
    main: Option<LocalStore>,
    /// Whether the main folder takes anything.
    writable: AtomicBool,
    spare: OnceLock<Option<LocalStore>>,
    spare_dir: PathBuf,
    clock: SharedClock,
    /// Says that this process uses the folder.
    _live: Option<Live>,
    state: PathBuf,
}

/// An output on its way to the folder or the spare one.
#[derive(Debug)]
pub struct Body<'d> {
    disk: &'d Disk,
    writing: Option<Writing>,
    spared: bool,
}

/// A put that succeeded.
#[derive(Debug)]
pub struct Kept {
    /// The file.
    pub path: String,
    /// The same bytes were there already.
    pub was_there: bool,
    /// It lies in the spare folder.
    pub spared: bool,
    store: LocalStore,
    published: Published,
}

impl Disk {
    /// Opens the folder, and tells `warn` when the spare one has to do.
    pub fn open(
        dir: &Path,
        spare_dir: PathBuf,
        options: &OpenOptions,
        clock: SharedClock,
        warn: &dyn Fn(&str),
    ) -> Self {
        let main = match LocalStore::open(dir, options, clock.clone()) {
            Ok(store) => {
                if let Some(kind) = store.network_file_system() {
                    let root = store.root().display();
                    warn(&format!(
                        "{root} lies on {kind}, where locks of many machines cannot be relied on: use a local disk"
                    ));
                }
                Some(store)
            }
            Err(error) => {
                warn(&format!("{error}; the build goes on with {}", spare_dir.display()));
                None
            }
        };
        let live = main.as_ref().map(LocalStore::live);
        let (live, writable) = match live {
            Some(Ok(live)) => (Some(live), true),
            Some(Err(error)) => {
                let (dir, spare) = (dir.display(), spare_dir.display());
                warn(&format!("cannot write to {dir}: {error}; it is read, and new results go to {spare}"));
                (None, false)
            }
            None => (None, false),
        };
        let state = main.as_ref().map_or_else(|| spare_dir.join("remote"), |store| store.remote_state().to_owned());
        let disk =
            Self { main, writable: writable.into(), spare: OnceLock::new(), spare_dir, clock, _live: live, state };
        if !writable {
            // Another run may have left something there.
            let _ = disk.spare();
        }
        disk
    }

    /// The folder, if it can be used at all.
    #[must_use]
    pub fn main(&self) -> Option<&LocalStore> {
        self.main.as_ref()
    }

    /// The folder that takes what is put now.
    #[must_use]
    pub fn writable(&self) -> Option<&LocalStore> {
        match &self.main {
            Some(main) if self.writable.load(Ordering::Relaxed) => Some(main),
            _ => self.spare(),
        }
    }

    /// Looks an action up in both folders.
    #[must_use]
    pub fn find(&self, action: &ActionId) -> Found {
        let found = self.main.as_ref().map_or(Found::Absent, |store| store.find(action));
        if !matches!(found, Found::Absent) {
            return found;
        }
        // Only what was opened before: a miss must not make a folder.
        match self.spare.get() {
            Some(Some(spare)) => spare.find(action),
            _ => found,
        }
    }

    /// Begins to store an output.
    ///
    /// # Errors
    ///
    /// When neither folder takes it.
    pub fn begin(&self, output: &OutputId, size: u64) -> io::Result<Body<'_>> {
        if let Some(main) = &self.main
            && self.writable.load(Ordering::Relaxed)
            && let Ok(writing) = main.begin(output, size)
        {
            return Ok(Body { disk: self, writing: Some(writing), spared: false });
        }
        let spare = self.spare().ok_or_else(|| self.nowhere())?;
        Ok(Body { disk: self, writing: Some(spare.begin(output, size)?), spared: true })
    }

    fn spare(&self) -> Option<&LocalStore> {
        let open = || {
            let options = OpenOptions { layout: Layout::Sharded, verify: false, foreign_owner: false };
            LocalStore::open(&self.spare_dir, &options, self.clock.clone()).ok()
        };
        self.spare.get_or_init(open).as_ref()
    }

    fn nowhere(&self) -> io::Error {
        let text = format!(
            "neither the cache folder nor {} takes any more: free some space, or choose another folder with --dir",
            self.spare_dir.display()
        );
        io::Error::new(io::ErrorKind::StorageFull, text)
    }
}

impl Body<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the bytes are wrong, or neither folder takes them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.writing()?.write(bytes) {
            Err(error) if self.may_divert(&error) => {
                self.divert(&error)?;
                self.writing()?.write(bytes).map_err(|second| nor(&error, &second))
            }
            other => other,
        }
    }

    /// Publishes the output.
    ///
    /// # Errors
    ///
    /// When the bytes are wrong, or neither folder takes them.
    pub fn publish(mut self, output: &OutputId) -> io::Result<Kept> {
        let published = match self.writing()?.publish() {
            Err(error) if self.may_divert(&error) => {
                self.divert(&error)?;
                self.writing()?.publish().map_err(|second| nor(&error, &second))
            }
            other => other,
        }?;
        let store = if self.spared { self.disk.spare() } else { self.disk.main() };
        let store = store.ok_or_else(|| self.disk.nowhere())?.clone();
        Ok(Kept {
            path: store.output_path(output),
            was_there: published.was_there,
            spared: self.spared,
            store,
            published,
        })
    }

    fn writing(&mut self) -> io::Result<&mut Writing> {
        self.writing.as_mut().ok_or_else(|| self.disk.nowhere())
    }

    fn may_divert(&self, error: &io::Error) -> bool {
        !self.spared && error.kind() != io::ErrorKind::InvalidData
    }

    fn divert(&mut self, because: &io::Error) -> io::Result<()> {
        let unusable = |error: io::Error| nor(because, &error);
        let spare = self.disk.spare().ok_or_else(|| unusable(self.disk.nowhere()))?;
        let writing = self.writing.take().ok_or_else(|| unusable(self.disk.nowhere()))?;
        self.writing = Some(writing.divert(spare).map_err(unusable)?);
        self.spared = true;
        Ok(())
    }
}

/// Neither folder took it.
fn nor(first: &io::Error, second: &io::Error) -> io::Error {
    let text = format!("the cache folder cannot be written ({first}), nor can the spare one ({second})");
    io::Error::new(second.kind(), text)
}

impl Kept {
    /// Ties an action to it.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full. The file is there all the same.
    pub fn tie(&self, action: &ActionId, entry: &Entry) -> io::Result<()> {
        self.store.put_published(action, entry, self.published)
    }
}

impl LocalOutputs for Disk {
    fn open(&self, output: &OutputId) -> io::Result<Option<File>> {
        if let Some(main) = &self.main
            && let Some(file) = main.open_output(output)?
        {
            return Ok(Some(file));
        }
        match self.spare.get() {
            Some(Some(spare)) => spare.open_output(output),
            _ => Ok(None),
        }
    }

    fn begin(&self, output: &OutputId, size: u64) -> io::Result<Box<dyn Incoming>> {
        let store = self.writable().ok_or_else(|| self.nowhere())?;
        Ok(Box::new(store.begin(output, size)?))
    }

    fn contains(&self, output: &OutputId) -> bool {
        let there = |store: &LocalStore| std::fs::metadata(store.output_path(output)).is_ok_and(|file| file.is_file());
        self.main.as_ref().is_some_and(there) || self.spare.get().and_then(Option::as_ref).is_some_and(there)
    }

    fn state_dir(&self) -> &Path {
        &self.state
    }

    fn action(&self, action: &ActionId) -> Option<Entry> {
        let main = self.main.as_ref().and_then(|store| store.action(action));
        main.or_else(|| self.spare.get().and_then(Option::as_ref).and_then(|spare| spare.action(action)))
    }

    fn put_action(&self, action: &ActionId, entry: &Entry) -> io::Result<()> {
        self.writable().ok_or_else(|| self.nowhere())?.put_action(action, entry)
    }
}
