//! What calls to agents, and chunks of moves, need of the attempt of a task that makes them.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_engine::context::{Intent, TaskContext};
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::progress::Progress;
use windlass_model::{Epoch, Failure, JobId, TaskId};

/// The attempt of a task, as far as this crate needs it. [`TaskContext`] is one; tests have another that stops the
/// world where they like.
pub trait Attempt: Send + Sync {
    /// The job.
    fn job(&self) -> JobId;

    /// The task.
    fn task(&self) -> TaskId;

    /// The fencing epoch of the attempt.
    fn epoch(&self) -> Epoch;

    /// A folder for the job's files; may not exist yet.
    fn work_dir(&self) -> &Path;

    /// Fires when the attempt shall stop.
    fn cancelled(&self) -> &CancellationToken;

    /// Time.
    fn clock(&self) -> &SharedClock;

    /// Randomness, for jitter.
    fn entropy(&self) -> &SharedEntropy;

    /// See [`TaskContext::may_go_on`].
    ///
    /// # Errors
    ///
    /// The attempt shall stop.
    fn may_go_on(&self) -> Result<(), Failure>;

    /// See [`TaskContext::sleep`].
    fn sleep(&self, duration: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    /// See [`TaskContext::outside`].
    fn outside<F>(&self, label: &str, call: F) -> impl Future<Output = Result<F::Output, Failure>> + Send
    where
        F: Future + Send,
        F::Output: Send;

    /// See [`TaskContext::intend`].
    fn intend(&self, intents: Vec<Intent>) -> impl Future<Output = Result<Vec<EffectState>, Failure>> + Send;

    /// See [`TaskContext::settle`].
    fn settle(&self, n: u32, event: EffectEvent) -> impl Future<Output = Result<(), Failure>> + Send;

    /// See [`TaskContext::checkpoint`].
    fn checkpoint(&self, value: Value) -> impl Future<Output = Result<(), Failure>> + Send;

    /// See [`TaskContext::progress`].
    fn progress(&self, progress: Progress);

    /// See [`TaskContext::warn`].
    fn warn(&self, code: &str, message: String) -> impl Future<Output = ()> + Send;
}

impl Attempt for TaskContext {
    fn job(&self) -> JobId {
        self.job()
    }

    fn task(&self) -> TaskId {
        self.spec().id
    }

    fn epoch(&self) -> Epoch {
        self.epoch()
    }

    fn work_dir(&self) -> &Path {
        self.work_dir()
    }

    fn cancelled(&self) -> &CancellationToken {
        self.cancelled()
    }

    fn clock(&self) -> &SharedClock {
        self.clock()
    }

    fn entropy(&self) -> &SharedEntropy {
        self.entropy()
    }

    fn may_go_on(&self) -> Result<(), Failure> {
        self.may_go_on()
    }

    async fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        self.sleep(duration).await
    }

    async fn outside<F>(&self, label: &str, call: F) -> Result<F::Output, Failure>
    where
        F: Future + Send,
        F::Output: Send,
    {
        self.outside(label, call).await
    }

    async fn intend(&self, intents: Vec<Intent>) -> Result<Vec<EffectState>, Failure> {
        self.intend(intents).await
    }

    async fn settle(&self, n: u32, event: EffectEvent) -> Result<(), Failure> {
        self.settle(n, event).await
    }

    async fn checkpoint(&self, value: Value) -> Result<(), Failure> {
        self.checkpoint(value).await
    }

    fn progress(&self, progress: Progress) {
        self.progress(progress);
    }

    async fn warn(&self, code: &str, message: String) {
        self.warn(code, message).await;
    }
}
