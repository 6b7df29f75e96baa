//! Opening a folder.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use windlass_clock::SharedClock;

use super::{Layout, LocalStore};

/// What the file `format` holds.
const FORMAT: &str = "windlass-gocache-local 1\n";

/// Backup programs know this text and leave the folder out.
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# The Go build cache of Windlass.\n";

/// How a folder is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Its layout.
    pub layout: Layout,
    /// Hash every output before it is given out, not only those that are in doubt.
    pub verify: bool,
    /// Use it even though it belongs to somebody else, who can put anything into it.
    pub foreign_owner: bool,
}

/// Why a folder cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk refused something.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Disk {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Its name cannot be told to `go`.
    #[error("{} is not valid UTF-8, so it cannot be told to go: choose another folder", .0.display())]
    Name(PathBuf),
    /// It belongs to somebody else.
    #[error(
        "{} belongs to user {owner}, not to user {user}, and whoever owns it can change what you build: \
         choose another folder, or allow it with --foreign-owner", path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It has another format.
    #[error("{} holds {found:?}, and this version knows only {FORMAT:?}: choose another folder", path.display())]
    Format {
        /// The file that tells the format.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

impl LocalStore {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// A folder that can only be read is opened too: see [`LocalStore::live`] for how to find out.
    ///
    /// # Errors
    ///
    /// When it cannot be made or read, belongs to somebody else, or has another format.
    pub fn open(dir: &Path, options: &OpenOptions, clock: SharedClock) -> Result<Self, OpenError> {
        let disk = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Disk { attempt, path, source }
        };
        let dir = std::path::absolute(dir).map_err(disk("find", dir))?;
        let there = match fs::metadata(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(disk("make", &dir))?;
                fs::metadata(&dir)
            }
            other => other,
        };
        let there = there.map_err(disk("look at", &dir))?;
        let user = rustix::process::geteuid().as_raw();
        if there.uid() != user && !options.foreign_owner {
            return Err(OpenError::Owner { path: dir, owner: there.uid(), user });
        }
        let Some(root) = dir.to_str().map(|root| format!("{}/", root.trim_end_matches('/'))) else {
            return Err(OpenError::Name(dir));
        };
        let state = match options.layout {
            Layout::Sharded => dir.clone(),
            Layout::Seed => dir.join(".windlass"),
        };
        let format = state.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found == FORMAT => {}
            // Somebody else is making it at this moment, or died doing so.
            Ok(found) if found.is_empty() => make(&state, &format).map_err(disk("write", &format))?,
            Ok(found) => {
                let found = found.chars().take(60).collect();
                return Err(OpenError::Format { path: format, found });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match make(&state, &format) {
                    Ok(()) => {}
                    // A folder of the seed's program that can only be read.
                    Err(_) if options.layout == Layout::Seed => {}
                    Err(error) => return Err(disk("write", &format)(error)),
                }
            }
            Err(error) => return Err(disk("read", &format)(error)),
        }
        Ok(Self::new(root, state, options, clock))
    }

    /// The name of the network file system that the folder lies on, if it does. Locks and renames of many machines are
    /// not to be relied on there.
    #[must_use]
    pub fn network_file_system(&self) -> Option<&'static str> {
        network_file_system(self.root())
    }
}

fn make(state: &Path, format: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    fs::write(state.join("CACHEDIR.TAG"), TAG)?;
    // Its age stands for the last collection as long as there was none.
    fs::write(state.join("gc.lock"), b"")?;
    let temporary = state.join(format!("format.{}", std::process::id()));
    fs::File::create(&temporary)?.write_all(FORMAT.as_bytes())?;
    match fs::rename(temporary, format) {
        // Another one of this number, in another container or a thread of this process, has renamed it already.
        Err(error) if error.kind() == io::ErrorKind::NotFound && format.exists() => Ok(()),
        other => other,
    }
}

#[cfg(target_os = "linux")]
fn network_file_system(root: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(root).ok()?.f_type;
    // From linux/magic.h; the type of the field differs between machines.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic numbers have 32 bits")]
    match kind as u32 {
        0x6969 => Some("NFS"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_root: &Path) -> Option<&'static str> {
    None
}
