//! What a worker learns from the store: who is present, which jobs need a coordinator, what is asked of them, what
//! is offered.
//!
//! Everything comes from watches; a slow listing is there for what a watch might not have told. While nothing
//! happens a worker reads two prefixes every half minute, and keeps its lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use windlass_model::JobId;
use windlass_store::{Change, keys, read_all};

use crate::EngineError;
use crate::asks;
use crate::coordinator::{Message, load, removal};
use crate::engine::Shared;
use crate::lease::Session;
use crate::offers;
use crate::snapshot::JobSnapshot;

/// How often the engine looks for jobs that nobody coordinates, besides being told.
const RELIST_EVERY: Duration = Duration::from_secs(30);

/// The mark of an active job that was stored without a coordinator: by a process that runs nothing.
pub(crate) const OPEN: &str = "open";

/// Follows the store until the session is over.
pub(crate) async fn follow(shared: &Arc<Shared>, session: &Arc<Session>) {
    loop {
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            ended = listen(shared, session) => {
                let Err(error) = ended;
                tracing::debug!(%error, "following the store broke off, listing afresh");
            }
        }
        // A store that is away answers at once; do not spin on it.
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            () = shared.clock.sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn listen(shared: &Arc<Shared>, session: &Arc<Session>) -> Result<Infallible, EngineError> {
    let store = &*shared.store;
    let revision = store.revision().await?;
    shared.roster.list(&read_all(store, keys::WORKERS).await?);
    let mut workers = store.watch(keys::WORKERS, revision).await?;
    if !shared.take_up {
        loop {
            workers.next().await?.iter().for_each(|change| shared.roster.apply(change));
        }
    }
    shared.board.clear();
    shared.asks.clear();
    for entry in read_all(store, keys::MAIL).await? {
        take_in(shared, &Change { revision: entry.version, key: entry.key.clone(), entry: Some(entry) });
    }
    let mut mail = store.watch(keys::MAIL, revision).await?;
    let mut claims = store.watch(keys::CLAIMS, revision).await?;
    let mut active = store.watch(keys::ACTIVE, revision).await?;
    recover(shared, session).await?;
    let mut next = shared.clock.monotonic() + RELIST_EVERY;
    loop {
        let seen = shared.ended.count();
        let left = next.saturating_sub(shared.clock.monotonic());
        // Only jobs of which nothing is known here are taken up; a process that shuts down takes up none.
        let mut jobs: Vec<JobId> = Vec::new();
        tokio::select! {
            biased;
            changes = claims.next() => {
                let given_up = changes?.into_iter().filter(|change| change.entry.is_none());
                jobs.extend(given_up.filter_map(|change| keys::last_part::<JobId>(&change.key)));
            }
            changes = mail.next() => {
                jobs.extend(changes?.iter().filter_map(|change| take_in(shared, change)));
            }
            changes = active.next() => {
                let open = |change: &Change| change.entry.as_ref().is_some_and(|entry| entry.value == OPEN);
                jobs.extend(changes?.iter().filter(|change| open(change)).filter_map(|c| keys::last_part::<JobId>(&c.key)));
            }
            changes = workers.next() => changes?.iter().for_each(|change| shared.roster.apply(change)),
            // What was asked while a coordinator came to its end may have been missed by it.
            () = shared.ended.after(seen) => jobs.extend(shared.asks.jobs()),
            () = shared.clock.sleep(left) => {
                recover(shared, session).await?;
                next = shared.clock.monotonic() + RELIST_EVERY;
            }
        }
        for job in jobs {
            attend(shared, session, job).await?;
        }
    }
}

/// Takes in a change under `mail/`. Returns the job that somebody asks something of.
fn take_in(shared: &Shared, change: &Change) -> Option<JobId> {
    if change.key.starts_with(keys::ASKS) {
        return shared.asks.apply(change);
    }
    offers::take_in(shared, change);
    None
}

/// Gives a job its coordinator if it needs one and nobody has it, and hands it what is asked of it.
async fn attend(shared: &Arc<Shared>, session: &Arc<Session>, job: JobId) -> Result<(), EngineError> {
    let asked = shared.asks.of(job);
    if shared.coordinates(job) {
        for asked in asked {
            // A queue that is full is tried again with the next listing.
            shared.tell(job, Message::Ask(Box::new(asked)));
        }
        return Ok(());
    }
    if shared.draining.is_cancelled() || shared.is_broken(job) {
        return Ok(());
    }
    // Its coordinator looks at what is asked when it begins.
    let needed = !asked.is_empty() || shared.store.get(&keys::active(job)).await?.is_some();
    if needed && shared.store.get(&keys::claim(job)).await?.is_none() {
        take_up(shared, session, job).await?;
    }
    Ok(())
}

/// Starts a coordinator for a job. It ends at once when another worker is faster.
async fn take_up(shared: &Arc<Shared>, session: &Arc<Session>, job: JobId) -> Result<(), EngineError> {
    let Some(image) = load::outline(&*shared.store, job).await? else {
        return asks::forget(shared, job).await;
    };
    let seed = JobSnapshot::of(&image, image.work(), None, None);
    shared.ensure(session, seed, job, None, None);
    Ok(())
}

/// Starts a coordinator for every job that needs one and has none.
pub(crate) async fn recover(shared: &Arc<Shared>, session: &Arc<Session>) -> Result<(), EngineError> {
    if !shared.take_up || shared.draining.is_cancelled() {
        return Ok(());
    }
    removal::take_up(shared, session).await?;
    let mut active = Vec::new();
    load::each(&*shared.store, keys::ACTIVE, |entry| {
        active.extend(keys::last_part::<JobId>(&entry.key));
        Ok(())
    })
    .await?;
    active.extend(shared.asks.jobs());
    active.retain(|job| !shared.coordinates(*job) && !shared.is_broken(*job));
    active.sort_unstable();
    active.dedup();
    if !active.is_empty() {
        let mut held = std::collections::HashSet::new();
        load::each(&*shared.store, keys::CLAIMS, |entry| {
            if entry.value != session.worker.to_string() {
                held.extend(keys::last_part::<JobId>(&entry.key));
            }
            Ok(())
        })
        .await?;
        for job in active.into_iter().filter(|job| !held.contains(job)) {
            take_up(shared, session, job).await?;
        }
    }
    for job in shared.asks.jobs() {
        if shared.coordinates(job) {
            attend(shared, session, job).await?;
        }
    }
    Ok(())
}
