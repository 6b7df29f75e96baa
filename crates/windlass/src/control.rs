//! How one `windlass` asks another, which holds the state folder, to do something to a job.
//!
//! The holder listens on a Unix socket in the state folder and writes its path into the lock file as its address
//! (`unix:/path`). A request is one line of JSON and so is the answer; one request to a connection:
//!
//! ```text
//! > {"command":"pause","until":"2026-11-21T03:00:00Z","job":"nightly","request_id":"…"}
//! < {"done":{"job":"01…","status":{…}}}      or      < {"refused":{"code":"no_such_job","message":"…"}}
//! ```
//!
//! Only the same user (and root) is heard. Lines, connections and waits are bounded.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use windlass_api::{ScheduleAnswer, ScheduleCommand, SubmitRequest};
use windlass_clock::{Clock, SharedClock, deadline};
use windlass_engine::{Command, CommandReply, Engine, EngineError, view};
use windlass_model::JobId;
use windlass_model::effect::Leftover;
use windlass_model::job::JobStatus;

use crate::job_file;
use crate::problem::Problem;

/// The socket in a state folder.
const SOCKET: &str = "control.sock";
/// Longest path that a socket address holds, with its end, on every system we run on.
const LONGEST_PATH: usize = 100;
/// Longest line in bytes: a job file and what is around it.
const LONGEST_LINE: u64 = 5 << 20;
/// Connections that are served at a time; further ones wait in the listen queue.
const CONNECTIONS: usize = 8;
/// Time for a request to arrive and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for the holder to answer: it may be busy committing.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Order {
    /// A command to a job.
    Job(Command),
    /// A command to a schedule.
    Schedule {
        /// The schedule's id.
        schedule: String,
        /// The command.
        #[serde(rename = "to_schedule")]
        command: ScheduleCommand,
    },
    /// To take a new job.
    Submit {
        /// The job.
        submission: Box<SubmitRequest>,
    },
}

impl Order {
    /// The command's name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Job(command) => command.name(),
            Self::Schedule { command, .. } => command.name(),
            Self::Submit { .. } => "submit",
        }
    }

    /// Whether it sets tasks going.
    pub(crate) const fn sets_going(&self) -> bool {
        match self {
            Self::Job(command) => matches!(
                command,
                Command::Resume
                    | Command::Retry { .. }
                    | Command::Undo
                    | Command::Confirm
                    | Command::Cancel { .. }
                    | Command::Approve { .. }
            ),
            // A run of a schedule is nobody's to wait for.
            Self::Schedule { .. } => false,
            Self::Submit { .. } => true,
        }
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// What to do.
    #[serde(flatten)]
    pub(crate) order: Order,
    /// The job as a person names it.
    pub(crate) job: String,
    /// Asking twice with the same has the effect of once.
    pub(crate) request_id: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is stored.
    Done {
        /// The job.
        job: JobId,
        /// How it now is.
        status: Box<JobStatus>,
        /// Set when the job is gone: what it has left outside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deleted: Option<Vec<Leftover>>,
    },
    /// A schedule is stored.
    Scheduled {
        /// Names it.
        schedule: String,
    },
    /// A command to a schedule was carried out.
    Schedule(Box<ScheduleAnswer>),
    /// Nothing changed.
    Refused {
        /// `no_such_job`, `ambiguous`, `refused`, `failed`.
        code: String,
        /// Why.
        message: String,
    },
}

/// An order that was carried out.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The job.
    pub(crate) job: JobId,
    /// How it now is, or was last.
    pub(crate) status: JobStatus,
    /// Set when the job is gone: what it has left outside.
    pub(crate) deleted: Option<Vec<Leftover>>,
}

impl Answer {
    fn refused(code: &str, message: impl Into<String>) -> Self {
        Self::Refused { code: code.to_owned(), message: message.into() }
    }

