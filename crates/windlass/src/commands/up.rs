//! `windlass up`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use windlass_api::{Fault, SubmitRequest};
use windlass_backfill::ingest::Ingest;
use windlass_server::{JobText, Metrics, Server, ServerConfig, StoreGauges, TlsFiles, TracesConfig, WebhookConfig};
use windlass_store::StoreError;

use super::allow::Allow;
use super::table::place::{Place, context as around_tables};
use super::worker::{labels, parse_label};
use crate::DEFAULT_SERVER;
use crate::app::App;
use crate::control::{self, Control};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::job_file::JobFile;
use crate::problem::Problem;
use crate::rows::Tables;
use crate::state::{Held, HeldStore, Part, State};

/// Said at the first signal.
const ENDING: &str = "ending: what runs stops at its next safe point (again: stop at once)";

/// Where to serve, whom, and what the worker beside the server may do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address to listen on; beyond loopback only with TLS and an access file
    #[arg(long, env = "WINDLASS_LISTEN", value_name = "ADDRESS", default_value = DEFAULT_SERVER)]
    listen: SocketAddr,
    /// Certificate in PEM, with those between it and a root
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Roots of client certificates in PEM; clients may then show a certificate instead of a token
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Who may do what, one line each; `windlass token new` makes such a line
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
    /// A name under which browsers reach the server, besides its address. May be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Let everybody who can connect read /metrics
    #[arg(long)]
    open_metrics: bool,
    /// Whom to tell about changes of jobs: a YAML or JSON list of {name, url, secret: {env: NAME}, events}
    #[arg(long, value_name = "FILE")]
    webhooks: Option<PathBuf>,
    /// Send traces to this collector, OTLP over HTTP; a job is a trace, an attempt a span. Headers, a token
    /// perhaps, are taken from the variable OTEL_EXPORTER_OTLP_HEADERS
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp: Option<url::Url>,
    /// Only serve; run no tasks
    #[arg(long)]
    no_worker: bool,
    /// What the worker is called in lists [default: the name of this machine, and the process]
    #[arg(long, value_name = "NAME", conflicts_with = "no_worker")]
    name: Option<String>,
    /// Something that the worker has and not every worker does, `name=value`. May be repeated
    #[arg(long, value_name = "LABEL", value_parser = parse_label, conflicts_with = "no_worker")]
    label: Vec<(String, String)>,
    /// Tasks that run at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    places: Option<u16>,
    /// Where the tables are for which rows are taken over HTTP
    #[command(flatten)]
    tables: Place,
    /// What tasks of `dag` jobs may do here
    #[command(flatten)]
    allow: Allow,
}

impl Args {
    fn config(&self) -> anyhow::Result<ServerConfig> {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone()).map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_roots: self.client_ca.clone(),
        });
        Ok(ServerConfig {
            tls,
            access_file: self.access.clone(),
            hosts: self.host.clone(),
            open_metrics: self.open_metrics,
            traces: self
                .otlp
                .clone()
                .map(|endpoint| TracesConfig { endpoint, headers_env: "OTEL_EXPORTER_OTLP_HEADERS".to_owned() }),
            webhooks: self.webhooks.as_deref().map(read_webhooks).transpose()?.unwrap_or_default(),
            ..ServerConfig::new(self.listen)
        })
    }

    fn part(&self) -> Part {
        Part {
            places: self.places.map(usize::from),
            take_up: !self.no_worker,
            name: self.name.clone(),
            labels: labels(&self.label),
            lease: None,
        }
    }
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let app = &args.allow.apply(app);
    let config = args.config()?;
    let state = app.own_state()?;
    if args.no_worker && state.folder().is_some() {
        return Err(
            Problem::usage("--no-worker leaves nobody to run jobs: a folder is worked on by one process").into()
        );
    }
    let interrupt = Interrupt::listen(&app.output, ENDING)?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let metrics = Arc::new(Metrics::new());
    let held = state.open_measured(&app.setting, args.part(), &metrics).await.map_err(held_elsewhere)?;
    let server = match Server::bind(config, held.engine.clone(), app.setting.clock.clone()).await {
        Ok(server) => server,
        Err(error) => {
            held.close().await?;
            let problem = match &error {
                windlass_server::ServerError::Listen { .. } => Problem::unreachable("start the server"),
                _ => Problem::usage("start the server"),
            };
            let hint = error.hint();
            return Err(anyhow::Error::new(error).context(problem.hint(hint)));
        }
    };
    let previews =
        tempfile::Builder::new().prefix("windlass-previews-").tempdir().context("make a folder for plans")?;
    let server = server
        .with_pages(Arc::new(windlass_ui::Ui))
        .with_previews(app.setting.preview_config(previews.path().to_owned(), args.places.map(usize::from)))
        .with_job_text(Arc::new(Files(app.setting.kinds.clone())))
        .with_metrics(metrics)
        .with_gauges(Arc::new(Size(held.store.clone())));
    let figures = windlass_backfill::Figures::of_process();
    let server = server.with_more_metrics(Arc::new(More(figures.clone(), app.setting.clock.clone())));
    let server = match args.tables.folder() {
        Ok(tables) => server.with_rows(Arc::new(Tables(Ingest::start(tables, around_tables(app), figures)))),
        // Where nobody can say where tables are, there are none.
        Err(error) => {
            tracing::debug!(%error, "no rows are taken over HTTP");
            server
        }
    };
    let mut control = door(app, &state, &held)?;
    let (url, local, reload) = (server.url(), server.local_addr(), server.reload());
    app.output.note(format!("serving {state} at {url}"));
    if app.output.is_json() {
        // Programs that start a server wait for this line; it is the one document.
        app.output.json(&json!({ "url": url, "address": local, "worker": held.engine.worker() }))?;
    }
    let ending = CancellationToken::new();
    let mut serving = std::pin::pin!(server.run(ending.clone()));
    loop {
        tokio::select! {
            biased;
            () = interrupt.came(), if !ending.is_cancelled() => ending.cancel(),
            () = &mut serving => break,
            _ = hangup.recv() => reload.now(),
            incoming = control::incoming(&mut control) => {
                let Some((request, reply)) = incoming else { continue };
                // Whoever asked may have gone; it is done all the same.
                let _ = reply.send(control::obey(&held.engine, request).await);
            }
        }
    }
    drop(control);
    held.close().await?;
    Ok(Exit::Done)
}

