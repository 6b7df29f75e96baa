//! Several workers on one etcd, as real processes: frozen, woken, and with the etcd itself losing its leader.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json as object};
use windlass_clock::{SharedClock, SystemClock};
use windlass_sim::etcd::{EtcdServer, TxnRecorder};
use windlass_store::budget;
use windlass_store_etcd::{EtcdConfig, EtcdStore};

/// Seconds of a worker's lease.
const LEASE: u64 = 2;

/// Longest that anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// Adds a line to its first argument once per key, then waits for a file named like its second argument and attempt.
const SCRIPT: &str = r#"
grep -qx "$WINDLASS_KEY" "$1" 2>/dev/null || echo "$WINDLASS_KEY" >>"$1"
while [ ! -e "$2.$WINDLASS_ATTEMPT" ]; do sleep 0.1; done
"#;

/// A folder, an etcd and how to reach it.
struct Site {
    folder: tempfile::TempDir,
    state: String,
    clock: SharedClock,
}

/// `windlass worker`, killed when dropped.
struct Worker {
    name: String,
    child: Child,
}

impl Worker {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn new(endpoints: &[String]) -> Self {
        let state = format!("etcd://{}/site", endpoints.join(","));
        Self { folder: tempfile::tempdir().unwrap(), state, clock: SystemClock::real() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, as on a machine of its own.
    fn windlass(&self, machine: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
        command.env("XDG_STATE_HOME", self.path(machine)).env("WINDLASS_STATE", &self.state);
        command.env_remove("WINDLASS_LOG").env_remove("WINDLASS_CRASH_AT").env_remove("WINDLASS_COUNT_POINTS");
        command.stdin(Stdio::null());
        command
    }

    /// Starts a worker; what it says goes to `NAME.said`.
    fn worker(&self, name: &str, options: &[&str]) -> Worker {
        let mut command = self.windlass(name);
        command.args(["worker", "--name", name]).args(options);
        let said = File::create(self.path(&format!("{name}.said"))).unwrap();
        let child = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        Worker { name: name.to_owned(), child }
    }

    /// Runs a command of a person to its end.
    async fn say(&self, words: &[&str]) -> String {
        let mut command = tokio::process::Command::from(self.windlass("person"));
        let output = command.args(words).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.say(&[words, &["--output", "json"]].concat()).await).unwrap()
    }

