//! Machines that share a remote.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use windlass_blob::{BlobUrl, Environment};
use windlass_clock::{Clock, Entropy, Seeded, SharedClock, SystemClock, SystemEntropy};
use windlass_gocache_remote::{ActionId, Closed, Entry, LocalOutputs, Lookup, Remote, RemoteConfig, Steps};
use windlass_sim::s3::{FaultProxy, S3Server};

use crate::folder::{Folder, read};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A builder with its own disk.
pub(crate) struct Machine {
    pub(crate) local: Arc<Folder>,
    _disk: TempDir,
}

/// One run of the program on a machine.
pub(crate) struct Run {
    pub(crate) remote: Remote,
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let disk = tempfile::tempdir().unwrap();
        Self { local: Arc::new(Folder::open(disk.path())), _disk: disk }
    }

    pub(crate) fn run(&self, config: &RemoteConfig) -> Run {
        self.run_until(config, Steps::default())
    }

    /// The same, `days` later by this machine's clock.
    pub(crate) fn run_later(&self, config: &RemoteConfig, days: u64) -> Run {
        self.start(config, Steps::default(), Later::by_days(days))
    }

    pub(crate) fn run_until(&self, config: &RemoteConfig, steps: Steps) -> Run {
        self.start(config, steps, SystemClock::real())
    }

    fn start(&self, config: &RemoteConfig, steps: Steps, clock: SharedClock) -> Run {
        let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&warnings);
        let warn = move |line: &str| heard.lock().unwrap().push(line.to_owned());
        let local = Arc::clone(&self.local) as Arc<dyn LocalOutputs>;
        let remote = Remote::start_with_steps(config.clone(), local, clock, warn, steps);
        Run { remote, warnings }
    }

    /// Builds everything with nothing in the cache: each action is asked for and put. Those acknowledged come back.
    pub(crate) fn build(&self, run: &Run, steps: &[Step]) -> Vec<Step> {
        let mut acknowledged = Vec::new();
        for step in steps {
            let entry = self.local.put(step.action, &step.body, step.time);
            if run.remote.offer(step.action, entry) {
                acknowledged.push(step.clone());
            }
        }
        acknowledged
    }

    /// Asks for everything: it must be there, with the right bytes and time.
    #[track_caller]
    pub(crate) fn find_all(&self, run: &Run, steps: &[Step]) {
        for step in steps {
            let found = run.remote.lookup(&step.action);
            let Lookup::Found(entry) = found else {
                panic!("{:?}: {found:?} {:?} {:?}", step.action, run.warnings.lock().unwrap(), run.remote.counters())
            };
            assert_eq!(entry, step.entry());
            assert_eq!(read(&self.local, &entry.output), step.body);
            assert_eq!(self.local.action(&step.action), Some(entry));
        }
    }

    /// Runs `flush` again until nothing waits on this machine's disk.
    #[track_caller]
    pub(crate) fn flush(&self, config: &RemoteConfig) {
        let clock = SystemClock::real();
        let started = clock.monotonic();
        loop {
            let run = self.run(config);
            let closed = run.remote.flush(PATIENCE);
            assert_eq!(closed, Closed::default(), "{:?}", run.warnings.lock().unwrap());
            drop(run);
            // The journal of a run that was just dropped may still be held by a thread of it.
            if windlass_gocache_remote::waiting(self.local.state_dir()).0 == 0 {
                return;
            }
            assert!(clock.monotonic() - started < PATIENCE, "the queue does not get empty");
            std::thread::yield_now();
        }
    }
}

/// A build step and what it makes.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) action: ActionId,
    pub(crate) body: Vec<u8>,
    pub(crate) time: i64,
}

impl Step {
    pub(crate) fn entry(&self) -> Entry {
        let output = windlass_gocache_remote::OutputId::of(&self.body);
        Entry { output, size: self.body.len() as u64, time_unix_nanos: self.time }
    }
}

/// Some build steps: empty, tiny, equal, middling and larger outputs.
pub(crate) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let entropy = Seeded::new(seed);
    (0..count)
        .map(|number| {
            let mut action = [0; 32];
            action.chunks_mut(8).for_each(|part| part.copy_from_slice(&entropy.next_u64().to_le_bytes()));
            let size = match number % 8 {
                0 => 0,
                1 | 2 => 20 + number,
                3 => 900 + number * 3,
                4 => 30_000 + number,
                5 => 50_000 + number * 7,
                6 => 120_000 + number,
                _ => 700,
            };
            let word = if number % 16 == 7 { 5 } else { entropy.next_u64() };
            let noise = Seeded::new(word);
            let mut body = Vec::new();
            while body.len() < size {
                body.extend_from_slice(&noise.next_u64().to_le_bytes());
                body.extend_from_slice(b"and the same again, and the same again");
            }
            body.truncate(size);
            Step { action: ActionId::new(action), body, time: 1_700_000_000_000_000_000 + number as i64 }
        })
        .collect()
}

/// A remote in memory of its own.
pub(crate) fn memory() -> RemoteConfig {
    let url: BlobUrl = format!("memory:///gocache-{:x}", SystemEntropy::real().next_u128()).parse().unwrap();
    at(&url)
}

/// Reads and writes at `url`.
pub(crate) fn at(url: &BlobUrl) -> RemoteConfig {
    RemoteConfig {
        read: vec![url.clone()],
        write: Some(url.clone()),
        environment: Environment::from_pairs(S3Server::credentials()),
        deadline: Duration::from_secs(20),
        ..RemoteConfig::default()
    }
}

/// A bucket behind a proxy.
pub(crate) struct Bucket {
    pub(crate) proxy: FaultProxy,
    pub(crate) server: S3Server,
    folder: TempDir,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(folder.path()).unwrap();
        server.create_bucket("bkt").unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        Self { proxy, server, folder }
    }

    /// Where the server keeps the bucket's objects.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("bkt")
    }

    /// Through the proxy.
    pub(crate) fn url(&self, prefix: &str) -> BlobUrl {
        format!("s3://bkt/{prefix}?endpoint={}", self.proxy.endpoint()).parse().unwrap()
    }

    /// Past the proxy.
    pub(crate) fn direct(&self, prefix: &str) -> BlobUrl {
        format!("s3://bkt/{prefix}?endpoint={}", self.server.endpoint()).parse().unwrap()
    }
}

/// All files below a folder whose name ends so.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The real clock, its wall time moved.
#[derive(Debug)]
pub(crate) struct Later {
    real: SharedClock,
    by: Duration,
}

impl Later {
    pub(crate) fn by_days(days: u64) -> SharedClock {
        Arc::new(Self { real: SystemClock::real(), by: Duration::from_secs(days * 86_400) })
    }
}

impl Clock for Later {
    fn wall(&self) -> jiff::Timestamp {
        self.real.wall() + self.by
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }

    fn sleep(&self, duration: Duration) -> windlass_clock::Sleep {
        self.real.sleep(duration)
    }
}

/// Runs async code of a test.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
