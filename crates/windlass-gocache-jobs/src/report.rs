//! `report`: how the last builds fared, and what the next build of each branch would find.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use windlass_blob::BlobStore;
use windlass_engine::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_gocache::local::{LocalStore, OpenOptions, Run};
use windlass_gocache_remote::{ActionId, Table};
use windlass_model::Failure;

use crate::place;
use crate::spec::GocacheSpec;

/// The task that reads.
pub(crate) const READ: &str = "gocache.read";

/// Runs of one folder that are read.
const RUNS: usize = 10_000;
/// Stretches of time that are told apart.
const BUCKETS: i64 = 120;
/// Lookups that are named.
const SLOWEST: usize = 20;
/// Branches that are looked at.
const BRANCHES: usize = 30;
/// Bytes of one object of the index, and of all of it.
const LARGEST: u64 = 64 << 20;
const LARGEST_INDEX: u64 = 256 << 20;

pub(crate) struct ReadTask;

#[async_trait]
impl TaskType for ReadTask {
    fn name(&self) -> &'static str {
        READ
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = GocacheSpec::parse(cx.job_spec())?;
        let folders = spec.folders.clone();
        let clock = cx.clock().clone();
        let runs = tokio::task::spawn_blocking(move || {
            let mut runs = Vec::new();
            for folder in &folders {
                let store = LocalStore::open(Path::new(folder), &OpenOptions::default(), clock.clone())
                    .map_err(|error| Failure::permanent("folder", error.to_string()))?;
                let read = store
                    .runs(RUNS)
                    .map_err(|error| Failure::transient("folder", format!("read the history of {folder}: {error}")))?;
                runs.extend(read);
            }
            Ok::<_, Failure>(runs)
        });
        let runs = runs.await.map_err(|error| Failure::permanent("bug", error.to_string()))??;
        let mut output = of_runs(&runs);
        if spec.remote.is_some() {
            let url = place::url(spec.remote.as_ref(), "remote")?;
            output["branches"] = Value::from(branches(&place::objects(cx, &url)?).await?);
        }
        Ok(Finished::with(output))
    }
}

/// A bucket of the picture.
#[derive(Default)]
struct Bucket {
    runs: u64,
    local: u64,
    remote: u64,
    miss: u64,
}

/// The picture's numbers.
fn of_runs(runs: &[Run]) -> Value {
    let mut timed: Vec<(Timestamp, &Run)> = runs.iter().filter_map(|run| Some((run.began?, run))).collect();
    timed.sort_by_key(|(at, _)| *at);
    let (Some((first, _)), Some((last, _))) = (timed.first(), timed.last()) else { return json!({ "runs": 0 }) };
    let first_s = first.as_second();
    let width = ((last.as_second() - first_s) / BUCKETS + 1).max(60);
    let mut buckets: BTreeMap<i64, Bucket> = BTreeMap::new();
    let (mut bytes, mut requests, mut lookups, mut waited) = (0_u64, 0_u64, 0_u64, 0_u64);
    for (at, run) in &timed {
        let bucket = buckets.entry((at.as_second() - first_s) / width).or_default();
        bucket.runs += 1;
        bucket.local += run.local_hits;
        bucket.remote += run.remote_hits;
        bucket.miss += run.misses;
        let counted = |name: &str| run.remote.as_ref().and_then(|remote| remote.get(name)?.as_u64()).unwrap_or(0);
        // Compressed, in packs, and once: what was read against what it became.
        bytes += counted("output_bytes_read").saturating_sub(counted("bytes_read"));
        // A plain program asks for each get that is not local, and twice more for each that is found.
        lookups += run.misses + 3 * run.remote_hits;
        requests += counted("requests");
        waited += run.remote_wait_ms;
    }
    let mut slowest: Vec<&(Timestamp, &Run)> = timed.iter().filter(|(_, run)| run.remote_slowest_ms > 0).collect();
    slowest.sort_by_key(|(_, run)| std::cmp::Reverse(run.remote_slowest_ms));
    let buckets = buckets.into_iter().map(|(n, bucket)| {
        let at = Timestamp::from_second(first_s + n * width).unwrap_or(*first);
        json!({ "at": at, "runs": bucket.runs, "local": bucket.local, "remote": bucket.remote, "miss": bucket.miss })
    });
    let slowest = slowest.into_iter().take(SLOWEST).map(
        |(at, run)| json!({ "at": at, "ms": run.remote_slowest_ms, "waited_ms": run.remote_wait_ms, "gets": run.gets }),
    );
    json!({
        "runs": timed.len(),
        "buckets": buckets.collect::<Vec<_>>(),
        "saved": { "bytes": bytes, "requests": lookups.saturating_sub(requests), "waited_ms": waited },
        "slowest": slowest.collect::<Vec<_>>(),
    })
}

