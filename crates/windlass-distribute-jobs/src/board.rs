//! What old agents and people ask a controller over HTTP: the tasks of the old wire, the three pages, and why a file is
//! where it is. A small server of its own, because old agents know one address and no path but `/tasks`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_distribute::wire::tasks::{Change, Status, Task, Tasks};
use windlass_distribute::wire::{Answer, JSON};
use windlass_tls::ServerTls;

use crate::door::{self, Caller, Came};
use crate::keeper::Keeper;
use crate::pages;
use crate::plan::{Coming, Planned};

/// The longest body of a request.
const LONGEST_BODY: usize = 64 * 1024;
/// Connections that are answered at the same time.
const CONNECTIONS: usize = 512;
/// How long a request may take to come.
const HEAD: Duration = Duration::from_secs(5);
/// Pause between two tries to get the port.
const RETRY: Duration = Duration::from_secs(1);

/// How a task of the old wire ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Its agent says that it is over, whether or not the copy worked.
    Done,
    /// Its agent gave it up.
    Deleted,
}

/// Tasks of the old wire, and the last plan.
#[derive(Debug, Default)]
pub(crate) struct Board {
    tasks: Mutex<Tasks>,
    closed: Mutex<BTreeMap<i64, Closed>>,
    /// Rings with each change by an agent.
    pub(crate) changed: Notify,
    last: Mutex<LastPlan>,
}

/// What the last plan wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastPlan {
    pub(crate) id: String,
    pub(crate) dry: bool,
    pub(crate) deletes: Vec<(String, String, String)>,
    pub(crate) copies: Vec<(String, String, String, String)>,
    pub(crate) alarms: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Puts a task up, or leaves it as it is.
    pub(crate) fn put(&self, id: i64, task: Task) {
        lock(&self.tasks).0.entry(id).or_insert(task);
    }

    /// Takes a task off.
    pub(crate) fn take(&self, id: i64) {
        lock(&self.tasks).0.remove(&id);
        lock(&self.closed).remove(&id);
    }

    /// How far a task is: `Err` when its agent closed it.
    pub(crate) fn status(&self, id: i64) -> Result<Option<Status>, Closed> {
        if let Some(closed) = lock(&self.closed).get(&id) {
            return Err(*closed);
        }
        match lock(&self.tasks).0.get(&id).map(|task| task.status) {
            Some(Status::Done | Status::Timeout) => Err(Closed::Done),
            status => Ok(status),
        }
    }

    /// All tasks, as they are told.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        lock(&self.tasks).0.values().cloned().collect()
    }

    /// Remembers a plan for showing.
    pub(crate) fn show(&self, planned: &Planned, id: &str, dry: bool) {
        let deletes = planned.deletes.iter();
        let copies = planned.copies.iter();
        *lock(&self.last) = LastPlan {
            id: id.to_owned(),
            dry,
            deletes: deletes.map(|one| (one.name.to_string(), one.node.clone(), one.because.clone())).collect(),
            copies: copies
                .map(|Coming { order: one, .. }| {
                    (one.name.to_string(), one.source.clone(), one.destination.clone(), one.because.clone())
                })
                .collect(),
            alarms: planned.alarms.clone(),
        };
    }

    /// The last plan.
    pub(crate) fn last(&self) -> LastPlan {
        lock(&self.last).clone()
    }

    fn answer(&self, method: &str, path: &str, body: &[u8], now: i64) -> Answer {
        let (answer, change) = lock(&self.tasks).answer(method, path, body, now);
        if let Change::Deleted(id) = change {
            lock(&self.closed).insert(id, Closed::Deleted);
        }
        if change != Change::None {
            self.changed.notify_waiters();
        }
        answer
    }
}

/// Notes why nobody can ask, until somebody can.
fn unheard(keeper: &Keeper, address: &str, why: &dyn std::fmt::Display) {
    let note = Some(format!("nobody can ask at {address}: {why}"));
    let mut state = keeper.state();
    if state.unheard != note {
        tracing::warn!(address, %why, "the address of the job cannot be used");
        state.unheard = note;
        drop(state);
        keeper.wake();
    }
}

