//! What one of several servers on a store does: a claim that goes with its lease says which.

use std::sync::Arc;
use std::time::Duration;

use windlass_clock::deadline;
use windlass_engine::EngineError;
use windlass_store::{Committed, Compare, LeaseId, StoreError, Txn};

use crate::app::App;

/// Time to live of the claim.
const TTL: Duration = Duration::from_secs(15);

/// Does `work` for as long as the claim `key` is held; waits while another server holds it. What `work` stores has to
/// compare what it is given: then nothing of a server that lost its claim counts.
pub(crate) async fn hold<F>(app: &Arc<App>, key: String, work: F) -> Result<(), EngineError>
where
    F: AsyncFnOnce(Compare) -> Result<(), EngineError>,
{
    let store = app.store();
    let lease = store.grant(TTL).await?;
    let owner = app.request_id();
    let revision = loop {
        let revision = store.revision().await?;
        let txn = Txn::new().when(Compare::Absent(key.clone())).put_leased(&key, owner.clone(), lease);
        match store.commit(txn).await? {
            Committed::At(revision) => break revision,
            Committed::Conflict(_) => {
                let mut watch = store.watch(&key, revision).await?;
                let gone = async {
                    while watch.next().await?.iter().all(|change| change.entry.is_some()) {}
                    Ok::<_, StoreError>(())
                };
                tokio::select! {
                    gone = gone => gone?,
                    result = keep(app, lease) => return Err(result.into()),
                }
            }
        }
    };
    tokio::select! {
        result = work(Compare::Created(key, revision)) => result,
        error = keep(app, lease) => Err(error.into()),
    }
}

/// Keeps the lease until that fails.
async fn keep(app: &App, lease: LeaseId) -> StoreError {
    loop {
        app.clock.sleep(TTL / 3).await;
        match deadline(&*app.clock, TTL / 3, app.store().keep_alive(lease)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return StoreError::Unavailable("the lease could not be kept in time".into()),
        }
    }
}
