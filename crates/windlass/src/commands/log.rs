//! `windlass log JOB`

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use windlass_engine::view;
use windlass_model::TaskId;
use windlass_model::log::{Level, LogEntry};

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::output::Palette;
use crate::problem::Problem;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    let store = app.state()?.read_for(&app.setting.clock, &args.job).await?;
    let id = view::find(&*store, &args.job).await?;
    let wanted = |entry: &LogEntry| !args.warnings || entry.level >= Level::Warn;
    let mut entries = view::log(&*store, id, args.after, args.limit).await?;
    let mut seen = entries.last().map_or(args.after, |entry| entry.n);
    entries.retain(wanted);
    let job = view::job(&*store, &app.setting.kinds, id, app.setting.clock.wall()).await?;
    let mut names: HashMap<TaskId, String> = job.tasks.into_iter().map(|task| (task.id, task.name)).collect();
    let palette = app.output.palette;
    app.output.result(&json!({ "job": id, "entries": entries }), || text(&entries, &names, palette))?;
    if !args.follow {
        return Ok(Exit::Done);
    }
    let interrupt = Interrupt::listen(&app.output, "")?;
    loop {
        // The status first: whatever was logged before the job came to rest is then seen below.
        let job = view::job(&*store, &app.setting.kinds, id, app.setting.clock.wall()).await?;
        names.extend(job.tasks.into_iter().map(|task| (task.id, task.name)));
        let mut entries = view::log(&*store, id, seen, usize::MAX).await?;
        seen = entries.last().map_or(seen, |entry| entry.n);
        entries.retain(wanted);
        app.output.data(&text(&entries, &names, palette))?;
        if !job.status.state.is_active() {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = interrupt.came() => return Ok(Exit::Interrupted),
            () = app.setting.clock.sleep(LOOK_EVERY) => {}
        }
    }
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
