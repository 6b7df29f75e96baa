//! What a job would do.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::TaskId;

use crate::problem::Failure;
use crate::task::Dependency;
use crate::work::Progress;

/// A task of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedTask {
    /// The task; a real job has tasks of its own.
    #[schemars(with = "String")]
    pub id: TaskId,
    /// Which code runs it.
    #[serde(rename = "type")]
    pub task_type: String,
    /// What it is about.
    pub resource: String,
    /// What comes first.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// The work in it.
    #[serde(default)]
    pub size: Progress,
    /// For tasks that were run to find out: how they ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Tasks of one type that would run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedType {
    /// The type.
    #[serde(rename = "type")]
    pub task_type: String,
    /// How many.
    pub tasks: u64,
    /// Their work.
    pub size: Progress,
}

/// What a job would do. Nothing was changed to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanPreview {
    /// The kind.
    pub kind: String,
    /// What people would call it.
    pub name: String,
    /// The kind's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The kind's own figures.
    #[serde(default)]
    pub summary: Value,
    /// Why no plan could be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Tasks that change nothing and were run to find out.
    pub looked: Vec<PlannedTask>,
    /// Tasks that would run, in an order in which they could; the first 2000.
    pub would_run: Vec<PlannedTask>,
    /// All that would run, by type.
    pub by_type: Vec<PlannedType>,
    /// What people should know before they say yes.
    pub warnings: Vec<String>,
    /// What the plan is recognised by when the job is submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<PlanFingerprint>,
}

/// What a plan is recognised by: the same settings and the same tasks give the same digest, whoever plans and whenever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanFingerprint {
    /// The version of this form: 1.
    pub windlass_plan: u32,
    /// The kind.
    pub kind: String,
    /// What people call the job.
    pub name: String,
    /// Of everything below: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Of the job without its tasks: kind, name, spec, priority, deadlines, labels.
    pub job: String,
    /// Of each task, by its name; empty when there are more than [`PlanFingerprint::MOST_TASKS`].
    #[serde(default)]
    pub tasks: BTreeMap<String, String>,
}

impl PlanFingerprint {
    /// The version of the form.
    pub const VERSION: u32 = 1;

    /// Tasks that are told apart; with more, only the digest of all is known.
    pub const MOST_TASKS: usize = 10_000;

    /// Where `now` differs from this, in words; empty when it is the same plan.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        if self.digest == now.digest {
            return Vec::new();
        }
        let mut found = Vec::new();
        if self.job != now.job {
            found.push(
                "the job itself (its kind, name, spec, priority, labels or deadlines) is not the same".to_owned(),
            );
        }
        if !self.tasks.is_empty() && !now.tasks.is_empty() {
            for (task, digest) in &now.tasks {
                match self.tasks.get(task) {
                    None => found.push(format!("{task} is new")),
                    Some(before) if before != digest => found.push(format!("{task} is not the same")),
                    Some(_) => {}
                }
            }
            let gone = self.tasks.keys().filter(|task| !now.tasks.contains_key(*task));
            found.extend(gone.map(|task| format!("{task} is not in it any more")));
        }
        if found.is_empty() {
            found.push(format!("its digest is {}, not {}", now.digest, self.digest));
        }
        found
    }
}

/// The plan that a submission relies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ExpectedPlan {
    /// Its digest alone: a difference is found, but not named.
    Digest(String),
    /// All of its fingerprint.
    Plan(Box<PlanFingerprint>),
}

impl ExpectedPlan {
    /// Where `now` differs from what is expected; empty when it does not.
    #[must_use]
    pub fn differences(&self, now: &PlanFingerprint) -> Vec<String> {
        match self {
            Self::Digest(digest) if *digest == now.digest => Vec::new(),
            Self::Digest(digest) => vec![format!("its digest is {}, not {digest}", now.digest)],
            Self::Plan(plan) => plan.differences(now),
        }
    }
}
