//! The task types: what makes, what removes.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskType};
use windlass_engine::{Command, JobRequest, Kinds};
use windlass_model::Failure;
use windlass_model::plan::Plan;
use windlass_recover::REVERSE;

use crate::rig::{Rig, troubles};

/// A kind that removes what its spec names, one after the other: `[["recover.delete.network", ID], …]`.
#[derive(Debug)]
struct Clear;

#[async_trait]
impl Kind for Clear {
    fn name(&self) -> &'static str {
        "clear"
    }

    fn about(&self) -> &'static str {
        "removes what is named"
    }

    fn schema(&self) -> Value {
        json!({})
    }

    fn check(&self, _: &Value) -> Vec<SpecFault> {
        Vec::new()
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        for one in spec["clear"].as_array().unwrap() {
            let (task_type, id) = (one[0].as_str().unwrap(), one[1].as_str().unwrap());
            let mut task = cx.task(task_type, id).input(json!({ "id": id }));
            if let Some(last) = plan.tasks.last() {
                task = task.requires(last.id);
            }
            plan.tasks.push(task);
        }
        Ok(plan)
    }

    fn task_types(&self) -> Vec<std::sync::Arc<dyn TaskType>> {
        Vec::new()
    }
}

#[test]
fn each_of_the_twenty_three_task_types_is_there() {
    let kinds = Rig::kinds();
    let forward: BTreeSet<&str> = REVERSE.iter().map(|(made, _)| *made).collect();
    let reverse: BTreeSet<&str> = REVERSE.iter().map(|(_, removed)| *removed).collect();
    // Images are beside the twenty-three.
    assert_eq!((forward.len(), reverse.len()), (14, 11));
    for name in forward.iter().chain(&reverse) {
        let found = kinds.task_type(name).unwrap_or_else(|| panic!("there is no task type {name}"));
        assert_eq!(found.name(), *name);
    }
    for (made, removed) in REVERSE.iter().filter(|(made, _)| *made != "recover.stop.instance") {
        assert_eq!(kinds.task_type(made).unwrap().undone_by(), Some(*removed), "{made}");
    }
}

#[tokio::test]
async fn what_was_made_is_undone_by_tasks_of_the_types_that_remove() {
    let rig = Rig::new().await;
    let (engine, job, _) = rig.run().await;
    let view = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let undone: BTreeSet<&str> = view
        .tasks
        .iter()
        .filter(|task| task.name.contains("[undo "))
        .map(|task| task.name.split('[').next().unwrap())
        .collect();
    let all = REVERSE.iter().map(|(_, removed)| *removed);
    let expected: BTreeSet<&str> = all.filter(|removed| *removed != "recover.delete.image").collect();
    assert_eq!(undone, expected);
}

#[tokio::test]
async fn in_a_plan_they_remove_what_they_are_told_once_and_again() {
    let rig = Rig::new().await;
    let before = rig.b.objects();
    let (_, _, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let ids = |kind: &str| -> Vec<String> {
        let all = rig.b.all(kind);
        all.iter().filter_map(|one| one["id"].as_str().or(one["name"].as_str()).map(str::to_owned)).collect()
    };
    let mut clear: Vec<Value> = Vec::new();
    let mut add = |task_type: &str, ids: Vec<String>| {
        clear.extend(ids.into_iter().map(|id| json!([format!("recover.{task_type}"), id])));
    };
    let marked = |kind: &str| -> Vec<String> {
        let all = rig.b.all(kind);
        let ours = all.iter().filter(|one| one.to_string().contains("wl:"));
        ours.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
    };
    add("delete.instance", ids("server"));
    let ports: Vec<String> = marked("port");
    add("delete.floatingip", ids("floatingip"));
    add("delete.router", ids("router"));
    let volumes = marked("volume");
    // One is let go, and its file stays; the others are deleted.
    add("unmanage.volume", volumes[..1].to_vec());
    add("delete.volume.copy", volumes[1..].to_vec());
    add("delete.spec", ids("flavor"));
    add("delete.keypair", ids("keypair"));
    let networks = marked("network");
    let groups = marked("security_group");
    let tenants = marked("project");
    for port in ports {
        rig.b.lose("port", &port);
    }
    let more = networks.into_iter().map(|id| json!(["recover.delete.network", id]));
    clear.extend(more);
    clear.extend(groups.into_iter().map(|id| json!(["recover.delete.security_group", id])));
    clear.extend(tenants.into_iter().map(|id| json!(["recover.delete.tenant", id])));
    let kinds: Kinds = Rig::kinds().with(Clear);
    for round in ["first", "second"] {
        let engine = rig.engine_of(kinds.clone()).await;
        let spec = json!({ "target": rig.spec["target"], "pace": rig.spec["pace"], "clear": clear });
        let request = JobRequest { kind: "clear".into(), name: round.into(), spec, ..JobRequest::default() };
        let job = engine.submit(request).await.unwrap();
        let view = rig.rest(&engine, job).await;
        assert_eq!(troubles(&view), Vec::<String>::new(), "{round}");
    }
    assert_eq!(rig.b.objects(), before);
    assert_eq!(rig.b.images().len(), 5, "the replicas, and the file of what was let go");
}
