//! One agent behind its network: admission of calls, planted faults, builds and saves that take time, uploads.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tonic::{Code, Status};
use windlass_clock::SharedClock;

use super::archive::{self, ArchiveOptions};
use super::connections::Switch;
use super::faults::{Action, Script};
use super::ids::Id;
use super::method::Method;
use super::state::{AgentState, Build, Refusal, Save};
use super::world::{SharedWorld, Touched, World, lock};

/// Takes a backup: object key and content. Called after every save, and before the save is answered.
#[derive(Clone)]
pub struct Uploader(Arc<Upload>);

type Upload = dyn Fn(String, Vec<u8>) -> BoxFuture<'static, io::Result<()>> + Send + Sync;

impl Uploader {
    /// An uploader that calls `upload`. A failure leaves the last backup what it was.
    pub fn new(upload: impl Fn(String, Vec<u8>) -> BoxFuture<'static, io::Result<()>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(upload))
    }

    /// An uploader that replaces files in `directory`.
    pub fn to_directory(directory: impl Into<std::path::PathBuf>) -> Self {
        let directory = directory.into();
        Self::new(move |key, content| {
            let path = directory.join(key);
            Box::pin(async move { tokio::fs::write(path, content).await })
        })
    }
}

impl fmt::Debug for Uploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uploader")
    }
}

/// What all agents of a cluster share.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) world: SharedWorld,
    pub(super) clock: SharedClock,
    pub(super) build_time: Duration,
    pub(super) archive: ArchiveOptions,
    pub(super) uploader: Option<Uploader>,
    pub(super) upload_on_save: bool,
}

impl Surroundings {
    /// Unix nanoseconds.
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.clock.wall().as_nanosecond()).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) agent: usize,
    pub(super) around: Surroundings,
    pub(super) switch: Arc<Switch>,
    script: Mutex<Script>,
    calls: Mutex<BTreeMap<Method, u64>>,
    hung: watch::Sender<bool>,
    builds_held: watch::Sender<bool>,
    /// Told whenever a build or a save ends, and at a crash.
    ended: watch::Sender<()>,
}

/// A call that was let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) generation: u64,
    after: Option<Action>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::InvalidArgument(_) => Code::InvalidArgument,
            Refusal::NotFound(_) => Code::NotFound,
            Refusal::AlreadyExists(_) => Code::AlreadyExists,
            Refusal::Aborted(_) => Code::Aborted,
            Refusal::FailedPrecondition(_) => Code::FailedPrecondition,
            Refusal::Internal(_) => Code::Internal,
            Refusal::Unimplemented(_) => Code::Unimplemented,
            Refusal::Unavailable(_) => Code::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}

impl Node {
    pub(super) fn new(agent: usize, around: Surroundings) -> Self {
        Self {
            agent,
            around,
            switch: Arc::default(),
            script: Mutex::default(),
            calls: Mutex::default(),
            hung: watch::Sender::new(false),
            builds_held: watch::Sender::new(false),
            ended: watch::Sender::new(()),
        }
    }

    // ---- controls ----

    pub(super) fn calls(&self, method: Method) -> u64 {
        held(&self.calls).get(&method).copied().unwrap_or_default()
    }

    pub(super) fn all_calls(&self) -> BTreeMap<Method, u64> {
        held(&self.calls).clone()
    }

    pub(super) fn plant(&self, fault: super::faults::Fault) {
        held(&self.script).plant(fault);
    }

    pub(super) fn clear_faults(&self) {
        held(&self.script).clear();
    }

    pub(super) fn hang(&self, hung: bool) {
        self.hung.send_replace(hung);
    }

    pub(super) fn hold_builds(&self, hold: bool) {
        self.builds_held.send_replace(hold);
    }

    pub(super) fn crash(&self, back: bool) {
        lock(&self.around.world).crash(self.agent, back);
        self.switch.cut(back);
        self.ended.send_replace(());
    }

    // ---- calls ----

    /// Counts a call, waits while the agent hangs, and lets planted faults happen that come first.
    pub(super) async fn admit(&self, method: Method) -> Result<Admitted, Status> {
        *held(&self.calls).entry(method).or_default() += 1;
        let verdict = held(&self.script).judge(method);
        let generation = lock(&self.around.world).slots[self.agent].generation;
        // The sender lives as long as `self`.
        let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
        self.suffer(verdict.before).await?;
        Ok(Admitted { generation, after: verdict.after })
    }

    async fn suffer(&self, action: Option<Action>) -> Result<(), Status> {
        let Some(action) = action else { return Ok(()) };
        match action {
            Action::Fail(code, message) => return Err(Status::new(code, message)),
            Action::Delay(time) => self.around.clock.sleep(time).await,
            Action::NoAnswer => std::future::pending().await,
            Action::Crash | Action::Restart => {
                self.crash(action == Action::Restart);
                return Err(Status::unavailable("the agent crashed"));
            }
        }
        Ok(())
    }

    /// Lets planted faults happen that come after the work.
    pub(super) async fn answer<T>(&self, admitted: Admitted, answer: Result<T, Refusal>) -> Result<T, Status> {
        self.suffer(admitted.after).await?;
        answer.map_err(Status::from)
    }

