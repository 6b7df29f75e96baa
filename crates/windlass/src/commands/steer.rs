//! What pause, resume, cancel, undo, confirm and retry have in common: the job may be in the hands of another
//! process, which is then asked, or in nobody's, and then it is taken up here.

use std::time::Duration;

use serde_json::json;
use windlass_api::whole::mirror;
use windlass_api::{Client, CommandRequest};
use windlass_clock::deadline;
use windlass_engine::records::decode;
use windlass_engine::{Command, EngineError, view};
use windlass_model::JobId;
use windlass_model::job::{JobState, JobStatus};
use windlass_store::{StoreError, keys};

use super::run::{STOPPING, finish};
use crate::app::App;
use crate::control::{self, Answer, Done, Order, Request};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::problem::Problem;
use crate::state::{Held, Part, State, StateFolder};
use crate::{source, verdict};

/// How often a state folder is tried that is held at one moment and free at the next.
const TRIES: usize = 20;
/// Time between these.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long a pause that was given here waits for running tasks. They stop at shutdown in any case.
const PAUSE_WITHIN: Duration = Duration::from_secs(30);

/// How long this process stays after its order was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until the order is stored, and a pause reached.
    Briefly,
    /// Until the job rests, in the foreground.
    UntilRest,
}

/// Whom to give the order to.
enum Whom {
    Ourselves(Box<Held>),
    Holder { pid: u32, command: String, address: Option<String> },
}

/// Who has the state.
enum Reached {
    Ourselves(Box<Held>),
    /// Somebody else, who was asked.
    Answered(Answer),
}

/// Gives `command` to the job that `given` names.
pub(super) async fn steer(app: &App, given: &str, command: Command, stay: Stay) -> anyhow::Result<Exit> {
    let order = Order::Job(command);
    let state = app.state()?;
    if let (State::Server(server), Order::Job(command)) = (&state, &order) {
        return told(app, &through_a_server(&server.client(&app.setting)?, given, command).await?, true);
    }
    // Nothing may be made in a folder that holds no state.
    let job = source::open_for(app, given).await?.find(given).await?;
    let request = Request { order, job: job.to_string(), request_id: app.setting.request_id() };
    let Some(state) = state.folder().cloned() else { return through_the_store(app, &state, request).await };
    match reach(app, &state, &request, Part::worker(None)).await? {
        Reached::Ourselves(held) => here(app, *held, request, stay).await,
        Reached::Answered(answer) => told(app, &answer.into_done()?, true),
    }
}

/// Gives an order that is done as soon as it is stored to whoever works on the state, or carries it out here.
pub(super) async fn order(app: &App, order: Order, about: String) -> anyhow::Result<Answer> {
    let state = app.state()?;
    let request = Request { order, job: about, request_id: app.setting.request_id() };
    let held = match state.folder() {
        None => state.open(&app.setting, Part::client()).await?,
        Some(folder) => match reach(app, folder, &request, Part::client()).await? {
            Reached::Ourselves(held) => *held,
            Reached::Answered(answer) => return Ok(answer),
        },
    };
    let answer = control::obey(&held.engine, request).await;
    held.close().await?;
    Ok(answer)
}

/// Takes hold of a state folder, or asks whoever holds it.
async fn reach(app: &App, state: &StateFolder, request: &Request, part: Part) -> anyhow::Result<Reached> {
    for _ in 0..TRIES {
        match whom(app, state, &part).await? {
            Whom::Ourselves(held) => return Ok(Reached::Ourselves(held)),
            Whom::Holder { pid, command, address: Some(address) } => {
                app.output.note(format!("process {pid} ({command}) holds the state and is asked"));
                match control::ask(&address, request, &*app.setting.clock).await {
                    Ok(answer) => return Ok(Reached::Answered(answer)),
                    // It may have ended in between: then somebody else, or we, can do it.
                    Err(error) if state.holder()?.is_some_and(|holder| holder.pid == pid) => return Err(error),
                    Err(_) => {}
                }
            }
            // It has just started, or it is about to end.
            Whom::Holder { address: None, .. } => app.setting.clock.sleep(BETWEEN).await,
        }
    }
    let problem = match state.holder()? {
        Some(holder) => Problem::unreachable(format!("{holder} holds the state and does not listen"))
            .hint("wait for it or stop it, then give the command again"),
        None => Problem::unreachable("the state folder is taken and given up too often").hint("try again"),
    };
    Err(problem.into())
}

/// Gives the order to whichever worker coordinates the job, through the store that all of them share.
async fn through_the_store(app: &App, cluster: &State, request: Request) -> anyhow::Result<Exit> {
    let held = cluster.open(&app.setting, Part::client()).await?;
    let answer = control::obey(&held.engine, request).await;
    held.close().await?;
    told(app, &answer.into_done()?, true)
}

