//! Traces: what jobs did, as spans that any collector of OpenTelemetry takes.
//!
//! A job is a trace, and the span at its top lasts from its start to its end; each attempt at a task is a span below
//! it. Spans are made from what the store has on record, not by instrumented code: whichever process ran an attempt,
//! and whatever was killed meanwhile, the trace is whole. The ids follow from the job, the task and the epoch, so a
//! span that is sent twice (at least once, as with webhooks) has the same ids both times.
//!
//! Sent is OTLP 1 over HTTP, as protobuf: <https://opentelemetry.io/docs/specs/otlp/#otlphttp>. Of several servers on a
//! store one sends, by the claim `traces/claim`; `traces/cursor` is the last event whose spans were taken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use percent_encoding::percent_decode_str;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use windlass_clock::deadline;
use windlass_engine::EngineError;
use windlass_engine::records::{JobRecord, TaskRecord, decode};
use windlass_model::job::{JobResult, JobStatus};
use windlass_model::log::LogEntry;
use windlass_model::task::TaskStatus;
use windlass_model::{Failure, JobId, TaskId, WorkerId};
use windlass_store::{Committed, Compare, Store, Txn, keys};

use crate::app::App;
use crate::config::TracesConfig;
use crate::duty;
use crate::feed::{EventId, Feed, Told};

const CLAIM: &str = "traces/claim";
const CURSOR: &str = "traces/cursor";
/// Spans of one request.
const BATCH: usize = 256;
/// Events that made no span; the cursor is moved past so many of them at once.
const PASSED: u32 = 500;
/// How long spans wait at most for others to go with them.
const QUIET: Duration = Duration::from_secs(1);
/// Time for the collector to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// Entries of the log with which an attempt ends.
const ENDS: [&str; 5] = ["task.done", "task.failed", "task.retry", "task.worker_died", "task.poisoned"];

/// Checks what can be checked before anything is sent.
pub(crate) fn check(to: &TracesConfig) -> Result<(), String> {
    let url = &to.endpoint;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("traces: an http or https URL of a collector without a user is expected".to_owned());
    }
    headers(to).map(drop)
}

/// Sends spans for as long as the server runs.
pub(crate) async fn export(app: Arc<App>, to: TracesConfig) {
    let client = match reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no traces can be sent");
            return;
        }
    };
    loop {
        let work = async |claimed| follow(&app, &to, &client, &claimed).await;
        if let Err(error) = duty::hold(&app, CLAIM.to_owned(), work).await {
            tracing::warn!(%error, "sending traces was interrupted");
        }
        app.clock.sleep(QUIET).await;
    }
}

/// Makes spans of all events from the cursor on.
async fn follow(app: &App, to: &TracesConfig, client: &reqwest::Client, claimed: &Compare) -> Result<(), EngineError> {
    let store = app.store();
    let stored = store.get(CURSOR).await?;
    let after: Option<EventId> = stored.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok());
    let mut feed = Feed::after(store.clone(), after).await?;
    let taken = async |to: EventId| -> Result<(), EngineError> {
        let txn = Txn::new().when(claimed.clone()).put(CURSOR, to.to_string());
        match store.commit(txn).await? {
            Committed::At(_) => Ok(()),
            Committed::Conflict(_) => Err(EngineError::ClaimLost),
        }
    };
    if after.is_none() {
        // What comes from now on, also after a restart.
        taken(feed.at()).await?;
    }
    let (mut spans, mut passed) = (Vec::new(), 0);
    // Set while spans wait.
    let mut due: Option<Duration> = None;
    loop {
        let told = match due {
            None => Some(feed.next().await?),
            Some(due) => {
                let left = due.saturating_sub(app.clock.monotonic());
                deadline(&*app.clock, left, feed.next()).await.ok().transpose()?
            }
        };
        match told {
            Some(Told::Entry(_, job, entry)) => match span(&**store, job, &entry).await? {
                Some(span) => {
                    due.get_or_insert(app.clock.monotonic() + QUIET);
                    spans.push(span);
                }
                None => passed += 1,
            },
            Some(Told::Reset(_)) | None => {}
        }
        if spans.len() >= BATCH || due.is_some_and(|due| app.clock.monotonic() >= due) {
            send(app, to, client, std::mem::take(&mut spans)).await;
            due = None;
        } else if passed < PASSED || !spans.is_empty() {
            continue;
        }
        taken(feed.at()).await?;
        passed = 0;
    }
}

