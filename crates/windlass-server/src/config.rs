//! How a server is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use windlass_tls::TlsFiles;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where it listens. Beyond loopback it needs [`tls`](Self::tls) and [`access_file`](Self::access_file).
    pub listen: SocketAddr,
    /// Certificate and key; without them it speaks plain HTTP. With roots of client certificates, clients may show one
    /// instead of a token.
    pub tls: Option<TlsFiles>,
    /// Who may do what, see the module `access`. Without it everybody on a loopback address may do everything.
    pub access_file: Option<PathBuf>,
    /// Names under which browsers may reach it, besides its address and `localhost`. A request for any other host is
    /// refused on a loopback address.
    pub hosts: Vec<String>,
    /// Whether `/metrics` is open to everybody who can connect.
    pub open_metrics: bool,
    /// Bounds.
    pub limits: Limits,
    /// Whom to tell about changes of jobs.
    pub webhooks: Vec<WebhookConfig>,
    /// Where to send traces.
    pub traces: Option<TracesConfig>,
}

impl ServerConfig {
    /// The usual settings, on `listen`.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            access_file: None,
            hosts: Vec::new(),
            open_metrics: false,
            limits: Limits::default(),
            webhooks: Vec::new(),
            traces: None,
        }
    }
}

/// Bounds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Event streams at a time.
    pub streams: usize,
    /// Largest request body in bytes.
    pub body_bytes: usize,
    /// Largest body with rows for a table, in bytes.
    pub rows_bytes: usize,
    /// Bytes of such bodies at a time; further ones are told to come again.
    pub rows_bytes_at_once: usize,
    /// Time for the head of a request to arrive, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Time for the body of a request to arrive.
    pub body_timeout: Duration,
    /// Requests per second for each client, over time.
    pub rate: f64,
    /// Requests that a client may make at once.
    pub burst: f64,
    /// Time for a plan preview.
    pub preview_timeout: Duration,
    /// Time for requests under way when the server ends.
    pub drain_timeout: Duration,
    /// How long audit entries are kept.
    pub audit_kept: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_kept: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            connections: 1024,
            streams: 256,
            body_bytes: 4 << 20,
            rows_bytes: 32 << 20,
            rows_bytes_at_once: 128 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            rate: 50.0,
            burst: 200.0,
            preview_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(10),
            audit_kept: day * 180,
            idempotency_kept: day * 2,
        }
    }
}

/// A receiver of events.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Names it in the store, in logs and in metrics; lower-case letters, digits and dashes.
    pub name: String,
    /// Where to send to.
    pub url: url::Url,
    /// The secret that signs what is sent.
    pub secret: SecretRef,
    /// Codes of log entries to send, by their beginning: `job.`; empty: those of jobs, not of tasks.
    pub events: Vec<String>,
}

/// A collector of traces that speaks OTLP over HTTP.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// Its base URL; spans go to `v1/traces` below it.
    pub endpoint: url::Url,
    /// The environment variable with headers to send along, `name=value,…`, percent-encoded; it may be unset.
    pub headers_env: String,
}

/// Where a secret is. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable.
    Env(String),
    /// In this file; white space at its ends does not count.
    File(PathBuf),
}

impl SecretRef {
    /// Looks the secret up.
    pub(crate) fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => {
                std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?
            }
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?
            }
        };
        let text = text.trim();
        if text.len() < 16 {
            return Err("the secret has fewer than 16 characters".to_owned());
        }
        Ok(text.to_owned())
    }
}
