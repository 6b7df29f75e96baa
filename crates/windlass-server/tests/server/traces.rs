//! Traces: a job is a trace, whoever ran it and however often the collector refused it first.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use windlass_clock::{SystemClock, deadline};
use windlass_server::{ServerConfig, TracesConfig};
use windlass_store::memory::MemoryStore;

use crate::stand::{PATIENCE, Stand, config, serve};

#[derive(Clone)]
struct Collector {
    spans: watch::Sender<Vec<Span>>,
    /// The answers that it gives before it takes anything.
    refusals: watch::Sender<Vec<StatusCode>>,
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let mut refusal = None;
    collector.refusals.send_modify(|refusals| refusal = refusals.pop());
    if let Some(status) = refusal {
        return status;
    }
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let spans = request.resource_spans.into_iter().flat_map(|all| all.scope_spans).flat_map(|scope| scope.spans);
    collector.spans.send_modify(|taken| taken.extend(spans));
    StatusCode::OK
}

impl Collector {
    fn new(refusals: Vec<StatusCode>) -> Self {
        Self { spans: watch::channel(Vec::new()).0, refusals: watch::channel(refusals).0 }
    }

    /// Listens below `/otel`; the handle ends it.
    async fn listen(&self) -> (ServerConfig, AbortOnDropHandle<()>) {
        let (address, listening) =
            serve(Router::new().route("/otel/v1/traces", post(take)).with_state(self.clone())).await;
        let endpoint = format!("http://{address}/otel/").parse().unwrap();
        let mut config = config();
        config.traces = Some(TracesConfig { endpoint, headers_env: "WINDLASS_TEST_HEADERS_NOT_SET".to_owned() });
        (config, listening)
    }

    /// The spans of a job, once the one at its top has come.
    async fn of(&self, stand: &Stand, job: &str) -> Vec<Span> {
        let mut spans = self.spans.subscribe();
        let top = |span: &Span| attribute(span, "windlass.job") == job && span.parent_span_id.is_empty();
        let come = spans.wait_for(|spans| spans.iter().any(top));
        let all = deadline(&*stand.clock, PATIENCE, come).await.expect("the trace comes").unwrap().clone();
        all.into_iter().filter(|span| attribute(span, "windlass.job") == job).collect()
    }
}

fn attribute(span: &Span, name: &str) -> String {
    let value = span.attributes.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{name} is {other:?} in {span:?}"),
    }
}

async fn begun(stand: &Stand, store: &MemoryStore) {
    let begun = async {
        while windlass_store::Store::get(store, "traces/cursor").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    deadline(&*stand.clock, PATIENCE, begun).await.expect("the export begins");
}

#[tokio::test]
async fn a_job_is_a_trace_with_a_span_for_each_attempt() {
    let collector = Collector::new(vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::UNAUTHORIZED]);
    let (config, _listening) = collector.listen().await;
    let store = MemoryStore::new(SystemClock::real());
    let stand = Stand::on(Arc::new(store.clone()), config).await;
    begun(&stand, &store).await;
    let job = stand.submit("a", json!({ "steps": 3 })).await;
    stand.rest(&job).await;
    let spans = collector.of(&stand, &job).await;
    let (tops, attempts): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| span.parent_span_id.is_empty());
    let [top] = tops[..] else { panic!("{tops:?}") };
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    for attempt in &attempts {
        assert_eq!(
            (attempt.trace_id.as_slice(), attempt.parent_span_id.as_slice()),
            (&top.trace_id[..], &top.span_id[..])
        );
        assert_eq!(attribute(attempt, "windlass.epoch"), "1");
        assert!(!attribute(attempt, "windlass.task_type").is_empty());
        assert!(attempt.start_time_unix_nano >= top.start_time_unix_nano);
        assert!(attempt.end_time_unix_nano <= top.end_time_unix_nano);
    }
    let mut ids: Vec<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), top.trace_id.len(), top.span_id.len()), (4, 16, 8));
}

#[tokio::test]
async fn what_ran_while_no_server_sent_traces_is_sent_by_the_next() {
    let collector = Collector::new(Vec::new());
    let (sending, _listening) = collector.listen().await;
    let store = MemoryStore::new(SystemClock::real());
    let stand = Stand::on(Arc::new(store.clone()), sending.clone()).await;
    begun(&stand, &store).await;
    let stand = stand.restart(config()).await;
    let job = stand.submit("b", json!({ "steps": 2 })).await;
    stand.rest(&job).await;
    assert!(collector.spans.borrow().is_empty());
    let stand = stand.restart(sending).await;
    assert_eq!(collector.of(&stand, &job).await.len(), 3);
}

#[tokio::test]
async fn spans_that_the_collector_will_never_take_are_dropped() {
    let collector = Collector::new(vec![StatusCode::BAD_REQUEST]);
    let (config, _listening) = collector.listen().await;
    let store = MemoryStore::new(SystemClock::real());
    let stand = Stand::on(Arc::new(store.clone()), config).await;
    begun(&stand, &store).await;
    let first = stand.submit("a", json!({ "steps": 1 })).await;
    stand.rest(&first).await;
    let mut refusals = collector.refusals.subscribe();
    let refused = refusals.wait_for(Vec::is_empty);
    deadline(&*stand.clock, PATIENCE, refused).await.expect("something is refused").unwrap();
    let second = stand.submit("b", json!({ "steps": 1 })).await;
    stand.rest(&second).await;
    assert_eq!(collector.of(&stand, &second).await.len(), 2);
}
