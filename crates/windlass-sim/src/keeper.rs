//! A standing job over a [`World`]: keeps exactly the things there that are wanted.
//!
//! What is wanted changes at any time, and things get lost; each round of [`KeepKind`] compares the two and returns the
//! tasks that are missing, all of them, also those that are on their way: leaving those out is the engine's part. A
//! task that finds its work done by somebody else has been doubled, and says so to the world.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_engine::{
    Finished, Intent, Kind, PlanContext, Reconcile, ReconcileContext, Reconciled, SpecFault, TaskContext, TaskType,
    Waker,
};
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::plan::Plan;
use windlass_model::policy::Policy;
use windlass_model::{ErrorClass, Failure};

use crate::world::{Mishap, World};

/// How the rounds misbehave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// Not at all.
    #[default]
    Well,
    /// They fail.
    Fails(ErrorClass),
    /// They never come back.
    Hangs,
    /// They panic.
    Panics,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeSet<String>,
    mood: Mood,
    rounds: u64,
    under_way: u64,
    most_under_way: u64,
    told: u64,
    waker: Option<Waker>,
}

/// What is wanted, and what the rounds saw: for the test that owns it.
#[derive(Clone, Debug, Default)]
pub struct Wishes(Arc<Mutex<State>>);

impl Wishes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these things are wanted, and no others.
    pub fn want<T: Into<String>>(&self, things: impl IntoIterator<Item = T>) {
        self.state().wanted = things.into_iter().map(Into::into).collect();
    }

    /// What is wanted.
    #[must_use]
    pub fn wanted(&self) -> Vec<String> {
        self.state().wanted.iter().cloned().collect()
    }

    /// How the rounds behave from now on.
    pub fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Rounds that have begun.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.state().rounds
    }

    /// The most rounds that were under way at the same time.
    #[must_use]
    pub fn most_under_way(&self) -> u64 {
        self.state().most_under_way
    }

    /// Ends of tasks that rounds were told of.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.state().told
    }

    /// The waker that the last round was given.
    #[must_use]
    pub fn waker(&self) -> Option<Waker> {
        self.state().waker.clone()
    }
}

/// Counts a round for as long as it is under way.
struct UnderWay(Wishes);

