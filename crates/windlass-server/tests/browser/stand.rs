//! A server with pages, and a kind of job that waits where the test wants it to.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_engine::{
    Engine, EngineConfig, Finished, Intent, JobRequest, Kind, Kinds, PlanContext, SpecFault, TaskContext, TaskEnd,
    TaskType,
};
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;
use windlass_model::plan::Plan;
use windlass_model::progress::Progress;
use windlass_server::{Server, ServerConfig};
use windlass_store::memory::MemoryStore;

/// Agents of the pretended cluster, with the vectors that each has before.
const AGENTS: [(&str, u64); 5] = [
    ("vald-agent-0", 912_000),
    ("vald-agent-1", 433_000),
    ("vald-agent-2", 190_500),
    ("vald-agent-3", 604_100),
    ("vald-agent-4", 71_000),
];

/// A kind like `rebalance`, without a cluster: looks at agents, calculates, moves chunks, finishes.
#[derive(Clone)]
struct Pretended {
    gate: watch::Sender<bool>,
}

#[async_trait]
impl Kind for Pretended {
    fn name(&self) -> &'static str {
        "rebalance"
    }

    fn about(&self) -> &'static str {
        "evens out a vector index cluster"
    }

    fn schema(&self) -> Value {
        json!({
            "type": "object",
            "required": ["moves"],
            "properties": {
                "moves": { "type": "integer", "description": "Chunks to move." },
                "hold": { "type": "boolean", "description": "Whether every second move waits." },
                "fail": { "type": "array", "items": { "type": "integer" }, "description": "Moves that fail." },
            },
        })
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        match spec["moves"].as_u64() {
            Some(1..=10_000) => Vec::new(),
            _ => vec![SpecFault::new("/moves", "`moves` must be a whole number from 1 to 10000")],
        }
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let looks: Vec<_> = AGENTS.iter().map(|(name, _)| cx.task("rebalance.scan", *name)).collect();
        let calculate = looks.iter().fold(cx.task("rebalance.calculate", "plan"), |task, look| task.requires(look.id));
        let fails = |n: u64| spec["fail"].as_array().is_some_and(|list| list.contains(&json!(n)));
        let moves: Vec<_> = (0..spec["moves"].as_u64().unwrap_or(1))
            .map(|n| {
                let (from, to) = (AGENTS[n as usize % 2].0, AGENTS[2 + n as usize % 3].0);
                cx.task("rebalance.move", format!("{from} to {to} #{n:04}"))
                    .input(
                        json!({ "from": from, "to": to, "hold": spec["hold"] == true && n % 2 == 1, "fail": fails(n) }),
                    )
                    .size(Progress::items(0, Some(500)))
                    .requires(calculate.id)
            })
            .collect();
        let checks: Vec<_> = moves
            .chunks(100)
            .enumerate()
            .map(|(n, moves)| {
                moves.iter().fold(cx.task("rebalance.check", format!("part {n}")), |task, one| task.after(one.id))
            })
            .collect();
        let finish = checks.iter().fold(cx.task("rebalance.finish", "prod"), |task, check| task.requires(check.id));
        let tasks = looks.into_iter().chain([calculate]).chain(moves).chain(checks).chain([finish]).collect();
        Ok(Plan { tasks, warnings: vec!["this cluster is pretended: nothing moves".to_owned()] })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        let step = |name, changes| -> Arc<dyn TaskType> { Arc::new(Step { name, changes, gate: self.gate.clone() }) };
        vec![
            step("rebalance.scan", false),
            step("rebalance.calculate", false),
            step("rebalance.move", true),
            step("rebalance.check", false),
            step("rebalance.finish", true),
        ]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        let over = ends.iter().any(|end| end.task.task_type == "rebalance.finish" && end.outcome.is_some());
        let target: u64 = AGENTS.iter().map(|(_, count)| count).sum::<u64>() / AGENTS.len() as u64;
        let agents: Vec<Value> = AGENTS
            .iter()
            .map(|(name, before)| json!({ "name": name, "before": before, "target": target, "after": over.then_some(target + before % 700) }))
            .collect();
        json!({ "verdict": if over { "done" } else { "moving" }, "agents": agents })
    }

    fn describe_plan(&self, spec: &Value, _: &[TaskEnd]) -> Option<String> {
        Some(format!("{} chunks would move, 500 vectors each", spec["moves"]))
    }
}

