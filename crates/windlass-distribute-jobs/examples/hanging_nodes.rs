//! What nodes that hang cost: how long it takes from a change of the catalogue until the file is on a node, with more
//! and more nodes that take connections and never answer.
//!
//! `hanging_nodes [NODES] [HANGING ...]` prints one JSON document, times in milliseconds.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_distribute_agent::{Agent, AgentConfig};
use windlass_distribute_jobs::DistributeKind;
use windlass_engine::{Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_store::memory::MemoryStore;

type Fault = Box<dyn std::error::Error>;

/// Changes of the catalogue that are measured.
const CHANGES: usize = 5;
const LONGEST: Duration = Duration::from_secs(120);

/// What everything here runs on; all of it ends together.
struct Ground {
    root: PathBuf,
    clock: SharedClock,
    running: JoinSet<()>,
}

impl Ground {
    async fn agent(&mut self, folder: &Path) -> Result<String, Fault> {
        std::fs::create_dir_all(folder)?;
        let mut config = AgentConfig::new("127.0.0.1:0".parse()?, folder.to_owned());
        config.capacity = Some(1 << 30);
        config.transfers.usage_limit_percent = 100;
        let listening = Agent::bind(config, self.clock.clone()).await?;
        let address = listening.local_addr().to_string();
        self.running.spawn(listening.run(CancellationToken::new()));
        Ok(address)
    }

    async fn hanging(&mut self) -> Result<String, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        self.running.spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                kept.push(stream);
            }
        });
        Ok(address)
    }

    /// The first so many films are known from now on.
    fn catalogue(&self, films: usize) -> Result<(), Fault> {
        let lines: Vec<String> =
            (0..films).map(|n| format!("{}\n", json!({ "name": film(n), "size": 1000 }))).collect();
        let beside = self.root.join("catalogue.beside");
        std::fs::write(&beside, lines.concat())?;
        Ok(std::fs::rename(beside, self.root.join("catalogue"))?)
    }

    async fn until(&self, what: &str, mut there: impl AsyncFnMut() -> bool) -> Result<(), Fault> {
        let begun = self.clock.monotonic();
        while !there().await {
            if self.clock.monotonic() - begun > LONGEST {
                return Err(format!("not in time: {what}").into());
            }
            self.clock.sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

fn film(n: usize) -> String {
    format!("film{n:03}.mpg")
}

/// Milliseconds from each change to the file on a node.
async fn measure(nodes: usize, hanging: usize) -> Result<Vec<f64>, Fault> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().to_owned();
    let mut ground = Ground { root: root.clone(), clock: SystemClock::real(), running: JoinSet::new() };
    let origin = root.join("origin");
    let source = ground.agent(&origin).await?;
    std::fs::write(origin.join(".marker"), "")?;
    for n in 0..=CHANGES {
        std::fs::write(origin.join(film(n)), vec![b'x'; 1000])?;
    }
    let mut servers = vec![json!({ "address": source, "source": true, "destination": false })];
    let folder = |n: usize| root.join(format!("node{n}"));
    for n in 0..nodes {
        let address = if n < hanging { ground.hanging().await? } else { ground.agent(&folder(n)).await? };
        servers.push(json!({ "address": address }));
    }
    ground.catalogue(1)?;
    let spec = json!({
        "inputs": { "catalogue": root.join("catalogue"), "settle": "20ms", "every": "20ms",
            "origin": { "folders": [origin], "marker": ".marker" } },
        "nodes": servers,
    });
    let store = MemoryStore::new(ground.clock.clone());
    let kinds = Kinds::new().with(DistributeKind::new());
    let config =
        EngineConfig::new(Arc::new(store.clone()), ground.clock.clone(), Seeded::shared(1), kinds, root.join("jobs"));
    let engine = Engine::open(config).await?;
    let request = JobRequest { kind: "distribute".into(), name: "bench".into(), spec, ..JobRequest::default() };
    let job = engine.submit(request).await?;
    let there = |n: usize| (hanging..nodes).any(|node| folder(node).join(film(n)).exists());
    let trusted = async || {
        let view = view::job(&store, engine.kinds(), job, ground.clock.wall()).await;
        let status = view.ok().and_then(|view| view.rounds).map_or(Value::Null, |rounds| rounds.status);
        status["trusted"] == nodes - hanging
    };
    ground.until("the first film", async || there(0)).await?;
    ground.until("all that answer are trusted", trusted).await?;
    let mut times = Vec::with_capacity(CHANGES);
    for n in 1..=CHANGES {
        let begun = ground.clock.monotonic();
        ground.catalogue(n + 1)?;
        ground.until("the next film", async || there(n)).await?;
        times.push((ground.clock.monotonic() - begun).as_secs_f64() * 1e3);
    }
    drop(engine);
    ground.running.shutdown().await;
    Ok(times)
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>());
    let nodes = words.next().unwrap_or(Ok(20))?;
    let mut hanging = words.collect::<Result<Vec<usize>, _>>()?;
    if hanging.is_empty() {
        hanging = vec![0, 1, 5, 10];
    }
    let mut rows = Vec::new();
    for hanging in hanging {
        let mut times = measure(nodes, hanging).await?;
        times.sort_by(f64::total_cmp);
        rows.push(json!({ "nodes": nodes, "hanging": hanging, "median_ms": times[times.len() / 2], "worst_ms": times.last() }));
    }
    writeln!(std::io::stdout(), "{}", Value::Array(rows))?;
    Ok(())
}