    /// A call that changes nothing.
    pub(super) async fn read<T>(
        &self,
        method: Method,
        work: impl FnOnce(&AgentState) -> Result<T, Refusal>,
    ) -> Result<T, Status> {
        let admitted = self.admit(method).await?;
        let answer = lock(&self.around.world).alive(self.agent, admitted.generation).and_then(work);
        self.answer(admitted, answer).await
    }

    /// A call that changes the ids that `touched` names. `time` is the one in the request.
    pub(super) async fn write<T>(
        &self,
        method: Method,
        (id, time): (&str, i64),
        touched: Touched<'_>,
        work: impl FnOnce(&mut AgentState, i64) -> Result<T, Refusal>,
    ) -> Result<T, Status> {
        let admitted = self.admit(method).await?;
        let now = self.around.now();
        let answer = self.within(admitted.generation, |world| {
            world.request(self.agent, (method, id, time), touched, |state| work(state, now))
        });
        self.answer(admitted, answer).await
    }

    fn within<T>(&self, generation: u64, work: impl FnOnce(&mut World) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut world = lock(&self.around.world);
        world.alive(self.agent, generation)?;
        work(&mut world)
    }

    // ---- builds, saves, uploads ----

    /// Takes the time a build or save takes.
    async fn work_takes_time(&self) {
        if !self.around.build_time.is_zero() {
            self.around.clock.sleep(self.around.build_time).await;
        }
        let _ = self.builds_held.subscribe().wait_for(|hold| !hold).await;
    }

    pub(super) async fn build(&self, generation: u64) -> Result<(), Refusal> {
        let mut waited = false;
        loop {
            let mut ended = self.ended.subscribe();
            let now = self.around.now();
            let build = self.within(generation, |world| {
                let call = (Method::CreateIndex, "", 0);
                world.request(self.agent, call, Touched::Queued, |state| state.begin_build(now, waited))
            })?;
            match build {
                Build::Skipped | Build::Nothing => return Ok(()),
                Build::Wait => {
                    waited = true;
                    let _ = ended.changed().await;
                }
                Build::Begun => {
                    self.work_takes_time().await;
                    let done = self.within(generation, |world| {
                        world.slots[self.agent].state.finish_build();
                        Ok(())
                    });
                    self.ended.send_replace(());
                    return done;
                }
            }
        }
    }

    pub(super) async fn save(&self, generation: u64) -> Result<(), Refusal> {
        loop {
            let mut ended = self.ended.subscribe();
            match self.within(generation, |world| world.begin_save(self.agent))? {
                Save::Nothing => return Ok(()),
                Save::Wait => {
                    let _ = ended.changed().await;
                }
                Save::Begun => {
                    self.work_takes_time().await;
                    self.within(generation, |world| {
                        world.slots[self.agent].state.finish_save();
                        Ok(())
                    })?;
                    self.ended.send_replace(());
                    if self.around.upload_on_save {
                        self.upload_quietly().await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Builds and saves; nothing to build is no reason not to save.
    pub(super) async fn build_and_save(&self, generation: u64) -> Result<(), Refusal> {
        match self.build(generation).await {
            Ok(()) | Err(Refusal::FailedPrecondition(_)) => self.save(generation).await,
            Err(refusal) => Err(refusal),
        }
    }

    /// Uploads as an agent's sidecar does: a failure is its own affair, not the caller's of the save.
    async fn upload_quietly(&self) {
        if let Err(error) = self.upload().await {
            tracing::warn!(agent = self.agent, %error, "backup could not be uploaded");
        }
    }

    /// Writes what is on the volume as a backup and hands it to the uploader, if there is one.
    pub(super) async fn upload(&self) -> io::Result<()> {
        let (name, state) = {
            let world = lock(&self.around.world);
            let slot = &world.slots[self.agent];
            (slot.name.clone(), archive::Source::saved(&slot.state))
        };
        let index = Arc::clone(state.index());
        if let Some(Uploader(upload)) = &self.around.uploader {
            let (key, options) = (self.around.archive.key(&name), self.around.archive.clone());
            let content = tokio::task::spawn_blocking(move || archive::write(&state, &options)).await??;
            upload(key, content).await?;
        }
        lock(&self.around.world).back_up(self.agent, index);
        Ok(())
    }

    /// Stops as an agent does that is told to: builds, saves, uploads, then goes. What cannot be done is left.
    pub(super) async fn stop(&self) {
        let generation = lock(&self.around.world).slots[self.agent].generation;
        if let Err(refusal) = self.build_and_save(generation).await {
            tracing::warn!(agent = self.agent, %refusal, "agent stops without saving");
        }
        self.upload_quietly().await;
        self.crash(false);
    }

    pub(super) fn start(&self) {
        lock(&self.around.world).slots[self.agent].up = true;
        self.switch.cut(true);
    }

    /// Everything readable, for a listing.
    pub(super) async fn list(&self) -> Result<Vec<(Id, super::ids::Vector, i64)>, Status> {
        self.read(Method::StreamListObject, AgentState::list).await
    }
}
