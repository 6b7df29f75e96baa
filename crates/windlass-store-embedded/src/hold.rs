//! The exclusive hold of one process on a state folder.
//!
//! The hold is an advisory lock on the file `lock` in the folder, which the operating system gives up when
//! the process dies, however it dies. The file's content is for people and for other commands: who holds
//! the folder, since when, and at which address it can be talked to.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use windlass_store::StoreError;

/// The lock file in a state folder.
pub const LOCK_FILE: &str = "lock";
/// More than this is not read of a lock file: we write far less.
const LOCK_FILE_BYTES: u64 = 64 * 1024;
/// How often a taken lock is tried again. [`holder`] takes it for some microseconds to see whether it is free.
const TRIES: usize = 100;

/// The process that holds a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id, on its host (and in its container).
    pub pid: u32,
    /// The name of its host.
    pub host: String,
    /// Its command line.
    pub command: String,
    /// When it took hold, RFC 3339 in UTC.
    pub since: String,
    /// Where it can be talked to, when it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}) on host {} since {}", self.pid, self.command, self.host, self.since)
    }
}

impl Holder {
    /// This process.
    pub(crate) fn this_process(since: String, command: Option<String>, address: Option<String>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let command = command.unwrap_or_else(|| {
            let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            let program = words.next().unwrap_or_default();
            let program = Path::new(&program).file_name().map_or_else(String::new, |name| name.display().to_string());
            std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
        });
        Self { pid: std::process::id(), host, command, since, address }
    }
}

/// The process that holds the state folder `dir` now; `None` when it is free.
///
/// # Errors
///
/// [`StoreError::Unusable`] when the lock file exists but cannot be read.
pub fn holder(dir: &Path) -> Result<Option<Holder>, StoreError> {
    let path = dir.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable("open", &path, &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read(&mut file))),
        Err(TryLockError::Error(error)) => Err(unusable("probe the lock on", &path, &error)),
    }
}

/// The exclusive hold on a state folder; given up when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    path: PathBuf,
    file: File,
    holder: Holder,
}

impl Hold {
    /// Makes the folder if needed (mode 0700) and takes hold of it.
    pub(crate) fn take(dir: &Path, holder: Holder) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| unusable("create the state folder", dir, &error))?;
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable("open", &path, &error))?;
        let mut tries = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(TryLockError::WouldBlock) => return Err(held(dir, &read(&mut file))),
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::Unusable(format!(
                        "lock {}: {error}; the folder must lie on a file system with locks",
                        path.display()
                    )));
                }
            }
        }
        let mut hold = Self { path, file, holder };
        hold.write()?;
        Ok(hold)
    }

    /// Records where this process can be talked to.
    pub(crate) fn set_address(&mut self, address: Option<String>) -> Result<(), StoreError> {
        self.holder.address = address;
        self.write()
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&self.holder).map_err(io::Error::other);
        text.and_then(|text| self.replace(&text)).map_err(|error| unusable("write", &self.path, &error))
    }

    fn replace(&mut self, text: &[u8]) -> io::Result<()> {
        // Overwrite first, cut afterwards: a reader in between sees JSON with a tail, never nothing.
        self.file.rewind()?;
        self.file.write_all(text)?;
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The text would only mislead whoever reads it by hand. The lock is given up by name, not by closing the
        // file: a child that is just being started has a copy of the open file until it runs its program.
        if let Err(error) = self.file.set_len(0).and_then(|()| self.file.unlock()) {
            tracing::debug!(path = %self.path.display(), %error, "could not give up the lock file");
        }
    }
}

pub(crate) fn held(dir: &Path, holder: &Holder) -> StoreError {
    let talk = holder.address.as_ref().map_or_else(String::new, |address| format!(" at {address}"));
    StoreError::Held(format!("the state folder {} is held by {holder}; stop it, or talk to it{talk}", dir.display()))
}

/// What the lock file says. Its writer may be about to write it, so nothing in it is relied upon.
fn read(file: &mut File) -> Holder {
    let mut text = Vec::new();
    let read = file.rewind().and_then(|()| file.take(LOCK_FILE_BYTES).read_to_end(&mut text));
    let first = serde_json::Deserializer::from_slice(&text).into_iter().next();
    match (read, first) {
        (Ok(_), Some(Ok(holder))) => holder,
        _ => Holder {
            pid: 0,
            host: "unknown".to_owned(),
            command: "unknown".to_owned(),
            since: "just now".to_owned(),
            address: None,
        },
    }
}

fn unusable(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unusable(format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn somebody() -> Holder {
        Holder {
            pid: 4242,
            host: "dock".to_owned(),
            command: "windlass run examples/rebalance.yaml".to_owned(),
            since: "2026-11-03T10:00:00Z".to_owned(),
            address: None,
        }
    }

    #[test]
    fn a_second_hold_names_the_first_holder() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        assert_eq!(holder(&state), Ok(None));
        let mut first = Hold::take(&state, somebody()).unwrap();
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Hold::take(&state, somebody()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the state folder {} is held by process 4242 (windlass run examples/rebalance.yaml) on host dock \
                 since 2026-11-03T10:00:00Z; stop it, or talk to it",
                state.display()
            )
        );
        first.set_address(Some("127.0.0.1:7420".to_owned())).unwrap();
        assert_eq!(holder(&state).unwrap().unwrap().address.as_deref(), Some("127.0.0.1:7420"));
        assert!(Hold::take(&state, somebody()).unwrap_err().to_string().ends_with("or talk to it at 127.0.0.1:7420"));
        first.set_address(None).unwrap();
        assert_eq!(holder(&state), Ok(Some(somebody())));
        drop(first);
        assert_eq!(holder(&state), Ok(None));
        Hold::take(&state, somebody()).unwrap();
    }

    #[test]
    fn this_process_is_described_so_that_it_can_be_found() {
        let this = Holder::this_process("2026-11-03T10:00:00Z".to_owned(), None, None);
        assert_eq!(this.pid, std::process::id());
        assert!(!this.host.is_empty() && !this.command.is_empty() && !this.command.starts_with('/'));
    }
}
