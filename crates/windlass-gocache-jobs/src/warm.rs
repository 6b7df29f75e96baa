//! `warm`: fetches into a local folder what the last builds used, before anybody waits for it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use windlass_clock::SharedClock;
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_gocache::disk::Disk;
use windlass_gocache::local::OpenOptions;
use windlass_gocache_remote::{Prefetched, Remote, RemoteConfig};
use windlass_model::Failure;
use windlass_model::effect::EffectEvent;

use crate::place;
use crate::spec::GocacheSpec;

/// The task that looks.
pub(crate) const LOOK: &str = "gocache.look";
/// The task that fetches.
pub(crate) const FETCH: &str = "gocache.fetch";

/// Between two looks at whether the job shall stop: what one call fetches at most.
const SLICE: Duration = Duration::from_secs(20);
/// Calls that brought nothing before the task gives up.
const IDLE: u32 = 3;

pub(crate) struct LookTask;
pub(crate) struct FetchTask;

#[async_trait]
impl TaskType for LookTask {
    fn name(&self) -> &'static str {
        LOOK
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = GocacheSpec::parse(cx.job_spec())?;
        let url = place::url(spec.remote.as_ref(), "remote")?;
        let found = place::remote(cx, &url)?.inspect().await.map_err(|error| place::of_remote(&error))?;
        let output = json!({
            "there": { "objects": found.outputs, "bytes": found.output_bytes },
            "actions": found.actions,
            "namespaces": found.namespaces.iter().take(100).map(|(name, runs, newest)| {
                json!({ "namespace": name, "runs": runs, "newest": newest })
            }).collect::<Vec<_>>(),
        });
        Ok(Finished { output, add: vec![cx.new_task(FETCH, "outputs").requires(cx.spec().id)] })
    }
}

#[async_trait]
impl TaskType for FetchTask {
    fn name(&self) -> &'static str {
        FETCH
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = GocacheSpec::parse(cx.job_spec())?;
        let url = place::url(spec.remote.as_ref(), "remote")?;
        let folder = PathBuf::from(spec.folder.clone().unwrap_or_default());
        let target = folder.display().to_string();
        let config = RemoteConfig {
            read: vec![url],
            namespaces: if spec.namespaces.is_empty() { vec!["default".to_owned()] } else { spec.namespaces },
            ..RemoteConfig::default()
        };
        let intent = Intent { n: 0, action: "fetch".to_owned(), key: target.clone(), target, parameters: json!({}) };
        cx.intend(vec![intent]).await?;
        let (mut before, mut idle) = (None, 0);
        let fetched = loop {
            let (folder, config, clock) = (folder.clone(), config.clone(), cx.clock().clone());
            // Not begun before it may.
            let fetching = async { tokio::task::spawn_blocking(move || fetch(&folder, config, clock)).await };
            let fetched = cx.outside("fetch", fetching).await?;
            let fetched = fetched
                .map_err(|error| Failure::permanent("bug", format!("fetching ended unexpectedly: {error}")))??;
            if fetched.missing == 0 {
                break fetched;
            }
            idle = if before == Some(fetched.outputs) { idle + 1 } else { 0 };
            before = Some(fetched.outputs);
            if idle >= IDLE {
                let message = format!("{} outputs could not be fetched", fetched.missing);
                return Err(Failure::transient("missing", message));
            }
        };
        let receipt = json!({ "outputs": fetched.outputs, "local": fetched.local });
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: Some(receipt.clone()) }).await?;
        Ok(Finished::with(receipt))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        // What is in a local folder is used by whoever finds it, and goes when nobody uses it any more.
        cx.settle_undone(0).await?;
        Ok(Finished::default())
    }
}

/// Fetches for as long as one slice; blocks.
fn fetch(folder: &Path, config: RemoteConfig, clock: SharedClock) -> Result<Prefetched, Failure> {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let warn = {
        let told = told.clone();
        move |line: &str| told.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned())
    };
    let spare = folder.join("spare");
    let disk = Disk::open(folder, spare, &OpenOptions::default(), clock.clone(), &warn);
    if disk.main().is_none() {
        let why = told.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
        return Err(Failure::permanent("folder", format!("the folder {} cannot be used: {why}", folder.display())));
    }
    let remote = Remote::start(config, Arc::new(disk), clock, warn);
    let fetched = remote.prefetch(SLICE);
    let _ = remote.close(Duration::ZERO);
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match told.first() {
        Some(why) if fetched.actions == 0 => Err(Failure::transient("remote", why.clone())),
        _ => Ok(fetched),
    }
}
