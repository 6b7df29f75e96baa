//! The plan of a job: a DAG of tasks, checked as a whole before anything of it is stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Policy;
use crate::progress::Progress;
use crate::reference::{Reference, is_pointer};
use crate::{Digest, JobId, TaskId};

/// How strongly a task depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The other must have succeeded, else this one is ignored.
    Requires,
    /// The other must have ended, however.
    After,
}

/// An edge of the DAG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dependency {
    /// The task that comes first.
    pub task: TaskId,
    /// How strongly.
    pub need: Need,
}

/// A resource outside that several jobs may need and that exists once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// What all jobs call it: `<site>/<kind of thing>/<name>`.
    pub key: String,
    /// Digest of how it shall be. Jobs share it only when they want the same.
    pub definition: Digest,
    /// Makes one of its own for this job when it is there and defined otherwise, instead of failing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_on_conflict: bool,
}

/// A place in a pool: of `size` holders at a time, over all jobs of a state store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUse {
    /// The pool.
    pub pool: String,
    /// How many may hold a place in it at a time. At least 1.
    pub size: u32,
}

impl PoolUse {
    /// A place in `pool`.
    #[must_use]
    pub fn new(pool: impl Into<String>, size: u32) -> Self {
        Self { pool: pool.into(), size }
    }
}

/// The longest key of a shared resource and the longest name of a pool, in bytes: with what the store puts around it
/// a key stays within the store's budget.
pub const NAME_BYTES: usize = 512;

/// A task as planned. Never changes once its plan is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its id, derived from the job, the type and the resource.
    pub id: TaskId,
    /// Which code runs it: `rebalance.scan`.
    #[serde(rename = "type")]
    pub task_type: String,
    /// What it is about, unique within the type and the job: `vald-agent-0`.
    pub resource: String,
    /// What comes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// Literal input.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// What is put into the input from outputs of dependencies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// Retries and bounds; `None` is the task type's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The work in it, for the estimate of the time left.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Progress,
    /// Larger runs first among runnable tasks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rank: i32,
    /// The task that this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<TaskId>,
    /// The resource that it makes, when jobs share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// The question to which a person must say yes before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_approval: Option<String>,
    /// Milliseconds that it waits once its dependencies have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Pools in which it needs a place while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolUse>,
    /// Labels that a worker must carry to run it: `site` = `b`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<String, String>,
}

fn is_default(progress: &Progress) -> bool {
    *progress == Progress::default()
}

fn is_zero(rank: &i32) -> bool {
    *rank == 0
}

impl TaskSpec {
    /// A task of `task_type` about `resource`, in generation `generation` of `job`.
    #[must_use]
    pub fn new(job: JobId, generation: u32, task_type: impl Into<String>, resource: impl Into<String>) -> Self {
        let (task_type, resource) = (task_type.into(), resource.into());
        Self {
            id: TaskId::derive(job, generation, &task_type, &resource),
            task_type,
            resource,
            dependencies: Vec::new(),
            input: Value::Null,
            references: Vec::new(),
            policy: None,
            size: Progress::default(),
            rank: 0,
            undoes: None,
            shared: None,
            needs_approval: None,
            delay_ms: None,
            pools: Vec::new(),
            needs: BTreeMap::new(),
        }
    }

    /// Makes it the maker of the resource that all jobs call `key`, defined as `definition` says.
    #[must_use]
    pub fn shared(mut self, key: impl Into<String>, definition: Digest) -> Self {
        self.shared = Some(Shared { key: key.into(), definition, private_on_conflict: false });
        self
    }

    /// Lets a shared task make one of its own when the shared resource is there and defined otherwise.
    #[must_use]
    pub fn private_on_conflict(mut self) -> Self {
        if let Some(shared) = &mut self.shared {
            shared.private_on_conflict = true;
        }
        self
    }

    /// Makes it wait until a person says yes to `question`.
    #[must_use]
    pub fn needs_approval(mut self, question: impl Into<String>) -> Self {
        self.needs_approval = Some(question.into());
        self
    }

    /// Makes it wait `ms` milliseconds once its dependencies have ended.
    #[must_use]
    pub fn delay_ms(mut self, ms: u64) -> Self {
        self.delay_ms = Some(ms);
        self
    }

    /// Lets it run only with a place in `pool`, of which there are `size`.
    #[must_use]
    pub fn pool(mut self, pool: impl Into<String>, size: u32) -> Self {
        self.pools.push(PoolUse::new(pool, size));
        self
    }

    /// Sets the literal input.
    #[must_use]
    pub fn input(mut self, input: Value) -> Self {
        self.input = input;
        self
    }

