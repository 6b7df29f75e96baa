//! Which processes use the folder.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::LocalStore;

/// A process that has been serving for longer is taken for one that hangs.
const LONGEST: Duration = Duration::from_secs(48 * 3600);

/// Says that this process uses the folder, until it is dropped or the process dies.
#[derive(Debug)]
pub struct Live {
    path: PathBuf,
    // Locked. The system lets go of it when the process dies, however that happens.
    _file: File,
}

impl LocalStore {
    /// Says that this process uses the folder from now on: nothing that it is given is removed.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn live(&self) -> io::Result<Live> {
        let folder = self.inner.state.join("live");
        let path = folder.join(format!("{:016x}", self.inner.process));
        let create = || fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder)?;
                create()?
            }
            other => other?,
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(Live { path, _file: file })
    }

    /// Since when the oldest of the living processes has been using the folder. Forgets the dead ones.
    pub(super) fn oldest_living(&self) -> io::Result<Option<SystemTime>> {
        let entries = match fs::read_dir(self.inner.state.join("live")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut oldest = None;
        for entry in entries {
            let path = entry?.path();
            let Ok(file) = File::open(&path) else { continue };
            let since = file.metadata()?.modified()?;
            let hangs = self.now().duration_since(since).is_ok_and(|age| age > LONGEST);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Nobody holds it. A process between creating and locking its file is protected by what it stamps.
                Ok(()) => drop(fs::remove_file(&path)),
                Err(_) if hangs => {}
                Err(_) => oldest = Some(oldest.map_or(since, |oldest: SystemTime| oldest.min(since))),
            }
        }
        Ok(oldest)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // If it stays, the next gc removes it.
        let _ = fs::remove_file(&self.path);
    }
}
