//! A node as the old controller sees it: heartbeat, files, disk, deletes.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{Answer, JSON, Route, TEXT, route};
use crate::input::space::{Df, StatFs};
use crate::name::{self, GROWING};

/// A folder that is served. Everything here blocks.
#[derive(Clone, Debug)]
pub struct Node {
    folder: PathBuf,
}

/// What a path names.
enum Resource<'a> {
    Heartbeat,
    Files,
    Disk,
    File(&'a [u8]),
}

fn resource(parts: &[Vec<u8>]) -> Option<Resource<'_>> {
    match parts {
        [one] if one == b"hb" => Some(Resource::Heartbeat),
        [one] if one == b"files" => Some(Resource::Files),
        [one] if one == b"df" => Some(Resource::Disk),
        [one, name] if one == b"files" => Some(Resource::File(name)),
        _ => None,
    }
}

impl Node {
    /// Serves `folder`.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Answers a request. `path` is as it was sent, still encoded.
    #[must_use]
    pub fn answer(&self, method: &str, path: &str) -> Answer {
        let (parts, slash) = match route(path) {
            Route::Bad => return Answer::bare(400),
            Route::Moved(answer) => return answer,
            Route::To(parts) => (parts, false),
            Route::Slash(parts) => (parts, true),
        };
        let Some(resource) = resource(&parts) else { return Answer::nowhere() };
        let wanted = match resource {
            Resource::Heartbeat => "HEAD",
            Resource::Files | Resource::Disk => "GET",
            Resource::File(_) => "DELETE",
        };
        if method != wanted {
            return Answer::bare(405);
        }
        if slash {
            let mut there = b"/".to_vec();
            there.extend(parts.join(&b'/'));
            return Answer::elsewhere(&there);
        }
        match resource {
            Resource::Heartbeat => Answer::empty(200, TEXT),
            Resource::Files => match self.files() {
                Ok(names) => Answer { body: lines(&names), ..Answer::empty(200, TEXT) },
                Err(_) => Answer::empty(500, TEXT),
            },
            Resource::Disk => match self.disk() {
                Ok(df) => {
                    let mut body = serde_json::to_vec(&df).unwrap_or_default();
                    body.push(b'\n');
                    Answer { body, ..Answer::empty(200, JSON) }
                }
                Err(_) => Answer::empty(500, JSON),
            },
            Resource::File(name) => Answer::empty(self.delete(name), JSON),
        }
    }

    /// Names of all files, in byte order. What cannot be a name on this wire is left out.
    ///
    /// # Errors
    /// When the folder cannot be listed to its end: half a listing is none.
    pub fn files(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                continue;
            }
            let file = entry.file_name().into_vec();
            if name::legal(&file).is_ok() {
                names.push(file);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// How full the file system of the folder is.
    ///
    /// # Errors
    /// When it does not say.
    pub fn disk(&self) -> io::Result<Df> {
        let stat = rustix::fs::statfs(&self.folder)?;
        let bsize = u64::try_from(stat.f_bsize).unwrap_or(0);
        let stat = StatFs { blocks: stat.f_blocks, bfree: stat.f_bfree, bavail: stat.f_bavail, bsize };
        Ok(stat.df())
    }

    /// Deletes the file with exactly this name. A link is deleted itself, never what it leads to.
    fn delete(&self, file: &[u8]) -> u16 {
        if file == GROWING {
            return 406;
        }
        if name::legal(file).is_err() {
            return 404;
        }
        let path = self.folder.join(std::ffi::OsStr::from_bytes(file));
        let status = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { 404 } else { 500 };
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => 406,
            Ok(_) => fs::remove_file(&path).map_or_else(status, |()| 200),
            Err(error) => status(error),
        }
    }
}

fn lines(names: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for name in names {
        body.extend_from_slice(name);
        body.push(b'\n');
    }
    body
}
