//! What tasks do.
//!
//! All types share how a change is made: the effect is in the ledger before it (`intend`), the checkpoint says that it
//! has begun and, once it has ended, what it put out; then the effect is settled. After a crash the checkpoint tells
//! which of these an earlier attempt had come to.

mod copy;
mod exec;
pub(crate) mod http;
mod process;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_clock::deadline;
use windlass_engine::context::{Intent, TaskContext};
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::effect::{Effect, EffectEvent, EffectState};
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::reference::{Reference, resolve};
use windlass_model::{ErrorClass, Failure};

use crate::check::is_plain;
use crate::config::DagConfig;
use crate::plan::{Input, UndoInput, usual_policy};
use crate::positions::spot;
use crate::schema;
use crate::spec::{OnUnknown, StepType, WaitWith};

use self::process::ProcessMark;

/// How often a task that is alive says so.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One task type.
#[derive(Debug)]
pub(crate) struct StepTask {
    step: StepType,
    config: Arc<DagConfig>,
}

impl StepTask {
    pub(crate) fn new(step: StepType, config: Arc<DagConfig>) -> Self {
        Self { step, config }
    }
}

/// How far a task has got; its checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Headway {
    /// `with` of the undo step, with what outputs of other tasks brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undo: Option<Value>,
    /// The change has begun and its end is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    began: bool,
    /// The process that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<ProcessMark>,
    /// A person was asked whether to do it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    asked: bool,
    /// What was at the place that is written to, before it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<copy::Before>,
    /// What was put out, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
}

impl Headway {
    fn of(checkpoint: Option<&Value>) -> Self {
        checkpoint.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
    }

    async fn save(&self, cx: &TaskContext) -> Result<(), Failure> {
        cx.checkpoint(serde_json::to_value(self).unwrap_or_default()).await
    }
}

/// What a step is carried out with.
pub(crate) struct Act<'a> {
    pub(crate) cx: &'a TaskContext,
    pub(crate) config: &'a DagConfig,
    /// What the outside can recognise a repetition by.
    pub(crate) key: String,
    /// Whether this undoes something; the ledger is then kept by the caller.
    pub(crate) undoing: bool,
    /// Whether only output counts as a sign of life.
    pub(crate) watched: bool,
    /// Whether the change has a ledger entry of its own.
    pub(crate) recorded: bool,
    pub(crate) headway: Headway,
}

