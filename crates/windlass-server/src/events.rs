//! Event streams.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use windlass_api::{Event, EventKind, JobId};
use windlass_engine::records::decode;
use windlass_model::log::LogEntry;
use windlass_store::keys;

use crate::app::App;
use crate::broadcast::Reader;
use crate::feed::{EventId, Told};
use crate::picture::{self, Fresh};
use crate::refusal::{Answer, Refusal};
use crate::{jobs, logs};

/// Events on their way to one client; a slower one is waited for.
const QUEUE: usize = 64;
/// Least time between two statuses of a job.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Something is sent at least so often, so that both sides notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Entries that are read at once.
const PAGE: usize = 500;

/// Sends to one client.
struct Line {
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
}

/// The client is gone.
struct Gone;

impl Line {
    async fn send(&self, id: Option<String>, event: &Event) -> Result<(), Gone> {
        let mut text = String::new();
        if let Some(id) = id {
            text += &format!("id: {id}\n");
        }
        // Events are text, numbers and lists of those.
        let data = serde_json::to_string(event).unwrap_or_default();
        text += &format!("event: {}\ndata: {data}\n\n", event.kind.as_str());
        self.raw(text).await
    }

    async fn raw(&self, text: String) -> Result<(), Gone> {
        self.sender.send(Ok(text.into())).await.map_err(|_| Gone)
    }
}

fn event(kind: EventKind, job: Option<JobId>) -> Event {
    Event { kind, job, entry: None, status: None }
}

/// Opens a stream whose lines `feed` writes.
fn open<F, W>(app: &Arc<App>, write: F) -> Answer<Response>
where
    F: FnOnce(Arc<App>, Line) -> W,
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let place: OwnedSemaphorePermit = app.streams.clone().try_acquire_owned().map_err(|_| {
        Refusal::unavailable("too_many_streams", "as many event streams are open as there may be").retry_after(10)
    })?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let line = Line { sender };
    let writing = write(app.clone(), line);
    let app_of_feed = app.clone();
    app.feeds.spawn(async move {
        app_of_feed.metrics.streams(1);
        // An error says that the client is gone, which ends a stream as any other way does.
        let _ = writing.await;
        app_of_feed.metrics.streams(-1);
        drop(place);
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

fn last_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::trim).filter(|id| !id.is_empty())
}

fn unknown_id() -> Refusal {
    Refusal::bad_request("invalid_event_id", "Last-Event-ID is not an id of this stream")
}

/// `GET /jobs/{job}/events`
pub(crate) async fn of_job(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let id = jobs::find(&app, &given).await?;
    let seen = last_id(&headers).map_or(Ok(0), str::parse).map_err(|_| unknown_id())?;
    open(&app, move |app, line| async move {
        line.raw("retry: 1000\n\n".to_owned()).await?;
        let mut follower = JobFollower { app, line, id, seen };
        loop {
            match follower.follow().await? {
                Followed::Over => return Ok(()),
                Followed::Broken(refusal) => {
                    tracing::debug!(job = %id, problem = %refusal.problem(), "a stream reads afresh");
                    follower.app.clock.sleep(Duration::from_millis(200)).await;
                }
            }
        }
    })
}

enum Followed {
    Over,
    Broken(Refusal),
}

struct JobFollower {
    app: Arc<App>,
    line: Line,
    id: JobId,
    /// The number of the last entry that was sent.
    seen: u64,
}