/// The span that ended with a log entry, if one did and its records are still there.
async fn span(store: &dyn Store, job: JobId, entry: &LogEntry) -> Result<Option<Span>, EngineError> {
    match entry.task {
        Some(task) if ENDS.contains(&entry.code.as_str()) => {
            let Some(status) = store.get(&keys::status(job, task)).await? else { return Ok(None) };
            let Some(record) = store.get(&keys::task(job, task)).await? else { return Ok(None) };
            let (status, record): (TaskStatus, TaskRecord) = (decode(&status)?, decode(&record)?);
            Ok(Ended::of(&status, entry).map(|ended| of_attempt(job, task, &record, &ended)))
        }
        None if entry.code == "job.completed" => {
            let Some(record) = store.get(&keys::job(job)).await? else { return Ok(None) };
            let Some(status) = store.get(&keys::state(job)).await? else { return Ok(None) };
            Ok(of_job(&decode(&record)?, &decode(&status)?, entry.at))
        }
        _ => Ok(None),
    }
}

fn of_job(record: &JobRecord, status: &JobStatus, at: Timestamp) -> Option<Span> {
    let started = status.started?;
    let result = match status.result {
        Some(JobResult::Succeeded | JobResult::SucceededWithWarnings) => (Code::Ok, String::new()),
        _ => (Code::Error, status.failure.as_ref().map(ToString::to_string).unwrap_or_default()),
    };
    // What was retried as a whole is a span of its own below the first one.
    let top = span_id(record.id, None, 1);
    let again = status.generation > 1;
    Some(Span {
        span_id: if again { span_id(record.id, None, status.generation.into()) } else { top.clone() },
        parent_span_id: if again { top } else { Vec::new() },
        attributes: vec![
            text("windlass.job", record.id.to_string()),
            text("windlass.kind", record.kind.clone()),
            text("windlass.name", record.name.clone()),
        ],
        ..shape(record.id, format!("{} {}", record.kind, record.name), started, at, result)
    })
}

/// An attempt that ended.
struct Ended<'a> {
    epoch: u64,
    worker: Option<WorkerId>,
    from: Timestamp,
    to: Timestamp,
    failure: Option<&'a Failure>,
}

impl<'a> Ended<'a> {
    /// The attempt that ended with a log entry.
    fn of(status: &'a TaskStatus, entry: &LogEntry) -> Option<Self> {
        // Later attempts may have ended by now; they have entries of their own.
        if let Some(attempt) = status.attempts.iter().rfind(|attempt| attempt.ended <= entry.at) {
            return Some(Self {
                epoch: attempt.claim.epoch.0,
                worker: Some(attempt.claim.worker),
                from: attempt.claim.since,
                to: attempt.ended,
                failure: attempt.failure.as_deref(),
            });
        }
        // Of a first attempt that succeeded only the times are kept.
        let from = status.started.filter(|_| status.attempts.is_empty())?;
        Some(Self { epoch: status.epoch.0, worker: None, from, to: entry.at, failure: None })
    }
}

fn of_attempt(job: JobId, task: TaskId, record: &TaskRecord, ended: &Ended<'_>) -> Span {
    let result = match ended.failure {
        None => (Code::Ok, String::new()),
        Some(failure) => (Code::Error, failure.to_string()),
    };
    let spec = &record.spec;
    let mut attributes = vec![
        text("windlass.job", job.to_string()),
        text("windlass.task", task.to_string()),
        text("windlass.task_type", spec.task_type.clone()),
        text("windlass.resource", spec.resource.clone()),
        KeyValue {
            key: "windlass.epoch".to_owned(),
            value: Some(AnyValue { value: Some(Value::IntValue(ended.epoch.cast_signed())) }),
            ..KeyValue::default()
        },
    ];
    attributes.extend(ended.worker.map(|worker| text("windlass.worker", worker.to_string())));
    attributes.extend(ended.failure.map(|failure| text("error.type", failure.code.clone())));
    Span {
        span_id: span_id(job, Some(task), ended.epoch),
        parent_span_id: span_id(job, None, 1),
        attributes,
        ..shape(job, format!("{} {}", spec.task_type, spec.resource), ended.from, ended.to, result)
    }
}