impl UnderWay {
    fn of(wishes: &Wishes) -> Self {
        let mut state = wishes.state();
        state.rounds += 1;
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        Self(wishes.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

/// The kind `keep`. Its spec may say `takes_ms`, how long each task takes, `site`, where tasks are to run, and `phases`:
/// lists of things of which each is wanted once those before are there. Which phase it is, is in the status alone.
#[derive(Clone, Debug)]
pub struct KeepKind {
    world: World,
    wishes: Wishes,
    settings: Reconcile,
}

impl KeepKind {
    /// The kind over `world`.
    #[must_use]
    pub fn new(world: World, wishes: Wishes, settings: Reconcile) -> Self {
        Self { world, wishes, settings }
    }
}

#[async_trait]
impl Kind for KeepKind {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn about(&self) -> &'static str {
        "keeps the wanted things in a simulated world"
    }

    fn schema(&self) -> Value {
        json!({"type": "object"})
    }

    fn check(&self, _: &Value) -> Vec<SpecFault> {
        Vec::new()
    }

    async fn plan(&self, _: &PlanContext, _: &Value) -> Result<Plan, Failure> {
        Ok(Plan::default())
    }

    fn reconciles(&self, _: &Value) -> Option<Reconcile> {
        Some(self.settings.clone())
    }

    async fn reconcile(&self, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
        let _under_way = UnderWay::of(&self.wishes);
        let mood = {
            let mut state = self.wishes.state();
            state.waker = Some(cx.waker());
            state.mood.clone()
        };
        match mood {
            Mood::Well => {}
            Mood::Fails(class) => return Err(Failure::new("moody", class, "the rounds were told to fail")),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("the rounds were told to panic"),
        }
        // Looking takes a moment, too.
        let things: BTreeSet<String> = self.world.things().into_iter().collect();
        cx.clock().sleep(Duration::from_millis(cx.entropy().next_u64() % 3)).await;
        let (wanted, told) = (self.wishes.wanted(), u64::try_from(cx.ended().len()).unwrap_or(0));
        self.wishes.state().told += told;
        let phases = cx.spec().get("phases").and_then(Value::as_array);
        let mut phase = cx.last_status().get("phase").and_then(Value::as_u64).unwrap_or(0);
        let at = usize::try_from(phase).unwrap_or(usize::MAX);
        let wanted: BTreeSet<String> = match phases.and_then(|phases| phases.get(at)).and_then(Value::as_array) {
            Some(phase) => phase.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => wanted.into_iter().collect(),
        };
        let is_reached = wanted == things && cx.in_flight().is_empty();
        let is_last = phases.is_none_or(|phases| at + 1 >= phases.len());
        phase += u64::from(is_reached && !is_last);
        let site = cx.spec().get("site").and_then(Value::as_str);
        let task = |task_type: &str, name: &str| {
            let task = cx.task(task_type, name).input(json!({"takes_ms": cx.spec().get("takes_ms")}));
            match site {
                Some(site) => task.needs("site", site),
                None => task,
            }
        };
        let missing = wanted.difference(&things).map(|name| task("keep.make", name));
        let extra = things.difference(&wanted).map(|name| task("keep.remove", name));
        let summary = format!("{} of {} things are there", wanted.intersection(&things).count(), wanted.len());
        let mut status = json!({"wanted": wanted.len(), "there": things.len()});
        if phases.is_some() {
            status = json!({"phase": phase, "settled": is_reached && is_last});
        }
        let round = Reconciled::add(missing.chain(extra).collect()).status(summary, status);
        Ok(if is_reached && !is_last { round.next(Duration::ZERO) } else { round })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![
            Arc::new(KeepTask { name: "keep.make", world: self.world.clone() }),
            Arc::new(KeepTask { name: "keep.remove", world: self.world.clone() }),
        ]
    }
}

struct KeepTask {
    name: &'static str,
    world: World,
}

fn mishap(mishap: Mishap) -> Failure {
    match mishap {
        Mishap::Refused => Failure::transient("refused", "the world refused the call"),
        Mishap::NoAnswer => Failure::new("no_answer", ErrorClass::UnknownOutcome, "the world did not answer"),
    }
}

#[async_trait]
impl TaskType for KeepTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn policy(&self) -> Policy {
        Policy { attempts: 12, backoff_ms: 100, backoff_cap_ms: 2_000, poison_after: 20, ..Policy::default() }
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let name = cx.spec().resource.clone();
        let takes = cx.input().get("takes_ms").and_then(Value::as_u64).unwrap_or(0);
        if takes > 0 {
            cx.sleep(Duration::from_millis(takes)).await?;
        }
        if self.name == "keep.remove" {
            cx.outside("remove", self.world.remove(&name)).await?.map_err(mishap)?;
            return Ok(Finished::with(json!({"removed": name})));
        }
        let known = cx.effects().iter().any(|effect| effect.state == EffectState::Made);
        let intent = Intent {
            n: 0,
            action: "make".into(),
            key: name.clone(),
            target: "world".into(),
            parameters: json!({"name": name}),
        };
        // Looked at first and told afterwards: an attempt whose process is dead gets no further than the intent.
        let was_there = self.world.exists(&name);
        cx.intend(vec![intent]).await?;
        if was_there && !cx.recovering() && cx.effects().is_empty() {
            self.world.blame(format!("{name} was there before {} made it", cx.spec().name()));
        }
        let there = known || self.world.exists(&name);
        if !there {
            cx.outside("make", self.world.make(&name)).await?.map_err(mishap)?;
        }
        cx.settle(0, EffectEvent::Made { external_id: Some(name.clone()), receipt: None }).await?;
        Ok(Finished::with(json!({"made": name})))
    }
}
