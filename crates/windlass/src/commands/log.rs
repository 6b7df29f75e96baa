//! `windlass log JOB`

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::json;
use windlass_model::log::{Level, LogEntry};
use windlass_model::{JobId, TaskId};

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::output::Palette;
use crate::problem::Problem;
use crate::source::{self, Detail, Seen, Source};

/// Which log, and how much of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Only entries with larger numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// At most this many entries
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: usize,
    /// Only warnings and errors
    #[arg(long)]
    warnings: bool,
    /// Wait for further entries until the job rests
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    if args.follow && app.output.is_json() {
        return Err(Problem::usage("--follow prints lines as they come; one JSON document has an end").into());
    }
    let source = source::open_for(app, &args.job).await?;
    let id = source.find(&args.job).await?;
    let wanted = |entry: &LogEntry| !args.warnings || entry.level >= Level::Warn;
    let mut entries = source.log(id, args.after, args.limit).await?;
    let seen = entries.last().map_or(args.after, |entry| entry.n);
    entries.retain(wanted);
    let mut names = names(&*source, id).await?;
    let palette = app.output.palette;
    app.output.result(&json!({ "job": id, "entries": entries }), || text(&entries, &names, palette))?;
    if !args.follow {
        return Ok(Exit::Done);
    }
    let interrupt = Interrupt::listen(&app.output, "")?;
    let mut follow = source.follow(id, seen, Detail { every_entry: true, running: false }).await?;
    loop {
        let seen = tokio::select! {
            () = interrupt.came() => return Ok(Exit::Interrupted),
            seen = follow.next() => seen?,
        };
        match seen {
            Seen::Entry(entry) if wanted(&entry) => {
                // A task that was added since.
                if entry.task.is_some_and(|task| !names.contains_key(&task)) {
                    names = self::names(&*source, id).await?;
                }
                app.output.data(&text(&[*entry], &names, palette))?;
            }
            Seen::Job(job) if !job.status.state.is_active() => return Ok(Exit::Done),
            _ => {}
        }
    }
}

async fn names(source: &dyn Source, job: JobId) -> anyhow::Result<HashMap<TaskId, String>> {
    Ok(source.job(job).await?.tasks.into_iter().map(|task| (task.id, task.name)).collect())
}

fn text(entries: &[LogEntry], names: &HashMap<TaskId, String>, palette: Palette) -> String {
    let mut text = String::new();
    for entry in entries {
        let level = match entry.level {
            Level::Info => "info ".to_owned(),
            Level::Warn => palette.warning("warn "),
            Level::Error => palette.error("error"),
        };
        let _ = write!(text, "{:>5} {} {level} {}", entry.n, figures::moment(entry.at), entry.code);
        if let Some(name) = entry.task.as_ref().and_then(|task| names.get(task))
            && !entry.message.contains(name)
        {
            let _ = write!(text, " {name}");
        }
        let _ = writeln!(text, ": {}", entry.message);
    }
    text
}
