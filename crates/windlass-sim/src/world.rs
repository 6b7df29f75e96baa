//! A small outside world, and a kind of job that changes it.
//!
//! [`World`] is a set of named things that can be made and removed, like resources of a cloud: making takes a
//! moment, the answer may get lost after the thing was made, and the world checks no epoch. It counts what must
//! not happen: a thing made twice.
//!
//! [`StepKind`] runs any DAG over it: each task makes some things, in the order that every task type must keep
//! (intend, look when recovering, make, settle), takes checkpoints, may fail, may add tasks. Its undo removes
//! what the ledger names. It is what the engine's own tests, the crash matrix and the simulation run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SharedEntropy};
use windlass_engine::{Finished, Intent, Kind, PlanContext, SpecFault, TaskContext, TaskType};
use windlass_model::effect::{Effect, EffectEvent, EffectState, Leftover};
use windlass_model::plan::{Plan, TaskSpec};
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::{Digest, ErrorClass, Failure, TaskId};

/// How the world misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Longest time that one call takes, in milliseconds.
    pub delay_ms: u64,
    /// The part of calls that take up to 40 s: longer than a lease lasts.
    pub slow: f64,
    /// The part of calls that are refused and change nothing.
    pub refused: f64,
    /// The part of calls that are carried out but whose answer is lost.
    pub lost_answers: f64,
}

#[derive(Debug, Default)]
struct State {
    things: BTreeMap<String, u64>,
    calls: u64,
    faults: Vec<String>,
    weather: Weather,
}

/// The outside.
#[derive(Clone, Debug)]
pub struct World {
    state: Arc<Mutex<State>>,
    clock: SharedClock,
    entropy: SharedEntropy,
}

/// The answer to a call did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing was changed.
    Refused,
    /// Nobody can tell.
    NoAnswer,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(clock: SharedClock, seed: u64) -> Self {
        Self { state: Arc::default(), clock, entropy: Seeded::shared(seed) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how the world misbehaves.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// The things that exist.
    #[must_use]
    pub fn things(&self) -> Vec<String> {
        self.state().things.keys().cloned().collect()
    }

    /// What must not have happened, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    /// Notes something that must not have happened.
    pub fn blame(&self, fault: String) {
        self.state().faults.push(fault);
    }

    /// Calls so far that change something.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Makes a thing behind everybody's back.
    pub fn plant(&self, name: &str) {
        self.state().things.insert(name.to_owned(), 1);
    }

    /// Removes a thing behind everybody's back.
    pub fn lose(&self, name: &str) {
        self.state().things.remove(name);
    }

    /// Whether a thing exists.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        self.state().things.contains_key(name)
    }

    async fn call(&self, change: impl FnOnce(&mut State)) -> Result<(), Mishap> {
        let weather = self.state().weather;
        if weather.delay_ms > 0 {
            let delay = self.entropy.next_u64() % (weather.delay_ms + 1);
            self.clock.sleep(Duration::from_millis(delay)).await;
        }
        if self.entropy.fraction() < weather.slow {
            self.clock.sleep(Duration::from_millis(self.entropy.next_u64() % 40_000)).await;
        }
        if self.entropy.fraction() < weather.refused {
            return Err(Mishap::Refused);
        }
        {
            let mut state = self.state();
            state.calls += 1;
            change(&mut state);
        }
        if self.entropy.fraction() < weather.lost_answers { Err(Mishap::NoAnswer) } else { Ok(()) }
    }

    /// Makes a thing. Making it a second time is what must not happen.
    ///
    /// # Errors
    ///
    /// A [`Mishap`], according to the weather.
    pub async fn make(&self, name: &str) -> Result<(), Mishap> {
        self.call(|state| {
            let times = state.things.entry(name.to_owned()).or_default();
            *times += 1;
            if *times > 1 {
                state.faults.push(format!("{name} was made {times} times"));
            }
        })
        .await
    }

    /// Removes a thing; no error when it is not there.
    ///
    /// # Errors
    ///
    /// A [`Mishap`], according to the weather.
    pub async fn remove(&self, name: &str) -> Result<(), Mishap> {
        self.call(|state| {
            state.things.remove(name);
        })
        .await
    }
}

/// One task of a [`StepKind`] job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the job.
    pub name: String,
    /// Names of steps that must have succeeded.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Names of steps that must have ended.
    #[serde(default)]
    pub after: Vec<String>,
    /// How many things it makes.
    #[serde(default)]
    pub makes: u32,
    /// Whether it fails for good, after having made its things.
    #[serde(default)]
    pub fails: bool,
    /// Steps that it adds when it is done.
    #[serde(default)]
    pub adds: Vec<Step>,
    /// How long it takes, in milliseconds.
    #[serde(default)]
    pub takes_ms: u64,
    /// Makes it a step that changes nothing outside: for previews.
    #[serde(default)]
    pub looks: bool,
    /// The question that it asks a person first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
    /// How long it waits once its dependencies have ended, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The shared resource that it makes, and how that shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<(String, String)>,
    /// Makes one of its own when the shared resource is there and is otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// A pool in which it needs a place, and the pool's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<(String, u32)>,
    /// Labels that its worker must carry.
    #[serde(default)]
    pub needs: BTreeMap<String, String>,
}

