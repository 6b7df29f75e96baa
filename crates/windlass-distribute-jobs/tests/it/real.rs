//! A controller over agents as they are: it is killed, and one of them, in the middle of transfers. Readers look at the
//! public names all the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::{Entropy, Seeded, SharedClock, SystemClock};
use windlass_distribute_agent::{Agent, AgentConfig};
use windlass_model::task::Outcome;

use crate::old_agents::free;
use crate::rig::Rig;

const FILES: usize = 8;
const SIZE: usize = 1 << 20;
const PART: u64 = 64 << 10;
/// A file takes a third of a second.
const BITS_PER_SECOND: u64 = 24_000_000;

/// An agent in this process.
struct Real {
    address: String,
    folder: PathBuf,
    running: JoinSet<()>,
}

impl Real {
    async fn start(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut real = Self { address: free().await, folder, running: JoinSet::new() };
        real.go_on().await;
        real
    }

    /// Starts where it listened before, over the same folder.
    async fn go_on(&mut self) {
        let clock: SharedClock = SystemClock::real();
        let until = clock.monotonic() + crate::rig::LONGEST;
        let listening = loop {
            let mut config = AgentConfig::new(self.address.parse().unwrap(), self.folder.clone());
            config.capacity = Some(1 << 30);
            config.transfers.usage_limit_percent = 100;
            config.transfers.part_bytes = PART;
            match Agent::bind(config, clock.clone()).await {
                Ok(listening) => break listening,
                // What was killed lets go of the folder a moment later.
                Err(error) => assert!(clock.monotonic() < until, "{error}"),
            }
            clock.sleep(Duration::from_millis(20)).await;
        };
        self.running.spawn(listening.run(CancellationToken::new()));
    }

    /// It stops where it stands.
    async fn kill(&mut self) {
        self.running.shutdown().await;
    }

    /// Whether a copy grows there.
    fn is_fetching(&self) -> bool {
        let growing = fs::read_dir(self.folder.join("temp.downloaded"));
        growing.is_ok_and(|mut growing| growing.any(|one| one.is_ok_and(|one| one.file_name() != "state")))
    }
}

fn name(n: usize) -> String {
    format!("F{n} #?%.mpg")
}

fn content(n: usize) -> Vec<u8> {
    let dice = Seeded::new(n as u64);
    (0..SIZE / 8).flat_map(|_| dice.next_u64().to_le_bytes()).collect()
}

/// Which nodes have a file, as anybody sees it.
fn holders(folders: &[PathBuf], n: usize) -> usize {
    folders.iter().filter(|folder| folder.join(name(n)).exists()).count()
}

/// Reads what is under the public names, again and again.
async fn read(folders: Vec<PathBuf>, clock: SharedClock, seen: Arc<Mutex<(u64, Vec<String>)>>) {
    let contents: Vec<Vec<u8>> = (0..FILES).map(content).collect();
    let look = |folder: &Path, n: usize| match fs::read(folder.join(name(n))) {
        Err(_) => None,
        Ok(bytes) => Some((bytes.len(), bytes == contents[n])),
    };
    loop {
        for folder in &folders {
            for n in 0..FILES {
                let Some((bytes, whole)) = look(folder, n) else { continue };
                let mut seen = seen.lock().unwrap();
                seen.0 += 1;
                if !whole {
                    seen.1.push(format!("{} in {} has {bytes} bytes and other content", name(n), folder.display()));
                }
            }
            clock.sleep(Duration::from_millis(3)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_as_they_are_get_every_file_once_though_they_and_the_controller_are_killed() {
    windlass_blob::install_crypto_provider();
    let names: Vec<String> = (0..FILES).map(name).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), SIZE as u64)).collect();
    let rig = Rig::new(&files);
    (0..FILES).for_each(|n| fs::write(rig.path("origin").join(name(n)), content(n)).unwrap());
    let source = Real::start(rig.path("origin")).await;
    let mut nodes = [Real::start(rig.path("a")).await, Real::start(rig.path("b")).await];
    let folders: Vec<PathBuf> = nodes.iter().map(|node| node.folder.clone()).collect();
    let seen = Arc::new(Mutex::new((0, Vec::new())));
    let mut readers = JoinSet::new();
    readers.spawn(read(folders.clone(), rig.clock.clone(), seen.clone()));
    let mut spec = rig.spec(&source.address, &[&nodes[0].address, &nodes[1].address]);
    // A node that is away for a moment is not down yet: it is asked again each two seconds, and three times.
    spec["watch"] = json!({ "every": "16s", "patience": "10s", "listing": "20s" });
    // A node that is killed comes back: its transfer goes on, and is not given up.
    (spec["revoke_grace"], spec["bits_per_second"]) = (json!("60s"), json!(BITS_PER_SECOND));
    spec["rules"]["max_outbound_per_source"] = json!(2);
    let mut engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    let placed = || (0..FILES).filter(|n| holders(&folders, *n) > 0).count();
    let mut in_the_middle = 0;
    for node in &mut nodes {
        rig.until("a copy grows", async || node.is_fetching() || placed() == FILES).await;
        rig.kill(engine).await;
        engine = rig.engine().await;
        rig.until("a copy grows again", async || node.is_fetching() || placed() == FILES).await;
        node.kill().await;
        in_the_middle += usize::from(placed() < FILES);
        node.go_on().await;
    }
    assert!(in_the_middle > 0, "nobody was killed in the middle");
    rig.until("all are placed", async || placed() == FILES).await;
    rig.settled(job).await;
    readers.shutdown().await;
    for n in 0..FILES {
        assert_eq!(holders(&folders, n), 1, "{}", name(n));
    }
    let view = windlass_engine::view::job(&rig.store, engine.kinds(), job, rig.clock.wall()).await.unwrap();
    let failed = view.tasks.iter().filter_map(|task| match task.status.outcome() {
        Some(Outcome::Failed { failure }) => Some(format!("{}: {failure}", task.name)),
        _ => None,
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(view.counts.succeeded, FILES as u64, "nothing is copied again");
    let (reads, wrong) = seen.lock().unwrap().clone();
    println!("{reads} reads of public names");
    assert!(reads > 0 && wrong.is_empty(), "{wrong:?}");
    assert!(!nodes.iter().any(Real::is_fetching), "nothing is left of what was put down");
}