impl Act<'_> {
    /// Writes the change to the ledger, before it is made.
    async fn intend(&self, action: &str, target: String, parameters: Value) -> Result<EffectState, Failure> {
        if !self.recorded {
            return Ok(EffectState::Intended);
        }
        let intent = Intent { n: 0, action: action.to_owned(), key: self.key.clone(), target, parameters };
        Ok(self.cx.intend(vec![intent]).await?.first().copied().unwrap_or(EffectState::Intended))
    }

    /// Stores what was put out, then that the change is made.
    async fn made(
        &mut self,
        output: Value,
        external_id: Option<String>,
        receipt: Option<Value>,
    ) -> Result<Value, Failure> {
        if self.recorded {
            self.headway.began = false;
            self.headway.process = None;
            self.headway.output = Some(output.clone());
            self.headway.save(self.cx).await?;
            self.cx.settle(0, EffectEvent::Made { external_id, receipt }).await?;
        }
        Ok(output)
    }

    /// The change has ended and did not succeed: another attempt need not wonder.
    async fn ended_badly(&mut self, failure: Failure) -> Failure {
        self.headway.began = false;
        self.headway.process = None;
        if self.recorded
            && let Err(lost) = self.headway.save(self.cx).await
        {
            return lost;
        }
        failure
    }

    /// When nobody can tell whether the change was made: asks a person once, if that is wished. The answer is that the
    /// job is resumed, which can only be meant when the question has reached the job: not when the worker died with
    /// it, and not when the job was stopping anyway.
    async fn ask(&mut self, policy: OnUnknown, what: &str) -> Result<(), Failure> {
        if policy == OnUnknown::Rerun || self.undoing {
            return Ok(());
        }
        if self.headway.asked && !self.cx.died_before() {
            // The job was resumed: that was the answer.
            return Ok(());
        }
        self.cx.may_go_on()?;
        self.headway.asked = true;
        self.headway.save(self.cx).await?;
        if let Err(stopping) = self.cx.may_go_on() {
            self.headway.asked = false;
            self.headway.save(self.cx).await?;
            return Err(stopping);
        }
        Err(Failure::new(
            "outcome_unknown",
            ErrorClass::NeedsAttention,
            format!("{what} was cut off, and nobody can tell whether it took effect"),
        )
        .hint("look; resume the job to do it again, or cancel it"))
    }

    /// Runs `work` and says now and then that it is alive. When only headway counts, `headway` must grow.
    async fn alive<T>(&self, work: impl Future<Output = T>, headway: impl Fn() -> u64, total: Option<u64>) -> T {
        let (clock, progress) = (self.cx.clock().clone(), self.cx.progress_handle());
        let beat = async {
            let mut last = headway();
            loop {
                clock.sleep(HEARTBEAT.min(Duration::from_secs(1))).await;
                let now = headway();
                if now != last || !self.watched {
                    last = now;
                    progress.report(Progress {
                        done_bytes: now,
                        total_bytes: total,
                        total_items: Some(1),
                        ..Progress::default()
                    });
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = beat => std::future::pending().await,
        }
    }
}

/// Reads `with`.
pub(crate) fn read<T: DeserializeOwned>(with: &Value) -> Result<T, Failure> {
    let with = if with.is_null() { json!({}) } else { with.clone() };
    serde_json::from_value(with).map_err(|error| {
        Failure::permanent("invalid_input", format!("what the task is to work with cannot be read: {error}"))
            .hint("a value that a reference brought may be of another type than is wanted there")
    })
}

/// Refuses values that a reference brought into a text and that are none: an output must not be able to name a secret.
fn check_brought<'r>(step: StepType, with: &Value, places: impl Iterator<Item = &'r str>) -> Result<(), Failure> {
    for at in places {
        if !is_plain(spot(schema::with(step), at), with.pointer(at)) {
            return Err(Failure::permanent(
                "not_a_text",
                format!("the reference at {at} brought a list or an object, where a text is wanted"),
            )
            .hint("refer to one member of it"));
        }
    }
    Ok(())
}

impl StepTask {
    async fn carry_out(&self, step: StepType, with: &Value, act: &mut Act<'_>) -> Result<Value, Failure> {
        match step {
            StepType::Exec => Box::pin(exec::run(act, read(with)?)).await,
            StepType::Http => Box::pin(http::run(act, read(with)?)).await,
            StepType::Copy => Box::pin(copy::run(act, read(with)?)).await,
            StepType::Noop => {
                self.mark(act, step).await?;
                Ok(with.get("output").cloned().unwrap_or_default())
            }
            StepType::Approve => {
                self.mark(act, step).await?;
                Ok(json!({ "approved": true }))
            }
            StepType::Wait => {
                let wait: WaitWith = read(with)?;
                let now = act.cx.clock().wall();
                if let Some(until) = wait.until.as_deref().and_then(|until| until.parse::<jiff::Timestamp>().ok())
                    && until > now
                {
                    // Given back until then: waiting takes no place and outlives every process.
                    let left = until.as_millisecond().saturating_sub(now.as_millisecond());
                    let mut wait = Failure::new("not_yet", ErrorClass::Conflict, format!("waits until {until}"));
                    wait.retry_after_ms = Some(u64::try_from(left).unwrap_or(0).max(1));
                    return Err(wait);
                }
                self.mark(act, step).await?;
                Ok(json!({ "ended": now.to_string() }))
            }
        }
    }

    /// Steps that change nothing stand in the ledger when there is something to undo for them.
    async fn mark(&self, act: &Act<'_>, step: StepType) -> Result<(), Failure> {
        if act.recorded {
            act.intend(step.name(), act.cx.spec().resource.clone(), Value::Null).await?;
            act.cx.settle(0, EffectEvent::Made { external_id: None, receipt: None }).await?;
        }
        Ok(())
    }

    /// Whether running the step needs an entry in the ledger.
    fn is_recorded(&self, input: &Input) -> bool {
        input.undo.is_some()
            || match self.step {
                StepType::Exec => input.with.get("changes").and_then(Value::as_bool) != Some(false),
                StepType::Http => http::changes(&input.with),
                StepType::Copy => true,
                StepType::Wait | StepType::Approve | StepType::Noop => false,
            }
    }

