//! The crash matrix: a controller killed before or after any commit and any call ends as if it had not been.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::task::JoinSet;
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

use crate::old_agents::{agent, free};
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
        // The port of the controller before may be taken for a moment.
        let mut alarms = status["alarms"].as_array().cloned().unwrap_or_default();
        alarms.retain(|alarm| !alarm.as_str().is_some_and(|alarm| alarm.contains("nobody can ask at")));
        round.status = Some(json!({ "settled": status["settled"], "alarms": alarms, "trusted": status["trusted"] }));
        Ok(round)
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        self.0.task_types()
    }
}

/// One file is missing, one is there twice: on a node that is emptied, and on the one that takes everything.
async fn ground() -> (Arc<Rig>, Value, String) {
    let rig = Arc::new(Rig::new(&[("A.mpg", 100), ("B.mpg", 100)]));
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[("B.mpg", 100)]).await;
    let b = rig.nodes.start(2_000, &[("B.mpg", 100)]).await;
    // Addresses are given by chance, and decisions go by them: the one node takes everything that is new.
    let mut spec = rig.spec(&source, &[&a, &b]);
    spec["nodes"][1]["drain"] = json!(true);
    spec["watch"]["patience"] = json!("20s");
    (rig, spec, b)
}

async fn case() -> Case {
    let (rig, spec, _) = ground().await;
    over(rig, spec, JoinSet::new())
}

/// The same with an old agent on the node that takes everything.
async fn old_case() -> Case {
    let (rig, mut spec, b) = ground().await;
    let listen = free().await;
    spec["listen"] = json!(listen);
    spec["nodes"][0]["serves"] = json!("program");
    spec["nodes"][2]["wire"] = json!("legacy");
    let mut playing = JoinSet::new();
    playing.spawn(agent(rig.clone(), listen, b, true));
    over(rig, spec, playing)
}

/// The same with an old agent on the node that is emptied.
async fn old_delete() -> Case {
    let (rig, mut spec, _) = ground().await;
    spec["listen"] = json!(free().await);
    spec["nodes"][1]["wire"] = json!("legacy");
    over(rig, spec, JoinSet::new())
}

/// Two copies, the second one of which comes from the node that has the first.
async fn from_holder() -> Case {
    let rig = Arc::new(Rig::new(&[("A.mpg", 100)]));
    let source = rig.nodes.start(1_000, &[]).await;
    let (a, b) = (rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await);
    let mut spec = rig.spec(&source, &[&a, &b]);
    (spec["rules"]["copies"], spec["rules"]["copy_from_holders"]) = (json!(2), json!(true));
    spec["watch"]["patience"] = json!("20s");
    over(rig, spec, JoinSet::new())
}

/// A better file pushes a worse one out: its copy waits for the delete.
async fn displaced() -> Case {
    let rig = Arc::new(Rig::new(&[("A.mpg", 100), ("B.mpg", 100)]));
    rig.nodes.may_lose();
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(150, &[("B.mpg", 100)]).await;
    let mut spec = rig.spec(&source, &[&a]);
    spec["watch"]["patience"] = json!("20s");
    over(rig, spec, JoinSet::new())
}

fn over(rig: Arc<Rig>, spec: Value, playing: JoinSet<()>) -> Case {
    let playing = Arc::new(playing);
    Case {
        clock: rig.clock.clone(),
        kinds: Kinds::new().with(Masked(DistributeKind::new().at_most_every(Duration::from_millis(20)))),
        request: request(spec),
        others: Vec::new(),
        reversed: false,
        then: Some(Command::Cancel { undo: false }),
        work_dir: rig.path("jobs"),
        fingerprint: Box::new(move || {
            let (rig, playing) = (rig.clone(), playing.clone());
            Box::pin(async move {
                let picture = rig.nodes.picture();
                drop(playing);
                picture
            })
        }),
    }
}

async fn matrix<F: Future<Output = Case>>(case: impl Fn() -> F, every: usize, ends: &str) {
    let memory = |clock: SharedClock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(memory, case, every, Cast::Alone, 4).await;
    assert!(matrix.clean.contains(ends), "{}", matrix.clean);
    assert!(matrix.different().is_empty(), "{}\n{}", matrix.clean, matrix.to_table());
}

#[tokio::test]
async fn a_copy_and_a_delete_that_are_killed_anywhere_end_as_if_they_had_not_been() {
    matrix(case, 1, "1 copies, 1 deletes").await;
}

#[tokio::test]
async fn a_copy_by_an_old_agent_ends_so_too() {
    matrix(old_case, 3, "A.mpg,B.mpg | 0 copies, 1 deletes").await;
}

#[tokio::test]
async fn a_delete_on_an_old_agent_ends_so_too() {
    matrix(old_delete, 3, "1 copies, 1 deletes").await;
}

#[tokio::test]
async fn a_copy_from_a_node_that_holds_the_file_ends_so_too() {
    matrix(from_holder, 3, "A.mpg ; A.mpg | 2 copies, 0 deletes").await;
}

#[tokio::test]
async fn a_copy_that_waits_for_a_delete_ends_so_too() {
    matrix(displaced, 3, "A.mpg | 1 copies, 1 deletes").await;
}
