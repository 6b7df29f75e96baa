//! `windlass demo`: real work on parts that come with this program: a job that evens out a vector index cluster, then
//! Go builds that share their outputs, if there is a go command, then films on servers with small disks, then late rows
//! into the days that they belong to, then a drill between two simulated sites.
//!
//! The agents speak real gRPC on loopback, the backups are real archives in a folder, the job runs on a real state
//! store. Nothing is left behind, and the demo checks its own outcome.

mod builds;
mod drill;
mod films;
mod rides;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use windlass_api::WholeReport;
use windlass_api::whole::mirror;
use windlass_blob::BlobUrl;
use windlass_engine::{JobRequest, report};
use windlass_sim::vald::{Cluster, Uploader};

use super::plan;
use super::run::STOPPING;
use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::foreground::{Ending, Foreground};
use crate::interrupt::Interrupt;
use crate::output::Palette;
use crate::problem::Problem;
use crate::state::{Part, ServerOptions};
use crate::verdict;

const AGENTS: usize = 3;
/// How far, as a share of its target, an agent may be from it afterwards.
const TOLERANCE: f64 = 0.05;
/// Width of the longest bar.
const BAR: usize = 40;

/// How much there is to move.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Vectors in the cluster
    #[arg(long, default_value_t = 2400, value_parser = clap::value_parser!(u64).range(100..=200_000))]
    ids: u64,
    /// Copies of each vector, on different agents
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=2))]
    replica: u64,
}

/// What one agent had and has.
#[derive(Debug, Serialize)]
struct AgentCopies {
    name: String,
    before: u64,
    after: u64,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let folder = tempfile::Builder::new().prefix("windlass-demo-").tempdir().context("make a folder for the demo")?;
    let exit = demo(app, args, folder.path()).await;
    folder.close().context("remove the folder of the demo")?;
    exit
}

async fn demo(app: &App, args: &Args, folder: &Path) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, STOPPING)?;
    let backups = folder.join("backups");
    std::fs::create_dir(&backups).context("make a folder for backups")?;
    let replica = usize::try_from(args.replica).unwrap_or(1);
    let cluster = Cluster::builder()
        .agents(AGENTS)
        .replica(replica)
        .ids(args.ids)
        .skew(2.5)
        .uploader(Uploader::to_directory(&backups))
        .start()
        .await
        .context("start the agents")?;
    cluster.write_backups_to(&backups).context("write the backups")?;
    cluster.watch_copies(true);
    let before = copies(&cluster);
    app.output.note(format!(
        "{AGENTS} vector index agents are up on loopback with {} vectors, {} of each, unevenly spread; \
         each has written a backup",
        figures::count(args.ids),
        if replica == 1 { "1 copy".to_owned() } else { format!("{replica} copies") },
    ));
    let request = request(&cluster, &backups, args)?;

    app.output.note("what a rebalance would do (`windlass plan`):\n");
    let preview = tokio::select! {
        preview = plan::look(app, request.clone(), None) => preview?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };
    let description =
        app.setting.kinds.kind(&request.kind).and_then(|kind| kind.describe_plan(&request.spec, &preview.looked));
    app.output.note(indented(&description.unwrap_or_default()));

    app.output.note("now it runs (`windlass run`):\n");
    let state = folder.join("state");
    let own = App {
        output: app.output.clone(),
        setting: app.setting.clone(),
        state: Some(state.to_str().context("the folder for temporary files is not UTF-8")?.to_owned()),
        server: ServerOptions::default(),
        verbose: app.verbose,
    };
    let Some(report) = run_job(&own, request, interrupt).await? else {
        app.output.note("stopped; everything of the demo is removed");
        return Ok(Exit::Interrupted);
    };

    let after = copies(&cluster);
    let agents: Vec<AgentCopies> = (0..AGENTS)
        .map(|agent| AgentCopies { name: cluster.name(agent), before: before[agent], after: after[agent] })
        .collect();
    app.output.note("and Go builds that share what they compile (`GOCACHEPROG=\"windlass gocache\"`)\n");
    let interrupt = Interrupt::listen(&app.output, STOPPING)?;
    let builds = tokio::select! {
        builds = builds::build(folder) => builds?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };

    app.output.note("and films on servers with small disks (`windlass agent`, and a job of kind `distribute`)\n");
    let own = App { state: Some(folder.join("films-state").display().to_string()), ..own };
    let films = tokio::select! {
        films = films::place(&own, folder) => films?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };

    app.output.note("and rows that come late, into the days they belong to (`windlass table backfill`)\n");
    let own = App { state: Some(folder.join("rides-state").display().to_string()), ..own };
    let rides = tokio::select! {
        rides = rides::merge(&own, folder) => rides?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };

    app.output.note("and a shop that is brought up at another site (a job of kind `recover`), and rolled back\n");
    let own = App { state: Some(folder.join("drill-state").display().to_string()), ..own };
    let drill = tokio::select! {
        drill = drill::drill(&own, folder) => drill?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };

    let mut wrong = faults(&cluster, &report, &agents, args);
    let is_even = wrong.is_empty();
    wrong.extend_from_slice(builds.wrong());
    wrong.extend_from_slice(films.wrong());
    wrong.extend_from_slice(drill.wrong());
    wrong.extend_from_slice(rides.wrong());
    let document = json!({
        "agents": agents, "builds": builds, "films": films, "rides": rides, "drill": drill, "right": wrong.is_empty(),
        "wrong": wrong, "report": report,
    });
    app.output.result(&document, || {
        let palette = app.output.palette;
        let mut text = picture(&agents, palette);
        let _ = write!(text, "\n{}", verdict::report(&report, palette, true));
        if is_even {
            let _ = writeln!(
                text,
                "\n{} every vector is there, with its copies on {replica} agent(s), and the agents are even",
                palette.good("checked:")
            );
        }
        text.push_str(&builds.text(palette));
        text.push_str(&films.text(palette));
        text.push_str(&drill.text(palette));
        text.push_str(&rides.text(palette));
        text
    })?;
    if wrong.is_empty() {
        return Ok(Exit::Done);
    }
    for fault in &wrong {
        app.output.note(format!("{} {fault}", app.output.notes.error("wrong:")));
    }
    Ok(Exit::Failed)
}

