//! Going through the folder.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::LocalStore;
use super::layout::Named;

/// A file of ours.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) named: Named,
    pub(super) path: String,
    pub(super) file: Metadata,
}

impl Seen {
    /// What it costs on the disk.
    pub(super) fn cost(&self) -> u64 {
        cost(&self.file)
    }
}

/// What a file costs on the disk. Some file systems decide that later; then it is at least its length.
pub(super) fn cost(file: &Metadata) -> u64 {
    file.len().max(file.blocks() * 512)
}

impl LocalStore {
    /// Shows everything of ours to `visit`, until that says `false`. Returns whether it came to the end.
    ///
    /// Files that come and go meanwhile may be seen or not.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Seen) -> io::Result<bool>) -> io::Result<bool> {
        for folder in self.inner.layout.folders() {
            let entries = match fs::read_dir(self.root().join(&folder)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let named = self.inner.layout.named(&folder, &name);
                if named == Named::Foreign {
                    continue;
                }
                let file = match entry.metadata() {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let slash = if folder.is_empty() { "" } else { "/" };
                let path = format!("{}{folder}{slash}{name}", self.inner.root);
                if !visit(&Seen { named, path, file })? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
