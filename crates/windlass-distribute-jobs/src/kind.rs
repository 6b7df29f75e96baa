//! The kind itself: what the engine and the binary see.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_engine::reconcile::{Reconcile, ReconcileContext, Reconciled};
use windlass_model::Failure;
use windlass_model::plan::Plan;
use windlass_model::task::Outcome;

use crate::copy::CopyTask;
use crate::delete::DeleteTask;
use crate::keeper::{EVERY, Keepers};
use crate::legacy::LegacyCopyTask;
use crate::order::{CopyOrder, DeleteOrder};
use crate::spec::{self, DistributeSpec};
use crate::{COPY, COPY_LEGACY, DELETE, round};

/// Plans come at most this often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Keeps the right files on the right servers.
#[derive(Clone, Debug, Default)]
pub struct DistributeKind {
    keepers: Arc<Keepers>,
    at_most_every: Option<Duration>,
}

impl DistributeKind {
    /// The kind.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With plans at most so often, instead of each second: for tests, which do not wait.
    #[must_use]
    pub fn at_most_every(mut self, pause: Duration) -> Self {
        self.at_most_every = Some(pause);
        self
    }
}

#[async_trait]
impl Kind for DistributeKind {
    fn name(&self) -> &'static str {
        "distribute"
    }

    fn about(&self) -> &'static str {
        "keeps the right files on the right servers: copies by popularity, frees space, trusts no half answer"
    }

    fn schema(&self) -> Value {
        spec::schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        spec::check(spec)
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        // Two controllers of one name would take each other's transfers for their own.
        DistributeSpec::parse(spec)
            .map_or_else(|_| Vec::new(), |spec| vec![format!("distribute/{}", spec.controller())])
    }

    async fn plan(&self, _: &PlanContext, _: &Value) -> Result<Plan, Failure> {
        Ok(Plan::default())
    }

    fn reconciles(&self, _: &Value) -> Option<Reconcile> {
        let at_most_every = self.at_most_every.unwrap_or(AT_MOST_EVERY);
        Some(Reconcile { at_most_every, keep_ended: 500, ..Reconcile::every(EVERY) })
    }

    async fn reconcile(&self, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
        round::round(&self.keepers, cx).await
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![
            Arc::new(CopyTask(self.keepers.clone())),
            Arc::new(DeleteTask),
            Arc::new(LegacyCopyTask(self.keepers.clone())),
        ]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        let (mut copied, mut deleted, mut bytes) = (0_u64, 0_u64, 0_u64);
        let mut failed = std::collections::BTreeMap::<String, u64>::new();
        for end in ends {
            match (&end.outcome, end.task.task_type.as_str()) {
                (Some(Outcome::Succeeded { .. }), COPY | COPY_LEGACY) => {
                    copied += 1;
                    bytes += end.output.as_ref().and_then(|out| out.get("bytes")).and_then(Value::as_u64).unwrap_or(0);
                }
                (Some(Outcome::Succeeded { .. }), DELETE) => deleted += 1,
                (Some(Outcome::Failed { failure }), _) => *failed.entry(failure.code.clone()).or_default() += 1,
                _ => {}
            }
        }
        json!({ "copied": copied, "copied_bytes": bytes, "deleted": deleted, "failed": failed })
    }

    fn describe_plan(&self, _: &Value, ends: &[TaskEnd]) -> Option<String> {
        let mut lines = Vec::new();
        for end in ends.iter().filter(|end| end.task.task_type == DELETE) {
            let order: DeleteOrder = serde_json::from_value(end.task.input.clone()).ok()?;
            lines.push(format!("would delete {} on {}: {}", order.name, order.node, order.because));
        }
        for end in ends.iter().filter(|end| [COPY, COPY_LEGACY].contains(&end.task.task_type.as_str())) {
            let order: CopyOrder = serde_json::from_value(end.task.input.clone()).ok()?;
            let (name, from, to) = (&order.name, &order.source, &order.destination);
            lines.push(format!("would copy {name} from {from} to {to}: {}", order.because));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}