struct Step {
    name: &'static str,
    changes: bool,
    gate: watch::Sender<bool>,
}

#[async_trait]
impl TaskType for Step {
    fn name(&self) -> &'static str {
        self.name
    }

    fn changes_outside(&self) -> bool {
        self.changes
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input = cx.input();
        if input["fail"] == true {
            let why = format!("insert a chunk into {}: connection refused", input["to"].as_str().unwrap_or_default());
            return Err(
                Failure::permanent("agent_unreachable", why).hint("look whether the agent runs, then retry the job")
            );
        }
        if self.name == "rebalance.move" {
            let intent = Intent {
                n: 0,
                action: "insert".into(),
                key: cx.spec().resource.clone(),
                target: input["to"].as_str().unwrap_or_default().to_owned(),
                parameters: Value::Null,
            };
            cx.intend(vec![intent]).await?;
            if input["hold"] == true {
                cx.progress(Progress::items(220, Some(500)));
                cx.checkpoint(json!({ "at": 220 })).await?;
                let mut gate = self.gate.subscribe();
                tokio::select! {
                    open = gate.wait_for(|open| *open) => drop(open),
                    () = cx.cancelled().cancelled() => return Err(Failure::interrupted()),
                }
            }
            cx.settle(0, EffectEvent::Made { external_id: None, receipt: Some(json!({ "inserted": 500 })) }).await?;
            cx.progress(Progress::items(500, Some(500)));
        }
        Ok(Finished::with(json!({ "vectors": 500 })))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        for effect in cx.undo().map(|undo| undo.effects.clone()).unwrap_or_default() {
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// A server that listens on loopback.
pub(crate) struct Stand {
    runtime: Runtime,
    pub(crate) url: String,
    engine: Option<Arc<Engine>>,
    gate: watch::Sender<bool>,
    shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Stand {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let gate = watch::channel(false).0;
        let (engine, server) = runtime.block_on(async {
            let clock = SystemClock::real();
            let store = Arc::new(MemoryStore::new(clock.clone()));
            let kinds = Kinds::new().with(Pretended { gate: gate.clone() });
            let config = EngineConfig::new(store, clock.clone(), SystemEntropy::real(), kinds, dir.path().join("work"));
            let previews = EngineConfig { work_dir: dir.path().join("previews"), ..config.clone() };
            let engine = Arc::new(Engine::open(config).await.unwrap());
            let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
            (config.limits.rate, config.limits.burst) = (10_000.0, 10_000.0);
            let server = Server::bind(config, engine.clone(), clock).await.unwrap();
            (engine, server.with_previews(previews).with_pages(Arc::new(windlass_ui::Ui)))
        });
        let url = server.url();
        let shutdown = CancellationToken::new();
        let running = runtime.spawn(server.run(shutdown.clone()));
        Self { runtime, url, engine: Some(engine), gate, shutdown, running: Some(running), _dir: dir }
    }

    /// Lets tasks that wait go on.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Submits a job as another client would, and tells its id.
    pub(crate) fn submit(&self, name: &str, spec: Value) -> String {
        let request = JobRequest {
            kind: "rebalance".to_owned(),
            name: name.to_owned(),
            spec,
            labels: [("team".to_owned(), "search".to_owned())].into(),
            ..JobRequest::default()
        };
        let engine = self.engine.as_ref().unwrap();
        self.runtime.block_on(engine.submit(request)).unwrap().to_string()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            let _ = self.runtime.block_on(running);
        }
        if let Some(engine) = self.engine.take().and_then(Arc::into_inner) {
            let _ = self.runtime.block_on(engine.shutdown());
        }
    }
}
