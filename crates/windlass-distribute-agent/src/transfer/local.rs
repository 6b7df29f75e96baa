//! A file that the node itself can read, in one of the folders that its agent may read from.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use windlass_distribute::wire::agent::{AbsolutePath, Reason};

use super::source::{Reader, Seen, Source, Take, Trouble};
use crate::folder::Found;

/// Bytes that are read at a time: few enough to stay in the processor's cache while they are hashed and written.
pub(super) const BUFFER: usize = 256 << 10;

/// A folder that files may be copied from.
#[derive(Debug)]
pub(super) struct Origin {
    path: PathBuf,
    dir: OwnedFd,
}

impl Origin {
    /// Opens the folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, dir })
    }

    /// Opens a file in it. Links are followed as long as they stay inside.
    fn file(&self, below: &Path) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.dir, below, flags, Mode::empty(), resolve).map(File::from)
    }
}

/// A file in one of them.
#[derive(Debug)]
pub(super) struct Local<'o> {
    origin: &'o Origin,
    below: PathBuf,
    file: File,
}

impl<'o> Local<'o> {
    /// Opens the file at a path.
    pub(super) fn open(origins: &'o [Origin], path: &AbsolutePath) -> Result<Self, Trouble> {
        let wanted = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let mut inside = origins.iter().filter_map(|origin| Some((origin, wanted.strip_prefix(&origin.path).ok()?)));
        let Some((origin, below)) = inside.next().filter(|(_, below)| !below.as_os_str().is_empty()) else {
            let why = format!("the agent may not read {path}: it is in none of its source folders");
            return Err(Trouble::Final(Reason::Refused, why));
        };
        let file = origin.file(below).map_err(|error| trouble(path, error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| trouble(path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Trouble::Final(Reason::SourceGone, format!("{path} is no file")));
        }
        Ok(Self { origin, below: below.to_owned(), file })
    }

    fn shown(&self) -> String {
        self.origin.path.join(&self.below).display().to_string()
    }
}

fn trouble(path: &AbsolutePath, error: Errno) -> Trouble {
    let why = format!("open {path}: {error}");
    match error {
        Errno::NOENT | Errno::NOTDIR => Trouble::Final(Reason::SourceGone, why),
        Errno::XDEV | Errno::LOOP | Errno::ACCESS | Errno::PERM => Trouble::Final(Reason::Refused, why),
        _ => Trouble::Passing(Reason::SourceFailed, why),
    }
}

impl Source for Local<'_> {
    fn look(&self, _wanted: bool) -> Result<Seen, Trouble> {
        // By its name again: a file that was replaced is another one, also where the old one is still open.
        let failed = |error: io::Error| {
            let gone = error.kind() == io::ErrorKind::NotFound;
            let why = format!("look at {}: {error}", self.shown());
            if gone { Trouble::Final(Reason::SourceGone, why) } else { Trouble::Passing(Reason::SourceFailed, why) }
        };
        let named = self.origin.file(&self.below).map_err(|error| failed(error.into()))?;
        let (named, open) = (Found::open(&named).map_err(failed)?, Found::open(&self.file).map_err(failed)?);
        if named != open {
            return Err(Trouble::Final(Reason::SourceChanged, format!("{} was replaced", self.shown())));
        }
        Ok(Seen { size: open.size, version: Some(open.version), checksum: None })
    }

    fn reader<'s>(&'s self, _seen: &'s Seen) -> Box<dyn Reader + 's> {
        Box::new(FileReader { file: &self.file, name: self.shown(), buffer: vec![0; BUFFER] })
    }

    fn share(&self, to: &File) -> bool {
        rustix::fs::ioctl_ficlone(to, &self.file).is_ok()
    }
}

/// Reads ranges of an open file.
pub(super) struct FileReader<'f> {
    file: &'f File,
    name: String,
    buffer: Vec<u8>,
}

impl<'f> FileReader<'f> {
    /// Reads the copy itself.
    pub(super) fn of_copy(file: &'f File) -> Self {
        Self { file, name: "the copy".to_owned(), buffer: vec![0; BUFFER] }
    }
}

impl Reader for FileReader<'_> {
    fn read(&mut self, at: u64, length: u64, take: Take<'_>) -> Result<(), Trouble> {
        let (mut at, end) = (at, at + length);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
            match self.file.read_at(&mut self.buffer[..want], at) {
                Ok(0) => {
                    let why = format!("{} ends at {at} instead of {end}", self.name);
                    return Err(Trouble::Final(Reason::SourceChanged, why));
                }
                Ok(count) => {
                    take(&self.buffer[..count])?;
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Trouble::Passing(Reason::SourceFailed, format!("read {}: {error}", self.name)));
                }
            }
        }
        Ok(())
    }
}
