//! A server on a store of its own, and what talks to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;
use windlass_clock::{SharedClock, SystemClock, SystemEntropy, deadline};
use windlass_engine::{Engine, EngineConfig, Kinds};
use windlass_server::{Measured, Metrics, Server, ServerConfig};
use windlass_store::Store;

use crate::kind::Tiny;
use crate::rows::Sink;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stand {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) clock: SharedClock,
    pub(crate) client: reqwest::Client,
    pub(crate) token: Option<String>,
    pub(crate) reload: windlass_server::Reload,
    pub(crate) rows: Arc<Sink>,
    scheme: &'static str,
    shutdown: CancellationToken,
    running: AbortOnDropHandle<()>,
    dir: Arc<tempfile::TempDir>,
}

pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
    config.limits.rate = 10_000.0;
    config.limits.burst = 10_000.0;
    config.limits.drain_timeout = Duration::from_secs(2);
    config
}

/// An access file with one line for each role; the tokens in the order viewer, operator, admin.
pub(crate) fn access_file(dir: &std::path::Path) -> (PathBuf, [String; 3]) {
    let tokens = [(); 3].map(|()| windlass_server::token::generate().unwrap());
    let lines: Vec<String> = ["viewer", "operator", "admin"]
        .iter()
        .zip(&tokens)
        .map(|(role, token)| format!("the-{role} {role} {}\n", windlass_server::token::digest_text(token)))
        .collect();
    let path = dir.join("access");
    std::fs::write(&path, lines.concat()).unwrap();
    (path, tokens)
}

impl Stand {
    pub(crate) async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(windlass_store::memory::MemoryStore::new(SystemClock::real()));
        Self::on(store, config()).await
    }

    pub(crate) async fn on(store: Arc<dyn Store>, config: ServerConfig) -> Self {
        Self::start(store, config, Arc::new(tempfile::tempdir().unwrap()), watch::channel(false).0).await
    }

    async fn start(
        store: Arc<dyn Store>,
        config: ServerConfig,
        dir: Arc<tempfile::TempDir>,
        gate: watch::Sender<bool>,
    ) -> Self {
        let clock = SystemClock::real();
        let metrics = Arc::new(Metrics::new());
        let measured = Arc::new(Measured::new(store.clone(), metrics.clone(), clock.clone()));
        let kinds = Kinds::new().with(Tiny { gate: gate.clone() });
        let engine = EngineConfig::new(measured, clock.clone(), SystemEntropy::real(), kinds, dir.path().join("work"));
        let previews = EngineConfig { work_dir: dir.path().join("previews"), ..engine.clone() };
        let engine = Arc::new(Engine::open(engine).await.unwrap());
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let server = Server::bind(config, engine.clone(), clock.clone()).await.unwrap();
        let server = server.with_previews(previews).with_metrics(metrics).with_pages(Arc::new(windlass_ui::Ui));
        let rows = Arc::new(Sink::default());
        let server = server.with_rows(rows.clone());
        let (address, reload) = (server.local_addr(), server.reload());
        let shutdown = CancellationToken::new();
        let ending = shutdown.clone();
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            server.run(ending).await;
            Arc::into_inner(engine).expect("the server has let go of the engine").shutdown().await.unwrap();
        }));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { address, store, gate, clock, client, token: None, reload, rows, scheme, shutdown, running, dir }
    }

    /// Ends the server and its engine in good order.
    pub(crate) async fn stop(self) -> (Arc<dyn Store>, Arc<tempfile::TempDir>, watch::Sender<bool>) {
        self.shutdown.cancel();
        deadline(&*self.clock, PATIENCE, self.running).await.expect("the server ends").unwrap();
        (self.store, self.dir, self.gate)
    }

    /// Another server on the same store.
    pub(crate) async fn restart(self, config: ServerConfig) -> Self {
        let (store, dir, gate) = self.stop().await;
        Self::start(store, config, dir, gate).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = if path.starts_with("/jobs") || path.starts_with("/plan") {
            format!("/api/v1{path}")
        } else {
            path.to_owned()
        };
        let request = self.client.request(method, self.url(&path));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(json_body(self.request(Method::POST, path), body)).await
    }

    /// Submits a job of the small kind.
    pub(crate) async fn submit(&self, name: &str, spec: Value) -> String {
        let body = json!({ "kind": "tiny", "name": name, "spec": spec });
        let (status, answer) = self.post("/jobs", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn command(&self, job: &str, body: Value) -> (StatusCode, Value) {
        self.post(&format!("/jobs/{job}/commands"), &body).await
    }

    /// Waits until a job is at rest.
    pub(crate) async fn rest(&self, job: &str) -> Value {
        let (status, answer) = self.get(&format!("/jobs/{job}?wait=60s")).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Waits until a job is as `wanted`, by following its changes.
    pub(crate) async fn until(&self, job: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let come = async {
            let mut version = 0;
            loop {
                let (status, answer) = self.get(&format!("/jobs/{job}?wait=5s&after={version}")).await;
                assert_eq!(status, StatusCode::OK, "{answer}");
                if wanted(&answer) {
                    return answer;
                }
                version = answer["version"].as_u64().unwrap();
            }
        };
        deadline(&*self.clock, PATIENCE, come).await.expect("the job gets there")
    }
}

pub(crate) fn json_body(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let media_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    let problem = status.is_client_error() || status.is_server_error();
    if problem {
        assert_eq!(media_type.as_deref(), Some("application/problem+json"), "{status} {text}");
    }
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if problem {
        for member in ["type", "title", "code", "request_id"] {
            assert!(value[member].as_str().is_some_and(|text| !text.is_empty()), "{member} {value}");
        }
        assert_eq!(value["status"], status.as_u16());
    }
    (status, value)
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

/// Reads an event stream.
pub(crate) struct Stream {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Stream {
    pub(crate) async fn open(stand: &Stand, path: &str, last: Option<&str>) -> Self {
        let mut request = stand.request(Method::GET, path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Self { body: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next event; `None` when the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let mut told = Told::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => told.id = Some(id.to_owned()),
                        Some(("event", event)) => told.event = event.to_owned(),
                        Some(("data", data)) => told.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                if told.event.is_empty() {
                    continue;
                }
                return Some(told);
            }
            let chunk = deadline(&*SystemClock::real(), PATIENCE, self.body.next()).await.expect("something comes");
            self.text += std::str::from_utf8(&chunk?.ok()?).unwrap();
        }
    }

    /// Log events up to the first that `last` says is the last.
    pub(crate) async fn logs(&mut self, last: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut found = Vec::new();
        while let Some(told) = self.next().await {
            if told.event != "log" {
                continue;
            }
            let over = last(&told);
            found.push(told);
            if over {
                break;
            }
        }
        found
    }
}

/// Serves these routes on loopback, as whoever a server talks to would; the handle ends it.
pub(crate) async fn serve(router: Router) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let router = router.clone();
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| router.clone().oneshot(request));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    (address, AbortOnDropHandle::new(tokio::spawn(accept)))
}
