//! `windlass plan FILE`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use windlass_engine::{Engine, JobRequest, Preview};
use windlass_model::log::Level;
use windlass_model::progress::Progress;
use windlass_model::task::Outcome;
use windlass_store::memory::MemoryStore;

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::job_file::JobFile;
use crate::problem::Problem;
use crate::state::Part;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file, YAML or JSON; `-` is standard input
    file: PathBuf,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let file = JobFile::read(&args.file, &app.setting.kinds)?;
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let preview = tokio::select! {
        preview = look(app, file.request.clone(), file.places) => preview?,
        () = interrupt.came() => return Err(Problem::interrupted("stopped; nothing was changed").into()),
    };
    let failed = preview.looked.iter().any(|end| matches!(end.outcome, Some(Outcome::Failed { .. })))
        || preview.status.failure.is_some();
    app.output.result(&document(app, &file.request, &preview), || text(app, &file.request, &preview))?;
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// What `request` would do. Everything it writes is in a folder that is gone afterwards.
pub(super) async fn look(app: &App, request: JobRequest, places: Option<usize>) -> anyhow::Result<Preview> {
    let folder = tempfile::Builder::new().prefix("windlass-plan-").tempdir().context("make a folder for the plan")?;
    let store = Arc::new(MemoryStore::new(app.setting.clock.clone()));
    let config = app.setting.engine_config(store, folder.path().to_owned(), Part::worker(places));
    Ok(Engine::preview(config, request).await?)
}

/// The tasks of a plan that would run, by type, with their work.
fn by_type(preview: &Preview) -> BTreeMap<&str, (u64, Progress)> {
    let mut types: BTreeMap<&str, (u64, Progress)> = BTreeMap::new();
    for task in &preview.would_run {
        let entry =
            types.entry(&task.task_type).or_insert((0, Progress::items(0, Some(0)).plus(&Progress::bytes(0, Some(0)))));
        entry.0 += 1;
        entry.1 = entry.1.plus(&task.size);
    }
    types
}

fn describe(app: &App, request: &JobRequest, preview: &Preview) -> Option<String> {
    app.setting.kinds.kind(&request.kind)?.describe_plan(&request.spec, &preview.looked)
}

fn warnings(preview: &Preview) -> impl Iterator<Item = &windlass_model::log::LogEntry> {
    preview.log.iter().filter(|entry| entry.level == Level::Warn)
}

fn document(app: &App, request: &JobRequest, preview: &Preview) -> Value {
    let kind = app.setting.kinds.kind(&request.kind);
    let looked: Vec<Value> = preview
        .looked
        .iter()
        .map(|end| {
            let failure = match &end.outcome {
                Some(Outcome::Failed { failure }) => Some(failure),
                _ => None,
            };
            json!({
                "id": end.task.id, "task": end.task.name(),
                "outcome": end.outcome.as_ref().map(Outcome::name), "failure": failure, "output": end.output,
            })
        })
        .collect();
    let would_run: Vec<Value> = preview
        .would_run
        .iter()
        .map(|task| {
            json!({
                "id": task.id, "task": task.name(), "type": task.task_type, "resource": task.resource,
                "size": task.size, "dependencies": task.dependencies,
            })
        })
        .collect();
    let by_type: BTreeMap<&str, Value> = by_type(preview)
        .into_iter()
        .map(|(name, (count, size))| (name, json!({ "tasks": count, "size": size })))
        .collect();
    json!({
        "kind": request.kind,
        "name": request.name,
        "spec": request.spec,
        "description": describe(app, request, preview),
        "summary": kind.map(|kind| kind.summarize(&request.spec, &preview.looked)),
        "failure": preview.status.failure,
        "looked": looked,
        "would_run": would_run,
        "would_run_by_type": by_type,
        "warnings": warnings(preview).collect::<Vec<_>>(),
    })
}

fn text(app: &App, request: &JobRequest, preview: &Preview) -> String {
    let palette = app.output.palette;
    let mut text = format!("plan of {} {}; nothing was changed\n\n", request.kind, palette.strong(&request.name));
    if let Some(description) = describe(app, request, preview) {
        text += &description;
        if !description.ends_with('\n') {
            text.push('\n');
        }
        text.push('\n');
    }
    if let Some(failure) = &preview.status.failure {
        let _ = writeln!(text, "{} {failure} ({})", palette.error("failed:"), failure.code);
    }
    for end in &preview.looked {
        if let Some(Outcome::Failed { failure }) = &end.outcome {
            let _ = writeln!(text, "{} {}: {failure} ({})", palette.error("failed:"), end.task.name(), failure.code);
            if let Some(hint) = &failure.hint {
                let _ = writeln!(text, "  {} {hint}", palette.hint("hint:"));
            }
        }
    }
    for warning in warnings(preview) {
        let _ = writeln!(text, "{} {}", palette.warning("warning:"), warning.message);
    }
    let types = by_type(preview);
    if types.is_empty() {
        text += "no task would run\n";
    } else {
        text += &figures::table(
            ["tasks that would run", "how many", "work"],
            types.into_iter().map(|(name, (count, size))| [name.to_owned(), figures::count(count), work(&size)]),
        );
    }
    text
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
