//! A remote in a folder, written by hand.

use std::fs;
use std::path::{Path, PathBuf};

use windlass_clock::SystemClock;

pub(crate) struct Rig(PathBuf);

/// The name of pack `n`.
pub(crate) fn name(n: u8) -> String {
    format!("{n:032x}")
}

impl Rig {
    pub(crate) fn at(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self(folder.to_owned())
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        let path = self.0.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A pack that no index names.
    pub(crate) fn pack(&self, n: u8, size: u64) {
        self.write(&format!("v1/packs/{}.pack", name(n)), &vec![n; usize::try_from(size).unwrap()]);
    }

    /// A list of packs condemned so many seconds from now.
    pub(crate) fn condemn(&self, packs: &[u8], from_now: i64) {
        let at = SystemClock::real().wall().as_millisecond() + from_now * 1000;
        let names: Vec<String> = packs.iter().map(|n| name(*n)).collect();
        let key = format!("v1/condemned/{:016x}-{}.json", u64::try_from(at).unwrap(), name(77));
        self.write(&key, serde_json::to_string(&names).unwrap().as_bytes());
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
