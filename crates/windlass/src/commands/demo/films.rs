//! The demo of `distribute`: one origin and three servers with small disks, on loopback. Films are placed, a server dies
//! and returns, and a film that everybody suddenly wants takes the place of the least wanted one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_clock::{Entropy as _, Seeded};
use windlass_distribute_agent::{Agent, AgentConfig};
use windlass_engine::records::{TaskRecord, decode};
use windlass_engine::{Command, JobRequest, view};
use windlass_model::{JobId, TaskId};
use windlass_store::{keys, read_all};

use crate::app::App;
use crate::output::Palette;
use crate::problem::Problem;
use crate::state::{Held, Part};

/// Best first; there is room for all but one.
const FILMS: usize = 7;
const SERVERS: usize = 3;
const FILM_BYTES: usize = 1 << 20;
/// With a tenth of it kept free, two films fit.
const DISK_BYTES: u64 = 3 << 20;
/// Requests within ten minutes, above the five that make a film wanted.
const HITS: usize = 8;
/// Each step takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The address in the event log of the server whose requests count.
const WATCHED: &str = "10.99.0.3";

/// What a server holds in the end.
#[derive(Debug, Serialize)]
struct Server {
    name: String,
    films: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Films {
    servers: Vec<Server>,
    moves: Vec<String>,
    wrong: Vec<String>,
}

impl Films {
    /// What is not as it should be.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    pub(super) fn text(&self, palette: Palette) -> String {
        let mut text = format!("\n{FILMS} films, {SERVERS} servers with room for two each\n");
        for line in &self.moves {
            let _ = writeln!(text, "  {line}");
        }
        for server in &self.servers {
            let _ = writeln!(text, "  {} has {}", server.name, server.films.join(", "));
        }
        if self.wrong.is_empty() {
            let checked = palette.good("checked:");
            let _ = writeln!(
                text,
                "{checked} every copy is whole, none was made twice, nothing moved while a server was down"
            );
        }
        text
    }
}

/// An agent that answers until it is dropped.
struct Running {
    folder: PathBuf,
    address: SocketAddr,
    closing: CancellationToken,
    answering: AbortOnDropHandle<()>,
}

impl Running {
    async fn start(app: &App, folder: &Path, address: SocketAddr, capacity: Option<u64>) -> anyhow::Result<Self> {
        let config = AgentConfig { capacity, ..AgentConfig::new(address, folder.to_owned()) };
        let agent = Agent::bind(config, app.setting.clock.clone()).await.context("start the agent of a server")?;
        let (address, closing) = (agent.local_addr(), CancellationToken::new());
        let answering = AbortOnDropHandle::new(tokio::spawn(agent.run(closing.clone())));
        Ok(Self { folder: folder.to_owned(), address, closing, answering })
    }

    /// Ends it, and says what it needs to come back.
    async fn end(self) -> (PathBuf, SocketAddr) {
        self.closing.cancel();
        // It may have panicked; what is on its disk will tell.
        let _ = self.answering.await;
        (self.folder, self.address)
    }
}

/// The folders of the demo.
struct Scene<'a> {
    app: &'a App,
    folder: PathBuf,
    names: Vec<String>,
}