/// What all spans have.
fn shape(job: JobId, name: String, from: Timestamp, to: Timestamp, result: (Code, String)) -> Span {
    let nanos = |at: Timestamp| u64::try_from(at.as_nanosecond()).unwrap_or(0);
    Span {
        trace_id: job.bits().to_be_bytes().to_vec(),
        name,
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(from),
        end_time_unix_nano: nanos(to).max(nanos(from)),
        status: Some(Status { code: result.0.into(), message: result.1 }),
        // Sampled, and not a part of somebody else's trace.
        flags: 0x101,
        ..Span::default()
    }
}

/// The id of the span of an attempt at a task, or of a job.
fn span_id(job: JobId, task: Option<TaskId>, n: u64) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(job.bits().to_be_bytes());
    if let Some(task) = task {
        hash.update(task.bits().to_be_bytes());
    }
    hash.update(n.to_be_bytes());
    hash.finalize()[..8].to_vec()
}

fn text(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Sends spans until they are taken, or refused for good.
async fn send(app: &App, to: &TracesConfig, client: &reqwest::Client, spans: Vec<Span>) {
    let number = spans.len();
    let resource = Resource {
        attributes: vec![
            text("service.name", "windlass".to_owned()),
            text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "windlass".to_owned(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let all = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    let body = Bytes::from(ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec());
    let mut wait = Duration::from_millis(500);
    loop {
        match attempt(app, to, client, body.clone()).await {
            Ok(()) => return app.metrics.spans("taken", number),
            Err(Refused::ForGood(why)) => {
                tracing::warn!(why, number, "the collector of traces does not take these spans, they are dropped");
                return app.metrics.spans("dropped", number);
            }
            Err(Refused::ForNow(why)) => {
                tracing::warn!(why, number, "traces could not be sent, trying again");
            }
        }
        // Up to half as long again, so that many servers do not ask at once.
        app.clock.sleep(wait.mul_f64(1.0 + app.entropy.fraction() / 2.0)).await;
        wait = (wait * 2).min(LONGEST);
    }
}

/// Why spans were not taken.
enum Refused {
    /// Later they may be.
    ForNow(String),
    /// They never will be.
    ForGood(String),
}

async fn attempt(app: &App, to: &TracesConfig, client: &reqwest::Client, body: Bytes) -> Result<(), Refused> {
    let mut url = to.endpoint.clone();
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    // Looked up each time: secrets are changed without a restart.
    let mut request = client.post(url).header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
    for (name, value) in headers(to).map_err(Refused::ForNow)? {
        request = request.header(name, value);
    }
    match deadline(&*app.clock, PATIENCE, request.send()).await {
        Err(_) => Err(Refused::ForNow("no answer in time".to_owned())),
        // The URL may have a secret in its query.
        Ok(Err(error)) => Err(Refused::ForNow(error.without_url().to_string())),
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        // The list of the specification, and those that mean a wrong token, which somebody will mend.
        Ok(Ok(answer)) => match answer.status().as_u16() {
            401 | 403 | 404 | 429 | 502 | 503 | 504 => {
                Err(Refused::ForNow(format!("the answer was {}", answer.status())))
            }
            _ => Err(Refused::ForGood(format!("the answer was {}", answer.status()))),
        },
    }
}

/// The headers to send along.
fn headers(to: &TracesConfig) -> Result<Vec<(String, String)>, String> {
    let name = &to.headers_env;
    let Ok(list) = std::env::var(name) else { return Ok(Vec::new()) };
    let wrong = || format!("the environment variable {name} is not a list of name=value,name=value");
    list.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
            Ok((name.trim().to_owned(), value.into_owned()))
        })
        .collect()
}
