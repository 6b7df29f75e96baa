//! `windlass why JOB [TASK]`

use std::fmt::Write as _;

use serde::Serialize;
use windlass_api::{WholeJob, WholeTask};
use windlass_model::Failure;
use windlass_model::task::{Outcome, TaskState};

use super::show::task_state;
use crate::app::App;
use crate::exit::Exit;
use crate::output::Palette;
use crate::problem::Problem;
use crate::{figures, source, verdict};

/// Tasks that are listed for people; JSON output has all.
const LISTED: usize = 50;

/// Whom to ask about.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// One task: its name as `windlass show` has it, a part of that, or its id
    task: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    job: String,
    name: String,
    state: String,
    waiting_on: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    tasks: Vec<TaskAnswer>,
}

/// The answer about one task.
#[derive(Debug, Serialize)]
struct TaskAnswer {
    id: String,
    task: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_on: Vec<String>,
    /// Why it failed, or why its last attempt did.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// For tasks that were not tried: what failed before them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    because_of: Vec<String>,
    attempts_failed: usize,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let source = source::open_for(app, &args.job).await?;
    let id = source.find(&args.job).await?;
    let job = source.job(id).await?;
    let tasks = match &args.task {
        Some(given) => vec![about(&job, find(&job, given)?)],
        None => {
            let asked = |task: &&WholeTask| !task.status.outcome().is_some_and(Outcome::is_success);
            job.tasks.iter().filter(asked).map(|task| about(&job, task)).collect()
        }
    };
    let answer = Answer {
        job: id.to_string(),
        name: job.record.name.clone(),
        state: verdict::state(&job.status),
        waiting_on: job.waiting_on.clone(),
        failure: job.status.failure.as_deref().cloned(),
        tasks,
    };
    app.output.result(&answer, || text(&answer, app.output.palette, args.task.is_some()))?;
    Ok(Exit::Done)
}

fn find<'a>(job: &'a WholeJob, given: &str) -> anyhow::Result<&'a WholeTask> {
    let exact = |task: &&WholeTask| task.name == given || task.id.to_string() == given.to_ascii_lowercase();
    if let Some(task) = job.tasks.iter().find(exact) {
        return Ok(task);
    }
    let found: Vec<&WholeTask> = job.tasks.iter().filter(|task| task.name.contains(given)).collect();
    match found.as_slice() {
        [task] => Ok(task),
        [] => Err(Problem::usage(format!("job {} has no task {given}", job.record.name))
            .hint(format!("`windlass show {} --tasks` lists them", job.record.id))
            .into()),
        many => {
            let names: Vec<&str> = many.iter().take(5).map(|task| task.name.as_str()).collect();
            Err(Problem::usage(format!("{given} may be {}; give more of the name", names.join(" or "))).into())
        }
    }
}

fn about(job: &WholeJob, task: &WholeTask) -> TaskAnswer {
    let last = task.status.attempts.last().and_then(|attempt| attempt.failure.as_deref());
    let (failure, because_of) = match &task.status.state {
        TaskState::Done { outcome: Outcome::Failed { failure } } => (Some(&**failure), Vec::new()),
        TaskState::Done { outcome: Outcome::Ignored { roots } } => {
            let name = |root| {
                job.tasks.iter().find(|task| task.id == root).map_or_else(|| root.to_string(), |task| task.name.clone())
            };
            (None, roots.iter().copied().map(name).collect())
        }
        TaskState::Done { .. } => (None, Vec::new()),
        TaskState::Waiting { .. } | TaskState::Running { .. } => (last, Vec::new()),
    };
    TaskAnswer {
        id: task.id.to_string(),
        task: task.name.clone(),
        state: task_state(task),
        waiting_on: task.waiting_on.clone(),
        failure: failure.cloned(),
        because_of,
        attempts_failed: task.status.attempts.iter().filter(|attempt| attempt.failure.is_some()).count(),
    }
}

fn text(answer: &Answer, palette: Palette, one_task: bool) -> String {
    let mut text = String::new();
    if !one_task {
        let _ = writeln!(text, "{} is {}", palette.strong(&answer.name), answer.state);
        for reason in &answer.waiting_on {
            let _ = writeln!(text, "  waits for {reason}");
        }
        if let Some(failure) = &answer.failure {
            told(&mut text, "  failed: ", failure, palette);
        }
        if answer.waiting_on.is_empty() && answer.failure.is_none() && answer.tasks.is_empty() {
            let _ = writeln!(text, "  it waits for nothing");
        }
    }
    for task in answer.tasks.iter().take(LISTED) {
        let _ = writeln!(text, "{} is {}", palette.strong(&task.task), task.state);
        for reason in &task.waiting_on {
            let _ = writeln!(text, "  waits for {reason}");
        }
        if let Some(failure) = &task.failure {
            let lead = match task.state {
                "failed" => "  because: ",
                _ => "  its last attempt ended with: ",
            };
            told(&mut text, lead, failure, palette);
        }
        for root in &task.because_of {
            let _ = writeln!(text, "  because of {root}, which it requires");
        }
        if task.attempts_failed > 1 {
            let _ = writeln!(text, "  {} attempts did not succeed", task.attempts_failed);
        }
    }
    if answer.tasks.len() > LISTED {
        let more = figures::count((answer.tasks.len() - LISTED) as u64);
        let _ = writeln!(text, "… and {more} more tasks; `windlass why {} TASK` tells about one", answer.job);
    }
    text
}

fn told(text: &mut String, lead: &str, failure: &Failure, palette: Palette) {
    let _ = writeln!(text, "{lead}{} ({})", failure.message, failure.code);
    for cause in &failure.causes {
        let _ = writeln!(text, "    caused by: {cause}");
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "    {} {hint}", palette.hint("hint:"));
    }
}