    async fn submit(&self, name: &str, spec: &Value) {
        let file = self.path(&format!("{name}.json"));
        let document = object!({ "kind": "dag", "name": name, "spec": spec });
        std::fs::write(&file, document.to_string()).unwrap();
        self.say(&["submit", file.to_str().unwrap()]).await;
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let begun = self.clock.monotonic();
        while !is_so().await {
            assert!(self.clock.monotonic() - begun < PATIENCE, "waited in vain for {what}{}", self.said());
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the workers said.
    fn said(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let said = files.filter(|path| path.extension().is_some_and(|extension| extension == "said"));
        said.map(|path| format!("\n--- {}\n{}", path.display(), std::fs::read_to_string(&path).unwrap())).collect()
    }

    async fn until_succeeded(&self, job: &str) -> Value {
        let mut shown = Value::Null;
        self.until(&format!("the end of {job}"), async || {
            shown = self.json(&["show", job]).await;
            !shown["status"]["result"].is_null()
        })
        .await;
        assert_eq!(shown["status"]["result"], "succeeded", "{shown:#}{}", self.said());
        shown
    }

    fn lines(&self, name: &str) -> usize {
        std::fs::read_to_string(self.path(name)).unwrap_or_default().lines().count()
    }

    /// A task that runs [`SCRIPT`] on `NAME.effects` and `NAME.go`.
    fn effect(&self, name: &str) -> Value {
        let path = |end: &str| self.path(&format!("{name}.{end}")).display().to_string();
        object!({ "name": name, "type": "exec",
                  "with": { "argv": ["sh", "-c", SCRIPT, "script", path("effects"), path("go")] } })
    }

    fn let_go(&self, name: &str, attempt: u64) {
        File::create(self.path(&format!("{name}.go.{attempt}"))).unwrap();
    }
}

/// The task as `show` prints it; nothing before the job is planned.
fn task<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let name = format!("dag.exec[{name}]");
    let tasks = shown["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    tasks.iter().find(|task| task["name"] == name.as_str()).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_in_a_task_is_replaced_and_its_late_write_refused() {
    let server = EtcdServer::start(3).await.unwrap();
    let site = Site::new(&server.endpoints());
    let lease = LEASE.to_string();
    let options = ["--allow-exec", "*", "--lease", &lease];
    let workers = [site.worker("anna", &options), site.worker("bert", &options)];
    let last = object!({ "name": "last", "type": "noop", "needs": ["once"] });
    site.submit("frozen", &object!({ "tasks": [site.effect("once"), last] })).await;
    let mut at = String::new();
    site.until("the effect", async || {
        let shown = site.json(&["show", "frozen"]).await;
        at = task(&shown, "once")["worker"].as_str().unwrap_or_default().to_owned();
        site.lines("once.effects") == 1 && !at.is_empty()
    })
    .await;
    let frozen = workers.iter().find(|worker| worker.name == at).unwrap();
    frozen.signal(Signal::STOP);
    let begun = site.clock.monotonic();
    // Its command ends well while nobody hears of it.
    site.let_go("once", 1);
    site.until("another attempt", async || {
        let shown = site.json(&["show", "frozen"]).await;
        task(&shown, "once")["status"]["epoch"] == 2 && task(&shown, "once")["worker"].is_string()
    })
    .await;
    let shown = site.json(&["show", "frozen"]).await;
    assert_ne!(task(&shown, "once")["worker"], at.as_str(), "{shown:#}");
    let frozen_for = Duration::from_secs(3 * LEASE);
    site.clock.sleep(frozen_for.saturating_sub(site.clock.monotonic() - begun)).await;
    frozen.signal(Signal::CONT);
    site.until("the refusal", async || site.say(&["log", "frozen"]).await.contains("had lost its lease")).await;
    site.let_go("once", 2);

    let shown = site.until_succeeded("frozen").await;
    assert_eq!(site.lines("once.effects"), 1, "one effect");
    assert_eq!(task(&shown, "once")["status"]["epoch"], 2);
    let text = site.say(&["show", "frozen"]).await;
    println!("{text}{}", site.said());
    let row = text.lines().find(|line| line.starts_with("dag.exec[once]")).unwrap();
    assert!(row.contains("succeeded") && row.trim_end().ends_with('2'), "{text}");
    let refused = text.lines().find(|line| line.starts_with("refused")).unwrap();
    assert!(refused.contains(&at) && refused.contains("epoch 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_when_the_leader_of_its_etcd_dies() {
    let mut server = EtcdServer::start(3).await.unwrap();
    let site = Site::new(&server.endpoints());
    let _workers = [site.worker("anna", &["--allow-exec", "*"]), site.worker("bert", &["--allow-exec", "*"])];
    let layer = |n: usize| object!({ "name": format!("after-{n}"), "type": "noop", "needs": ["once"] });
    let tasks: Vec<Value> = std::iter::once(site.effect("once")).chain((0..40).map(layer)).collect();
    site.submit("leaderless", &object!({ "tasks": tasks })).await;
    site.until("the effect", async || site.lines("once.effects") == 1).await;
    let store = EtcdStore::connect(EtcdConfig::parse(&site.state).unwrap(), site.clock.clone()).await.unwrap();
    let mut leader = None;
    site.until("a leader", async || {
        let status = store.status().await.unwrap();
        leader = server.endpoints().iter().position(|endpoint| Some(endpoint.as_str()) == status.leader());
        leader.is_some()
    })
    .await;
    server.kill(leader.unwrap());
    site.let_go("once", 1);
    let shown = site.until_succeeded("leaderless").await;
    assert_eq!(site.lines("once.effects"), 1, "one effect");
    assert_eq!(task(&shown, "once")["status"]["epoch"], 1, "nobody was taken for dead: {shown:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_tasks_stay_within_the_budget_of_a_transaction() {
    let server = EtcdServer::start(1).await.unwrap();
    let recorder = TxnRecorder::start(&server.endpoints()[0]).unwrap();
    let site = Site::new(&[recorder.endpoint()]);
    let begun = site.clock.monotonic();
    site.submit("many", &windlass_dag::sample(2000).to_json()).await;
    let _worker = site.worker("anna", &[]);
    let shown = site.until_succeeded("many").await;
    assert_eq!(shown["tasks"].as_array().map(Vec::len), Some(2000));
    let seen = recorder.transactions();
    let most = |of: fn(&windlass_sim::etcd::RecordedTxn) -> usize| seen.iter().map(of).max().unwrap();
    let (compares, ops, bytes) = (most(|txn| txn.compares), most(|txn| txn.ops), most(|txn| txn.bytes));
    let all: usize = seen.iter().map(|txn| txn.ops).sum();
    let took = site.clock.monotonic() - begun;
    println!(
        "{} transactions, {all} operations in {took:.1?}; the largest: {compares} conditions, {ops} operations, {bytes} bytes",
        seen.len()
    );
    assert!(all > 2 * 2000, "the recorder saw only {all} operations");
    assert!(compares <= budget::COMPARES && ops <= budget::OPS && bytes <= budget::TXN_BYTES);
    assert_eq!((budget::OPS, budget::TXN_BYTES), (96, 512 * 1024));
}