/// Says whom to ask when somebody else has the folder.
fn held_elsewhere(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Held(_)) => error.context(
            Problem::unreachable("the state folder is in use by another process")
                .hint("wait for it or stop it, or serve another folder with --state"),
        ),
        _ => error,
    }
}

/// The door for commands of the same user on this machine; an etcd needs none.
fn door(app: &App, state: &State, held: &Held) -> anyhow::Result<Option<Control>> {
    let Some(folder) = state.folder() else { return Ok(None) };
    let control = Control::listen(folder.dir(), app.setting.clock.clone())
        .map_err(|error| anyhow::Error::new(error).context(Problem::unreachable("open the control socket")))?;
    held.set_address(control.address())?;
    Ok(Some(control))
}

/// Reads job files that are sent to the server as the command line reads them.
struct Files(windlass_engine::Kinds);

impl JobText for Files {
    fn parse(&self, text: &str) -> Result<SubmitRequest, Vec<Fault>> {
        JobFile::parse("the job file", text, &self.0).map(|file| file.submission).map_err(|faults| {
            let fault = |fault: &crate::job_file::Fault| Fault {
                pointer: fault.pointer.clone(),
                message: fault.message.clone(),
                line: Some(fault.line),
                column: Some(fault.column),
            };
            faults.list.iter().map(fault).collect()
        })
    }
}

/// How large the store is, for metrics and alarms.
struct Size(HeldStore);

#[async_trait]
impl StoreGauges for Size {
    async fn size(&self) -> Option<(u64, Option<u64>)> {
        self.0.size().await
    }
}

/// What kinds count.
struct More(Arc<windlass_backfill::Figures>, windlass_clock::SharedClock);

impl windlass_server::MoreMetrics for More {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        self.0.write(text)?;
        windlass_distribute_jobs::metrics::write(text, &*self.1)
    }
}

/// A receiver of events as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Webhook {
    name: String,
    url: String,
    secret: SecretRef,
    #[serde(default)]
    events: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum SecretRef {
    Env(String),
    File(PathBuf),
}

fn read_webhooks(path: &std::path::Path) -> anyhow::Result<Vec<WebhookConfig>> {
    let wrong = || Problem::usage(format!("the list of webhooks {} cannot be used", path.display()));
    let text = std::fs::read_to_string(path).with_context(wrong)?;
    let value = crate::job_file::read_plain(&text).map_err(|why| anyhow::anyhow!(why)).with_context(wrong)?;
    let list: Vec<Webhook> = serde_json::from_value(value).with_context(wrong)?;
    list.into_iter()
        .map(|hook| {
            Ok(WebhookConfig {
                url: url::Url::parse(&hook.url).with_context(wrong)?,
                name: hook.name,
                secret: match hook.secret {
                    SecretRef::Env(name) => windlass_server::SecretRef::Env(name),
                    SecretRef::File(path) => windlass_server::SecretRef::File(path),
                },
                events: hook.events,
            })
        })
        .collect()
}
