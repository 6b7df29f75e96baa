//! `docs/format-store.md` says what a real store has: each key that a busy store ever has is described there, with each
//! of its members, and each key that is described there is one that a store has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::{
    Command, Engine, EngineConfig, Finished, JobRequest, Kind, Kinds, PlanContext, Reconcile, SpecFault, TaskContext,
    TaskType,
};
use windlass_model::log::Level;
use windlass_model::plan::Plan;
use windlass_model::schedule::{Overlap, Schedule};
use windlass_model::{Failure, JobId};
use windlass_sim::keeper::{KeepKind, Wishes};
use windlass_sim::world::{Step, StepKind, StepSpec, World};
use windlass_store::memory::MemoryStore;
use windlass_store::{Revision, Store, Watch, dump};

/// The section about what the server writes, which is no part of this.
const OF_THE_SERVER: &str = "## The server";

/// A key that the document describes.
struct Described {
    key: String,
    value: String,
    /// Words in the description that may name members.
    words: BTreeSet<String>,
}

impl Described {
    /// Whether `key` is one of these.
    fn fits(&self, key: &str) -> bool {
        fits(&self.key, key)
    }

    /// The length of the text before the first placeholder, then the number of parts: the larger the more it says.
    fn says(&self) -> (usize, usize) {
        (self.key.find('<').unwrap_or(usize::MAX), self.key.matches('/').count())
    }
}

/// `<name>`, `<pool>` and `<key>` may have slashes in them; other placeholders are one part of a key.
fn fits(pattern: &str, key: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('<') else { return pattern == key };
    let Some((placeholder, after)) = rest.split_once('>') else { return false };
    let Some(key) = key.strip_prefix(before) else { return false };
    let is_open = matches!(placeholder, "name" | "pool" | "key");
    let fits_part = |part: &str| match placeholder {
        "job" | "task" | "worker" => part.len() == 26,
        "n" => part.len() >= 6 && part.chars().all(|c| c.is_ascii_digit()),
        "order" => part.len() == 10 && part.chars().all(|c| c.is_ascii_digit()),
        "digest" => part.len() == 64,
        _ => !part.is_empty(),
    };
    let ends = key.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([key.len()]);
    let ends = ends.take(if is_open { usize::MAX } else { 1 });
    ends.into_iter().any(|end| fits_part(&key[..end]) && fits(after, &key[end..]))
}

fn described() -> Vec<Described> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format-store.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (text, _) = text.split_once(OF_THE_SERVER).expect("the document has a section about the server");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut columns = row.trim_matches('|').split(" | ").map(str::trim);
        let key = columns.next().unwrap().trim_matches('`').to_owned();
        let value = columns.next().unwrap().to_owned();
        let words = value.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Described { key, value, words }
    })
    .collect()
}

/// A task that talks, and takes a while.
struct Talks;

#[async_trait]
impl TaskType for Talks {
    fn name(&self) -> &'static str {
        "talk.talk"
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        cx.log(Level::Info, "talk", "so it is", serde_json::Map::new()).await;
        cx.sleep(Duration::from_secs(20)).await?;
        cx.warn("talk", "so it was").await;
        Ok(Finished::with(Value::String("x".repeat(40_000))))
    }
}

struct TalkKind;

#[async_trait]
impl Kind for TalkKind {
    fn name(&self) -> &'static str {
        "talk"
    }

    fn about(&self) -> &'static str {
        "talks"
    }

    fn schema(&self) -> Value {
        json!({})
    }

    fn check(&self, _: &Value) -> Vec<SpecFault> {
        Vec::new()
    }

    async fn plan(&self, cx: &PlanContext, _: &Value) -> Result<Plan, Failure> {
        let tasks = ["a", "b"].map(|name| cx.task("talk.talk", name).needs("site", "b"));
        Ok(Plan { tasks: tasks.into(), warnings: vec!["it talks".into()] })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![Arc::new(Talks)]
    }
}

/// Everything that was ever written.
struct Ever {
    changes: Box<dyn Watch>,
    store: MemoryStore,
    clock: SharedClock,
    at: Revision,
    written: BTreeMap<String, Vec<bytes::Bytes>>,
}

impl Ever {
    async fn take(&mut self) {
        let now = self.store.revision().await.unwrap();
        while self.at < now {
            for change in self.changes.next().await.unwrap() {
                self.at = self.at.max(change.revision);
                if let Some(entry) = change.entry {
                    self.written.entry(change.key).or_default().push(entry.value);
                }
            }
        }
    }

    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.clock.sleep(Duration::from_millis(500)).await;
            self.take().await;
        }
    }
}