    /// Makes the task wait for the success of `task`.
    #[must_use]
    pub fn requires(mut self, task: TaskId) -> Self {
        self.dependencies.push(Dependency { task, need: Need::Requires });
        self
    }

    /// Makes the task wait for the end of `task`.
    #[must_use]
    pub fn after(mut self, task: TaskId) -> Self {
        self.dependencies.push(Dependency { task, need: Need::After });
        self
    }

    /// Takes `pointer` of the output of `task` into `at` of the input. The task must be required too.
    #[must_use]
    pub fn reference(mut self, at: impl Into<String>, task: TaskId, pointer: impl Into<String>) -> Self {
        self.references.push(Reference { at: at.into(), task, pointer: pointer.into(), optional: false });
        self
    }

    /// Says how much work is in it.
    #[must_use]
    pub fn size(mut self, size: Progress) -> Self {
        self.size = size;
        self
    }

    /// Runs before tasks of a smaller rank.
    #[must_use]
    pub fn rank(mut self, rank: i32) -> Self {
        self.rank = rank;
        self
    }

    /// Runs only on workers that carry `label` with this value.
    #[must_use]
    pub fn needs(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.needs.insert(label.into(), value.into());
        self
    }

    /// The name that people read: type and resource.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}[{}]", self.task_type, self.resource)
    }
}

/// What a job will do, as its kind planned it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The tasks, in no particular order.
    pub tasks: Vec<TaskSpec>,
    /// What people should know before they say yes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What the check of a plan knows about a task type.
pub trait TaskTypes {
    /// Whether some registered code runs this type.
    fn is_known(&self, task_type: &str) -> bool;

    /// Whether `pointer` is in the type's declared output; types that declare nothing accept any.
    fn declares_output(&self, task_type: &str, pointer: &str) -> bool;
}

/// A fault of a plan. Names, not ids: a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// Two tasks have the same type and resource.
    #[error("two tasks are named {0}")]
    Duplicate(String),
    /// The type is registered nowhere.
    #[error("task {task} has the unknown type {task_type}")]
    UnknownType {
        /// The task's name.
        task: String,
        /// The unknown type.
        task_type: String,
    },
    /// A dependency is neither in the plan nor in the job.
    #[error("task {task} depends on {missing}, which is not in the plan")]
    UnknownDependency {
        /// The task's name.
        task: String,
        /// The id that is missing.
        missing: TaskId,
    },
    /// The dependencies go round in a circle.
    #[error("the dependencies go round in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A reference to a task that is not required directly.
    #[error("task {task} refers to {to}, which it does not directly require")]
    NotADependency {
        /// The task's name.
        task: String,
        /// The name or id referred to.
        to: String,
    },
    /// A reference to something that the other's output does not have.
    #[error("task {task} refers to {pointer} of {to}, which the output of {task_type} does not declare")]
    NotInOutput {
        /// The task's name.
        task: String,
        /// The name of the task referred to.
        to: String,
        /// Its type.
        task_type: String,
        /// The pointer.
        pointer: String,
    },
    /// Two tasks of a job make the same shared resource.
    #[error("tasks {first} and {second} both make the shared resource {key}; let one make it and the other require it")]
    SharedTwice {
        /// One task's name.
        first: String,
        /// The other's name.
        second: String,
        /// The resource.
        key: String,
    },
    /// A name that cannot be stored.
    #[error(
        "task {task} names a {what} {name:?}: 1 to {NAME_BYTES} bytes without control characters are needed, \
         neither beginning nor ending with a slash"
    )]
    InvalidName {
        /// The task's name.
        task: String,
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A pool that is named twice or has no places.
    #[error("task {task} uses the pool {pool} {why}")]
    InvalidPool {
        /// The task's name.
        task: String,
        /// The pool.
        pool: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A task that asks a person, without a question.
    #[error("task {0} needs an approval but has no question to show")]
    NoQuestion(String),
    /// A pointer that is none.
    #[error("task {task} has {pointer:?}, which is not a JSON pointer")]
    InvalidPointer {
        /// The task's name.
        task: String,
        /// The text.
        pointer: String,
    },
}

impl Plan {
    /// Finds all faults of the plan. `existing` are tasks the job has already, which new ones may depend on.
    ///
    /// # Errors
    ///
    /// Every fault that was found, at most one circle among them.
    pub fn check(&self, existing: &HashMap<TaskId, String>, types: &dyn TaskTypes) -> Result<(), Vec<PlanFault>> {
        let mut faults = Vec::new();
        let mut by_id: HashMap<TaskId, &TaskSpec> = HashMap::with_capacity(self.tasks.len());
        for task in &self.tasks {
            if by_id.insert(task.id, task).is_some() || existing.contains_key(&task.id) {
                faults.push(PlanFault::Duplicate(task.name()));
            }
            if !types.is_known(&task.task_type) {
                faults.push(PlanFault::UnknownType { task: task.name(), task_type: task.task_type.clone() });
            }
        }
        check_needs(&self.tasks, &mut faults);
        for task in &self.tasks {
            let mut required = HashSet::new();
            for dependency in &task.dependencies {
                if !by_id.contains_key(&dependency.task) && !existing.contains_key(&dependency.task) {
                    faults.push(PlanFault::UnknownDependency { task: task.name(), missing: dependency.task });
                }
                if dependency.need == Need::Requires {
                    required.insert(dependency.task);
                }
            }
            for reference in &task.references {
                check_reference(task, reference, &required, &by_id, existing, types, &mut faults);
            }
        }
        faults.extend(self.cycle(&by_id));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// One circle of dependencies, as a path of names that ends where it began.
    fn cycle(&self, by_id: &HashMap<TaskId, &TaskSpec>) -> Option<PlanFault> {
        // Kahn's algorithm leaves exactly the tasks on and behind circles.
        let mut open: HashMap<TaskId, usize> = HashMap::with_capacity(self.tasks.len());
        let mut dependants: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
        for task in &self.tasks {
            let inner = task.dependencies.iter().filter(|dependency| by_id.contains_key(&dependency.task));
            let mut count = 0;
            for dependency in inner {
                dependants.entry(dependency.task).or_default().push(task.id);
                count += 1;
            }
            open.insert(task.id, count);
        }
        let mut free: Vec<TaskId> = open.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
        while let Some(id) = free.pop() {
            open.remove(&id);
            for dependant in dependants.get(&id).into_iter().flatten() {
                if let Some(count) = open.get_mut(dependant) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(*dependant);
                    }
                }
            }
        }
        // Among what is left every task has a dependency that is left; following them comes round.
        let mut at = *open.keys().min()?;
        let mut path = Vec::new();
        let mut seen = HashMap::new();
        while !seen.contains_key(&at) {
            seen.insert(at, path.len());
            path.push(at);
            at = by_id.get(&at)?.dependencies.iter().map(|d| d.task).find(|id| open.contains_key(id))?;
        }
        let mut names: Vec<String> =
            path[seen[&at]..].iter().rev().filter_map(|id| by_id.get(id)).map(|task| task.name()).collect();
        names.extend(names.first().cloned());
        Some(PlanFault::Cycle(names))
    }

    /// Tasks per type, for a summary.
    #[must_use]
    pub fn count_by_type(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for task in &self.tasks {
            *counts.entry(task.task_type.as_str()).or_default() += 1;
        }
        counts
    }
}

