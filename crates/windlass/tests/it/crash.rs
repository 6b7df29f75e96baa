//! The program killed with SIGKILL, as by a power cut, while it moves vectors.
//!
//! The cluster lives in the process of the test: it survives every kill, and its observer sees every moment. A job
//! that is killed, however often and wherever, ends in the placement of one that never was.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Entropy, Seeded, SharedClock, SystemClock};
use windlass_sim::vald::{Cluster, ClusterBuilder, Placement, Uploader};

/// Another seed for the moments of the kills than the usual one.
const SEED: &str = "WINDLASS_SEED";

/// Kills in the test of random moments.
const KILLS: usize = 50;

/// Points that the matrix kills at, beside the first of each label.
const SAMPLES: usize = 30;

/// Longest that a run may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(100);

/// A cluster, its backups, a state folder and a job file.
struct Site {
    cluster: Cluster,
    folder: tempfile::TempDir,
    before: Placement,
    clock: SharedClock,
}

/// A process that ended by itself.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    said: String,
}

impl Site {
    async fn start(builder: ClusterBuilder, spec: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backups = folder.path().join("backups");
        std::fs::create_dir(&backups).unwrap();
        let cluster = builder.uploader(Uploader::to_directory(&backups)).start().await.unwrap();
        cluster.write_backups_to(&backups).unwrap();
        cluster.watch_copies(true);
        let mut spec = spec.clone();
        spec["cluster"] = json!({ "name": "crash", "agents": cluster.addresses().agents });
        spec["backups"] = json!(format!("file://{}", backups.display()));
        // JSON is YAML.
        let file = json!({ "kind": "rebalance", "name": "crash", "spec": spec });
        std::fs::write(folder.path().join("job.yaml"), file.to_string()).unwrap();
        Self { before: cluster.placement(), cluster, folder, clock: SystemClock::real() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `windlass run`.
    fn begin(&self, variable: Option<(&str, &str)>) -> Child {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
        command.arg("run").arg(self.path("job.yaml")).arg("--state").arg(self.path("state"));
        command.env_remove("WINDLASS_CRASH_AT").env_remove("WINDLASS_COUNT_POINTS").envs(variable);
        let log = || Stdio::from(File::options().create(true).append(true).open(self.path("said")).unwrap());
        std::fs::write(self.path("said"), "").unwrap();
        command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap()
    }

    /// Waits for the end of a process, at most for `limit`.
    async fn wait(&self, child: &mut Child, limit: Duration) -> Option<Ended> {
        let begun = self.clock.monotonic();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Ended { status, said: std::fs::read_to_string(self.path("said")).unwrap() });
            }
            let left = limit.saturating_sub(self.clock.monotonic() - begun);
            if left.is_zero() {
                return None;
            }
            self.clock.sleep(left.min(Duration::from_millis(2))).await;
        }
    }

    /// Runs to the end.
    async fn run(&self, variable: Option<(&str, &str)>) -> Ended {
        let mut child = self.begin(variable);
        let ended = self.wait(&mut child, PATIENCE).await;
        ended.unwrap_or_else(|| {
            let _ = child.kill();
            panic!("still running after {PATIENCE:?}: {}", std::fs::read_to_string(self.path("said")).unwrap());
        })
    }

    /// Nothing was ever missing or too many, and nobody's delete was undone.
    #[track_caller]
    fn assert_never_wrong(&self) {
        assert_eq!(self.cluster.violations(), []);
        assert!(self.cluster.resurrected().is_empty());
    }

    /// The job is done as it should be: what is there is `wanted`, and nothing waits or lies around.
    #[track_caller]
    fn assert_done(&self, ended: &Ended, wanted: &Site) {
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        self.assert_never_wrong();
        let (placement, wanted_placement) = (self.cluster.placement(), wanted.cluster.placement());
        let other: Vec<_> = placement.iter().filter(|(id, on)| wanted_placement.get(*id) != Some(on)).collect();
        assert!(
            placement.len() == wanted_placement.len() && other.is_empty(),
            "{} ids are elsewhere: {other:?}",
            other.len()
        );
        assert_eq!(self.cluster.durable_placement().keys().collect::<Vec<_>>(), placement.keys().collect::<Vec<_>>());
        assert_eq!(self.files(), wanted.files(), "{}", ended.said);
    }

    /// The kinds of files in the work folder, without the parts of their names that differ from job to job.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        collect(&self.path("state").join("work"), &mut found);
        found
    }
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), found);
        } else {
            let kind =
                entry.path().extension().map_or_else(|| "none".into(), |kind| kind.to_string_lossy().into_owned());
            found.insert(kind);
        }
    }
}

