//! `windlass show JOB`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use windlass_api::{WholeJob, WholeTask};
use windlass_model::Epoch;
use windlass_model::progress::Progress;
use windlass_model::task::{Outcome, TaskState};

use crate::app::App;
use crate::exit::Exit;
use crate::output::Palette;
use crate::{figures, source, verdict};

/// Tasks that are listed one by one; more are summed up by type.
const LISTED: usize = 40;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// List every task, however many there are
    #[arg(long)]
    tasks: bool,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let source = source::open_for(app, &args.job).await?;
    let id = source.find(&args.job).await?;
    let job = source.job(id).await?;
    // Looking through the log is worth it only where an attempt was followed by another.
    let again = job.tasks.iter().any(|task| task.status.epoch > Epoch(1));
    let log = if again { source.log(id, 0, usize::MAX).await? } else { Vec::new() };
    let late: Vec<&str> =
        log.iter().filter(|entry| entry.code == "task.late_write").map(|entry| entry.message.as_str()).collect();
    app.output.result(&job, || text(&job, &late, app.output.palette, args.tasks))?;
    Ok(Exit::Done)
}

fn text(job: &WholeJob, late: &[&str], palette: Palette, all: bool) -> String {
    let mut text = String::new();
    let record = &job.record;
    let _ = writeln!(text, "{} {}", record.kind, palette.strong(&record.name));
    let _ = writeln!(text, "job        {}", record.id);
    let _ = writeln!(text, "state      {}", verdict::state(&job.status));
    let _ = writeln!(text, "submitted  {}", figures::moment(record.created));
    let _ = writeln!(text, "worked     {}", figures::span(Duration::from_millis(job.elapsed_ms)));
    if !record.labels.is_empty() {
        let labels: Vec<String> = record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let _ = writeln!(text, "labels     {}", labels.join(", "));
    }
    let _ = writeln!(text, "tasks      {} of {} ended", job.counts.ended(), job.counts.total());
    let work = figures::progress(&job.work);
    if work != "-" {
        let _ = writeln!(text, "work       {work}");
    }
    if job.warnings > 0 {
        let _ = writeln!(text, "warnings   {}", figures::count(job.warnings));
    }
    for reason in &job.waiting_on {
        let _ = writeln!(text, "waits for  {reason}");
    }
    for refusal in late {
        let _ = writeln!(text, "refused    {refusal}");
    }
    for task in &job.tasks {
        if let Some(approval) = &task.status.approval {
            let note = approval.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            let _ = writeln!(text, "approved   {} by {}{note}", task.name, approval.by);
        }
    }
    if let Some(failure) = &job.status.failure {
        let _ = writeln!(text, "failed     {failure} ({})", failure.code);
    }
    text.push('\n');
    if all || job.tasks.len() <= LISTED {
        text += &figures::table(["task", "state", "progress", "attempts", "waits for"], job.tasks.iter().map(row));
    } else {
        text += &by_type(job);
    }
    text
}

/// `waiting`, `running`, or how it ended.
pub(super) fn task_state(task: &WholeTask) -> &'static str {
    match &task.status.state {
        TaskState::Done { outcome } => outcome.name(),
        other => other.name(),
    }
}

fn row(task: &WholeTask) -> [String; 5] {
    let waits = match task.waiting_on.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let attempts = task.status.epoch.to_string();
    [task.name.clone(), task_state(task).to_owned(), figures::progress(&progress(task)), attempts, waits]
}

/// How far a task is. Progress is stored now and then; of a task that succeeded nothing is left to do.
fn progress(task: &WholeTask) -> Progress {
    let mut progress = task.progress;
    if task.status.outcome().is_some_and(Outcome::is_success) {
        progress.done_items = progress.total_items.unwrap_or(progress.done_items);
        progress.done_bytes = progress.total_bytes.unwrap_or(progress.done_bytes);
    }
    progress
}

#[derive(Default)]
struct Sum {
    waiting: u64,
    running: u64,
    succeeded: u64,
    other: u64,
    progress: Option<Progress>,
}

fn by_type(job: &WholeJob) -> String {
    let mut types: BTreeMap<&str, Sum> = BTreeMap::new();
    for task in &job.tasks {
        let task_type = task.name.split('[').next().unwrap_or_default();
        let sum = types.entry(task_type).or_default();
        match &task.status.state {
            TaskState::Waiting { .. } => sum.waiting += 1,
            TaskState::Running { .. } => sum.running += 1,
            TaskState::Done { outcome: Outcome::Succeeded { .. } } => sum.succeeded += 1,
            TaskState::Done { .. } => sum.other += 1,
        }
        let own = progress(task);
        sum.progress = Some(sum.progress.map_or(own, |so_far| so_far.plus(&own)));
    }
    let mut text = figures::table(
        ["tasks of type", "waiting", "running", "succeeded", "other", "progress"],
        types.into_iter().map(|(name, sum)| {
            let progress = figures::progress(&sum.progress.unwrap_or_default());
            let number = figures::count;
            let [a, b, c, d] = [number(sum.waiting), number(sum.running), number(sum.succeeded), number(sum.other)];
            [name.to_owned(), a, b, c, d, progress]
        }),
    );
    text += "\n`--tasks` lists them one by one\n";
    text
}