    async fn undo_step(
        &self,
        cx: &TaskContext,
        undo: UndoInput,
        of: &windlass_engine::UndoInput,
    ) -> Result<(), Failure> {
        let mut with = Headway::of(of.checkpoint.as_ref()).undo.unwrap_or(undo.with);
        for own in &undo.own {
            let reference = Reference {
                at: own.at.clone(),
                task: of.task.id,
                pointer: own.pointer.clone(),
                optional: own.optional,
            };
            resolve(&mut with, &reference, of.output.as_ref().unwrap_or(&Value::Null)).map_err(|error| {
                Failure::permanent("unresolved_reference", format!("undoing {}: {error}", of.task.name()))
                    .hint("the task put out nothing of that kind; undo by hand what it left, then ignore the leftovers")
            })?;
        }
        let own = undo.own.iter().map(|own| own.at.as_str());
        let brought = of.task.references.iter().filter_map(|reference| reference.at.strip_prefix("/undo/with"));
        check_brought(undo.step, &with, own.chain(brought))?;
        let mut act = Act {
            cx,
            config: &self.config,
            key: format!("{}-undo", of.task.id),
            undoing: true,
            watched: false,
            recorded: false,
            headway: Headway::default(),
        };
        Box::pin(self.carry_out(undo.step, &with, &mut act)).await.map(|_| ())
    }
}

#[async_trait]
impl TaskType for StepTask {
    fn name(&self) -> &'static str {
        self.step.task_type()
    }

    fn policy(&self) -> Policy {
        usual_policy(self.step)
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        self.step.output_members()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input: Input = read(cx.input())?;
        let brought = |prefix: &'static str| {
            cx.spec().references.iter().filter_map(move |reference| reference.at.strip_prefix(prefix))
        };
        check_brought(self.step, &input.with, brought("/with"))?;
        let mut headway = Headway::of(cx.last_checkpoint());
        if let Some(undo) = &input.undo
            && headway.undo.is_none()
            && brought("/undo/with").next().is_some()
        {
            check_brought(undo.step, &undo.with, brought("/undo/with"))?;
            // Undoing sees the plan and this, and no outputs of other tasks.
            headway.undo = Some(undo.with.clone());
            headway.save(cx).await?;
        }
        let mut act = Act {
            cx,
            config: &self.config,
            key: cx.spec().id.to_string(),
            undoing: false,
            watched: input.watched,
            recorded: self.is_recorded(&input),
            headway,
        };
        if let Some(output) = act.headway.output.clone()
            && cx.effects().iter().any(Effect::may_exist)
        {
            // An earlier attempt was done but for saying so.
            cx.settle(0, EffectEvent::Made { external_id: None, receipt: copy::receipt(&output) }).await?;
            return Ok(Finished::with(output));
        }
        act.headway.output = None;
        Ok(Finished::with(self.carry_out(self.step, &input.with, &mut act).await?))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let of = cx.undo().ok_or_else(|| Failure::permanent("no_undo_input", "there is nothing to undo"))?;
        let input: Input = read(&of.task.input)?;
        match (input.undo, self.step) {
            _ if of.effects.is_empty() => {}
            (Some(undo), _) => self.undo_step(cx, undo, of).await?,
            (None, StepType::Copy) => {
                let headway = Headway::of(of.checkpoint.as_ref());
                copy::undo(cx, &self.config, of, &headway).await?;
            }
            (None, StepType::Exec | StepType::Http) => {
                let what = of.effects.first().map(|effect| effect.target.clone()).unwrap_or_default();
                return Err(Failure::permanent(
                    "cannot_undo",
                    format!("{} ({what}) has no undo step", of.task.name()),
                )
                .hint("undo by hand what it did, then ignore the leftovers; give such tasks `undo`, or `undo: { type: noop }`"));
            }
            (None, StepType::Wait | StepType::Approve | StepType::Noop) => {}
        }
        for effect in &of.effects {
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

/// Waits for `work`, but neither beyond `limit` nor beyond the attempt's end.
pub(crate) async fn bounded<T>(
    cx: &TaskContext,
    limit: Option<Duration>,
    work: impl Future<Output = T>,
) -> Result<Option<T>, Failure> {
    let work = async {
        match limit {
            Some(limit) => deadline(&**cx.clock(), limit, work).await.ok(),
            None => Some(work.await),
        }
    };
    tokio::select! {
        biased;
        () = cx.cancelled().cancelled() => Err(Failure::interrupted()),
        done = work => Ok(done),
    }
}
