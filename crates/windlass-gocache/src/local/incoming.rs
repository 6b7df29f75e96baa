//! Outputs and records on their way in.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};

use sha2::{Digest, Sha256};
use windlass_gocache_remote::{Incoming, OutputId};

use super::LocalStore;

/// How much of a file is compared or hashed at once.
const PIECE: usize = 64 << 10;

/// An output on its way in. Dropping it leaves nothing behind.
///
/// Where a file of that name and length is there already, what comes is compared with it instead of being written
/// again. At the first difference the file turns out to be damaged, and is replaced.
#[derive(Debug)]
pub struct Writing {
    store: LocalStore,
    output: OutputId,
    size: u64,
    written: u64,
    hash: Sha256,
    path: String,
    target: Target,
}

/// How an output was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The seal of its file.
    pub seal: u64,
    /// The same bytes were there already.
    pub was_there: bool,
}

#[derive(Debug)]
enum Target {
    /// The same bytes may be there already; they are, up to what has come.
    Same(File),
    /// A new file under a temporary name.
    New { file: File, temporary: String, replaces: bool },
    /// Published or given up.
    Done,
}

impl LocalStore {
    /// Begins to store an output of `size` bytes.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    pub fn begin(&self, output: &OutputId, size: u64) -> io::Result<Writing> {
        let path = self.output_path(output);
        let target = match File::open(&path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((there, file)) if there.is_file() && there.len() == size => Target::Same(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.new_target(&path, false)?,
            // Of the wrong length, no file, or not readable: to be replaced.
            _ => self.new_target(&path, true)?,
        };
        Ok(Writing { store: self.clone(), output: *output, size, written: 0, hash: Sha256::new(), path, target })
    }

    fn new_target(&self, path: &str, replaces: bool) -> io::Result<Target> {
        let (file, temporary) = self.create_beside(path)?;
        Ok(Target::New { file, temporary, replaces })
    }

    /// Writes a small file whole.
    pub(crate) fn publish(&self, bytes: &[u8], path: &str) -> io::Result<()> {
        let (mut file, temporary) = self.create_beside(path)?;
        let done = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
        if done.is_err() {
            // It may be gone already; the first failure is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        done
    }

    /// Creates a temporary file next to `path`, and the folder if need be.
    fn create_beside(&self, path: &str) -> io::Result<(File, String)> {
        let temporary = self.temporary_beside(path);
        let create = || fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                create()?
            }
            other => other?,
        };
        Ok((file, temporary))
    }

    /// Hashes a file from where it stands: its id and length.
    pub(super) fn hash(&self, mut file: &File) -> io::Result<(OutputId, u64)> {
        let length = file.metadata()?.len();
        let piece = usize::try_from(length).unwrap_or(PIECE).clamp(1, PIECE);
        let (mut hash, mut buffer, mut read) = (Sha256::new(), vec![0; piece], 0);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok((OutputId::new(hash.finalize().into()), read)),
                Ok(more) => {
                    hash.update(&buffer[..more]);
                    read += more as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Writing {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full, or more bytes come than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written + bytes.len() as u64 > self.size {
            return Err(self.wrong(&format!("has more than the {} bytes announced", self.size)));
        }
        if let Target::Same(file) = &self.target
            && !same(file, self.written, bytes)
        {
            self.replace()?;
        }
        if let Target::New { file, .. } = &mut self.target {
            file.write_all(bytes)?;
        }
        // Only now: after a failure the same bytes come again, to another store.
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Goes on in another store, because this one cannot take more: what has come so far is carried over.
    ///
    /// # Errors
    ///
    /// When that disk fails or is full too.
    pub fn divert(mut self, to: &LocalStore) -> io::Result<Self> {
        let path = to.output_path(&self.output);
        let mut other = Self {
            store: to.clone(),
            output: self.output,
            size: self.size,
            written: self.written,
            hash: self.hash.clone(),
            target: to.new_target(&path, true)?,
            path,
        };
        if let (Target::Same(from) | Target::New { file: from, .. }, Target::New { file: into, .. }) =
            (&mut self.target, &mut other.target)
        {
            copy_start(from, into, self.written)?;
        }
        Ok(other)
    }

    /// Publishes the output.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] when hash or length are wrong; then nothing is published. Otherwise when the disk
    /// fails.
    pub fn publish(&mut self) -> io::Result<Published> {
        if self.written != self.size {
            return Err(self.wrong(&format!("has {} bytes instead of the {} announced", self.written, self.size)));
        }
        let found = OutputId::new(self.hash.clone().finalize().into());
        if found != self.output {
            return Err(self.wrong(&format!("has the hash {found}")));
        }
        if let Target::Same(file) = &self.target {
            let metadata = file.metadata()?;
            if self.store.stamp_output(&self.path, &metadata)? {
                let seal = self.store.inner.seals.seal(&metadata);
                self.store.remember(self.output, seal);
                self.target = Target::Done;
                return Ok(Published { seal, was_there: true });
            }
            // Removed meanwhile.
            self.replace()?;
        }
        let Target::New { file, temporary, replaces } = &self.target else {
            return Err(io::Error::other("an output was published twice"));
        };
        let seal = self.store.inner.seals.seal(&file.metadata()?);
        // Whoever removes the damaged file must not remove this one instead.
        let held = if *replaces { Some(self.store.share_use()?) } else { None };
        remove_folder_at(&self.path, *replaces);
        fs::rename(temporary, &self.path)?;
        drop(held);
        self.store.remember(self.output, seal);
        self.target = Target::Done;
        Ok(Published { seal, was_there: false })
    }

    /// Goes over from comparing to writing: what is there is damaged or gone behind what has come so far.
    fn replace(&mut self) -> io::Result<()> {
        let new = self.store.new_target(&self.path, true)?;
        let old = std::mem::replace(&mut self.target, new);
        let (Target::Same(from), Target::New { file: to, .. }) = (old, &mut self.target) else { return Ok(()) };
        copy_start(&from, to, self.written)
    }

    fn wrong(&self, what: &str) -> io::Error {
        let text = format!("the body of output {} {what}", self.output);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl Incoming for Writing {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.publish().map(|_| ())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Target::New { temporary, .. } = &self.target {
            // If that fails, the next gc removes it.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Copies the first `length` bytes.
fn copy_start(from: &File, to: &mut File, length: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let size = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
        from.read_exact_at(&mut piece[..size], at)?;
        to.write_all(&piece[..size])?;
        at += size as u64;
    }
    Ok(())
}

/// Whether `file` holds these bytes at `at`.
fn same(file: &File, at: u64, bytes: &[u8]) -> bool {
    let mut buffer = vec![0; bytes.len().min(PIECE)];
    let mut at = at;
    bytes.chunks(PIECE).all(|wanted| {
        let found = &mut buffer[..wanted.len()];
        let same = file.read_exact_at(found, at).is_ok() && found == wanted;
        at += wanted.len() as u64;
        same
    })
}

/// A folder where a file should be cannot be renamed over.
fn remove_folder_at(path: &str, replaces: bool) {
    if replaces && fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        // Only an empty one goes; if it stays, the rename fails and says so.
        let _ = fs::remove_dir(path);
    }
}
