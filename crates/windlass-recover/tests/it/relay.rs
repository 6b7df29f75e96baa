//! What was recovered at one site is read there, and drilled at the next one.

use serde_json::{Value, json};
use windlass_engine::{Command, JobRequest};
use windlass_model::job::{JobResult, JobState};
use windlass_recover::{Cloud, Site, reader};
use windlass_sim_cloud::{Options, Rule, SimCloud, What};

use crate::rig::{Rig, site, troubles};

const TIERS: [&str; 3] = ["db", "app", "web"];

#[tokio::test]
async fn what_a_migration_has_made_is_drilled_at_another_site_through_a_block_service_that_is_away_once() {
    let mut rig = Rig::new().await;
    let next = SimCloud::start(Options::new("c"), rig.clock.clone()).await.unwrap();
    rig.spec["mode"] = "migrate".into();
    rig.spec["templates"] = json!({ "tier": { "diagnose": [{ "console": "login", "interval": "5ms" }] } });
    rig.spec["instances"] = json!(TIERS.map(|name| json!({ "name": name, "template": "tier" })));
    rig.spec["waves"] = json!(TIERS.map(|name| json!({ "name": name, "instances": [name] })));
    let (engine, opening, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let confirmed = rig.command(&engine, opening, Command::Confirm).await;
    assert_eq!((confirmed.status.state, confirmed.status.result), (JobState::Finished, Some(JobResult::Succeeded)));

    let here: Site = serde_json::from_value(site(&rig.b, "b")).unwrap();
    let names = TIERS.map(str::to_owned);
    let inventory = reader::read(&Cloud::new(here, rig.clock.clone()), &names).await.unwrap();
    for volume in &inventory.volumes {
        let metadata = json!({ "windlass_replica_of": volume.id });
        let id = next.plant_volume(&volume.name, volume.size_gib, &volume.name, volume.bootable, &metadata);
        if volume.multiattach {
            next.share_volume(&id);
        }
    }
    let (before, images) = (next.objects(), next.images());
    let mut spec = rig.spec.clone();
    spec["mode"] = "drill".into();
    spec["target"] = site(&next, "c");
    spec["inventory"] = serde_json::to_value(&inventory).unwrap();
    next.fail(Rule::once("POST", "/accept", What::Status(503, Some(0))));
    let request = JobRequest { kind: "recover".into(), name: "drill".into(), spec, ..JobRequest::default() };
    let job = engine.submit(request).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert_eq!((view.status.state, view.status.result), (JobState::Completed, Some(JobResult::Succeeded)));
    assert_eq!(next.all("server").iter().filter(|server| server["status"] == "ACTIVE").count(), 3);
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!((undone.status.state, undone.status.result), (JobState::Finished, Some(JobResult::Succeeded)));
    let summary: Value = rig.summary(&engine, job).await;
    assert!(summary["retries"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!((next.objects(), next.images()), (before, images));
}
