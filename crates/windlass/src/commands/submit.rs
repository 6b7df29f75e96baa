//! `windlass submit FILE`

use std::path::PathBuf;

use serde_json::json;
use windlass_model::JobId;

use super::watch;
use crate::app::App;
use crate::control::{self, Answer, Order, Request};
use crate::exit::Exit;
use crate::job_file::JobFile;
use crate::problem::Problem;
use crate::state::{Part, State};
use crate::{expectation, source};

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file, YAML or JSON; `-` is standard input
    file: PathBuf,
    /// Stay and show how far it is until it rests
    #[arg(long)]
    watch: bool,
    /// Hand it over only if planning it now gives this plan: the digest that `plan` prints, or the file of `plan --out`
    #[arg(long, value_name = "DIGEST|FILE")]
    expect_plan: Option<String>,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let mut file = JobFile::read(&args.file, &app.setting.kinds)?;
    let name = file.request.name.clone();
    let state = app.state()?;
    if let Some(given) = &args.expect_plan {
        let expected = expectation::read(given)?;
        match state {
            // It plans itself: it may reach other things than this process does.
            State::Server(_) => file.submission.expect_plan = Some(expected),
            _ => expectation::check(app, &file.request, file.places, &expected).await?,
        }
    }
    let job = match state {
        State::Folder(folder) => {
            let Some(holder) = folder.holder()? else {
                return Err(Problem::unreachable(format!("nobody works on {}", folder.dir().display()))
                    .hint("`windlass up` does, until it is stopped; `windlass run FILE` runs one job in the foreground")
                    .into());
            };
            let address = holder.address.ok_or_else(|| {
                Problem::unreachable(format!("process {} holds the state and does not listen", holder.pid))
                    .hint("wait until it has started or ended, then submit again")
            })?;
            let order = Order::Submit { submission: Box::new(file.submission) };
            let request = Request { order, job: name.clone(), request_id: app.setting.request_id() };
            match control::ask(&address, &request, &*app.setting.clock).await? {
                Answer::Scheduled { schedule } => return scheduled(app, &schedule, &name),
                answer => answer.into_done()?.job,
            }
        }
        cluster @ State::Cluster(_) => {
            let held = cluster.open(&app.setting, Part::client()).await?;
            if let Some(schedule) = file.submission.schedule {
                let stored = held.engine.standing_create(file.request, schedule.into()).await;
                held.close().await?;
                return scheduled(app, &stored?, &name);
            }
            let submitted = held.engine.submit(file.request).await;
            held.close().await?;
            submitted?
        }
        State::Server(server) => {
            let client = server.client(&app.setting)?;
            let submitted = client.submit(&file.submission, &client.key()).await?;
            if submitted.scheduled {
                return scheduled(app, &submitted.id.to_string(), &name);
            }
            submitted.id
        }
    };
    if args.watch {
        app.output.note(format!("job {job}: {name}"));
        let source = source::open_for(app, &job.to_string()).await?;
        return watch::until_rest(app, &*source, job).await;
    }
    told(app, job, &name)
}

fn scheduled(app: &App, schedule: &str, name: &str) -> anyhow::Result<Exit> {
    app.output.result(&json!({ "schedule": schedule, "name": name }), || {
        format!("schedule {schedule}: {name}; its runs are jobs of that name\n")
    })?;
    Ok(Exit::Done)
}

fn told(app: &App, job: JobId, name: &str) -> anyhow::Result<Exit> {
    app.output.result(&json!({ "job": job, "name": name }), || {
        format!("job {job}: {name}\n`windlass watch {job}` shows how far it is\n")
    })?;
    Ok(Exit::Done)
}