fn request(cluster: &Cluster, backups: &Path, args: &Args) -> anyhow::Result<JobRequest> {
    let agents: Vec<_> = cluster
        .addresses()
        .agents
        .into_iter()
        .map(|agent| json!({ "name": agent.name, "address": agent.address }))
        .collect();
    Ok(JobRequest {
        kind: "rebalance".into(),
        name: "demo".into(),
        spec: json!({
            "mode": "manual",
            "index_replica": args.replica,
            "cluster": { "name": "demo", "agents": agents },
            "backups": BlobUrl::from_folder(backups, false)?.to_string(),
            "tolerance": TOLERANCE,
            // Small chunks, so that there is something to see.
            "chunk": (args.ids / 8).clamp(50, 5_000),
        }),
        ..JobRequest::default()
    })
}

/// Runs the job on a state store of its own; `None` when it was interrupted.
async fn run_job(app: &App, request: JobRequest, interrupt: Interrupt) -> anyhow::Result<Option<WholeReport>> {
    let held = app.state()?.open(&app.setting, Part::worker(None)).await?;
    let job = held.engine.submit(request).await?;
    let mut foreground = Foreground::begin(app, held, interrupt)?;
    let ending = foreground.follow(job).await;
    let store = foreground.held.engine.store().clone();
    let report = report::make(&*store, &app.setting.kinds, job, app.setting.clock.wall()).await;
    drop(store);
    foreground.close().await?;
    match ending? {
        Ending::Rested(_) => Ok(Some(mirror(&report?)?)),
        Ending::Interrupted => Ok(None),
        Ending::NeedsAttention(failure) => {
            Err(anyhow::Error::new(*failure).context(Problem::failed("the job is paused and needs a person")))
        }
    }
}

/// Copies per agent, counted from what the agents would serve.
fn copies(cluster: &Cluster) -> Vec<u64> {
    let mut counts = vec![0; cluster.agents()];
    for holders in cluster.placement().values() {
        for (agent, _) in holders {
            counts[*agent] += 1;
        }
    }
    counts
}

/// What is not as it should be: the demo's own proof.
fn faults(cluster: &Cluster, report: &WholeReport, agents: &[AgentCopies], args: &Args) -> Vec<String> {
    let mut wrong = Vec::new();
    if !report.status.result.is_some_and(windlass_model::job::JobResult::is_success) {
        wrong.push(format!("the job is {}", verdict::state(&report.status)));
    }
    for (what, placement) in [("served", cluster.placement()), ("kept on disk", cluster.durable_placement())] {
        if placement.len() as u64 != args.ids {
            wrong.push(format!("{} vectors are {what} instead of {}", placement.len(), args.ids));
        }
        let mut others: BTreeMap<usize, u64> = BTreeMap::new();
        for holders in placement.values().filter(|holders| holders.len() as u64 != args.replica) {
            *others.entry(holders.len()).or_default() += 1;
        }
        for (copies, ids) in others {
            wrong.push(format!("{ids} vectors have {copies} copies {what} instead of {}", args.replica));
        }
    }
    let target = (args.ids * args.replica) as f64 / agents.len() as f64;
    for agent in agents {
        if (agent.after as f64 - target).abs() > target * TOLERANCE + 1.0 {
            wrong.push(format!("{} has {} copies, which is far from {target:.0}", agent.name, agent.after));
        }
    }
    if cluster.violation_count() > 0 {
        wrong.push(format!("at {} moments a copy was missing", cluster.violation_count()));
    }
    wrong
}

fn picture(agents: &[AgentCopies], palette: Palette) -> String {
    let most = agents.iter().map(|agent| agent.before.max(agent.after)).max().unwrap_or(0).max(1);
    let bar = |copies: u64| {
        let filled = usize::try_from(copies.saturating_mul(BAR as u64) / most).unwrap_or(BAR);
        format!("{}{}", "█".repeat(filled), "·".repeat(BAR - filled))
    };
    let mut text = String::from("copies per agent\n");
    for agent in agents {
        let _ = writeln!(text, "  {:<14} before {} {}", agent.name, bar(agent.before), figures::count(agent.before));
        let after = palette.good(&bar(agent.after));
        let _ = writeln!(text, "  {:<14} after  {after} {}", "", figures::count(agent.after));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}
