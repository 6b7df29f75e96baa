//! What a kind of job gives to the engine: a plan for a spec, and the code behind its task types.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_model::effect::{Effect, Leftover};
use windlass_model::plan::{Plan, PoolUse, TaskSpec, TaskTypes};
use windlass_model::policy::Policy;
use windlass_model::task::{Outcome, SharedUse};
use windlass_model::{Failure, JobId, TaskId};

use crate::context::TaskContext;
use crate::reconcile::{Reconcile, ReconcileContext, Reconciled};

/// A fault in a spec, with its place, so that the text of the job file can be pointed at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecFault {
    /// JSON pointer into the spec: `/cluster/agents/0/weight`. Empty: the spec as a whole.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SpecFault {
    /// A fault at `pointer`.
    #[must_use]
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// What planning may use. Planning reads; it never changes anything outside.
#[derive(Debug)]
pub struct PlanContext {
    /// The job that is planned.
    pub job: JobId,
    /// The generation that the plan's tasks belong to; task ids are derived from it.
    pub generation: u32,
    /// Time.
    pub clock: SharedClock,
    /// Randomness. A plan must not depend on it; ids inside requests may.
    pub entropy: SharedEntropy,
}

impl PlanContext {
    /// A task of this plan.
    #[must_use]
    pub fn task(&self, task_type: impl Into<String>, resource: impl Into<String>) -> TaskSpec {
        TaskSpec::new(self.job, self.generation, task_type, resource)
    }
}

/// The end of one task, as a kind's summary sees it.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    /// The task.
    pub task: Arc<TaskSpec>,
    /// How it ended; `None` while it has not.
    pub outcome: Option<Outcome>,
    /// Its output, when it succeeded.
    pub output: Option<Value>,
    /// When it was first claimed.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Attempts that failed.
    pub failures: u32,
    /// Workers that died over it.
    pub deaths: u32,
    /// How it came by its shared resource.
    pub shared: Option<SharedUse>,
}

impl TaskEnd {
    /// A task that has not run.
    #[must_use]
    pub fn planned(task: Arc<TaskSpec>) -> Self {
        Self { task, outcome: None, output: None, started: None, ended: None, failures: 0, deaths: 0, shared: None }
    }
}

/// An earlier job of the same series, for comparison.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The job.
    pub job: JobId,
    /// When it was submitted.
    pub created: Timestamp,
    /// The kind's part of its report.
    pub summary: Value,
}

/// A kind of job. Registered in the binary, and nowhere else.
#[async_trait]
pub trait Kind: Send + Sync + 'static {
    /// The name in job files.
    fn name(&self) -> &'static str;

    /// One line for people.
    fn about(&self) -> &'static str;

    /// The JSON Schema of the spec.
    fn schema(&self) -> Value;

    /// Every fault of `spec` that can be seen without looking at the world, all at once.
    fn check(&self, spec: &Value) -> Vec<SpecFault>;

    /// Names that at most one job holds at a time; the job waits until all are free. `rebalance/<cluster>`.
    fn exclusive(&self, _spec: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Pools in which a job of this spec needs a place from its start to its rest; it waits until all have one.
    fn pools(&self, _spec: &Value) -> Vec<PoolUse> {
        Vec::new()
    }

    /// The tasks to begin with. A pure function of the spec: it runs again after a crash and must name the
    /// same tasks. Whatever depends on the world is found out by tasks, which may add tasks.
    ///
    /// # Errors
    ///
    /// A failure of the job as a whole.
    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure>;

    /// Makes a job of this spec a standing one: it does not end by itself, and [`Kind::reconcile`] is called in rounds.
    /// Its plan may be empty.
    fn reconciles(&self, _spec: &Value) -> Option<Reconcile> {
        None
    }

    /// One round of a standing job: compares what is with what should be and returns the tasks that are missing. See
    /// [`reconcile`](crate::reconcile).
    ///
    /// # Errors
    ///
    /// Nothing is added, tasks that run go on, and the next round comes after a while that grows with each failure; one
    /// that needs attention pauses the job. The failure is shown until a round succeeds.
    async fn reconcile(&self, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
        let _ = cx;
        Err(Failure::permanent("cannot_reconcile", format!("jobs of kind {} do not reconcile", self.name())))
    }

    /// The code of the kind's task types.
    fn task_types(&self) -> Vec<Arc<dyn TaskType>>;

    /// The tasks whose effects the outcome needs when it is made permanent; the effects of all others are undone
    /// first. `None`: everything is kept.
    fn keep_on_confirm(&self, _spec: &Value, _ends: &[TaskEnd]) -> Option<Vec<TaskId>> {
        None
    }

    /// Looks outside once more when a job has been undone, for things that carry its mark and that the ledger does
    /// not know; removes what it can and returns what is left. The job is not over before it finds nothing.
    ///
    /// # Errors
    ///
    /// When it cannot look; the undo can then be given again.
    async fn sweep(&self, cx: &PlanContext, spec: &Value, effects: &[Effect]) -> Result<Vec<Leftover>, Failure> {
        let _ = (cx, spec, effects);
        Ok(Vec::new())
    }

    /// The kind's part of a job's report, made from what its tasks put out.
    fn summarize(&self, _spec: &Value, _ends: &[TaskEnd]) -> Value {
        Value::Null
    }

    /// What jobs that are compared with each other have in common: the protection group. `None`: nobody compares.
    fn series(&self, _spec: &Value) -> Option<String> {
        None
    }

    /// Adds to a job's summary what has changed since the earlier jobs of its [series](Kind::series), the latest first.
    fn compare(&self, summary: Value, _earlier: &[Earlier]) -> Value {
        summary
    }

    /// The kind's part of a plan preview, in words, made from what the tasks that change nothing put out.
    fn describe_plan(&self, _spec: &Value, _ends: &[TaskEnd]) -> Option<String> {
        None
    }
}

