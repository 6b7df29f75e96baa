//! `windlass plan FILE`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use windlass_api::whole::mirror;
use windlass_api::{PlanFingerprint, PlanPreview, PlannedTask};
use windlass_engine::{Engine, JobRequest, Preview};
use windlass_model::log::Level;
use windlass_model::progress::Progress;
use windlass_model::task::Outcome;
use windlass_model::{Failure, TaskId};
use windlass_store::memory::MemoryStore;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::job_file::JobFile;
use crate::output::Palette;
use crate::problem::Problem;
use crate::state::{Part, State};
use crate::{expectation, figures, plans};

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file, YAML or JSON; `-` is standard input
    file: PathBuf,
    /// Keep what the plan is recognised by in this file, for `run` and `submit` with `--expect-plan FILE`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep plan and group of a `recover` job as versions in the state, once nothing keeps the job from running
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let file = JobFile::read(&args.file, &app.setting.kinds)?;
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let shown = async {
        match app.state()? {
            State::Server(server) => {
                let client = server.client(&app.setting)?;
                Ok::<_, anyhow::Error>(Shown::told(&file.request, client.plan(&file.submission).await?)?)
            }
            _ => Ok(Shown::made(app, &file.request, &look(app, file.request.clone(), file.places).await?)),
        }
    };
    let shown = tokio::select! {
        shown = shown => shown?,
        () = interrupt.came() => return Err(Problem::interrupted("stopped; nothing was changed").into()),
    };
    let failed = shown.failure.is_some() || shown.looked.iter().any(|task| task.failure.is_some());
    match (&args.out, &shown.fingerprint) {
        (Some(path), Some(fingerprint)) if !failed => expectation::write(path, fingerprint)?,
        (Some(path), _) => {
            app.output.note(format!("{} is not written: there is no whole plan", path.display()));
        }
        (None, _) => {}
    }
    app.output.result(&shown.document(), || shown.text(app.output.palette))?;
    if args.keep && failed {
        app.output.note("nothing is kept of a plan that cannot run");
    } else if args.keep {
        plans::keep(app, &file.request).await?;
    } else if let Err(error) = plans::compare(app, &file.request).await
        && app.verbose > 0
    {
        // A plan needs no state.
        app.output.note(format!("the plan is not compared with what was kept: {error:#}"));
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// What `request` would do. Everything it writes is in a folder that is gone afterwards.
pub(crate) async fn look(app: &App, request: JobRequest, places: Option<usize>) -> anyhow::Result<Preview> {
    let folder = tempfile::Builder::new().prefix("windlass-plan-").tempdir().context("make a folder for the plan")?;
    let store = Arc::new(MemoryStore::new(app.setting.clock.clone()));
    let config = app.setting.engine_config(store, folder.path().to_owned(), Part::worker(places));
    Ok(Engine::preview(config, request).await?)
}

/// A task that was run to find out.
struct Looked {
    id: TaskId,
    name: String,
    outcome: Option<String>,
    failure: Option<Failure>,
    output: Option<Value>,
}

/// A plan, whoever made it.
struct Shown {
    request: JobRequest,
    description: Option<String>,
    summary: Option<Value>,
    failure: Option<Failure>,
    looked: Vec<Looked>,
    would_run: Vec<Value>,
    /// How many of each type, and their work.
    by_type: BTreeMap<String, (u64, Progress)>,
    warnings: Vec<Value>,
    fingerprint: Option<PlanFingerprint>,
}

impl Shown {
    /// A plan that was made here.
    fn made(app: &App, request: &JobRequest, preview: &Preview) -> Self {
        let kind = app.setting.kinds.kind(&request.kind);
        let looked = preview.looked.iter().map(|end| Looked {
            id: end.task.id,
            name: end.task.name(),
            outcome: end.outcome.as_ref().map(|outcome| outcome.name().to_owned()),
            failure: match &end.outcome {
                Some(Outcome::Failed { failure }) => Some((**failure).clone()),
                _ => None,
            },
            output: end.output.clone(),
        });
        let would_run = preview.would_run.iter().map(|task| {
            json!({
                "id": task.id, "task": task.name(), "type": task.task_type, "resource": task.resource,
                "size": task.size, "dependencies": task.dependencies,
            })
        });
        let mut by_type: BTreeMap<String, (u64, Progress)> = BTreeMap::new();
        let nothing = || (0, Progress::items(0, Some(0)).plus(&Progress::bytes(0, Some(0))));
        for task in &preview.would_run {
            let entry = by_type.entry(task.task_type.clone()).or_insert_with(nothing);
            *entry = (entry.0 + 1, entry.1.plus(&task.size));
        }
        let warnings = preview.log.iter().filter(|entry| entry.level == Level::Warn);
        Self {
            request: request.clone(),
            description: kind.and_then(|kind| {
                // What a round would add says what moves, where there is nothing to look at first.
                let pending = preview.would_run.iter().map(|task| windlass_engine::TaskEnd::planned(task.clone()));
                let looked = kind.describe_plan(&request.spec, &preview.looked);
                looked.or_else(|| kind.describe_plan(&request.spec, &pending.collect::<Vec<_>>()))
            }),
            summary: kind.map(|kind| kind.summarize(&request.spec, &preview.looked)),
            failure: preview.status.failure.as_deref().cloned(),
            looked: looked.collect(),
            would_run: would_run.collect(),
            by_type,
            warnings: warnings.map(|entry| json!(entry)).collect(),
            fingerprint: Some(windlass_server::plan_fingerprint(request, preview)),
        }
    }

    /// A plan that a server made.
    fn told(request: &JobRequest, plan: PlanPreview) -> serde_json::Result<Self> {
        let name = |task: &PlannedTask| format!("{}[{}]", task.task_type, task.resource);
        let looked = plan.looked.into_iter().map(|task| {
            let failure = task.failure.as_ref().map(mirror).transpose()?;
            Ok(Looked { id: task.id, name: name(&task), outcome: task.outcome, failure, output: None })
        });
        let would_run = plan.would_run.iter().map(|task| {
            json!({
                "id": task.id, "task": name(task), "type": task.task_type, "resource": task.resource,
                "size": task.size, "dependencies": task.dependencies,
            })
        });
        Ok(Self {
            request: request.clone(),
            description: plan.description,
            summary: Some(plan.summary),
            failure: plan.failure.as_ref().map(mirror).transpose()?,
            looked: looked.collect::<serde_json::Result<_>>()?,
            would_run: would_run.collect(),
            by_type: plan.by_type.into_iter().map(|one| (one.task_type, (one.tasks, one.size.into()))).collect(),
            warnings: plan.warnings.into_iter().map(|message| json!({ "level": "warn", "message": message })).collect(),
            fingerprint: plan.fingerprint,
        })
    }

    fn document(&self) -> Value {
        let looked = self.looked.iter().map(|task| {
            json!({
                "id": task.id, "task": task.name, "outcome": task.outcome, "failure": task.failure,
                "output": task.output,
            })
        });
        let by_type = self.by_type.iter().map(|(name, (count, size))| (name, json!({ "tasks": count, "size": size })));
        json!({
            "kind": self.request.kind,
            "name": self.request.name,
            "spec": self.request.spec,
            "description": self.description,
            "summary": self.summary,
            "failure": self.failure,
            "looked": looked.collect::<Vec<_>>(),
            "would_run": self.would_run,
            "would_run_by_type": by_type.collect::<BTreeMap<_, _>>(),
            "warnings": self.warnings,
            "digest": self.fingerprint.as_ref().map(|plan| &plan.digest),
        })
    }

    fn text(&self, palette: Palette) -> String {
        let (kind, name) = (&self.request.kind, palette.strong(&self.request.name));
        let mut text = format!("plan of {kind} {name}; nothing was changed\n\n");
        if let Some(description) = &self.description {
            text += description;
            if !description.ends_with('\n') {
                text.push('\n');
            }
            text.push('\n');
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "{} {failure} ({})", palette.error("failed:"), failure.code);
        }
        for task in &self.looked {
            if let Some(failure) = &task.failure {
                let _ = writeln!(text, "{} {}: {failure} ({})", palette.error("failed:"), task.name, failure.code);
                if let Some(hint) = &failure.hint {
                    let _ = writeln!(text, "  {} {hint}", palette.hint("hint:"));
                }
            }
        }
        for warning in &self.warnings {
            let message = warning["message"].as_str().unwrap_or_default();
            let _ = writeln!(text, "{} {message}", palette.warning("warning:"));
        }
        if self.by_type.is_empty() {
            text += "no task would run\n";
        } else {
            let rows = self.by_type.iter();
            text += &figures::table(
                ["tasks that would run", "how many", "work"],
                rows.map(|(name, (count, size))| [name.clone(), figures::count(*count), work(size)]),
            );
        }
        if let Some(plan) = &self.fingerprint {
            let _ = writeln!(text, "\nplan {}", plan.digest);
        }
        text
    }
}

/// Work that has not begun: totals only.
fn work(size: &Progress) -> String {
    let mut parts = Vec::new();
    if let Some(items) = size.total_items.filter(|items| *items > 0) {
        parts.push(format!("{} items", figures::count(items)));
    }
    if let Some(bytes) = size.total_bytes.filter(|bytes| *bytes > 0) {
        parts.push(figures::bytes(bytes));
    }
    parts.join(", ")
}