/// Long enough for 50 kills: some ten seconds of moving, in many chunks that take a part of a second each.
async fn long() -> Site {
    let builder = Cluster::builder().ids(2000).dimension(4).skew(2.0).seed(41);
    let spec = json!({ "index_replica": 2, "chunk": 10, "rate_limit": { "moves": 80 } });
    Site::start(builder, &spec).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_killed_fifty_times_at_random_moments_ends_as_one_that_never_was() {
    let seed: u64 = std::env::var(SEED).ok().and_then(|text| text.parse().ok()).unwrap_or(2024);
    println!("{SEED}={seed}");
    let entropy = Seeded::new(seed);
    let clean = long().await;
    let begun = clean.clock.monotonic();
    let ended = clean.run(None).await;
    let took = clean.clock.monotonic() - begun;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    clean.assert_never_wrong();
    assert_ne!(clean.cluster.placement(), clean.before);
    println!("clean run: {took:.1?}; files: {:?}", clean.files());

    let life = Duration::from_millis(150) + took.mul_f64(2.0 / KILLS as f64);
    let (mut kills, mut sites) = (0, 0);
    while kills < KILLS {
        sites += 1;
        let site = long().await;
        let ended = loop {
            let mut child = site.begin(None);
            if kills == KILLS {
                break site.wait(&mut child, PATIENCE).await.expect("it ends");
            }
            // Mostly short lives, which die while they start or resume; some that get through several phases.
            let moment = life.mul_f64(3.0 * entropy.fraction().powi(2));
            if let Some(ended) = site.wait(&mut child, moment).await {
                break ended;
            }
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if status.signal().is_none() {
                break Ended { status, said: std::fs::read_to_string(site.path("said")).unwrap() };
            }
            kills += 1;
            site.assert_never_wrong();
        };
        println!("cluster {sites}: ended after {kills} kills");
        site.assert_done(&ended, &clean);
        let changes = site.cluster.mutations().len();
        let again = site.run(None).await;
        assert_eq!(again.status.code(), Some(0), "{}", again.said);
        assert_eq!(site.cluster.mutations().len(), changes, "a finished job was run again: {}", again.said);
    }
}

async fn tiny() -> Site {
    let builder = Cluster::builder().ids(30).dimension(4).skew(2.0).seed(42);
    Site::start(builder, &json!({ "index_replica": 2, "chunk": 6 })).await
}

/// A point as the program lists it.
#[derive(Clone, Debug)]
struct Point {
    n: usize,
    what: String,
}

/// Every n-th point, and the first of each kind.
fn sample(list: &str) -> Vec<Point> {
    let mut met = BTreeSet::new();
    let points = list.lines().map(|line| line.split_once(' ').unwrap());
    let points: Vec<Point> = points.map(|(n, what)| Point { n: n.parse().unwrap(), what: what.to_owned() }).collect();
    let every = points.len().div_ceil(SAMPLES).max(1);
    points.into_iter().filter(|point| met.insert(point.what.clone()) || point.n % every == 0).collect()
}

/// Kills at one point, runs again, and says how it came out.
async fn kill_at(point: &Point, clean: &Site) -> String {
    let site = tiny().await;
    let killed = site.run(Some(("WINDLASS_CRASH_AT", &point.n.to_string()))).await;
    let verdict = match killed.status.signal() {
        Some(9) => "yes",
        // A run that does tasks side by side may pass fewer points.
        _ => "yes (ended before it)",
    };
    site.assert_never_wrong();
    let ended = if verdict == "yes" { site.run(None).await } else { killed };
    site.assert_done(&ended, clean);
    verdict.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_a_point_of_its_run_is_followed_by_one_that_ends_the_same() {
    let clean = Arc::new(tiny().await);
    let list = clean.path("points");
    let ended = clean.run(Some(("WINDLASS_COUNT_POINTS", list.to_str().unwrap()))).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    clean.assert_never_wrong();
    assert_ne!(clean.cluster.placement(), clean.before);
    let list = std::fs::read_to_string(list).unwrap();
    let points = sample(&list);
    println!("{} of {} points", points.len(), list.lines().count());
    let mut killed = 0;
    // Two at a time: each mostly waits for the disk.
    for pair in points.chunks(2) {
        let mut rows = tokio::task::JoinSet::new();
        for point in pair.iter().cloned() {
            let clean = clean.clone();
            rows.spawn(async move { (kill_at(&point, &clean).await, point) });
        }
        for (verdict, point) in rows.join_all().await {
            println!("{:>4}  {:<40} {verdict}", point.n, point.what);
            killed += usize::from(verdict == "yes");
        }
    }
    assert!(killed * 10 >= points.len() * 9, "only {killed} of {} kills happened", points.len());
    for label in ["insert", "create_and_save_index", "remove"] {
        for side in ["before", "after"] {
            let wanted = format!("effect {label} {side}");
            assert!(points.iter().any(|point| point.what == wanted), "{wanted} is no point: {points:?}");
        }
    }
}