/// What a busy store has.
async fn busy() -> Ever {
    let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let (store, world, wishes) = (MemoryStore::new(clock.clone()), World::new(clock.clone(), 1), Wishes::default());
    let changes = store.watch("", Revision(0)).await.unwrap();
    let mut ever = Ever { changes, store: store.clone(), clock, at: Revision(0), written: BTreeMap::new() };
    let engine = async |name: &str, label: &str| {
        let keep = KeepKind::new(world.clone(), wishes.clone(), Reconcile::every(Duration::from_secs(5)));
        let kinds = Kinds::new().with(StepKind::new(world.clone())).with(TalkKind).with(keep);
        let seed = Seeded::shared(name.len() as u64);
        let shared = Arc::new(store.clone());
        let mut config = EngineConfig::new(shared, ever.clock.clone(), seed, kinds, "/nonexistent".into());
        config.worker_name = name.into();
        config.labels.insert("site".into(), label.into());
        Engine::open(config).await.unwrap()
    };
    let (first, second) = (engine("first", "a").await, engine("the second", "b").await);
    let submit = async |kind: &str, name: &str, spec: Value| {
        let request = JobRequest {
            kind: kind.into(),
            name: name.into(),
            spec,
            labels: [("team".to_owned(), "x".to_owned())].into(),
            deadline: Some(Duration::from_secs(9_000)),
            undo_after: Some(Duration::from_secs(9_000)),
            ..JobRequest::default()
        };
        first.submit(request).await.unwrap()
    };
    let talks = submit("talk", "talk", json!({"large": "x".repeat(50_000)})).await;
    ever.pass(3).await;
    let pause = Command::Pause { until: None };
    // From another process than the one that coordinates it: by mail, to attempts elsewhere.
    second.command(talks, pause, Some("pause".into())).await.unwrap();
    ever.pass(2).await;
    second.command(talks, Command::Resume, None).await.unwrap();
    ever.pass(30).await;

    let slow = |name: &str| Step { takes_ms: 3_000, pool: Some(("disks/big".into(), 1)), ..Step::new(name, 2) };
    let asks = Step { asks: Some("really?".into()), delay_ms: Some(500), ..Step::new("asks", 1) };
    let added = Step { adds: vec![Step::new("more", 1)], ..Step::new("adds", 3) };
    let fails = Step { fails: true, ..Step::new("fails", 1) };
    let steps = vec![slow("slow"), asks, added, fails, Step::sharing("site/net", 2).requires("adds")];
    let spec = StepSpec { steps, exclusive: Some("rebalance/one".into()) }.to_json();
    let steps: JobId = submit("step", "steps", spec).await;
    let other = submit("step", "other", StepSpec { steps: vec![slow("other")], exclusive: None }.to_json()).await;
    ever.pass(10).await;
    let yes = Command::Approve { task: "asks".into(), by: "eve".into(), note: Some("yes".into()) };
    first.command(steps, yes, None).await.unwrap();
    ever.pass(5).await;
    first.command(steps, Command::Undo, None).await.unwrap();
    first.command(other, Command::Confirm, None).await.unwrap();
    ever.pass(10).await;
    first.command(other, Command::Delete { force: false }, None).await.unwrap();

    wishes.want(["kept"]);
    let keep = submit("keep", "keep", json!({})).await;
    let tick = JobRequest { kind: "step".into(), name: "tick".into(), ..JobRequest::default() };
    let tick = JobRequest { spec: StepSpec::default().to_json(), ..tick };
    let schedule = Schedule { every_ms: Some(20_000), overlap: Overlap::Queue, catch_up: 5, ..Schedule::default() };
    first.standing_create(tick, schedule).await.unwrap();
    // The look for old jobs comes after a minute.
    ever.pass(70).await;
    first.command(keep, Command::Cancel { undo: false }, None).await.unwrap();
    ever.pass(5).await;
    drop((first, second));
    ever
}

#[tokio::test(start_paused = true)]
async fn the_document_says_what_a_store_has_and_nothing_else() {
    let (described, ever) = (described(), busy().await);
    assert!(described.len() > 30, "{} rows were found in the document", described.len());
    let mut wrong = BTreeSet::new();
    let mut met = BTreeSet::new();
    for (key, values) in &ever.written {
        let best = described.iter().filter(|one| one.fits(key)).max_by_key(|one| one.says());
        let Some(best) = best else {
            wrong.insert(format!("{key} is not described"));
            continue;
        };
        met.insert(best.key.clone());
        for value in values {
            let is = |what: &str| best.value.starts_with(&format!("*{what}*"));
            let fits = match serde_json::from_slice::<Value>(value) {
                _ if is("empty") => value.is_empty() || best.value.contains("`open`") && value == "open",
                _ if is("text") => std::str::from_utf8(value).is_ok_and(|text| text.len() == 26),
                _ if is("bytes") => true,
                Ok(Value::Object(members)) => {
                    for member in members.keys().filter(|member| *member != "v" && !best.words.contains(*member)) {
                        wrong.insert(format!("{} has {member}, which is not described", best.key));
                    }
                    members.get("v") == Some(&json!(1))
                }
                _ => false,
            };
            if !fits {
                wrong.insert(format!("{key} is not what the document says: {}", String::from_utf8_lossy(value)));
            }
        }
    }
    for one in &described {
        if !met.contains(&one.key) && one.key != dump::RESTORING {
            wrong.insert(format!("{} is described, and no store has it", one.key));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // And what is not bound to a lease is in an export, and survives it.
    let mut file = Vec::new();
    let at = ever.clock.wall();
    let summary = dump::write(&ever.store, 1, at, &mut file).await.unwrap();
    let back = MemoryStore::new(ever.clock.clone());
    dump::restore_from(&back, 1, std::io::Cursor::new(file)).await.unwrap();
    let all = windlass_store::read_all(&back, "").await.unwrap();
    assert_eq!(all.len() as u64, summary.entries);
    assert!(all.iter().all(|entry| described.iter().any(|one| one.fits(&entry.key))));
}

#[test]
fn a_placeholder_stands_for_what_it_names() {
    let id = "0".repeat(26);
    assert!(fits("job/<job>/t/<task>", &format!("job/{id}/t/{id}")));
    assert!(!fits("job/<job>/t/<task>", &format!("job/{id}/t/{id}/x")));
    assert!(fits("slot/<pool>/<n>", "slot/a/b/000001") && !fits("slot/<pool>/<n>", "slot/a/b"));
    assert!(fits("slot/<name>", "slot/a/b") && !fits("scheduler", "schedulers"));
}