impl Scene<'_> {
    fn origin(&self) -> PathBuf {
        self.folder.join("origin")
    }

    fn server(&self, n: usize) -> PathBuf {
        self.folder.join(format!("server-{}", n + 1))
    }

    /// The films and the files that say how much they are wanted.
    fn write(&self) -> anyhow::Result<()> {
        for folder in
            [self.origin(), self.folder.join("events")].into_iter().chain((0..SERVERS).map(|n| self.server(n)))
        {
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let (mut grades, mut history) = ("filename\tweightcount\n".to_owned(), "historyheader:1\n".to_owned());
        for (n, name) in self.names.iter().enumerate() {
            let noise = Seeded::new(n as u64);
            let bytes: Vec<u8> = (0..FILM_BYTES / 8).flat_map(|_| noise.next_u64().to_le_bytes()).collect();
            std::fs::write(self.origin().join(name), bytes).with_context(|| format!("write {name}"))?;
            let _ = writeln!(grades, "{name}\t{}", 100 - n);
            let _ = writeln!(history, "{name},1,1,{FILM_BYTES},,1,0,0,1=0");
        }
        std::fs::write(self.folder.join("grades"), grades).context("write the list of films")?;
        std::fs::write(self.folder.join("history"), history).context("write the history of requests")
    }

    fn request(&self, source: SocketAddr, servers: &[SocketAddr]) -> JobRequest {
        let mut nodes = vec![json!({ "address": source.to_string(), "source": true, "destination": false })];
        nodes.extend(servers.iter().map(|address| json!({ "address": address.to_string() })));
        JobRequest {
            kind: "distribute".into(),
            name: "films".into(),
            spec: json!({
                "inputs": {
                    "grades": self.folder.join("grades"), "history": self.folder.join("history"),
                    "events": self.folder.join("events"), "origin": { "folders": [self.origin()] },
                    "settle": "100ms", "every": "100ms",
                },
                "nodes": nodes,
                // A film that has just come may go again at once, or there were ten minutes to wait.
                "rules": {
                    "limit_percent": 90, "watch": [WATCHED], "max_outbound_per_source": SERVERS,
                    "protect_after_copy_sec": 0,
                },
                "watch": { "every": "200ms" },
            }),
            ..JobRequest::default()
        }
    }

    /// Eight people ask for a film.
    fn hits(&self, name: &str) -> anyhow::Result<()> {
        let now = self.app.setting.clock.wall();
        let mut log = String::new();
        for n in 0..HITS {
            let _ = writeln!(
                log,
                "0x40ffff,1,{},Server {WATCHED} Selected for Client StreamID : {n:016x}, ClientID : 0, GLB IP : \
                 10.99.0.5's file({name}) Request",
                now.as_second()
            );
        }
        // The day may change in this second.
        for day in [now, Timestamp::from_second(now.as_second() + 1).unwrap_or(now)] {
            let file = self.folder.join("events").join(day.strftime("EventLog[%Y%m%d].log").to_string());
            std::fs::write(&file, &log).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// What each server holds.
    fn held(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let films = |n| {
            let folder = self.server(n);
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let entry = entry.context("list a server's folder")?;
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        (0..SERVERS).map(films).collect()
    }

    /// The demo's own proof.
    fn faults(&self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        for (n, films) in self.held()?.into_iter().enumerate() {
            for film in films {
                let read = |folder: PathBuf| std::fs::read(folder.join(&film)).with_context(|| format!("read {film}"));
                if read(self.server(n))? != read(self.origin())? {
                    wrong.push(format!("{film} on server {} is not what the origin has", n + 1));
                }
                *copies.entry(film).or_default() += 1;
            }
        }
        for (n, name) in self.names.iter().enumerate() {
            // All but the last but one: the last has taken its place.
            let wanted = usize::from(n + 2 != FILMS);
            let found = copies.get(name).copied().unwrap_or(0);
            if found != wanted {
                wrong.push(format!("there are {found} copies of {name} instead of {wanted}"));
            }
        }
        Ok(wrong)
    }
}

/// The job, and every move that it made.
struct Moves<'a> {
    scene: &'a Scene<'a>,
    held: &'a Held,
    job: JobId,
    names: BTreeMap<String, String>,
    seen: BTreeSet<TaskId>,
    told: Vec<String>,
    copies: usize,
    deletes: usize,
}

impl Moves<'_> {
    /// What the last round said.
    async fn look(&mut self) -> anyhow::Result<Value> {
        let (store, setting) = (self.held.engine.store(), &self.scene.app.setting);
        for entry in read_all(&**store, &keys::tasks(self.job)).await? {
            let task: TaskRecord = decode(&entry)?;
            let input = &task.spec.input;
            let word = |name: &str| input[name].as_str();
            let Some(because) = word("because").filter(|_| self.seen.insert(task.spec.id)) else { continue };
            let film = word("name").unwrap_or_default();
            let line = if let Some(to) = word("destination") {
                self.copies += 1;
                format!("{film} to {to}: {because}")
            } else {
                self.deletes += 1;
                format!("{film} off {}: {because}", word("node").unwrap_or_default())
            };
            self.told.push(self.names.iter().fold(line, |line, (address, name)| line.replace(address, name)));
        }
        let view = view::job(&**store, &setting.kinds, self.job, setting.clock.wall()).await?;
        Ok(view.rounds.map(|rounds| rounds.status).unwrap_or_default())
    }

    /// Waits for a moment.
    async fn until(&mut self, what: &str, there: impl Fn(&Value) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let clock = &self.scene.app.setting.clock;
        let began = clock.monotonic();
        loop {
            let status = self.look().await?;
            if there(&status)? {
                return Ok(());
            }
            if clock.monotonic().saturating_sub(began) > PATIENCE {
                return Err(Problem::failed(format!("after a minute it was not so that {what}: {status}")).into());
            }
            clock.sleep(PAUSE).await;
        }
    }
}

fn trusted(status: &Value) -> Option<u64> {
    status["trusted"].as_u64()
}

/// Places films.
pub(super) async fn place(app: &App, folder: &Path) -> anyhow::Result<Films> {
    let names = (1..=FILMS).map(|n| format!("film-{n}.mpg")).collect();
    let scene = Scene { app, folder: folder.join("films"), names };
    scene.write()?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let origin = Running::start(app, &scene.origin(), any, None).await?;
    let mut servers = Vec::new();
    for n in 0..SERVERS {
        servers.push(Running::start(app, &scene.server(n), any, Some(DISK_BYTES)).await?);
    }
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let held = app.state()?.open(&app.setting, Part::worker(None)).await?;
    let job = held.engine.submit(scene.request(origin.address, &addresses)).await?;
    let named = addresses.iter().enumerate().map(|(n, address)| (address.to_string(), format!("server {}", n + 1)));
    let mut moves = Moves {
        scene: &scene,
        held: &held,
        job,
        names: named.collect(),
        seen: BTreeSet::new(),
        told: Vec::new(),
        copies: 0,
        deletes: 0,
    };
    let count = || anyhow::Ok(scene.held()?.iter().map(Vec::len).sum::<usize>());

    moves.until("six films are placed", |status| Ok(status["settled"] == true && count()? == FILMS - 1)).await?;
    let mut wrong = Vec::new();
    let before = scene.held()?;
    if let Some(server) = servers.pop() {
        let (folder, address) = server.end().await;
        moves.until("a server is missed", |status| Ok(trusted(status) == Some(SERVERS as u64 - 1))).await?;
        servers.push(Running::start(app, &folder, address, Some(DISK_BYTES)).await?);
        moves
            .until("the server is trusted again", |status| {
                Ok(trusted(status) == Some(SERVERS as u64) && status["settled"] == true)
            })
            .await?;
    }
    if scene.held()? != before || (moves.copies, moves.deletes) != (FILMS - 1, 0) {
        wrong.push("something moved because a server was away".to_owned());
    }
    let wanted = scene.names[FILMS - 1].clone();
    scene.hits(&wanted)?;
    let has_it = || anyhow::Ok(scene.held()?.iter().flatten().any(|film| *film == wanted));
    moves.until("the wanted film is placed", |status| Ok(status["settled"] == true && has_it()?)).await?;

    held.engine.command(job, Command::Cancel { undo: false }, None).await?;
    held.engine.wait(job).await?;
    let Moves { told, copies, deletes, .. } = moves;
    held.close().await?;
    for agent in servers.into_iter().chain([origin]) {
        agent.end().await;
    }
    wrong.extend(scene.faults()?);
    // Whatever had to make room found it where something worse was, but for the worst.
    if copies != deletes + FILMS - 1 {
        wrong.push(format!("there were {copies} copies and {deletes} deletes"));
    }
    let servers = scene.held()?.into_iter().enumerate();
    let servers = servers.map(|(n, films)| Server { name: format!("server {}", n + 1), films }).collect();
    Ok(Films { servers, moves: told, wrong })
}