impl JobFollower {
    async fn follow(&mut self) -> Result<Followed, Gone> {
        macro_rules! ask {
            ($asked:expr) => {
                match $asked {
                    Ok(answer) => answer,
                    Err(error) => return Ok(Followed::Broken(Refusal::from(error))),
                }
            };
        }
        let (app, id) = (self.app.clone(), self.id);
        let store = app.store();
        // The watch begins before the reading: nothing falls between them.
        let revision = ask!(store.revision().await);
        let mut changes = ask!(store.watch(&keys::job_prefix(id), revision).await);
        let mut states = ask!(store.watch(&keys::state(id), revision).await);
        if ask!(store.get(&keys::job(id)).await).is_none() {
            self.line.send(None, &event(EventKind::Deleted, Some(id))).await?;
            return Ok(Followed::Over);
        }
        let (_, last) = ask!(picture::version(&**store, id).await);
        if self.seen > last {
            self.seen = 0;
            self.line.send(Some("0".to_owned()), &event(EventKind::Reset, Some(id))).await?;
        }
        while self.seen < last {
            let page = ask!(logs::read(&**store, id, self.seen, last, PAGE).await);
            if page.is_empty() {
                break;
            }
            for entry in page {
                self.tell(entry).await?;
            }
        }
        let mut live = app.engine.watch(id);
        let mut status_due = Some(Duration::ZERO);
        let mut alive_due = app.clock.monotonic() + KEEP_ALIVE;
        loop {
            let now = app.clock.monotonic();
            let next = status_due.unwrap_or(alive_due).min(alive_due);
            tokio::select! {
                found = changes.next() => {
                    for change in ask!(found) {
                        let Some(entry) = change.entry.filter(|entry| entry.key.starts_with(&keys::logs(id))) else {
                            continue;
                        };
                        let entry: LogEntry = ask!(decode(&entry));
                        if entry.n == self.seen + 1 {
                            self.tell(entry).await?;
                        } else if entry.n > self.seen {
                            return Ok(Followed::Broken(Refusal::internal("an entry is missing")));
                        }
                    }
                    status_due.get_or_insert(now + STATUS_EVERY);
                }
                found = states.next() => {
                    if ask!(found).iter().any(|change| change.entry.is_none()) {
                        self.line.send(None, &event(EventKind::Deleted, Some(id))).await?;
                        return Ok(Followed::Over);
                    }
                    live = app.engine.watch(id);
                    // A new state is worth saying at once.
                    status_due = Some(now);
                }
                () = changed(&mut live) => {
                    status_due.get_or_insert(now + STATUS_EVERY);
                }
                () = app.clock.sleep(next.saturating_sub(now)) => {
                    if status_due.is_some_and(|due| due <= app.clock.monotonic()) {
                        match jobs::detail(&app, id, Fresh::Recent).await {
                            Ok(detail) => {
                                let status = Some(Box::new(detail));
                                let told = Event { status, ..event(EventKind::Status, Some(id)) };
                                self.line.send(None, &told).await?;
                            }
                            Err(refusal) => return Ok(Followed::Broken(refusal)),
                        }
                        status_due = None;
                    } else {
                        self.line.raw(":\n\n".to_owned()).await?;
                    }
                    alive_due = app.clock.monotonic() + KEEP_ALIVE;
                }
                () = app.closing.cancelled() => {
                    self.line.send(None, &event(EventKind::Bye, None)).await?;
                    return Ok(Followed::Over);
                }
                () = self.line.sender.closed() => return Err(Gone),
            }
        }
    }

    async fn tell(&mut self, entry: LogEntry) -> Result<(), Gone> {
        self.seen = entry.n;
        let told = Event { entry: Some(entry.into()), ..event(EventKind::Log, Some(self.id)) };
        self.line.send(Some(self.seen.to_string()), &told).await
    }
}

/// Ends when what runs here has changed; never, where nothing runs.
async fn changed(live: &mut Option<tokio::sync::watch::Receiver<windlass_engine::JobSnapshot>>) {
    match live {
        None => std::future::pending().await,
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                *live = None;
            }
        }
    }
}

/// `GET /events`
pub(crate) async fn of_all(State(app): State<Arc<App>>, headers: HeaderMap) -> Answer<Response> {
    let after = last_id(&headers).map(str::parse::<EventId>).transpose().map_err(|()| unknown_id())?;
    let mut reader = Reader::after(&app, after).await?;
    open(&app, move |app, line| async move {
        // With an id from the beginning on, whoever breaks off before the first event misses none.
        line.raw(format!("retry: 1000\nid: {}\n\n", reader.at())).await?;
        loop {
            tokio::select! {
                told = reader.next() => match told {
                    Ok(Told::Entry(id, job, entry)) => {
                        let told = Event { entry: Some((*entry).clone().into()), ..event(EventKind::Log, Some(job)) };
                        line.send(Some(id.to_string()), &told).await?;
                    }
                    Ok(Told::Reset(id)) => line.send(Some(id.to_string()), &event(EventKind::Reset, None)).await?,
                    Err(error) => {
                        tracing::debug!(%error, "a stream reads afresh");
                        app.clock.sleep(Duration::from_millis(500)).await;
                    }
                },
                () = app.clock.sleep(KEEP_ALIVE) => line.raw(":\n\n".to_owned()).await?,
                () = app.closing.cancelled() => return line.send(None, &event(EventKind::Bye, None)).await,
                () = line.sender.closed() => return Err(Gone),
            }
        }
    })
}