impl Step {
    /// A step that makes `makes` things.
    #[must_use]
    pub fn new(name: impl Into<String>, makes: u32) -> Self {
        Self { name: name.into(), makes, ..Self::default() }
    }

    /// A step that makes the shared resource `key`.
    #[must_use]
    pub fn sharing(key: impl Into<String>, makes: u32) -> Self {
        let key = key.into();
        Self { shared: Some((key.clone(), "usual".into())), ..Self::new(key, makes) }
    }

    /// Makes it require another.
    #[must_use]
    pub fn requires(mut self, name: impl Into<String>) -> Self {
        self.requires.push(name.into());
        self
    }

    /// Makes it run only on workers with this label.
    #[must_use]
    pub fn needs(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.needs.insert(label.into(), value.into());
        self
    }
}

/// The spec of a [`StepKind`] job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// The tasks.
    pub steps: Vec<Step>,
    /// A name that only one job holds at a time.
    #[serde(default)]
    pub exclusive: Option<String>,
}

impl StepSpec {
    /// As JSON, for a submission.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What a step does wrong on purpose, to show that the checks see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mistake {
    /// Nothing.
    #[default]
    None,
    /// It repeats without looking whether the thing is there.
    RepeatsBlindly,
    /// It makes the thing before it writes the intent.
    ActsBeforeIntent,
}

/// A kind that runs steps in a [`World`].
#[derive(Clone, Debug)]
pub struct StepKind {
    world: World,
    mistake: Mistake,
}

impl StepKind {
    /// The kind over `world`.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self { world, mistake: Mistake::None }
    }

    /// The kind with a mistake in it.
    #[must_use]
    pub fn with_mistake(world: World, mistake: Mistake) -> Self {
        Self { world, mistake }
    }
}

fn task_of(make: impl Fn(&str, &str) -> TaskSpec, id_of: impl Fn(&str) -> TaskId, step: &Step) -> TaskSpec {
    let task_type = if step.looks { "step.look" } else { "step.make" };
    let mut task = make(task_type, &step.name);
    for name in &step.requires {
        task = task.requires(id_of(name));
    }
    for name in &step.after {
        task = task.after(id_of(name));
    }
    for (label, value) in &step.needs {
        task = task.needs(label, value);
    }
    // Every step shows what it got from its first requirement.
    if let Some(first) = step.requires.first() {
        task = task.reference("/got", id_of(first), "/made");
    }
    let mut input = serde_json::to_value(step).unwrap_or_default();
    if let Value::Object(map) = &mut input {
        map.insert("got".into(), Value::Null);
    }
    task.needs_approval = step.asks.clone();
    task.delay_ms = step.delay_ms;
    if let Some((key, definition)) = &step.shared {
        task = task.shared(key, Digest::of(definition.as_bytes()));
        if step.private {
            task = task.private_on_conflict();
        }
    }
    if let Some((pool, size)) = &step.pool {
        task = task.pool(pool, *size);
    }
    task.input(input).size(Progress::items(0, Some(u64::from(step.makes.max(1)))))
}

#[async_trait]
impl Kind for StepKind {
    fn name(&self) -> &'static str {
        "step"
    }

    fn about(&self) -> &'static str {
        "makes things in a simulated world"
    }

    fn schema(&self) -> Value {
        json!({"type": "object"})
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        match serde_json::from_value::<StepSpec>(spec.clone()) {
            Ok(_) => Vec::new(),
            Err(error) => vec![SpecFault::new("", error.to_string())],
        }
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        spec.get("exclusive").and_then(Value::as_str).map(str::to_owned).into_iter().collect()
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let spec: StepSpec = serde_json::from_value(spec.clone())
            .map_err(|error| Failure::permanent("invalid_spec", error.to_string()))?;
        let looks: BTreeMap<&str, bool> = spec.steps.iter().map(|step| (step.name.as_str(), step.looks)).collect();
        let id_of = |name: &str| {
            let task_type = if looks.get(name).copied().unwrap_or(false) { "step.look" } else { "step.make" };
            TaskId::derive(cx.job, cx.generation, task_type, name)
        };
        let tasks = spec.steps.iter().map(|step| task_of(|t, r| cx.task(t, r), id_of, step)).collect();
        Ok(Plan { tasks, warnings: Vec::new() })
    }

    async fn sweep(&self, cx: &PlanContext, _: &Value, _: &[Effect]) -> Result<Vec<Leftover>, Failure> {
        let mark = format!("{}/", cx.job);
        let left = self.world.things().into_iter().filter(|name| name.starts_with(&mark));
        let leftover = |key: String| Leftover {
            task: String::new(),
            action: "make".into(),
            command: Some(format!("remove '{key}'")),
            key,
            target: "world".into(),
            state: EffectState::Made,
            external_id: None,
            shared: None,
        };
        Ok(left.map(leftover).collect())
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![
            Arc::new(StepTask { name: "step.make", world: self.world.clone(), mistake: self.mistake }),
            Arc::new(StepTask { name: "step.look", world: self.world.clone(), mistake: self.mistake }),
        ]
    }
}