/// Whether a text may name a shared resource or a pool.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && !name.starts_with('/')
        && !name.ends_with('/')
        && !name.chars().any(char::is_control)
}

/// Checks what tasks need besides a place: shared resources, approvals, pools.
fn check_needs(tasks: &[TaskSpec], faults: &mut Vec<PlanFault>) {
    let mut makers: HashMap<&str, &TaskSpec> = HashMap::new();
    let mut check_name = |task: &TaskSpec, what, name: &str| {
        if !is_name(name) {
            faults.push(PlanFault::InvalidName { task: task.name(), what, name: name.chars().take(64).collect() });
        }
    };
    for task in tasks {
        if let Some(shared) = &task.shared {
            check_name(task, "shared resource", &shared.key);
        }
        for pool in &task.pools {
            check_name(task, "pool", &pool.pool);
        }
    }
    for task in tasks {
        if let Some(shared) = &task.shared
            && let Some(first) = makers.insert(&shared.key, task)
        {
            let (first, second) = (first.name(), task.name());
            faults.push(PlanFault::SharedTwice { first, second, key: shared.key.clone() });
        }
        if task.needs_approval.as_deref().is_some_and(|question| question.trim().is_empty()) {
            faults.push(PlanFault::NoQuestion(task.name()));
        }
        let mut named = HashSet::new();
        for PoolUse { pool, size } in &task.pools {
            let twice = !named.insert(pool);
            for (_, why) in [(twice, "twice"), (*size == 0, "with a size of 0")].into_iter().filter(|(bad, _)| *bad) {
                faults.push(PlanFault::InvalidPool { task: task.name(), pool: pool.clone(), why });
            }
        }
    }
}

