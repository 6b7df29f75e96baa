//! The plan of a job: a DAG of tasks, checked as a whole before anything of it is stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Policy;
use crate::progress::Progress;
use crate::reference::{Reference, is_pointer};
use crate::{JobId, TaskId};

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
        }
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
