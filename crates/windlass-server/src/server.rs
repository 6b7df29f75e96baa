//! The server: listening, connections, TLS, ending.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use windlass_api::page::Pages;
use windlass_clock::{SharedClock, deadline};
use windlass_engine::{Engine, EngineConfig};

use crate::access::Access;
use crate::app::{App, Parts, Peer};
use crate::config::{ServerConfig, TlsFiles};
use crate::metrics::{Metrics, MoreMetrics, StoreGauges};
use crate::routes;
use crate::rows::RowSink;
use crate::submission::JobText;
use crate::tls::{self, CertificateNames};
use crate::traces;
use crate::webhook;

/// How often certificates and the access file are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often what is kept for a time only is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It would be open to everybody on a network.
    #[error("{listen} is not a loopback address: the server does not listen there without {missing}")]
    Exposed {
        /// Where it was to listen.
        listen: SocketAddr,
        /// What is missing.
        missing: &'static str,
    },
    /// A file of the configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// The address cannot be listened on.
    #[error("listen on {listen}")]
    Listen {
        /// Where it was to listen.
        listen: SocketAddr,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
}

impl ServerError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => {
                "give a certificate, its key and an access file (`windlass token new`), or listen on 127.0.0.1"
            }
            Self::Configuration(_) => "mend the file or name another one",
            Self::Listen { .. } => "stop what listens there, or choose another address",
        }
    }
}

/// A server that listens and does not answer yet: [`Server::run`] does.
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    local: SocketAddr,
    engine: Arc<Engine>,
    clock: SharedClock,
    access: Option<Access>,
    tls: Option<Arc<rustls::ServerConfig>>,
    metrics: Arc<Metrics>,
    gauges: Option<Arc<dyn StoreGauges>>,
    preview: Option<EngineConfig>,
    pages: Option<Arc<dyn Pages>>,
    job_text: Option<Arc<dyn JobText>>,
    rows: Option<Arc<dyn RowSink>>,
    more_metrics: Option<Arc<dyn MoreMetrics>>,
    reload: Arc<Notify>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Lets a server read its files again, for a signal.
#[derive(Clone, Debug)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Reads certificates and the access file again, soon.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

impl Server {
    /// Reads what the configuration names and listens.
    ///
    /// # Errors
    ///
    /// [`ServerError`], whose hint says what to do.
    pub async fn bind(config: ServerConfig, engine: Arc<Engine>, clock: SharedClock) -> Result<Self, ServerError> {
        // Webhooks go out over TLS. Another part of the program may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listen = config.listen;
        if !listen.ip().is_loopback() {
            let missing = match (&config.tls, &config.access_file) {
                (None, None) => Some("TLS and an access file"),
                (None, Some(_)) => Some("TLS"),
                (Some(_), None) => Some("an access file"),
                (Some(_), Some(_)) => None,
            };
            if let Some(missing) = missing {
                return Err(ServerError::Exposed { listen, missing });
            }
        }
        let access = config.access_file.as_deref().map(Access::read).transpose();
        let access = access.map_err(ServerError::Configuration)?;
        let tls = config.tls.as_ref().map(tls::load).transpose().map_err(ServerError::Configuration)?;
        for hook in &config.webhooks {
            webhook::check(hook).map_err(ServerError::Configuration)?;
        }
        if let Some(to) = &config.traces {
            traces::check(to).map_err(ServerError::Configuration)?;
        }
        let failed = |error| ServerError::Listen { listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self {
            config,
            listener,
            local,
            engine,
            clock,
            access,
            tls,
            metrics: Arc::new(Metrics::new()),
            gauges: None,
            preview: None,
            pages: None,
            job_text: None,
            rows: None,
            more_metrics: None,
            reload: Arc::new(Notify::new()),
        })
    }

    /// Serves the web interface, too.
    #[must_use]
    pub fn with_pages(mut self, pages: Arc<dyn Pages>) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Makes previews with engines of this configuration; its store is never used, its folder holds their files.
    #[must_use]
    pub fn with_previews(mut self, config: EngineConfig) -> Self {
        self.preview = Some(config);
        self
    }

    /// Reads job files as people write them.
    #[must_use]
    pub fn with_job_text(mut self, job_text: Arc<dyn JobText>) -> Self {
        self.job_text = Some(job_text);
        self
    }

    /// Takes rows for tables.
    #[must_use]
    pub fn with_rows(mut self, rows: Arc<dyn RowSink>) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Shows these counters, too.
    #[must_use]
    pub fn with_more_metrics(mut self, more: Arc<dyn MoreMetrics>) -> Self {
        self.more_metrics = Some(more);
        self
    }

    /// Shows these counters, which a [`crate::Measured`] store may have from before.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Shows what the store says about itself.
    #[must_use]
    pub fn with_gauges(mut self, gauges: Arc<dyn StoreGauges>) -> Self {
        self.gauges = Some(gauges);
        self
    }

