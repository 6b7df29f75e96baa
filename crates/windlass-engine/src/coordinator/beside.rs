//! A call of the kind's code that runs beside its coordinator, which goes on with commands, attempts and timers
//! meanwhile. At most one of its sort at a time.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::SharedClock;
use windlass_model::Failure;

/// A call that runs, or none.
#[derive(Debug)]
pub(super) struct Beside<T> {
    what: &'static str,
    /// Owns the call: when the coordinator is dropped, the call is stopped.
    call: JoinSet<Result<T, Failure>>,
    cancel: CancellationToken,
}

impl<T: Send + 'static> Beside<T> {
    /// None yet. `what` names the call in failures and their codes.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, call: JoinSet::new(), cancel: CancellationToken::new() }
    }

    /// Whether a call is under way, or its result has not been taken.
    pub(super) fn is_busy(&self) -> bool {
        !self.call.is_empty()
    }

    /// Begins a call, which is given what fires when it is stopped.
    pub(super) fn begin<F>(&mut self, clock: SharedClock, limit: Duration, call: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.stop();
        self.cancel = CancellationToken::new();
        let (call, cancel, what) = (call(self.cancel.clone()), self.cancel.clone(), self.what);
        self.call.spawn(async move {
            // However it ends, what it began on other threads shall end too.
            let _stops = cancel.drop_guard();
            windlass_clock::deadline(&*clock, limit, call).await.unwrap_or_else(|_| {
                let text = format!("the {what} took longer than {:.0} s and was stopped", limit.as_secs_f64());
                Err(Failure::transient(format!("{what}_late"), text))
            })
        });
    }

    /// Stops a call that is under way; its result is never seen.
    pub(super) fn stop(&mut self) {
        self.cancel.cancel();
        self.call = JoinSet::new();
    }

    /// The result of a call that has ended; `None` while it has not, and when there is none.
    pub(super) fn take(&mut self) -> Option<Result<T, Failure>> {
        let ended = self.call.try_join_next()?;
        Some(self.result(ended))
    }

    /// Waits for the end of the call; for ever when there is none. Cancel safe.
    pub(super) async fn ended(&mut self) -> Result<T, Failure> {
        match self.call.join_next().await {
            Some(ended) => self.result(ended),
            None => std::future::pending().await,
        }
    }

    fn result(&self, ended: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
        ended.unwrap_or_else(|error| {
            let what = self.what;
            let text = format!("the code of the {what} failed in a way that it should not: {error}");
            Err(Failure::permanent(format!("{what}_panicked"), text).hint("this is a fault of the kind; report it"))
        })
    }
}