    /// The status, or the refusal as an error.
    pub(crate) fn into_done(self) -> anyhow::Result<Done> {
        match self {
            Self::Done { job, status, deleted } => Ok(Done { job, status: *status, deleted }),
            // Only a submission is answered so, and who submits looks first.
            Self::Scheduled { schedule } => Err(Problem::failed(format!("schedule {schedule} is stored")).into()),
            Self::Schedule(answer) => Err(Problem::failed(format!("schedule {}: done", answer.schedule)).into()),
            Self::Refused { code, message } => Err(match code.as_str() {
                "no_such_schedule" => {
                    Problem::usage(message).hint("`windlass schedule list` lists what there is").into()
                }
                "no_such_job" => Problem::usage(message).hint("`windlass jobs` lists what there is").into(),
                "ambiguous" | "refused" => Problem::usage(message).into(),
                _ => Problem::failed(message).into(),
            }),
        }
    }
}

/// Gives an order to a job of `engine`.
pub(crate) async fn obey(engine: &Engine, request: Request) -> Answer {
    let what = request.order.name();
    if let Order::Schedule { schedule, command } = &request.order {
        let id = schedule.clone();
        return match windlass_server::command_schedule(engine, id, *command, Some(request.request_id)).await {
            Ok(answer) => Answer::Schedule(Box::new(answer)),
            Err(error @ EngineError::NoSuchStanding(_)) => Answer::refused("no_such_schedule", error.to_string()),
            Err(error) => Answer::refused("failed", format!("{what} schedule {schedule}: {error}")),
        };
    }
    let result = async {
        let command = match request.order {
            Order::Job(command) => command,
            // Carried out above.
            Order::Schedule { schedule, .. } => return Err(EngineError::NoSuchStanding(schedule)),
            Order::Submit { submission } => {
                if let Some(schedule) = &submission.schedule {
                    let request = job_file::request_of(&submission);
                    return Ok(Err(engine.standing_create(request, schedule.clone().into()).await?));
                }
                let job = engine.submit(job_file::request_of(&submission)).await?;
                let status = view::status(&**engine.store(), job).await?;
                return Ok(Ok((job, CommandReply::Done(Box::new(status)))));
            }
        };
        let job = view::find(&**engine.store(), &request.job).await?;
        let reply = engine.command(job, command, Some(request.request_id.clone())).await?;
        Ok::<_, EngineError>(Ok((job, reply)))
    };
    let result = match result.await {
        Ok(Err(schedule)) => return Answer::Scheduled { schedule },
        Ok(Ok(done)) => Ok(done),
        Err(error) => Err(error),
    };
    match result {
        Ok((job, CommandReply::Done(status))) => Answer::Done { job, status, deleted: None },
        Ok((job, CommandReply::Deleted { status, leftovers })) => {
            Answer::Done { job, status, deleted: Some(leftovers) }
        }
        Ok((_, CommandReply::Refused(why))) => Answer::refused("refused", format!("{what} {}: {why}", request.job)),
        Err(error @ EngineError::NoSuchJob(_)) => Answer::refused("no_such_job", error.to_string()),
        Err(error @ EngineError::Ambiguous { .. }) => Answer::refused("ambiguous", error.to_string()),
        Err(error) => Answer::refused("failed", format!("{what} {}: {error}", request.job)),
    }
}

/// A request that came in, and where its answer goes.
pub(crate) type Incoming = (Request, oneshot::Sender<Answer>);

/// The next request; without a door nobody ever comes.
pub(crate) async fn incoming(control: &mut Option<Control>) -> Option<Incoming> {
    match control {
        Some(control) => control.requests.recv().await,
        None => std::future::pending().await,
    }
}

