//! `copy`: brings to another remote what it lacks.
//!
//! Objects of a remote never change once they are written, so equal names and sizes are equal objects. What others refer
//! to goes first: packs before the index, the index before the manifests.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use serde_json::json;
use windlass_blob::{BlobStore, PutMode, ReadOptions, UploadOptions};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::Failure;
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::progress::Progress;

use crate::place;
use crate::spec::GocacheSpec;

/// The task that compares.
pub(crate) const COMPARE: &str = "gocache.compare";
/// The task that copies.
pub(crate) const COPY: &str = "gocache.copy";

/// Objects that are written to the ledger together.
const TOGETHER: usize = 32;
/// Objects up to this size are sent in one request.
const SMALL: u64 = 8 << 20;

pub(crate) struct CompareTask;
pub(crate) struct CopyTask;

/// What is to be copied, in the order in which it may be.
struct Difference {
    missing: Vec<(String, u64)>,
    missing_bytes: u64,
    present: u64,
    present_bytes: u64,
}

/// When an object may be copied; `None`: it stays where it is.
fn rank(key: &str) -> Option<u8> {
    let is = |folder: &str| key.starts_with(folder);
    if is("v1/packs/") || (!key.contains('/') && key.ends_with("-d")) {
        Some(0)
    } else if is("v1/index/") || (!key.contains('/') && key.ends_with("-a.json")) {
        Some(1)
    } else if is("v1/runs/") {
        Some(2)
    } else {
        None
    }
}

async fn everything(store: &BlobStore) -> Result<HashMap<String, u64>, Failure> {
    let mut all = HashMap::new();
    let mut pages = store.list_pages("");
    while let Some(page) = pages.next_page().await.map_err(|error| place::of_blob(&error))? {
        all.extend(page.into_iter().map(|entry| (entry.key, entry.meta.size)));
    }
    Ok(all)
}

async fn compare(from: &BlobStore, to: &BlobStore) -> Result<Difference, Failure> {
    let (source, target) = (everything(from).await?, everything(to).await?);
    let mut ranked = BTreeMap::new();
    let mut difference = Difference { missing: Vec::new(), missing_bytes: 0, present: 0, present_bytes: 0 };
    for (key, size) in source {
        let Some(rank) = rank(&key) else { continue };
        if target.get(&key) == Some(&size) {
            difference.present += 1;
            difference.present_bytes += size;
        } else {
            difference.missing_bytes += size;
            ranked.insert((rank, key), size);
        }
    }
    difference.missing = ranked.into_iter().map(|((_, key), size)| (key, size)).collect();
    Ok(difference)
}

fn both(cx: &TaskContext) -> Result<(BlobStore, BlobStore), Failure> {
    let spec = GocacheSpec::parse(cx.job_spec())?;
    let from = place::objects(cx, &place::url(spec.remote.as_ref(), "remote")?)?;
    Ok((from, place::objects(cx, &place::url(spec.to.as_ref(), "to")?)?))
}

#[async_trait]
impl TaskType for CompareTask {
    fn name(&self) -> &'static str {
        COMPARE
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let (from, to) = both(cx)?;
        let difference = compare(&from, &to).await?;
        let missing = difference.missing.len() as u64;
        let output = json!({
            "brought": { "objects": missing, "bytes": difference.missing_bytes },
            "present": { "objects": difference.present, "bytes": difference.present_bytes },
        });
        let size = Progress::bytes(0, Some(difference.missing_bytes));
        let copy = cx.new_task(COPY, "objects").requires(cx.spec().id).size(size);
        Ok(Finished { output, add: if missing > 0 { vec![copy] } else { Vec::new() } })
    }
}

#[async_trait]
impl TaskType for CopyTask {
    fn name(&self) -> &'static str {
        COPY
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let (from, to) = both(cx)?;
        // What is missing now: an earlier attempt may have got somewhere.
        let difference = compare(&from, &to).await?;
        let mut known: HashMap<String, u32> =
            cx.effects().iter().map(|effect| (effect.key.clone(), effect.n)).collect();
        let mut next = known.values().max().map_or(0, |n| n + 1);
        let missing: HashMap<&str, u64> = difference.missing.iter().map(|(key, size)| (key.as_str(), *size)).collect();
        // Begun by an attempt that died, and there: it was done.
        for effect in cx.effects().iter().filter(|effect| effect.state == EffectState::Intended) {
            if !missing.contains_key(effect.key.as_str()) {
                cx.settle(effect.n, EffectEvent::Made { external_id: None, receipt: None }).await?;
            }
        }
        let (mut objects, mut bytes) = (0_u64, 0_u64);
        for chunk in difference.missing.chunks(TOGETHER) {
            let mut intents = Vec::new();
            for (key, size) in chunk {
                let n = *known.entry(key.clone()).or_insert_with(|| {
                    next += 1;
                    next - 1
                });
                intents.push(Intent {
                    n,
                    action: "copy".to_owned(),
                    key: key.clone(),
                    target: to.url().of_key(key),
                    parameters: json!({ "bytes": size }),
                });
            }
            cx.intend(intents).await?;
            for (key, size) in chunk {
                cx.outside("copy", copy_one(&from, &to, key, *size)).await??;
                let n = known.get(key).copied().unwrap_or_default();
                cx.settle(n, EffectEvent::Made { external_id: None, receipt: None }).await?;
                objects += 1;
                bytes += size;
                cx.progress(Progress::bytes(bytes, Some(difference.missing_bytes)));
            }
        }
        Ok(Finished::with(json!({ "objects": objects, "bytes": bytes })))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let (_, to) = both(cx)?;
        let Some(undo) = cx.undo() else { return Ok(Finished::default()) };
        // What refers to others goes first.
        let mut effects: Vec<_> = undo.effects.iter().collect();
        effects.sort_by_key(|effect| std::cmp::Reverse(rank(&effect.key)));
        for effect in effects {
            cx.outside("remove", to.delete(&effect.key)).await?.map_err(|error| place::of_blob(&error))?;
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

async fn copy_one(from: &BlobStore, to: &BlobStore, key: &str, size: u64) -> Result<(), Failure> {
    let failed = |error| place::of_blob(&error);
    if size <= SMALL {
        let (bytes, _) = from.get_bytes(key, size).await.map_err(failed)?;
        to.put_bytes(key, bytes, PutMode::Overwrite).await.map_err(failed)?;
        return Ok(());
    }
    let reader = from.get_stream(key, ReadOptions::default()).await.map_err(failed)?;
    let options = UploadOptions { size: Some(size), ..UploadOptions::default() };
    to.put_stream(key, Box::pin(reader.into_stream()), options).await.map_err(failed)?;
    Ok(())
}
