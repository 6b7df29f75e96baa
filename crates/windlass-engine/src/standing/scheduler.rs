//! Who is in charge of standing jobs, and when there is something to do.
//!
//! One process of a store holds `scheduler`, bound to its lease; when it dies the next one takes it. It keeps the
//! records in memory, follows them and the ends of jobs by watches, and sleeps until the first of them is due. Nobody
//! polls: a store without standing jobs costs one watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_model::JobId;
use windlass_store::{Change, Committed, Compare, Txn, Watch, keys};

use super::advance::advance;
use super::record::StandingRecord;
use crate::EngineError;
use crate::coordinator::load;
use crate::engine::Shared;
use crate::follow::recover;
use crate::lease::Session;
use crate::records::decode;

/// The wall clock may be set while one sleeps: looked at this often. Costs no request.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

type Standing = BTreeMap<String, StandingRecord>;

/// Takes care of standing jobs for as long as the session lasts.
pub(crate) async fn run(shared: &Arc<Shared>, session: &Arc<Session>) {
    loop {
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            () = shared.draining.cancelled() => return session.over.cancelled().await,
            ended = lead(shared, session) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "taking care of standing jobs broke off, beginning afresh");
                }
                // A store that is away answers at once; do not spin on it.
                shared.clock.sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn lead(shared: &Arc<Shared>, session: &Arc<Session>) -> Result<(), EngineError> {
    let store = &*shared.store;
    let revision = store.revision().await?;
    let mut standing = Standing::new();
    load::each(store, keys::STANDING, |entry| {
        let record: StandingRecord = decode(entry)?;
        standing.insert(record.id.clone(), record);
        Ok(())
    })
    .await?;
    let mut changes = store.watch(keys::STANDING, revision).await?;
    while standing.is_empty() {
        take_in(&mut standing, &changes.next().await?)?;
    }
    campaign(shared, session).await?;
    // What the one before has begun may have no coordinator yet.
    recover(shared, session).await?;
    let revision = store.revision().await?;
    let mut ends = store.watch(keys::ACTIVE, revision).await?;
    let unsure: Vec<String> =
        standing.values().filter(|record| !record.running().is_empty()).map(|record| record.id.clone()).collect();
    for id in unsure {
        look_at(shared, session, &mut standing, &id).await?;
    }
    loop {
        let sleep = round(shared, session, &mut standing).await?;
        tokio::select! {
            biased;
            changed = changes.next() => take_in(&mut standing, &changed?)?,
            ended = next_end(&mut *ends) => {
                for job in ended? {
                    let of = standing.values().find(|record| record.running().contains(&job));
                    if let Some(id) = of.map(|record| record.id.clone()) {
                        look_at(shared, session, &mut standing, &id).await?;
                    }
                }
            }
            () = shared.clock.sleep(sleep) => {}
        }
    }
}

/// Jobs that have come to rest.
async fn next_end(ends: &mut dyn Watch) -> Result<Vec<JobId>, EngineError> {
    let changes = ends.next().await?;
    let ended = changes.iter().filter(|change| change.entry.is_none());
    Ok(ended.filter_map(|change| keys::last_part(&change.key)).collect())
}

fn take_in(standing: &mut Standing, changes: &[Change]) -> Result<(), EngineError> {
    for change in changes {
        match &change.entry {
            Some(entry) => {
                let record: StandingRecord = decode(entry)?;
                standing.insert(record.id.clone(), record);
            }
            None => {
                standing.remove(change.key.trim_start_matches(keys::STANDING));
            }
        }
    }
    Ok(())
}

/// Waits until this process is in charge.
async fn campaign(shared: &Arc<Shared>, session: &Arc<Session>) -> Result<(), EngineError> {
    let store = &*shared.store;
    loop {
        let revision = store.revision().await?;
        let txn = Txn::new().when(Compare::Absent(keys::SCHEDULER.to_owned())).put_leased(
            keys::SCHEDULER,
            session.worker.to_string(),
            session.lease,
        );
        match store.commit(txn).await? {
            Committed::At(_) => return Ok(()),
            Committed::Conflict(found) => {
                let ours = session.worker.to_string();
                if found.into_iter().flatten().any(|entry| entry.value == ours.as_bytes()) {
                    return Ok(());
                }
            }
        }
        // However the watch ends, trying again is right.
        let _ = store.watch(keys::SCHEDULER, revision).await?.next().await;
    }
}

/// Begins what is due. Returns the time until something is.
async fn round(shared: &Arc<Shared>, session: &Arc<Session>, standing: &mut Standing) -> Result<Duration, EngineError> {
    let ids: Vec<String> = standing.keys().cloned().collect();
    let mut sleep = LONGEST_SLEEP;
    for id in ids {
        let Some(record) = standing.get(&id) else { continue };
        let Ok(table) = record.schedule.timetable() else {
            // Of a newer release, perhaps: that one takes care of it.
            tracing::warn!(standing = %id, "the schedule cannot be read by this program");
            continue;
        };
        let now = shared.clock.wall();
        if record.can_begin() || record.wakes_at(&table).is_some_and(|at| at <= now) {
            look_at(shared, session, standing, &id).await?;
        }
        if let Some(at) = standing.get(&id).and_then(|record| record.wakes_at(&table)) {
            let left = at.as_millisecond().saturating_sub(shared.clock.wall().as_millisecond());
            sleep = sleep.min(Duration::from_millis(u64::try_from(left).unwrap_or(0).max(1)));
        }
    }
    Ok(sleep)
}

async fn look_at(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    standing: &mut Standing,
    id: &str,
) -> Result<(), EngineError> {
    match advance(shared, session, id, None).await? {
        Some(advanced) => standing.insert(id.to_owned(), advanced.record),
        None => standing.remove(id),
    };
    Ok(())
}