/// The listening side. Dropping it stops listening and removes the socket.
#[derive(Debug)]
pub(crate) struct Control {
    /// Requests of others. The queue holds one: whoever asks next waits.
    pub(crate) requests: mpsc::Receiver<Incoming>,
    path: PathBuf,
    /// Keeps the folder of the socket when it cannot be in the state folder.
    _folder: Option<tempfile::TempDir>,
    _ear: AbortOnDropHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens in the state folder `dir`, which this process holds: a socket that is there is a leftover.
    pub(crate) fn listen(dir: &Path, clock: SharedClock) -> io::Result<Self> {
        let mut path = dir.join(SOCKET);
        let mut folder = None;
        if path.as_os_str().len() > LONGEST_PATH {
            let made = tempfile::Builder::new().prefix("windlass-").tempdir()?;
            path = made.path().join(SOCKET);
            folder = Some(made);
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (sender, requests) = mpsc::channel(1);
        let ear = AbortOnDropHandle::new(tokio::spawn(accept(listener, sender, clock)));
        Ok(Self { requests, path, _folder: folder, _ear: ear })
    }

    /// What others find in the lock file.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Incoming>, clock: SharedClock) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if may_ask(&stream) => {
                let (requests, clock) = (requests.clone(), clock.clone());
                connections.spawn(async move {
                    if let Err(error) = serve(stream, requests, &*clock).await {
                        tracing::debug!(%error, "a control connection broke off");
                    }
                    drop(place);
                });
            }
            Ok(_) => tracing::warn!("a control connection of another user was refused"),
            Err(error) => {
                tracing::debug!(%error, "accept a control connection");
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn may_ask(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
}

async fn serve(mut stream: UnixStream, requests: mpsc::Sender<Incoming>, clock: &dyn Clock) -> io::Result<()> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the other side is too slow");
    let (read, mut write) = stream.split();
    let line = deadline(clock, PATIENCE, read_line(read)).await.map_err(late)??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(error) => Answer::refused("failed", format!("the request cannot be read: {error}")),
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let gone = || Answer::refused("failed", "the process is ending; ask again");
            match requests.send((request, reply)).await {
                Ok(()) => answer.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    deadline(clock, PATIENCE, write.write_all(text.as_bytes())).await.map_err(late)?
}

async fn read_line(reader: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST_LINE)).read_line(&mut line).await?;
    if line.ends_with('\n') {
        return Ok(line);
    }
    let why = if line.is_empty() { "the connection ended without a line" } else { "the line has no end" };
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
}

/// Asks the holder at `address`.
pub(crate) async fn ask(address: &str, request: &Request, clock: &dyn Clock) -> anyhow::Result<Answer> {
    let path = address.strip_prefix("unix:").ok_or_else(|| {
        Problem::unreachable(format!("the holder of the state listens at {address}, which this version cannot talk to"))
    })?;
    let attempt = async {
        let mut stream = UnixStream::connect(path).await.with_context(|| format!("connect to {path}"))?;
        let mut text = serde_json::to_string(request).context("write the request")?;
        text.push('\n');
        stream.write_all(text.as_bytes()).await.context("send the request")?;
        let line = read_line(&mut stream).await.context("read the answer")?;
        serde_json::from_str(&line).context("understand the answer")
    };
    deadline(clock, ANSWER_WITHIN, attempt)
        .await
        .unwrap_or_else(|late| Err(anyhow::Error::new(late)))
        .context(Problem::unreachable("ask the process that holds the state"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;

    #[tokio::test]
    async fn a_request_reaches_the_holder_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::listen(dir.path(), SystemClock::real()).unwrap();
        let address = control.address();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let request = Request { order: Order::Job(Command::Resume), job: "nightly".into(), request_id: "1".into() };
        let clock = SystemClock::real();
        let asked = async {
            let (got, reply) = control.requests.recv().await.unwrap();
            reply.send(Answer::refused("refused", format!("no {}", got.job))).unwrap();
            got
        };
        let (answer, got) = tokio::join!(ask(&address, &request, &*clock), asked);
        assert_eq!(got, request);
        assert_eq!(answer.unwrap(), Answer::refused("refused", "no nightly"));
        drop(control);
        assert!(!dir.path().join(SOCKET).exists());
        assert!(ask(&address, &request, &*clock).await.is_err());
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_are_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::listen(dir.path(), SystemClock::real()).unwrap();
        let path = dir.path().join(SOCKET);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"command\":\"explode\"}\n").await.unwrap();
        let line = read_line(&mut stream).await.unwrap();
        assert!(line.contains("cannot be read"), "{line}");
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The other side hangs up after its limit; whether our write sees that first does not matter.
        let _ = stream.write_all(&vec![b'x'; 1 << 20]).await;
        assert!(read_line(&mut stream).await.is_err());
        drop(control);
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_gets_a_short_one() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let control = Control::listen(&deep, SystemClock::real()).unwrap();
        assert!(control.address().len() <= LONGEST_PATH + 5);
    }
}