fn check_reference(
    task: &TaskSpec,
    reference: &Reference,
    required: &HashSet<TaskId>,
    by_id: &HashMap<TaskId, &TaskSpec>,
    existing: &HashMap<TaskId, String>,
    types: &dyn TaskTypes,
    faults: &mut Vec<PlanFault>,
) {
    let to = by_id
        .get(&reference.task)
        .map(|to| to.name())
        .or_else(|| existing.get(&reference.task).cloned())
        .unwrap_or_else(|| reference.task.to_string());
    for pointer in [&reference.at, &reference.pointer] {
        if !is_pointer(pointer) {
            faults.push(PlanFault::InvalidPointer { task: task.name(), pointer: pointer.clone() });
        }
    }
    if !required.contains(&reference.task) {
        faults.push(PlanFault::NotADependency { task: task.name(), to });
    } else if let Some(target) = by_id.get(&reference.task)
        && !types.declares_output(&target.task_type, &reference.pointer)
    {
        faults.push(PlanFault::NotInOutput {
            task: task.name(),
            to,
            task_type: target.task_type.clone(),
            pointer: reference.pointer.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl TaskTypes for Known {
        fn is_known(&self, task_type: &str) -> bool {
            task_type != "nope"
        }

        fn declares_output(&self, _: &str, pointer: &str) -> bool {
            pointer != "/absent"
        }
    }

    const JOB: JobId = JobId::from_bits(1);

    fn task(resource: &str) -> TaskSpec {
        TaskSpec::new(JOB, 1, "t", resource)
    }

    fn faults(tasks: Vec<TaskSpec>) -> Vec<String> {
        let plan = Plan { tasks, warnings: vec![] };
        let faults = plan.check(&HashMap::new(), &Known).err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_plan_has_no_fault() {
        let a = task("a");
        let b = task("b").requires(a.id).reference("/x", a.id, "/y");
        let c = task("c").after(b.id).requires(a.id);
        assert!(faults(vec![c, b, a]).is_empty());
    }

    #[test]
    fn every_fault_is_found_at_once_and_names_the_task() {
        let a = task("a");
        let b = task("b").reference("/x", a.id, "/y");
        let c = task("c").requires(a.id).reference("/x", a.id, "/absent").requires(TaskId::from_bits(7));
        let d = TaskSpec::new(JOB, 1, "nope", "d");
        let e = task("e").requires(a.id).reference("x", a.id, "/y");
        let found = faults(vec![a.clone(), a, b, c, d, e]).join("\n");
        for part in [
            "two tasks are named t[a]",
            "t[b] refers to t[a], which it does not directly require",
            "t[c] depends on 00000000000000000000000007",
            "t[c] refers to /absent of t[a]",
            "nope[d] has the unknown type nope",
            "t[e] has \"x\", which is not a JSON pointer",
        ] {
            assert!(found.contains(part), "{part} is not in:\n{found}");
        }
    }

    #[test]
    fn what_tasks_need_besides_a_place_is_checked_too() {
        let wanted = Digest::of(b"a");
        let good = task("a").shared("site/net/a", wanted).pool("copies", 4).needs_approval("go on?").delay_ms(5);
        assert!(faults(vec![good.clone()]).is_empty());
        let found = faults(vec![
            good,
            task("b").shared("site/net/a", Digest::of(b"b")),
            task("c").shared("", wanted),
            task("d").pool("copies", 0).pool("x", 1).pool("x", 1).pool("end/", 1),
            task("e").needs_approval("  "),
        ])
        .join("\n");
        for part in [
            "tasks t[a] and t[b] both make the shared resource site/net/a",
            "task t[c] names a shared resource \"\"",
            "task t[d] uses the pool copies with a size of 0",
            "task t[d] uses the pool x twice",
            "task t[d] names a pool \"end/\"",
            "task t[e] needs an approval",
        ] {
            assert!(found.contains(part), "{part} is not in:\n{found}");
        }
    }

    #[test]
    fn a_task_of_an_older_release_is_read() {
        let stored = serde_json::to_value(task("a")).unwrap();
        for member in ["shared", "needs_approval", "delay_ms", "pools"] {
            assert!(stored.get(member).is_none(), "{member}");
        }
        assert_eq!(serde_json::from_value::<TaskSpec>(stored).unwrap(), task("a"));
    }

    #[test]
    fn a_circle_is_reported_as_a_path_of_names() {
        let (a, b, c) = (task("a"), task("b"), task("c"));
        let (ida, idb, idc) = (a.id, b.id, c.id);
        let behind = task("d").requires(ida);
        let found = faults(vec![a.requires(idc), b.requires(ida), c.requires(idb), behind]);
        assert_eq!(found.len(), 1);
        let path = found[0].trim_start_matches("the dependencies go round in a circle: ");
        let names: Vec<&str> = path.split(" -> ").collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0], names[3]);
        assert!(!path.contains("t[d]"));
    }
}
