//! Tables whose data lies in S3: the job is killed anywhere, and meets a store that refuses or is silent.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use windlass_backfill::BackfillKind;
use windlass_blob::{Context, Environment, RetryPolicy, Settings, Timeouts};
use windlass_clock::{SharedClock, SystemClock, SystemEntropy};
use windlass_engine::{Engine, EngineConfig, JobRequest, Kinds, report};
use windlass_model::JobId;
use windlass_model::job::JobResult;
use windlass_sim::matrix::{self, Case, Cast};
use windlass_sim::s3::{Fault, FaultProxy, S3Server, Script, Seen};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;
use windlass_table::Table;

use crate::{fill_at, is_the_same, spec, state, wanted};

/// Little patience, so that what fails for ever fails soon.
fn settings() -> Settings {
    let retry = RetryPolicy {
        attempts: NonZeroU32::new(3).unwrap(),
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        ..RetryPolicy::default()
    };
    Settings { retry, timeouts: Timeouts { idle: Duration::from_secs(60), ..Timeouts::default() } }
}

fn credentials() -> Environment {
    Environment::from_pairs(S3Server::credentials())
}

struct Site {
    folder: TempDir,
    proxy: FaultProxy,
    _server: S3Server,
    table: Table,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s3");
        std::fs::create_dir_all(&place).unwrap();
        let server = S3Server::start(&place).unwrap();
        server.create_bucket("bucket").unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        let url = format!("s3://bucket/tables/trips?endpoint={}", proxy.endpoint());
        let context = Context::real().with_environment(credentials()).with_settings(settings());
        let table = fill_at(folder.path(), Some(url), &context).await;
        Self { folder, proxy, _server: server, table }
    }

    fn kinds() -> Kinds {
        Kinds::new().with(BackfillKind::with_stores(credentials(), settings()))
    }

    async fn state(&self) -> String {
        state(&self.table, &self.folder.path().join("look")).await
    }
}

async fn case() -> Case {
    let site = Arc::new(Site::new().await);
    let request = JobRequest {
        kind: "backfill".into(),
        name: "test".into(),
        spec: spec(site.folder.path(), None),
        ..JobRequest::default()
    };
    Case {
        clock: SystemClock::real(),
        kinds: Site::kinds(),
        request,
        others: Vec::new(),
        reversed: false,
        then: None,
        work_dir: site.folder.path().join("jobs"),
        fingerprint: Box::new(move || {
            let site = site.clone();
            Box::pin(async move { site.state().await })
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_on_a_table_in_s3_that_is_killed_merges_every_row_once() {
    let wanted = wanted().await;
    let stores = |clock: SharedClock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(stores, case, 3, Cast::Alone, 4).await;
    println!("{}\n{}", matrix.clean, matrix.to_table());
    assert!(matrix.clean.contains("completed succeeded") && matrix.clean.contains(&wanted), "{}", matrix.clean);
    let different = matrix.rows.iter().filter_map(|row| Some((row.n, row.difference.as_deref()?)));
    let different: Vec<_> = different.filter(|(_, difference)| !is_the_same(difference)).collect();
    assert!(different.is_empty(), "{different:#?}");
}

/// Runs a job while the store does what `script` says; what it came to, and why.
async fn job(site: &Site, name: &str, deadline: Option<Duration>, script: Script) -> (Option<JobResult>, String) {
    let clock = SystemClock::real();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let work = site.folder.path().join(name);
    let config = EngineConfig::new(store.clone(), clock.clone(), SystemEntropy::real(), Site::kinds(), work);
    let engine = Engine::open(config).await.unwrap();
    site.proxy.run(script);
    let request = JobRequest {
        kind: "backfill".into(),
        name: name.into(),
        spec: json!({ "table": site.table.home() }),
        deadline,
        ..JobRequest::default()
    };
    let job: JobId = engine.submit(request).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    site.proxy.run(Script::pass());
    let report = report::make(&*store, &Site::kinds(), job, clock.wall()).await.unwrap();
    (status.result, serde_json::to_string(&report).unwrap())
}

fn uploads(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.ends_with(".parquet")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_or_is_silent_ends_the_job_with_that_reason_and_loses_nothing() {
    let site = Site::new().await;
    let before = site.state().await;
    let refused = Script::by(|seen| if uploads(seen) { Fault::status(403) } else { Fault::Pass });
    let (result, why) = job(&site, "refused", None, refused).await;
    assert!(!result.unwrap().is_success(), "{why}");
    assert!(why.contains("403") && why.contains("AccessDenied") && why.contains("credentials"), "{why}");
    let silent = Script::by(|seen| if uploads(seen) { Fault::Hang } else { Fault::Pass });
    let (result, why) = job(&site, "silent", Some(Duration::from_secs(2)), silent).await;
    assert!(!result.unwrap().is_success() && why.contains("deadline"), "{why}");
    let now = site.state().await;
    let rows = |text: &str| text.split(", merged").next().unwrap().to_owned();
    assert_eq!(rows(&now), rows(&before), "nothing is visible");
    let (result, why) = job(&site, "again", None, Script::pass()).await;
    assert!(result.unwrap().is_success(), "{why}");
    let digest = |text: &str| text.split(" strangers").next().unwrap().rsplit_once(", ").unwrap().0.to_owned();
    assert_eq!(digest(&site.state().await), digest(&wanted().await));
}
