//! The origin: where every file is.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::name::{self, FileId, Names};

const ABSENT: i64 = -1;

/// Known files that are looked for in a folder without a marker.
const SAMPLE: usize = 100;

/// An inventory of the origin. A file can be there, not there, or - while a folder is in doubt - unknown; nothing is
/// copied or deleted unless it is surely there.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// By file; [`ABSENT`] if it is not there.
    sizes: Vec<i64>,
    /// Which folder has it.
    folder: Vec<u8>,
    files: usize,
    /// Why absence means nothing at the moment, a line for each folder in doubt.
    pub doubts: Vec<String>,
}

impl Origin {
    /// Puts a file in.
    pub fn put(&mut self, id: FileId, size: u64, folder: u8) {
        if self.sizes.len() <= id.index() {
            self.sizes.resize(id.index() + 1, ABSENT);
            self.folder.resize(id.index() + 1, 0);
        }
        let row = &mut self.sizes[id.index()];
        // The folder that comes first counts.
        if *row == ABSENT {
            *row = i64::try_from(size).unwrap_or(i64::MAX);
            self.folder[id.index()] = folder;
            self.files += 1;
        }
    }

    /// Takes a file out.
    pub fn take(&mut self, id: FileId) {
        if let Some(row) = self.sizes.get_mut(id.index()) {
            self.files -= usize::from(*row != ABSENT);
            *row = ABSENT;
        }
    }

    /// The size of a file that is surely there.
    #[must_use]
    pub fn size(&self, id: FileId) -> Option<i64> {
        self.sizes.get(id.index()).copied().filter(|size| *size != ABSENT)
    }

    /// Whether a file is surely there.
    #[must_use]
    pub fn has(&self, id: FileId) -> bool {
        self.size(id).is_some()
    }

    /// The number of the folder that has a file.
    #[must_use]
    pub fn folder(&self, id: FileId) -> Option<u8> {
        self.has(id).then(|| self.folder.get(id.index()).copied()).flatten()
    }

    /// How many files are surely there.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.files
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        8 * self.sizes.capacity() + self.folder.capacity()
    }

    /// Reads the folders, in order; the first that has a file counts. A folder that cannot be trusted adds nothing but
    /// a line to [`Origin::doubts`]. `known` are files that should be there, as the last inventory had them.
    #[must_use]
    pub fn read_folders(names: &mut Names, folders: &[PathBuf], marker: Option<&str>, before: Option<&Self>) -> Self {
        let mut origin = Self::default();
        for (folder, number) in folders.iter().zip(0_u8..=u8::MAX) {
            let known: Vec<FileId> = before.map_or_else(Vec::new, |before| before.sample(number));
            if let Err(why) = sentinel(names, folder, marker, &known) {
                origin.doubts.push(why);
                continue;
            }
            if let Err(error) = origin.read_folder(names, folder, number) {
                origin
                    .doubts
                    .push(format!("the origin folder {} cannot be read to its end: {error}", folder.display()));
            }
        }
        origin
    }

    fn read_folder(&mut self, names: &mut Names, folder: &Path, number: u8) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name();
            if name::legal(file.as_bytes()).is_err() {
                continue;
            }
            // Follows links: they are how some origins spread over several disks.
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if meta.is_dir() {
                continue;
            }
            if let Some(id) = names.intern(file.as_bytes()) {
                found.push((id, meta.len()));
            }
        }
        // Only now: a listing that breaks off must not pass for a short one.
        for (id, size) in found {
            self.put(id, size, number);
        }
        Ok(())
    }

    /// Some files of a folder, spread over all of them.
    fn sample(&self, folder: u8) -> Vec<FileId> {
        let mine = |id: &usize| self.sizes[*id] != ABSENT && self.folder[*id] == folder;
        let all: Vec<usize> = (0..self.sizes.len()).filter(mine).collect();
        let step = (all.len() / SAMPLE).max(1);
        all.iter().step_by(step).take(SAMPLE).filter_map(|id| u32::try_from(*id).ok()).map(FileId::of).collect()
    }
}

/// Whether a folder is what it should be, and not an empty mount point.
///
/// # Errors
/// One line that says what is wrong.
pub fn sentinel(names: &Names, folder: &Path, marker: Option<&str>, known: &[FileId]) -> Result<(), String> {
    let shown = folder.display();
    let rest = "nothing is copied or deleted because of files that are missing there";
    if let Some(marker) = marker {
        return match fs::symlink_metadata(folder.join(marker)) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the origin folder {shown} lacks its marker {marker} ({error}): {rest}")),
        };
    }
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Err(format!("the origin folder {shown} cannot be read ({error}): {rest}")),
    };
    if entries.next().is_none() {
        return Err(format!("the origin folder {shown} is empty, perhaps not mounted: {rest}"));
    }
    let there = |id: &&FileId| {
        let file = std::ffi::OsStr::from_bytes(names.get(**id));
        fs::symlink_metadata(folder.join(file)).is_ok()
    };
    let found = known.iter().filter(there).count();
    if found * 2 < known.len() {
        return Err(format!("the origin folder {shown} has {found} of {} known files: {rest}", known.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_counts_and_folders_are_no_files() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(a.path().join("A.mpg"), [0; 5]).unwrap();
        fs::write(b.path().join("A.mpg"), [0; 7]).unwrap();
        fs::write(b.path().join("B.mpg"), [0; 9]).unwrap();
        fs::create_dir(b.path().join("C.mpg")).unwrap();
        let mut names = Names::default();
        let folders = [a.path().to_owned(), b.path().to_owned()];
        let origin = Origin::read_folders(&mut names, &folders, None, None);
        let size = |file: &[u8]| names.find(file).and_then(|id| origin.size(id));
        assert_eq!((size(b"A.mpg"), size(b"B.mpg"), size(b"C.mpg")), (Some(5), Some(9), None));
        assert_eq!(origin.len(), 2);
        assert_eq!(origin.folder(names.find(b"B.mpg").unwrap()), Some(1));
    }

    #[test]
    fn an_unmounted_folder_says_nothing_about_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Names::default();
        let folders = [folder.path().to_owned()];
        for n in 0..50 {
            fs::write(folder.path().join(format!("F{n}")), "x").unwrap();
        }
        let before = Origin::read_folders(&mut names, &folders, None, None);
        assert_eq!((before.len(), before.doubts.len()), (50, 0));
        for n in 10..50 {
            fs::remove_file(folder.path().join(format!("F{n}"))).unwrap();
        }
        let less = Origin::read_folders(&mut names, &folders, None, Some(&before));
        assert!(less.is_empty() && less.doubts[0].contains("10 of 50"), "{less:?}");
        for n in 0..10 {
            fs::remove_file(folder.path().join(format!("F{n}"))).unwrap();
        }
        let empty = Origin::read_folders(&mut names, &folders, None, Some(&before));
        assert!(empty.doubts[0].contains("is empty"), "{empty:?}");
        let marked = Origin::read_folders(&mut names, &folders, Some(".origin"), None);
        assert!(marked.doubts[0].contains("lacks its marker"), "{marked:?}");
    }
}
