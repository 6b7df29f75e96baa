//! What the manifests of earlier runs say that this one will ask for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::Shared;
use super::live::store_empty;
use crate::fetch::{Arrival, Fetcher};
use crate::id::{ActionId, OutputId};
use crate::index::Index;
use crate::plan;
use crate::source::{Catalog, Known, Source};
use crate::table::Record;

/// What the manifests say.
#[derive(Default)]
pub(super) struct Hints {
    pub(super) records: HashMap<ActionId, (Record, usize)>,
    pub(super) order: Vec<ActionId>,
    /// Outputs that were planned to be fetched, and that were local.
    pub(super) planned: Vec<OutputId>,
    pub(super) local: u64,
    /// Of this run's own namespace.
    pub(super) own_newest_ms: Option<i64>,
}

/// Reads the manifests and plans what to fetch.
pub(super) async fn prefetch(
    shared: Arc<Shared>,
    sources: Vec<Arc<Source>>,
    fetcher: Arc<Fetcher>,
    told: watch::Sender<Option<Arc<Hints>>>,
) {
    let config = &shared.config;
    if config.prefetch_bytes == 0 {
        told.send_replace(Some(Arc::default()));
        return;
    }
    let asks = config.namespaces.iter().enumerate().flat_map(|(rank, namespace)| {
        sources.iter().enumerate().map(move |(number, source)| async move {
            (rank, number, source.manifests(namespace).await.unwrap_or_default())
        })
    });
    let found = futures::future::join_all(asks).await;
    let mut hints = Hints::default();
    // The first namespace that has any: branch, base, default.
    let rank = found.iter().filter(|(_, _, manifests)| !manifests.records.is_empty()).map(|(rank, ..)| *rank).min();
    for (own, number, manifests) in found {
        if own == 0 && manifests.newest_ms > hints.own_newest_ms {
            hints.own_newest_ms = manifests.newest_ms;
        }
        if Some(own) == rank {
            for record in manifests.records {
                // Earlier places go first.
                if let std::collections::hash_map::Entry::Vacant(free) = hints.records.entry(record.action) {
                    free.insert((record, number));
                    hints.order.push(record.action);
                }
            }
        }
    }
    // Others published these without saying where they lie, because it is in another place: the indexes know.
    let homeless = |record: &Record| record.location.is_none() && record.entry.size > 0;
    if hints.records.values().any(|(record, _)| homeless(record)) {
        let mut indexes: Vec<Option<Arc<Index>>> = Vec::new();
        for source in &sources {
            indexes.push(match source.known().await {
                Known::Ready(Catalog::Packed(index)) => Some(index),
                _ => None,
            });
        }
        for (record, number) in hints.records.values_mut().filter(|(record, _)| homeless(record)) {
            let found = indexes.iter().enumerate().find_map(|(at, index)| {
                let found = index.as_ref()?.find(&record.action)?;
                (found.entry.output == record.entry.output && found.location.is_some()).then_some((found, at))
            });
            if let Some((found, at)) = found {
                (*record, *number) = (found, at);
            }
        }
    }
    let (shared, planner) = (Arc::clone(&shared), Arc::clone(&fetcher));
    let planned = tokio::task::spawn_blocking(move || {
        let (planned, local) = plan_blocking(&shared, &sources, &planner, &hints);
        Hints { planned, local, ..hints }
    });
    // The hints are told only now: a lookup before would ask for one output where a range brings many.
    let hints = planned.await.unwrap_or_default();
    told.send_replace(Some(Arc::new(hints)));
}

/// Plans the ranges, and stores the actions whose outputs are local already. The outputs planned, and those local.
fn plan_blocking(
    shared: &Shared,
    sources: &[Arc<Source>],
    fetcher: &Arc<Fetcher>,
    hints: &Hints,
) -> (Vec<OutputId>, u64) {
    let mut wanted: Vec<Vec<Record>> = vec![Vec::new(); sources.len()];
    let mut local: HashSet<OutputId> = HashSet::new();
    let mut seen: HashSet<OutputId> = HashSet::new();
    let mut planned = Vec::new();
    let mut here = Vec::new();
    for action in &hints.order {
        let Some((record, source)) = hints.records.get(action) else { continue };
        let output = record.entry.output;
        let is_new = seen.insert(output);
        if is_new
            && (shared.local.contains(&output)
                || (record.entry.size == 0 && store_empty(fetcher, output) == Arrival::Here))
        {
            local.insert(output);
        }
        if local.contains(&output) {
            here.push(record);
        } else if record.location.is_some() {
            if is_new {
                planned.push(output);
            }
            wanted[*source].push(*record);
        }
    }
    for (records, source) in wanted.iter().zip(sources) {
        for range in plan::ranges(records, shared.config.prefetch_bytes) {
            fetcher.plan(source, range.pack, range.extents);
        }
    }
    // After the plans: the network has something to do meanwhile.
    for record in here {
        fetcher.put_action(&record.action, &record.entry);
    }
    (planned, local.len() as u64)
}
