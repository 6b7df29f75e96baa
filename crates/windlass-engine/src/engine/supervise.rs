//! Sessions of an engine: one after the other, each kept for as long as its lease.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use windlass_model::WorkerId;

use super::Shared;
use crate::EngineError;
use crate::lease::Session;
use crate::presence::Presence;
use crate::standing::scheduler;
use crate::{asks, follow, offers, retention, wakers};

pub(super) async fn begin_session(shared: &Arc<Shared>) -> Result<Arc<Session>, EngineError> {
    let id = WorkerId::from_bits(shared.entropy.next_u128());
    let presence = Presence { id, started: shared.clock.wall(), ..shared.presence.clone() };
    Ok(Arc::new(Session::begin(&*shared.store, &shared.clock, &presence, shared.lease_ttl).await?))
}

/// Keeps a session alive, and begins another when it is lost.
pub(super) async fn supervise(shared: Arc<Shared>, mut session: Arc<Session>) {
    loop {
        let keep = session.keep(&*shared.store, &shared.clock, shared.lease_ttl);
        let work = async {
            if shared.take_up {
                tokio::join!(
                    biased;
                    follow::follow(&shared, &session),
                    offers::pull(shared.clone(), session.clone()),
                    asks::tell_late(&shared, &session),
                    scheduler::run(&shared, &session),
                    wakers::follow(&shared, &session),
                    retention::keep_looking(&shared, &session)
                );
            } else {
                follow::follow(&shared, &session).await;
            }
        };
        tokio::select! {
            biased;
            () = keep => {}
            () = work => {}
        }
        session.over.cancel();
        if shared.draining.is_cancelled() {
            return;
        }
        shared.attempts.lose(|_| true);
        // Nothing of the old session may run beside the new one.
        let running: Vec<AbortHandle> = shared.jobs().values().map(|handle| handle.abort.clone()).collect();
        for handle in running {
            handle.abort();
        }
        {
            let mut coordinators =
                std::mem::take(&mut *shared.coordinators.lock().unwrap_or_else(PoisonError::into_inner));
            while coordinators.join_next().await.is_some() {}
        }
        shared.hosting.clear().await;
        shared.jobs().clear();
        shared.ended.ring();
        session = loop {
            match begin_session(&shared).await {
                Ok(session) => break session,
                Err(error) => tracing::warn!(%error, "no new lease yet, trying again"),
            }
            shared.clock.sleep(Duration::from_secs(1)).await;
        };
        shared.begin(session.clone());
    }
}
