//! The requests to one agent, repeated until there is a definite answer or a reason to stop.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tonic::{Response, Status, Streaming};
use windlass_clock::deadline;
use windlass_model::{ErrorClass, Failure};
use windlass_vald::{Empty, control, info, insert, object, remove, update};

use super::answer::{CallError, classify};
use super::attempt::Attempt;
use super::client::{AgentClient, FAILURES_IN_A_ROW};

/// A change that is under way when the attempt is told to stop gets this long to be answered: an answer known now
/// saves looking for it later.
const GRACE: Duration = Duration::from_secs(2);

/// The longest wait before a request is repeated, unless 64 times the first one is shorter.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long an agent that is being flushed is left alone by everybody.
const REST: Duration = Duration::from_secs(2);

/// Commits that failed in a row, after which the attempt gives up: each may have taken half an hour.
const COMMIT_TRIES: u32 = 5;

/// A vector as an agent holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredVector {
    /// The elements.
    pub vector: Vec<f32>,
    /// Unix nanoseconds; 0 when the agent's release does not tell.
    pub time: i64,
}

/// What became of an insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertAnswer {
    /// Answered OK, which proves nothing: an insert older than a pending remove is dropped without a word.
    Ok,
    /// The id is there already.
    AlreadyExists {
        /// An earlier try of this request had an unknown outcome, so this may be what it left.
        repeated: bool,
    },
    /// Another dimension, or an id that the agent does not take.
    Rejected(String),
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateAnswer {
    /// Answered OK.
    Ok,
    /// The same vector is there; its time has been raised if the request's was later.
    Same,
    /// The id is not there.
    NotFound,
    /// Another dimension, or an id that the agent does not take.
    Rejected(String),
}

/// What became of a remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveAnswer {
    /// Taken into the queue.
    Removed,
    /// The id is not there.
    NotFound,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitAnswer {
    /// Answered OK, which does not mean that anything was indexed: look at `IndexInfo`.
    Ok,
    /// The queues were empty.
    NothingToDo,
}

/// The requests to one agent, made by one attempt. All return [`Failure`] only for what ends the attempt: it was told
/// to stop, the agent fails again and again, or refuses what no repetition can mend.
///
/// Cancel safe in the sense of the engine: dropped halfway, a change may or may not have been made.
#[derive(Debug)]
pub struct AgentCalls<'a, A> {
    client: &'a AgentClient,
    attempt: &'a A,
}

impl<A> Clone for AgentCalls<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for AgentCalls<'_, A> {}

/// How one request is made.
#[derive(Clone, Copy)]
struct Manner {
    /// For the crash matrix and for messages.
    label: &'static str,
    /// Whether it changes anything.
    changes: bool,
    limit: Duration,
    tries: u32,
}

enum Ended<T> {
    Answered(Result<T, CallError>),
    Stopped,
}

impl<'a, A: Attempt> AgentCalls<'a, A> {
    pub(super) fn new(client: &'a AgentClient, attempt: &'a A) -> Self {
        Self { client, attempt }
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.client.name()
    }

    fn read(&self, label: &'static str) -> Manner {
        Manner { label, changes: false, limit: self.client.settings.call_timeout, tries: u32::MAX }
    }

    fn change(&self, label: &'static str) -> Manner {
        Manner { changes: true, ..self.read(label) }
    }

    fn command(&self, label: &'static str) -> Manner {
        Manner { limit: self.client.settings.commit_timeout, tries: COMMIT_TRIES, ..self.change(label) }
    }

