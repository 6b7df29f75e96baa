//! A small HTTP server that remembers what it was asked, by idempotency key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

#[derive(Default)]
struct Seen {
    /// Bodies by idempotency key: what was made.
    made: BTreeMap<String, String>,
    requests: Vec<String>,
    /// Answers to give before the usual ones: status and Retry-After. 0 closes the connection without an answer.
    next: Vec<(u16, Option<&'static str>)>,
}

/// The server. Dropping it ends it.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    server: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let state = seen.clone();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, seen, server: server.abort_handle() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Makes the next answers these.
    pub(crate) fn next(&self, answers: &[(u16, Option<&'static str>)]) {
        self.seen.lock().unwrap().next = answers.to_vec();
    }

    /// What was made, sorted.
    pub(crate) fn made(&self) -> Vec<String> {
        let mut made: Vec<String> = self.seen.lock().unwrap().made.values().cloned().collect();
        made.sort();
        made
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }
}

async fn answer(state: Arc<Mutex<Seen>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let (key, token) = (header("idempotency-key"), header("authorization"));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut seen = state.lock().unwrap();
    seen.requests.push(format!("{method} {path}"));
    let special = if seen.next.is_empty() { None } else { Some(seen.next.remove(0)) };
    // Done before the answer is given, or lost.
    match method {
        Method::POST if special.is_none_or(|(status, _)| status == 0) => {
            seen.made.entry(key.clone()).or_insert(body.clone());
        }
        Method::DELETE => seen.made.retain(|_, made| *made != path.trim_start_matches('/')),
        _ => {}
    }
    let mut builder = Response::builder().header("content-type", "application/json").header("set-cookie", "s=1");
    if let Some((status, after)) = special {
        if status == 0 {
            return Err(std::io::Error::other("closed"));
        }
        if let Some(after) = after {
            builder = builder.header("retry-after", after);
        }
        let status = StatusCode::from_u16(status).unwrap();
        return Ok(builder.status(status).body(Full::from(format!("told {token}"))).unwrap());
    }
    let text = match method {
        Method::GET => serde_json::json!({ "made": seen.made.len(), "token": token, "path": path }).to_string(),
        _ => serde_json::json!({ "got": body }).to_string(),
    };
    Ok(builder.status(if method == Method::POST { 201 } else { 200 }).body(Full::from(text)).unwrap())
}