struct StepTask {
    name: &'static str,
    world: World,
    mistake: Mistake,
}

/// The name of the `n`th thing of a step.
fn thing(cx: &TaskContext, of: TaskId, n: u32) -> String {
    if let Some(shared) = cx.spec().shared.as_ref().filter(|_| !cx.is_private_copy()) {
        return format!("shared/{}/{n}", shared.key);
    }
    format!("{}/{of}/{n}", cx.job())
}

fn mishap(mishap: Mishap) -> Failure {
    match mishap {
        Mishap::Refused => Failure::transient("refused", "the world refused the call"),
        Mishap::NoAnswer => Failure::new("no_answer", ErrorClass::UnknownOutcome, "the world did not answer"),
    }
}

#[async_trait]
impl TaskType for StepTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn policy(&self) -> Policy {
        Policy { attempts: 12, backoff_ms: 100, backoff_cap_ms: 2_000, poison_after: 20, ..Policy::default() }
    }

    fn changes_outside(&self) -> bool {
        self.name == "step.make"
    }

    fn output_members(&self) -> Option<&'static [&'static str]> {
        Some(&["made", "got"])
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let mut input = cx.input().clone();
        let got = input.as_object_mut().and_then(|map| map.remove("got")).unwrap_or_default();
        let step: Step =
            serde_json::from_value(input).map_err(|error| Failure::permanent("invalid_input", error.to_string()))?;
        if step.takes_ms > 0 {
            cx.sleep(Duration::from_millis(step.takes_ms)).await?;
        }
        let begin = cx.last_checkpoint().and_then(Value::as_u64).unwrap_or(0);
        let begin = u32::try_from(begin).unwrap_or(0);
        for n in begin..step.makes {
            let name = thing(cx, cx.spec().id, n);
            if self.mistake == Mistake::ActsBeforeIntent && !self.world.exists(&name) {
                cx.outside("make", self.world.make(&name)).await?.map_err(mishap)?;
            }
            let intent = Intent {
                n,
                action: "make".into(),
                key: name.clone(),
                target: "world".into(),
                parameters: json!({"name": name}),
            };
            let states = cx.intend(vec![intent]).await?;
            // What an earlier attempt intended may be there already.
            let there = states.first() == Some(&EffectState::Made)
                || (self.mistake != Mistake::RepeatsBlindly && self.world.exists(&name));
            if !there {
                cx.outside("make", self.world.make(&name)).await?.map_err(mishap)?;
            }
            cx.settle(n, EffectEvent::Made { external_id: Some(name), receipt: None }).await?;
            cx.checkpoint(json!(n + 1)).await?;
            cx.progress(Progress::items(u64::from(n + 1), Some(u64::from(step.makes))));
        }
        if step.fails {
            return Err(Failure::permanent("step_fails", format!("step {} was told to fail", step.name)));
        }
        let add = step.adds.iter().map(|added| {
            let id_of = |name: &str| {
                if name == step.name { cx.spec().id } else { cx.new_task("step.make", name).id }
            };
            task_of(|task_type, resource| cx.new_task(task_type, resource), id_of, added)
        });
        Ok(Finished { output: json!({"made": step.makes, "got": got}), add: add.collect() })
    }

    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let made = output.get("made").and_then(Value::as_u64).unwrap_or(0);
        Ok((0..u32::try_from(made).unwrap_or(0)).all(|n| self.world.exists(&thing(cx, cx.spec().id, n))))
    }

    fn clean_up_command(&self, effect: &Effect) -> Option<String> {
        Some(format!("remove '{}'", effect.key))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let undo = cx.undo().ok_or_else(|| Failure::permanent("no_undo_input", "there is nothing to undo"))?;
        for effect in &undo.effects {
            if self.world.exists(&effect.key) {
                cx.outside("remove", self.world.remove(&effect.key)).await?.map_err(mishap)?;
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}