    /// One request with its time limit. When the attempt shall stop, a change gets a little longer, all else ends.
    async fn bounded<T>(
        &self,
        manner: Manner,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Ended<T> {
        let clock = self.attempt.clock();
        let stop = async {
            self.attempt.cancelled().cancelled().await;
            if manner.changes && manner.tries == u32::MAX {
                clock.sleep(GRACE).await;
            }
        };
        tokio::select! {
            biased;
            answer = deadline(&**clock, manner.limit, call) => Ended::Answered(match answer {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(classify(&status)),
                Err(passed) => Err(CallError::Busy {
                    message: format!("no answer within {:?}: {passed}", manner.limit),
                    unknown: true,
                }),
            }),
            () = stop => Ended::Stopped,
        }
    }

    /// Waits while the agent is being left alone.
    async fn rested(&self) -> Result<(), Failure> {
        loop {
            let until = Duration::from_millis(self.client.resting_until.load(Ordering::Relaxed));
            let left = until.saturating_sub(self.attempt.clock().monotonic());
            if left.is_zero() {
                return Ok(());
            }
            self.attempt.sleep(left).await?;
        }
    }

    /// Makes a request until it is answered definitely.
    async fn ask<T, F>(
        &self,
        manner: Manner,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<Result<T, CallError>, Failure>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        Ok(self.ask_noting(manner, call).await?.0)
    }

    /// The same, and says whether an earlier try may have been carried out.
    async fn ask_noting<T, F>(
        &self,
        manner: Manner,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<(Result<T, CallError>, bool), Failure>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let (mut tries, mut unknown) = (0, false);
        loop {
            self.rested().await?;
            let permit = tokio::select! {
                biased;
                () = self.attempt.cancelled().cancelled() => return Err(Failure::interrupted()),
                permit = self.client.permits.acquire() => permit,
            };
            self.attempt.may_go_on()?;
            let request = self.bounded(manner, call());
            let ended = if manner.changes { self.attempt.outside(manner.label, request).await? } else { request.await };
            drop(permit);
            let error = match ended {
                Ended::Stopped => return Err(Failure::interrupted()),
                Ended::Answered(Err(error)) if error.may_pass() => error,
                Ended::Answered(answer) => {
                    self.client.failures.store(0, Ordering::Relaxed);
                    return Ok((answer, unknown));
                }
            };
            self.note_failure(manner, &error, tries)?;
            tries += 1;
            unknown |= matches!(error, CallError::Busy { unknown: true, .. });
            if matches!(error, CallError::Aborted(_)) {
                let until = self.attempt.clock().monotonic() + REST;
                let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
                self.client.resting_until.fetch_max(until, Ordering::Relaxed);
            }
            self.attempt.sleep(self.wait(tries)).await?;
        }
    }

    /// Equal jitter: half of the doubled wait for sure, so that a failing agent is never hammered, and a random part
    /// of the rest, so that many requests that failed together do not come back together.
    fn wait(&self, tries: u32) -> Duration {
        let doubled = self.client.settings.backoff.saturating_mul(1u32.checked_shl(tries - 1).unwrap_or(u32::MAX));
        let longest = LONGEST_WAIT.min(self.client.settings.backoff.saturating_mul(64));
        doubled.min(longest).mul_f64(0.5 + 0.5 * self.attempt.entropy().fraction())
    }

    fn note_failure(&self, manner: Manner, error: &CallError, tries: u32) -> Result<(), Failure> {
        self.client.retries.fetch_add(1, Ordering::Relaxed);
        let row = self.client.failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(agent = self.name(), call = manner.label, row, error = error.message(), "request failed");
        if row >= FAILURES_IN_A_ROW {
            // Who resumes the job wants it to try again, not to stop at the first failure.
            self.client.failures.store(0, Ordering::Relaxed);
            let name = self.name();
            let message =
                format!("{FAILURES_IN_A_ROW} requests in a row to agent {name} failed, the last {}", manner.label);
            return Err(Failure::new("agent_unreachable", ErrorClass::NeedsAttention, message)
                .caused_by(&Cause(error.message().to_owned()))
                .detail("agent", name)
                .hint("bring the agent back and resume the job; nothing is lost meanwhile"));
        }
        if tries + 1 >= manner.tries {
            let message = format!("{} of agent {} failed {} times", manner.label, self.name(), tries + 1);
            return Err(Failure::transient("agent_failing", message).caused_by(&Cause(error.message().to_owned())));
        }
        Ok(())
    }

    /// An answer that no request of ours should get.
    fn refused(&self, label: &str, error: &CallError) -> Failure {
        let name = self.name();
        Failure::permanent("agent_rejected", format!("agent {name} refused {label}"))
            .caused_by(&Cause(error.message().to_owned()))
            .detail("agent", name)
            .hint("is it a primary agent of this cluster, of a release that is supported, and are we allowed in?")
    }

    // ---- reading ----

    /// Whether the id is there.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn exists(&self, id: &str) -> Result<bool, Failure> {
        let call = || {
            let mut stub = self.client.objects();
            let request = object::Id { id: id.to_owned() };
            async move { stub.exists(request).await }
        };
        match self.ask(self.read("exists"), call).await? {
            Ok(_) => Ok(true),
            Err(CallError::NotFound) => Ok(false),
            Err(error) => Err(self.refused("exists", &error)),
        }
    }