/// What a task hands back when it is done.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// What other tasks may refer to.
    pub output: Value,
    /// Tasks to add to the job, in the transaction that completes this one. Dependencies on this task are
    /// allowed.
    pub add: Vec<TaskSpec>,
}

impl Finished {
    /// Done, with an output.
    #[must_use]
    pub fn with(output: Value) -> Self {
        Self { output, add: Vec::new() }
    }
}

/// The code behind one type of task.
///
/// A task runs at least once. `run` may be called again after any crash, with the checkpoint and the ledger of
/// the earlier attempts in its context; it must come to the same end as if it had run once.
#[async_trait]
pub trait TaskType: Send + Sync + 'static {
    /// The name in plans: `rebalance.scan`.
    fn name(&self) -> &'static str;

    /// Retries and bounds.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// Whether running it changes anything outside the job. Previews run only those that do not.
    fn changes_outside(&self) -> bool {
        true
    }

    /// Tasks of this type that one worker runs at a time; `None`: as many as it has places.
    fn concurrency(&self) -> Option<usize> {
        None
    }

    /// First-level members of the output that references may point into; `None`: anything.
    fn output_members(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// Does the work. Stops soon after `cx.cancelled()`, with [`Failure::interrupted`], at a point from which a
    /// later attempt can go on.
    ///
    /// # Errors
    ///
    /// A failure whose class decides what follows.
    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure>;

    /// For tasks that make shared resources: whether what another job has made, and put out as `output`, is still
    /// there. Asked before it is reused; when it is gone, this task makes it again.
    ///
    /// # Errors
    ///
    /// A failure whose class decides what follows.
    async fn still_there(&self, cx: &TaskContext, output: &Value) -> Result<bool, Failure> {
        let _ = (cx, output);
        Ok(true)
    }

    /// A line of shell that removes what `effect` made, for people who have to clean up by hand. Run twice it does
    /// no harm.
    fn clean_up_command(&self, _effect: &Effect) -> Option<String> {
        None
    }

    /// The type that tasks have which undo tasks of this type, where it has a name of its own; its `undo` is called
    /// then. `None`: this type.
    fn undone_by(&self) -> Option<&'static str> {
        None
    }

    /// Undoes what the task of this context's [`undo`](TaskContext::undo) input did, going by the ledger.
    /// Idempotent.
    ///
    /// # Errors
    ///
    /// A failure whose class decides what follows. The default refuses, naming the type.
    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let _ = cx;
        Err(Failure::permanent("cannot_undo", format!("tasks of type {} cannot be undone", self.name())))
    }
}

/// All kinds and task types that a process knows.
#[derive(Clone, Default)]
pub struct Kinds {
    kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
    types: BTreeMap<&'static str, Arc<dyn TaskType>>,
}

impl std::fmt::Debug for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kinds").field("kinds", &self.kinds.keys()).field("types", &self.types.keys()).finish()
    }
}

impl Kinds {
    /// No kinds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind with its task types.
    ///
    /// # Panics
    ///
    /// If the name of the kind or of a task type is taken: a mistake in the binary.
    #[must_use]
    pub fn with(mut self, kind: impl Kind) -> Self {
        let kind: Arc<dyn Kind> = Arc::new(kind);
        for task_type in kind.task_types() {
            let name = task_type.name();
            assert!(self.types.insert(name, task_type).is_none(), "two task types are named {name}");
        }
        let name = kind.name();
        assert!(self.kinds.insert(name, kind).is_none(), "two kinds are named {name}");
        self
    }

    /// The kind of this name.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&Arc<dyn Kind>> {
        self.kinds.get(name)
    }

    /// The task type of this name.
    #[must_use]
    pub fn task_type(&self, name: &str) -> Option<&Arc<dyn TaskType>> {
        self.types.get(name)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Kind>> {
        self.kinds.values()
    }
}

impl TaskTypes for Kinds {
    fn is_known(&self, task_type: &str) -> bool {
        self.types.contains_key(task_type)
    }

    fn declares_output(&self, task_type: &str, pointer: &str) -> bool {
        let Some(members) = self.types.get(task_type).and_then(|task_type| task_type.output_members()) else {
            return true;
        };
        pointer.is_empty() || pointer.split('/').nth(1).is_some_and(|member| members.contains(&member))
    }
}