/// The certificate, once it can be used.
async fn certificate(keeper: &Keeper, address: &str) -> Option<Arc<ServerTls>> {
    let files = keeper.spec.listen_tls.clone()?;
    loop {
        let files = files.clone();
        let loaded = tokio::task::spawn_blocking(move || files.load()).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(tls) => return Some(tls),
            Err(why) => unheard(keeper, address, &why),
        }
        keeper.clock.sleep(RETRY).await;
    }
}

/// Answers on the job's address, for as long as the controller lives.
pub(crate) async fn listen(keeper: Arc<Keeper>) {
    let Some(address) = keeper.spec.listen.clone() else { return };
    let tls = certificate(&keeper, &address).await;
    let mut keeping = JoinSet::new();
    if let Some(tls) = &tls {
        // Ends with the set.
        keeping.spawn(tls.clone().keep(keeper.clock.clone(), CancellationToken::new()));
    }
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                // The controller before may be about to end.
                unheard(&keeper, &address, &error);
                keeper.clock.sleep(RETRY).await;
            }
        }
    };
    if keeper.state().unheard.take().is_some() {
        keeper.wake();
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let (keeper, tls) = (keeper.clone(), tls.clone());
                connections.spawn(async move {
                    let _ = socket.set_nodelay(true);
                    match door::shake(tls.as_deref(), socket, peer, &keeper.clock, HEAD).await {
                        Some(Came::Plain(stream, caller)) => connection(keeper, stream, caller).await,
                        Some(Came::Safe(stream, caller)) => connection(keeper, stream, caller).await,
                        None => {}
                    }
                    drop(place);
                });
            }
            // Out of descriptors, most likely.
            Err(_) => keeper.clock.sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection<S>(keeper: Arc<Keeper>, stream: S, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let keeper = keeper.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&keeper, request, caller).await) }
    });
    // A peer that hangs up is an everyday event.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(keeper: &Arc<Keeper>, request: Request<Incoming>, caller: Caller) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if !keeper.spec.may_come(caller, &path) {
        return door::in_the_clear(keeper.spec.listen_tls.is_some());
    }
    if path == "/dashboard" || path.starts_with("/dashboard/") {
        let query = query(head.uri.query().unwrap_or_default());
        return match head.method {
            Method::GET => pages::answer(keeper, &path, &query),
            _ => with(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new()),
        };
    }
    if path.starts_with("/v2/") {
        if !may(keeper, &head.headers, caller) {
            let text = "these paths are answered on loopback, or with the token of `listen_token`\n";
            return with(StatusCode::UNAUTHORIZED, "text/plain", text.to_owned());
        }
        let body = read(keeper, body).await.unwrap_or_default();
        return pages::v2(keeper, &head.method, &path, &body).await;
    }
    let Some(body) = read(keeper, body).await else {
        return with(StatusCode::BAD_REQUEST, JSON, String::new());
    };
    let now = keeper.clock.wall().as_second();
    let answer = keeper.board.answer(head.method.as_str(), &path, &body, now);
    let mut response = Response::builder().status(answer.status);
    if let Some(content_type) = answer.content_type {
        response = response.header(header::CONTENT_TYPE, content_type);
    }
    if let Some(location) = &answer.location {
        response = response.header(header::LOCATION, location);
    }
    response.body(Full::from(answer.body)).unwrap_or_default()
}

async fn read(keeper: &Keeper, body: Incoming) -> Option<Bytes> {
    let whole = Limited::new(body, LONGEST_BODY).collect();
    let whole = windlass_clock::deadline(&*keeper.clock, HEAD, whole).await.ok()?;
    Some(whole.ok()?.to_bytes())
}

/// Whether somebody may ask the paths of ours: with the token, or without one from this machine.
fn may(keeper: &Keeper, headers: &http::HeaderMap, caller: Caller) -> bool {
    use subtle::ConstantTimeEq;
    let Some(wanted) = &keeper.spec.listen_token else { return caller.is_here() };
    let Ok(wanted) = wanted.read() else { return false };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|given| given.strip_prefix("Bearer ")).unwrap_or_default();
    given.as_bytes().ct_eq(wanted.as_bytes()).into()
}

/// An answer with a body.
pub(crate) fn with(status: StatusCode, content_type: &str, body: String) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
    response.body(Full::from(body)).unwrap_or_default()
}

/// The parameters of a query; plus signs are blanks.
fn query(text: &str) -> HashMap<String, String> {
    let plain =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (plain(key), plain(value))).collect()
}