    /// The vector and its time, if the id is there.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn get_object(&self, id: &str) -> Result<Option<StoredVector>, Failure> {
        let call = || {
            let mut stub = self.client.objects();
            let request = object::VectorRequest { id: Some(object::Id { id: id.to_owned() }), filters: None };
            async move { stub.get_object(request).await }
        };
        match self.ask(self.read("get_object"), call).await? {
            Ok(found) => Ok(Some(StoredVector { vector: found.vector, time: found.timestamp })),
            Err(CallError::NotFound) => Ok(None),
            Err(error) => Err(self.refused("get_object", &error)),
        }
    }

    /// The time of the id, if it is there. Agents without the method are asked for the whole vector; 0 when they do
    /// not tell times at all.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn get_timestamp(&self, id: &str) -> Result<Option<i64>, Failure> {
        if !self.client.no_get_timestamp.load(Ordering::Relaxed) {
            let call = || {
                let mut stub = self.client.objects();
                let request = object::TimestampRequest { id: Some(object::Id { id: id.to_owned() }) };
                async move { stub.get_timestamp(request).await }
            };
            match self.ask(self.read("get_timestamp"), call).await? {
                Ok(found) => return Ok(Some(found.timestamp)),
                Err(CallError::NotFound) => return Ok(None),
                Err(CallError::Unimplemented(_)) => self.client.no_get_timestamp.store(true, Ordering::Relaxed),
                Err(error) => return Err(self.refused("get_timestamp", &error)),
            }
        }
        Ok(self.get_object(id).await?.map(|found| found.time))
    }

    /// How much is in the index and in the queues.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn index_info(&self) -> Result<info::index::Count, Failure> {
        self.index_info_within(u32::MAX).await
    }

    /// The same, giving up after `tries` requests without an answer.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`]; a transient failure when there was no answer.
    pub async fn index_info_within(&self, tries: u32) -> Result<info::index::Count, Failure> {
        let manner = Manner { tries, ..self.read("index_info") };
        if !self.client.old_index_info.load(Ordering::Relaxed) {
            let call = || {
                let mut stub = self.client.index();
                async move { stub.index_info(Empty {}).await }
            };
            match self.ask(manner, call).await? {
                Ok(count) => return Ok(count),
                Err(CallError::Unimplemented(_)) => self.client.old_index_info.store(true, Ordering::Relaxed),
                Err(error) => return Err(self.refused("index_info", &error)),
            }
        }
        let call = || {
            let mut stub = self.client.core();
            async move { stub.index_info(Empty {}).await }
        };
        self.ask(manner, call).await?.map_err(|error| self.refused("index_info", &error))
    }

    /// Everything the agent holds, one vector a message, as a stream that is not repeated when it breaks.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`]; agents before 1.7.7 do not know the method.
    pub async fn stream_list(&self) -> Result<Streaming<object::list::Response>, Failure> {
        let call = || {
            let mut stub = self.client.objects();
            async move { stub.stream_list_object(object::list::Request {}).await }
        };
        self.ask(self.read("stream_list"), call).await?.map_err(|error| self.refused("stream_list", &error))
    }

    // ---- changing ----

    /// Inserts with `time` in both places, since older agents know only the one in the configuration.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn insert(&self, id: &str, vector: &[f32], time: i64) -> Result<InsertAnswer, Failure> {
        let call = || {
            let mut stub = self.client.inserts();
            let request = insert::Request {
                vector: Some(object::Vector { id: id.to_owned(), vector: vector.to_vec(), timestamp: time }),
                config: Some(insert::Config { skip_strict_exist_check: true, filters: None, timestamp: time }),
            };
            async move { stub.insert(request).await }
        };
        let (answer, repeated) = self.ask_noting(self.change("insert"), call).await?;
        match answer {
            Ok(_) => Ok(InsertAnswer::Ok),
            Err(CallError::AlreadyExists) => Ok(InsertAnswer::AlreadyExists { repeated }),
            Err(CallError::InvalidArgument(why)) => Ok(InsertAnswer::Rejected(why)),
            Err(error) => Err(self.refused("insert", &error)),
        }
    }

    /// Updates: the agent deletes at `time` and inserts at `time` + 1.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn update(&self, id: &str, vector: &[f32], time: i64) -> Result<UpdateAnswer, Failure> {
        let call = || {
            let mut stub = self.client.updates();
            let request = update::Request {
                vector: Some(object::Vector { id: id.to_owned(), vector: vector.to_vec(), timestamp: time }),
                config: Some(update::Config {
                    skip_strict_exist_check: true,
                    filters: None,
                    timestamp: time,
                    disable_balanced_update: true,
                }),
            };
            async move { stub.update(request).await }
        };
        match self.ask(self.change("update"), call).await? {
            Ok(_) => Ok(UpdateAnswer::Ok),
            Err(CallError::AlreadyExists) => Ok(UpdateAnswer::Same),
            Err(CallError::NotFound) => Ok(UpdateAnswer::NotFound),
            Err(CallError::InvalidArgument(why)) => Ok(UpdateAnswer::Rejected(why)),
            Err(error) => Err(self.refused("update", &error)),
        }
    }

    /// Removes with `time`, 0 for the agent's present.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn remove(&self, id: &str, time: i64) -> Result<RemoveAnswer, Failure> {
        let call = || {
            let mut stub = self.client.removes();
            let request = remove::Request {
                id: Some(object::Id { id: id.to_owned() }),
                config: Some(remove::Config { skip_strict_exist_check: true, timestamp: time }),
            };
            async move { stub.remove(request).await }
        };
        match self.ask(self.change("remove"), call).await? {
            Ok(_) => Ok(RemoveAnswer::Removed),
            Err(CallError::NotFound) => Ok(RemoveAnswer::NotFound),
            Err(error) => Err(self.refused("remove", &error)),
        }
    }

    fn committed(&self, label: &str, answer: Result<Empty, CallError>) -> Result<CommitAnswer, Failure> {
        match answer {
            Ok(_) => Ok(CommitAnswer::Ok),
            Err(CallError::FailedPrecondition(_)) => Ok(CommitAnswer::NothingToDo),
            Err(error) => Err(self.refused(label, &error)),
        }
    }

    /// Takes the queues into the index. May take half an hour.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn create_index(&self) -> Result<CommitAnswer, Failure> {
        let call = || {
            let mut stub = self.client.core();
            async move { stub.create_index(control::CreateIndexRequest { pool_size: 0 }).await }
        };
        self.committed("create_index", self.ask(self.command("create_index"), call).await?)
    }

    /// Takes the queues into the index and writes it to disk.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn create_and_save_index(&self) -> Result<CommitAnswer, Failure> {
        let call = || {
            let mut stub = self.client.core();
            async move { stub.create_and_save_index(control::CreateIndexRequest { pool_size: 0 }).await }
        };
        self.committed("create_and_save_index", self.ask(self.command("create_and_save_index"), call).await?)
    }

    /// Writes the index to disk.
    ///
    /// # Errors
    ///
    /// See [`AgentCalls`].
    pub async fn save_index(&self) -> Result<CommitAnswer, Failure> {
        let call = || {
            let mut stub = self.client.core();
            async move { stub.save_index(Empty {}).await }
        };
        self.committed("save_index", self.ask(self.command("save_index"), call).await?)
    }
}

/// What the other side said, as a cause in a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Cause(pub(crate) String);
