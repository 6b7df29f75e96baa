//! The kind itself: what the engine and the binary see of rebalancing.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_model::Failure;
use windlass_model::plan::Plan;

use crate::backups::JobBackups;
use crate::configure::{CONFIGURE, ConfigureTask};
use crate::finish::FinishTask;
use crate::moves::{MoveShares, RebalanceCleanup, RebalanceMove};
use crate::plan_task::{CalculateTask, PhaseTask};
use crate::report;
use crate::retire::{RetireTask, TallyTask};
use crate::scan::ScanTask;
use crate::spec::{self, RebalanceSpec};
use crate::sweep::SweepTask;

/// Evens out, drains and recovers the agents of a vector index cluster.
#[derive(Clone, Debug)]
pub struct RebalanceKind {
    shares: Arc<MoveShares>,
}

impl Default for RebalanceKind {
    fn default() -> Self {
        Self::new()
    }
}

impl RebalanceKind {
    /// The kind. One per process: its jobs share connections and limits.
    #[must_use]
    pub fn new() -> Self {
        Self { shares: MoveShares::new() }
    }
}

#[async_trait]
impl Kind for RebalanceKind {
    fn name(&self) -> &'static str {
        "rebalance"
    }

    fn about(&self) -> &'static str {
        "evens out, drains or recovers the agents of a vector index cluster (Vald), from their index backups"
    }

    fn schema(&self) -> Value {
        spec::schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        spec::check(spec)
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        // A plan moves nothing and may be made beside a job that does.
        match RebalanceSpec::parse(spec) {
            Ok(spec) if !spec.only_plans() => vec![format!("rebalance/{}", spec.cluster_name())],
            _ => Vec::new(),
        }
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let spec = RebalanceSpec::parse(spec)?;
        Ok(Plan { tasks: vec![cx.task(CONFIGURE, spec.cluster_name())], warnings: warnings(&spec) })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![
            ConfigureTask::shared(),
            Arc::new(ScanTask),
            Arc::new(CalculateTask),
            Arc::new(RebalanceMove::new(self.shares.clone(), Arc::new(JobBackups))),
            Arc::new(RebalanceCleanup::new(self.shares.clone(), Arc::new(JobBackups))),
            Arc::new(PhaseTask),
            Arc::new(SweepTask),
            Arc::new(TallyTask),
            Arc::new(RetireTask),
            Arc::new(FinishTask),
        ]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        report::summarize(ends)
    }

    fn describe_plan(&self, _: &Value, ends: &[TaskEnd]) -> Option<String> {
        report::describe(ends)
    }
}

/// What people should know before they say yes.
fn warnings(spec: &RebalanceSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.force {
        warnings.push("force is set: backups that are too old or marked as invalid are used".to_owned());
    }
    if spec.durability() == spec::Durability::Queued {
        warnings.push("durability is queued: a copy that an agent loses in a crash is not made again".to_owned());
    }
    if spec.restore_unseen == spec::Restore::Always {
        warnings.push("restore_unseen is always: ids that clients deleted after the backup come back".to_owned());
    }
    warnings
}
