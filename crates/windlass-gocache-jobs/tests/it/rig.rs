//! A remote in a folder, written by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use windlass_clock::SystemClock;
use windlass_gocache::disk::Disk;
use windlass_gocache::local::{OpenOptions, Run};
use windlass_gocache_remote::{ActionId, Closed, Entry, OutputId, Remote, RemoteConfig};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);
/// Actions of the build that [`built`] makes.
pub(crate) const ACTIONS: u8 = 12;

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

/// A machine with the folder `machine` has built against the remote `a`, and its build is in its history. Every call
/// gives the same names, some of which are random.
pub(crate) fn built(folder: &Path) {
    static ONCE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        build(folder.path());
        folder
    });
    for file in files(ONCE.path()) {
        let copy = folder.join(file.strip_prefix(ONCE.path()).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

fn build(folder: &Path) {
    let (machine, remote) = (folder.join("machine"), folder.join("a"));
    fs::create_dir_all(&remote).unwrap();
    let work = move || {
        let clock = SystemClock::real();
        let warn = |line: &str| panic!("{line}");
        let disk = Arc::new(Disk::open(&machine, machine.join("spare"), &OpenOptions::default(), clock.clone(), &warn));
        let url: windlass_blob::BlobUrl = format!("file://{}", remote.display()).parse().unwrap();
        let config = RemoteConfig { read: vec![url.clone()], write: Some(url), ..RemoteConfig::default() };
        let remote = Remote::start(config, disk.clone(), clock, warn);
        for n in 0..ACTIONS {
            let (action, body) = (ActionId::new([n; 32]), vec![n; 500 * usize::from(n)]);
            let (output, size) = (OutputId::of(&body), body.len() as u64);
            let mut writing = disk.begin(&output, size).unwrap();
            writing.write(&body).unwrap();
            let kept = writing.publish(&output).unwrap();
            let entry = Entry { output, size, time_unix_nanos: 1_700_000_000_000_000_000 };
            kept.tie(&action, &entry).unwrap();
            assert!(remote.offer(action, entry));
        }
        assert_eq!(remote.close(PATIENCE), Closed::default());
        let run = Run { gets: 20, local_hits: 5, remote_hits: 3, misses: 12, ..Run::default() };
        disk.main().unwrap().add_run(&run).unwrap();
    };
    // The remote has threads of its own, which cannot be waited for among the tasks of a test.
    std::thread::spawn(work).join().unwrap();
}

/// What a folder of the cache answers, action by action: the hash of the output, where its bytes are whole.
pub(crate) fn answers(folder: &Path) -> Vec<String> {
    let told = |line: &str| panic!("{line}");
    let disk = Disk::open(folder, folder.join("spare"), &OpenOptions::default(), SystemClock::real(), &told);
    let store = disk.main().unwrap();
    let answer = |n: u8| {
        let entry = store.action(&ActionId::new([n; 32]))?;
        let bytes = fs::read(store.output_path(&entry.output)).ok()?;
        (OutputId::of(&bytes) == entry.output).then(|| format!("{n}: {}", entry.output.hex()))
    };
    (0..ACTIONS).filter_map(answer).collect()
}