    /// Where it listens: the port that was found when none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The address for a browser.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", self.local)
    }

    /// Lets the files be read again.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload(self.reload.clone())
    }

    /// Answers until `shutdown` fires; then event streams are told to connect again, and requests under way are waited
    /// for, within the drain timeout.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { config, listener, local, clock, tls, reload, .. } = self;
        let (files, access_file, webhooks) = (config.tls.clone(), config.access_file.clone(), config.webhooks.clone());
        let spans_to = config.traces.clone();
        let app = Arc::new(App::new(
            config,
            Parts {
                engine: self.engine,
                clock: clock.clone(),
                local,
                access: self.access,
                gauges: self.gauges,
                metrics: self.metrics,
                preview: self.preview,
                pages: self.pages,
                job_text: self.job_text,
                rows: self.rows,
                more_metrics: self.more_metrics,
            },
        ));
        let tls = tls.map(|config| Arc::new(RwLock::new(config)));
        let router = routes::router(&app);
        let mut chores = JoinSet::new();
        chores.spawn(keep_files(app.clone(), tls.clone(), files, access_file, reload));
        chores.spawn(sweep(app.clone()));
        for hook in webhooks {
            chores.spawn(webhook::deliver(app.clone(), hook));
        }
        if let Some(to) = spans_to {
            chores.spawn(traces::export(app.clone(), to));
        }
        tracing::info!(%local, tls = tls.is_some(), "the server listens");
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(app.limits.connections));
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let place = places.clone().acquire_owned().await.ok();
                (place, listener.accept().await)
            };
            let (place, stream, address) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                (place, accepted) = accepted => match accepted {
                    Ok((stream, address)) => (place, stream, address),
                    Err(error) => {
                        // Too many open files, for one: what is open ends some time.
                        tracing::warn!(%error, "a connection could not be accepted");
                        clock.sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            while connections.try_join_next().is_some() {}
            let _ = stream.set_nodelay(true);
            let config = tls.as_ref().map(|tls| tls.read().unwrap_or_else(PoisonError::into_inner).clone());
            let (app, router, watcher) = (app.clone(), router.clone(), graceful.watcher());
            connections.spawn(async move {
                if let Err(error) = connection(&app, stream, address, config, router, watcher).await {
                    tracing::debug!(from = %address, error, "a connection broke off");
                }
                drop(place);
            });
        }
        drop(listener);
        app.closing.cancel();
        app.feeds.close();
        chores.shutdown().await;
        let drained = async {
            app.feeds.wait().await;
            graceful.shutdown().await;
        };
        if deadline(&*clock, app.limits.drain_timeout, drained).await.is_err() {
            tracing::warn!("requests under way were broken off");
        }
        connections.shutdown().await;
        tracing::info!(%local, "the server has ended");
    }
}

/// One connection, from its first byte to its last.
async fn connection(
    app: &App,
    stream: TcpStream,
    address: SocketAddr,
    config: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    let Some(config) = config else {
        let peer = Peer { address: address.ip(), certificate: None };
        return serve(app, stream, false, peer, router, watcher).await;
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = deadline(&*app.clock, app.limits.header_timeout, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS handshake: {error}"))?;
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates().and_then(|chain| CertificateNames::of(chain.first()?));
    let peer = Peer { address: address.ip(), certificate };
    serve(app, stream, http2, peer, router, watcher).await
}

async fn serve(
    app: &App,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    peer: Peer,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    // Which protocol it is has been agreed on: nobody is waited for who never says.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(app.limits.header_timeout).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .max_concurrent_streams(64)
        .max_header_list_size(64 * 1024);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

/// When the files last changed; `None` for one that cannot be looked at.
fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}

/// Reads certificates and the access file again when they change. A file that cannot be used leaves what was there.
async fn keep_files(
    app: Arc<App>,
    tls: Option<Arc<RwLock<Arc<rustls::ServerConfig>>>>,
    files: Option<TlsFiles>,
    access_file: Option<PathBuf>,
    reload: Arc<Notify>,
) {
    let mut paths: Vec<PathBuf> = access_file.iter().cloned().collect();
    if let Some(files) = &files {
        paths.extend([files.certificate.clone(), files.key.clone()]);
        paths.extend(files.client_roots.clone());
    }
    let mut seen = stamps(&paths);
    loop {
        let asked = tokio::select! {
            () = reload.notified() => true,
            () = app.clock.sleep(LOOK_EVERY) => false,
        };
        let now = stamps(&paths);
        if now == seen && !asked {
            continue;
        }
        seen = now;
        if let (Some(tls), Some(files)) = (&tls, &files) {
            match tls::load(files) {
                Ok(config) => {
                    *tls.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!("the certificates were read again");
                }
                Err(why) => tracing::error!(why, "the certificates could not be read again; the old ones stay"),
            }
        }
        if let Some(path) = &access_file {
            match Access::read(path) {
                Ok(access) => {
                    app.set_grants(access);
                    tracing::info!("the access file was read again");
                }
                Err(why) => tracing::error!(why, "the access file could not be read again; the old one stays"),
            }
        }
    }
}

/// Deletes what is kept for a time only.
async fn sweep(app: Arc<App>) {
    loop {
        if let Err(error) = app.audit.sweep().await {
            tracing::warn!(%error, "old audit entries could not be deleted");
        }
        if let Err(error) = app.idempotency.sweep().await {
            tracing::warn!(%error, "old idempotency keys could not be deleted");
        }
        app.clock.sleep(SWEEP_EVERY).await;
    }
}
