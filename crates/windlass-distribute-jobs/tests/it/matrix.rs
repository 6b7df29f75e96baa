//! The crash matrix: a controller killed before or after any commit and any call ends as if it had not been.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_clock::SharedClock;
use windlass_distribute_jobs::DistributeKind;
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskType};
use windlass_engine::reconcile::{Reconcile, ReconcileContext, Reconciled};
use windlass_engine::{Command, Kinds};
use windlass_model::Failure;
use windlass_model::plan::Plan;
use windlass_sim::matrix::{self, Case, Cast};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

use crate::rig::{Rig, request};

/// The kind, with a status that names no address: those are others in each run.
struct Masked(DistributeKind);

#[async_trait]
impl Kind for Masked {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn about(&self) -> &'static str {
        self.0.about()
    }

    fn schema(&self) -> Value {
        self.0.schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        self.0.check(spec)
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        self.0.plan(cx, spec).await
    }

    fn reconciles(&self, spec: &Value) -> Option<Reconcile> {
        self.0.reconciles(spec)
    }

    async fn reconcile(&self, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
        let mut round = self.0.reconcile(cx).await?;
        let status = round.status.take().unwrap_or_default();
        round.status =
            Some(json!({ "settled": status["settled"], "alarms": status["alarms"], "trusted": status["trusted"] }));
        Ok(round)
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        self.0.task_types()
    }
}

/// One file is missing, one is there twice.
async fn case() -> Case {
    let rig = Arc::new(Rig::new(&[("A.mpg", 100), ("B.mpg", 100)]));
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[("B.mpg", 100)]).await;
    let b = rig.nodes.start(2_000, &[("B.mpg", 100)]).await;
    // Addresses are given by chance, and decisions go by them: the one node takes everything that is new.
    let mut spec = rig.spec(&source, &[&a, &b]);
    spec["nodes"][1]["drain"] = json!(true);
    Case {
        clock: rig.clock.clone(),
        kinds: Kinds::new().with(Masked(DistributeKind::new().at_most_every(Duration::from_millis(20)))),
        request: request(spec),
        others: Vec::new(),
        reversed: false,
        then: Some(Command::Cancel { undo: false }),
        work_dir: rig.path("jobs"),
        fingerprint: Box::new(move || {
            let rig = rig.clone();
            Box::pin(async move { rig.nodes.picture() })
        }),
    }
}

#[tokio::test]
async fn a_copy_and_a_delete_that_are_killed_anywhere_end_as_if_they_had_not_been() {
    let memory = |clock: SharedClock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(memory, case, 1, Cast::Alone, 4).await;
    println!("{}\n{}", matrix.clean, matrix.to_table());
    assert!(matrix.clean.contains("1 copies, 1 deletes"), "{}", matrix.clean);
    assert!(matrix.different().is_empty(), "{:#?}", matrix.different());
}
