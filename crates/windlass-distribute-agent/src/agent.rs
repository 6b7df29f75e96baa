//! The agent: everything put together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::SharedClock;
use windlass_distribute::wire::agent::{AgentLimits, NodeReport};
use windlass_tls::{ServerTls, Serving};

use crate::config::AgentConfig;
use crate::folder::Folder;
use crate::hourly;
use crate::metrics::Counts;
use crate::old_controller;
use crate::serve::connection;
use crate::serve::digest::Digests;
use crate::serve::refusal::Refused;
use crate::serve::terms::Terms;
use crate::transfer::bucket::Bucket;
use crate::transfer::table::Transfers;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It would be open to everybody on a network.
    #[error("{listen} is not a loopback address: the agent does not listen there without {missing}")]
    Exposed {
        /// Where it was to listen.
        listen: SocketAddr,
        /// What that needs.
        missing: &'static str,
    },
    /// Its certificate, or a root, cannot be used.
    #[error("{0}")]
    Tls(String),
    /// Its folder cannot be served.
    #[error("serve the folder: {0}")]
    Folder(String),
    /// What it remembers cannot be read.
    #[error("read what the agent remembers: {0}")]
    State(#[source] io::Error),
    /// The address cannot be listened on.
    #[error("listen on {listen}: {error}")]
    Listen {
        /// Where it was to listen.
        listen: SocketAddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

impl AgentError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => {
                "give --tls-cert, --tls-key and --token-file, or listen on 127.0.0.1; --old-wire-plain answers old \
                 controllers, which have no TLS, and nobody else"
            }
            Self::Tls(_) => "name PEM files that this process may read, and a key that belongs to the certificate",
            Self::Folder(_) => "name a folder that exists, may be written, and is served by nobody else",
            Self::State(_) => "mend or remove the file that is named; what it told is then forgotten",
            Self::Listen { .. } => "stop what listens there, or choose another address",
        }
    }
}

/// An agent that listens and does not answer yet: [`Listening::run`] does.
#[derive(Debug)]
pub struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) id: String,
    pub(crate) folder: Arc<Folder>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) terms: Terms,
    pub(crate) clock: SharedClock,
    pub(crate) tls: Option<Arc<ServerTls>>,
    /// How fast files are served.
    pub(crate) serving: Bucket,
    pub(crate) digests: Digests,
    closing: AtomicBool,
}

/// An agent and where it listens.
#[derive(Debug)]
pub struct Listening {
    agent: Arc<Agent>,
    listener: TcpListener,
    local: SocketAddr,
}

impl Agent {
    /// Listens, holds the folder, and reads what is remembered. What was under way goes on with [`Listening::run`].
    ///
    /// # Errors
    /// [`AgentError`], whose hint says what to do.
    pub async fn bind(config: AgentConfig, clock: SharedClock) -> Result<Listening, AgentError> {
        let listen = config.listen;
        exposed(&config)?;
        let failed = |error| AgentError::Listen { listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let opened = tokio::task::spawn_blocking(move || {
            let folder = Folder::open(&config.base_dir).map_err(|error| AgentError::Folder(error.to_string()))?;
            let folder = Arc::new(folder.of_capacity(config.capacity));
            let terms = Terms::open(folder.state()).map_err(AgentError::State)?;
            let tls = config.tls.clone().map(|files| ServerTls::load(files, Serving::default()));
            let tls = tls.transpose().map_err(AgentError::Tls)?.map(Arc::new);
            let transfers = Transfers::open(&config, folder.clone(), clock.clone()).map_err(AgentError::State)?;
            // What is wrong with it shall show now, and not at the first transfer.
            transfers.credentials().client().map_err(AgentError::Tls)?;
            let id = config.id.clone().unwrap_or_else(|| local.to_string());
            let (serving, digests) = (Bucket::new(config.serve_bits_per_second), Digests::default());
            let (transfers, closing) = (Arc::new(transfers), AtomicBool::new(false));
            Ok(Self { config, id, folder, transfers, terms, clock, tls, serving, digests, closing })
        });
        let agent = opened.await.map_err(|error| AgentError::State(io::Error::other(error)))??;
        Ok(Listening { agent: Arc::new(agent), listener, local })
    }

    /// What was counted since the start.
    pub(crate) fn counts(&self) -> &Counts {
        self.transfers.counts()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Says how the node is. Blocks.
    pub(crate) fn report(&self) -> Result<NodeReport, Refused> {
        let disk = |error: io::Error| Refused::new(500, "disk", format!("ask how full the disk is: {error}"));
        let stat = self.folder.space().map_err(disk)?;
        let space = stat.space();
        let settings = &self.config.transfers;
        Ok(NodeReport {
            id: self.id.clone(),
            base_dir: self.folder.path().display().to_string(),
            total: stat.blocks.saturating_mul(stat.bsize),
            used: space.used.unsigned_abs(),
            avail: space.avail.unsigned_abs(),
            free: stat.bfree.saturating_mul(stat.bsize),
            used_percent: stat.df().used_percent,
            generation: self.folder.generation().map_err(disk)?,
            transfers: self.transfers.reports(),
            limits: AgentLimits {
                bits_per_second: self.transfers.bucket().rate(),
                serve_bits_per_second: self.serving.rate(),
                max_concurrent: settings.max_concurrent,
                usage_limit_percent: settings.usage_limit_percent,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// Beyond loopback everything that is ours is encrypted and shown a secret for; only the old programs cannot.
fn exposed(config: &AgentConfig) -> Result<(), AgentError> {
    let listen = config.listen;
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let missing = match &config.tls {
        None if config.old_wire_plain => {
            tracing::warn!(
                %listen,
                "--old-wire-plain without TLS: the old programs' paths are answered in the clear, the others to this \
                 machine only"
            );
            return Ok(());
        }
        None if config.token.is_none() => "TLS and a token",
        None => "TLS",
        Some(files) if config.token.is_none() && files.client_roots.is_none() => "a token",
        Some(_) => {
            if config.old_wire_plain {
                tracing::warn!(%listen, "--old-wire-plain: the old programs' paths are answered in the clear");
            }
            return Ok(());
        }
    };
    Err(AgentError::Exposed { listen, missing })
}

impl Listening {
    /// Where it listens: the port that was found when none was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.agent.id
    }

    /// Answers and fetches until `stop` fires; what is under way is put down, so that the next process goes on there.
    pub async fn run(self, stop: CancellationToken) {
        let Self { agent, listener, local } = self;
        tracing::info!(%local, id = agent.id, folder = %agent.folder.path().display(), "the agent listens");
        let mut parts = JoinSet::new();
        hourly::set(&agent);
        parts.spawn(agent.transfers.clone().work(stop.clone()));
        parts.spawn(connection::serve(agent.clone(), listener, stop.clone()));
        if !agent.config.rates.is_empty() || !agent.config.serve_rates.is_empty() {
            parts.spawn(hourly::keep(agent.clone(), stop.clone()));
        }
        if let Some(tls) = agent.tls.clone() {
            parts.spawn(tls.keep(agent.clock.clone(), stop.clone()));
        }
        if let Some(controller) = agent.config.old_controller.clone() {
            parts.spawn(old_controller::follow(agent.clone(), controller, stop.clone()));
        }
        stop.cancelled().await;
        agent.closing.store(true, Ordering::SeqCst);
        while parts.join_next().await.is_some() {}
        tracing::info!(%local, "the agent has ended");
    }
}