/// What a build of each branch would find: the actions of its newest manifest that the index has.
async fn branches(store: &BlobStore) -> Result<Vec<Value>, Failure> {
    let mut known: HashMap<ActionId, u64> = HashMap::new();
    let mut read = 0;
    for (key, size) in listed(store, "v1/index/").await? {
        read += size;
        if read > LARGEST_INDEX {
            return Err(Failure::permanent(
                "too_large",
                format!("the index at {} is too large", store.url().of_key("")),
            ));
        }
        let Some(table) = table(store, &key).await? else { continue };
        known.extend(table.records().map(|record| (record.action, record.entry.size)));
    }
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for (key, _) in listed(store, "v1/runs/").await? {
        // Sorted: the newest comes first.
        let Some((namespace, _)) = key.strip_prefix("v1/runs/").and_then(|rest| rest.split_once('/')) else { continue };
        let namespace = namespace.replace('=', "/");
        newest.entry(namespace).or_insert(key);
    }
    let mut rows = Vec::new();
    for (namespace, key) in newest.into_iter().take(BRANCHES) {
        let Some(table) = table(store, &key).await? else { continue };
        let (mut actions, mut present, mut bytes) = (0_u64, 0_u64, 0_u64);
        for record in table.records() {
            actions += 1;
            if let Some(size) = known.get(&record.action) {
                present += 1;
                bytes += size;
            }
        }
        rows.push(json!({ "namespace": namespace, "actions": actions, "present": present, "bytes": bytes }));
    }
    Ok(rows)
}

async fn listed(store: &BlobStore, prefix: &str) -> Result<Vec<(String, u64)>, Failure> {
    let listing = store.list(prefix).await.map_err(|error| place::of_blob(&error))?;
    Ok(listing.entries.into_iter().map(|entry| (entry.key, entry.meta.size)).collect())
}

/// A table; `None` when it is gone or damaged, which a report can do without.
async fn table(store: &BlobStore, key: &str) -> Result<Option<Table>, Failure> {
    match store.get_bytes(key, LARGEST).await {
        Ok((bytes, _)) => Ok(Table::parse(bytes).ok()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(place::of_blob(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_gathered_into_stretches_of_time() {
        let run = |at: &str, local, remote, misses, slow| Run {
            began: Some(at.parse().unwrap()),
            gets: local + remote + misses,
            local_hits: local,
            remote_hits: remote,
            misses,
            remote_slowest_ms: slow,
            remote: Some(json!({ "output_bytes_read": 1000, "bytes_read": 250, "requests": 4 })),
            ..Run::default()
        };
        let runs = [
            run("2026-11-20T10:00:00Z", 1, 10, 5, 40),
            run("2026-11-20T10:00:20Z", 16, 0, 0, 0),
            run("2026-11-21T10:00:00Z", 0, 16, 0, 90),
            Run::default(),
        ];
        let report = of_runs(&runs);
        assert_eq!(report["runs"], 3);
        let buckets = report["buckets"].as_array().unwrap();
        assert_eq!(buckets.len(), 2, "{report}");
        assert_eq!(
            (&buckets[0]["local"], &buckets[0]["remote"], &buckets[0]["miss"]),
            (&json!(17), &json!(10), &json!(5))
        );
        assert_eq!(report["saved"]["bytes"], 2250);
        assert_eq!(report["saved"]["requests"], 5 + 3 * 26 - 12);
        assert_eq!(report["slowest"][0]["ms"], 90);
        assert_eq!(of_runs(&[])["runs"], 0);
    }
}