/// Gives the order to the server, which knows who asks.
async fn through_a_server(client: &Client, given: &str, command: &Command) -> anyhow::Result<Done> {
    let request = match command.clone() {
        Command::Pause { until } => CommandRequest::Pause { for_: None, until },
        Command::Resume => CommandRequest::Resume,
        Command::Cancel { undo } => CommandRequest::Cancel { undo },
        Command::Undo => CommandRequest::Undo,
        Command::Confirm => CommandRequest::Confirm,
        Command::IgnoreLeftovers => CommandRequest::IgnoreLeftovers,
        Command::Retry { failed_only, from, inputs } => CommandRequest::Retry { failed_only, from, inputs },
        Command::Approve { task, note, .. } => CommandRequest::Approve { task, note },
        Command::Extend { by_ms } => CommandRequest::Extend { by: format!("{by_ms}ms") },
        Command::Wake => CommandRequest::Wake,
        Command::Delete { force } => CommandRequest::Delete { force },
    };
    let answer = client.command(given, &request, &client.key()).await?;
    let status = answer.status.ok_or_else(|| {
        Problem::failed(format!("{} {given}: it is done; the server is older and does not say more", answer.command))
    })?;
    let deleted = answer.state.is_none().then(|| mirror(&answer.leftovers)).transpose()?;
    Ok(Done { job: answer.job, status: *status, deleted })
}

async fn whom(app: &App, state: &StateFolder, part: &Part) -> anyhow::Result<Whom> {
    let held = match state.holder()? {
        Some(holder) => Some(holder),
        None => match State::Folder(state.clone()).open(&app.setting, part.clone()).await {
            Ok(held) => return Ok(Whom::Ourselves(Box::new(held))),
            // Somebody was faster.
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Held(_))) => state.holder()?,
            Err(error) => return Err(error),
        },
    };
    Ok(match held {
        Some(holder) => Whom::Holder { pid: holder.pid, command: holder.command, address: holder.address },
        None => Whom::Holder { pid: 0, command: String::new(), address: None },
    })
}

async fn here(app: &App, held: Held, request: Request, stay: Stay) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, STOPPING)?;
    let order = request.order.clone();
    let found = view::find(&**held.engine.store(), &request.job).await?;
    if order == Order::Job(Command::Resume) && goes_on_by_itself(&held, found).await? {
        return finish(app, held, interrupt, found).await;
    }
    let answer = control::obey(&held.engine, request).await;
    let mut done = match answer.into_done() {
        Ok(done) => done,
        Err(refused) => {
            held.close().await?;
            return Err(refused);
        }
    };
    let job = done.job;
    if stay == Stay::UntilRest {
        let exit = finish(app, held, interrupt, job).await?;
        // A job that was to be cancelled and is, is a success of the command.
        return Ok(if matches!(order, Order::Job(Command::Cancel { .. })) && exit == Exit::Failed {
            cancelled(app, job).await?
        } else {
            exit
        });
    }
    if done.status.state == JobState::Pausing
        && let Some(mut snapshots) = held.engine.watch(job)
    {
        // What is watched may lag behind the answer and still show the job running.
        let under_way = |state| matches!(state, JobState::Running | JobState::Pausing);
        let reached = snapshots.wait_for(|snapshot| !under_way(snapshot.status.state));
        let waited = tokio::select! {
            waited = deadline(&*app.setting.clock, PAUSE_WITHIN, reached) => waited,
            () = interrupt.came() => return Ok(Exit::Interrupted),
        };
        if let Ok(Ok(snapshot)) = waited {
            done.status = snapshot.status.clone();
        }
    }
    held.close().await?;
    told(app, &done, false)
}

/// Whether the job was only interrupted: opening the state was all that it waited for.
async fn goes_on_by_itself(held: &Held, job: JobId) -> anyhow::Result<bool> {
    let entry = held.engine.store().get(&keys::state(job)).await?;
    let status: JobStatus = decode(&entry.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?)?;
    Ok(status.state.is_active() && !matches!(status.state, JobState::Paused | JobState::Pausing))
}

/// Done if the job is cancelled or its effects are undone, failed if some of them are still there.
async fn cancelled(app: &App, job: JobId) -> anyhow::Result<Exit> {
    let source = source::open_for(app, &job.to_string()).await?;
    let job = source.job(job).await?;
    Ok(if job.status.state == JobState::UndoFailed { Exit::Failed } else { Exit::Done })
}

fn told(app: &App, done: &Done, asked: bool) -> anyhow::Result<Exit> {
    let Done { job, status, deleted } = done;
    let document = json!({ "job": job, "status": status, "asked_holder": asked, "deleted": deleted });
    app.output.result(&document, || match deleted {
        None => format!("job {job} is {}\n", verdict::state(status)),
        Some(left) if left.is_empty() => format!("job {job} is removed; it has left nothing outside\n"),
        Some(left) => {
            let mut text = format!("job {job} is removed; it has left outside:\n");
            for one in left {
                text +=
                    &format!("  {}: {} {}\n", one.task, one.action, one.external_id.as_ref().unwrap_or(&one.target));
            }
            text
        }
    })?;
    Ok(Exit::Done)
}
