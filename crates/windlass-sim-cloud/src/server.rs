//! The server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use windlass_clock::SharedClock;

use crate::faults::{Rule, What};
use crate::state::{Ask, Options, Reply, State, refuse};

/// The largest request that is read.
const LARGEST: usize = 8 * 1024 * 1024;

/// A simulated cloud. Dropping it ends it.
#[derive(Debug)]
pub struct SimCloud {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: AbortHandle,
}

impl Drop for SimCloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl SimCloud {
    /// Starts a cloud on a free port of this machine.
    ///
    /// # Errors
    ///
    /// When there is no port to listen on.
    pub async fn start(options: Options, clock: SharedClock) -> std::io::Result<Self> {
        Self::start_on(options, clock, 0).await
    }

    /// Starts a cloud on this port of this machine; 0: a free one.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub async fn start_on(options: Options, clock: SharedClock, port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::new(options)));
        let shared = state.clone();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { break };
                        // Small answers must not wait for more.
                        let _ = stream.set_nodelay(true);
                        let (state, clock) = (shared.clone(), clock.clone());
                        connections.spawn(async move {
                            let service = service_fn(move |request| answer(state.clone(), clock.clone(), address, request));
                            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { address, state, server: server.abort_handle() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where Keystone answers.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("http://{}/identity/v3", self.address)
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes calls fail.
    pub fn fail(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Lets all calls succeed again.
    pub fn calm(&self) {
        self.state().rules.clear();
    }

    /// Sets the limit of a resource in a project, by its id.
    pub fn set_quota(&self, project: &str, resource: &str, limit: i64) {
        self.state().quotas.insert((project.to_owned(), resource.to_owned()), limit);
    }

    /// Removes an object behind everybody's back.
    pub fn lose(&self, kind: &'static str, id: &str) {
        self.state().remove(kind, id);
    }
}

fn query_of(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

async fn answer(
    state: Arc<Mutex<State>>,
    clock: SharedClock,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.as_str().to_owned(), parts.uri.path().to_owned());
    let query = query_of(parts.uri.query().unwrap_or_default());
    let token = parts.headers.get("x-auth-token").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let raw = Limited::new(body, LARGEST).collect().await.map_err(|_| Cut)?.to_bytes();
    let body: Value = if raw.is_empty() { Value::Null } else { serde_json::from_slice(&raw).unwrap_or_default() };
    let wall = clock.wall().as_second();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);

    let fault = {
        let mut state = lock();
        state.calls.push(format!("{method} {path}"));
        if method != "GET" && !path.ends_with("/auth/tokens") {
            state.changes += 1;
        }
        let hit = state.rules.iter_mut().find_map(|rule| rule.hits(&method, &path).then(|| rule.what.clone()));
        if hit == Some(What::TokensExpire) {
            state.tokens.clear();
        }
        hit
    };
    match &fault {
        Some(What::Status(status, after)) => {
            return Ok(respond(&refuse(*status, "refused on purpose"), *after));
        }
        Some(What::LostBefore) => return Err(Cut),
        Some(What::Slow(ms)) => clock.sleep(Duration::from_millis(*ms)).await,
        Some(What::LostAfter | What::Late(_) | What::EndsInError | What::TokensExpire) | None => {}
    }
    let now = u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX);
    let outcome: Result<Reply, Reply> = {
        let mut state = lock();
        let decoded: Vec<String> =
            path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        if method == "POST" && path.ends_with("/auth/tokens") {
            state.sign_in(&body, &format!("http://{address}"), wall)
        } else {
            match state.tokens.get(&token).cloned() {
                Some((project, ends)) if ends > wall => {
                    let ask = Ask { method: &method, path: parts, query, body: &body, raw, project, now };
                    let outcome = state.dispatch(&ask);
                    if let Ok(Reply { made: Some((kind, id)), .. }) = &outcome {
                        touch(&mut state, kind, id, fault.as_ref(), now);
                    }
                    outcome
                }
                _ => Err(refuse(401, "The request you have made requires authentication.")),
            }
        }
    };
    if matches!(fault, Some(What::LostAfter | What::Late(_))) {
        return Err(Cut);
    }
    Ok(match outcome {
        Ok(reply) | Err(reply) => respond(&reply, None),
    })
}

/// What faults do to what was made.
fn touch(state: &mut State, kind: &'static str, id: &str, fault: Option<&What>, now: u64) {
    let Ok(value) = state.get_mut(kind, id) else { return };
    match fault {
        Some(What::Late(ms)) => value["_seen_at"] = (now + ms).into(),
        Some(What::EndsInError) => {
            let error = if kind == "server" { "ERROR" } else { "error" };
            value["status"] = error.into();
            value["_then"] = error.into();
        }
        _ => {}
    }
}

fn respond(reply: &Reply, retry_after: Option<u64>) -> Response<Full<Bytes>> {
    let mut builder = Response::builder()
        .status(reply.status)
        .header("content-type", "application/json")
        .header("x-openstack-request-id", "req-sim");
    if let Some(token) = &reply.token {
        builder = builder.header("x-subject-token", token);
    }
    // So the block service says that a limit is reached.
    let retry_after = retry_after.or((reply.status == 413).then_some(0));
    if let Some(seconds) = retry_after {
        builder = builder.header("retry-after", seconds);
    }
    let body = if let Some(content) = &reply.content {
        content.clone()
    } else if reply.body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(reply.body.to_string())
    };
    let made: Result<_, Infallible> = Ok(builder.body(Full::new(body)).unwrap_or_default());
    let Ok(response) = made;
    response
}
