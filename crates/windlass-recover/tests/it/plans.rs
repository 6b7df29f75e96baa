//! Plans that cannot work are refused with everything that is wrong, and nothing is made.

use serde_json::{Value, json};
use windlass_engine::EngineError;
use windlass_model::task::Outcome;

use crate::rig::Rig;

/// The faults with which a spec is refused.
async fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut rig = Rig::new().await;
    change(&mut rig.spec);
    let engine = rig.engine().await;
    let error = engine.submit(rig.request()).await.unwrap_err();
    assert_eq!(rig.b.calls().len(), 0, "nobody was asked");
    match error {
        EngineError::InvalidSpec { faults, .. } => {
            faults.iter().map(|fault| format!("{}: {}\n", fault.pointer, fault.message)).collect()
        }
        other => panic!("{other}"),
    }
}

/// The causes for which the survey refuses.
async fn surveyed(change: impl FnOnce(&mut Rig)) -> String {
    let mut rig = Rig::new().await;
    change(&mut rig);
    let (_, _, view) = rig.run().await;
    assert_eq!(rig.b.changes(), 0, "nothing was made");
    let survey = view.tasks.iter().find(|task| task.name.starts_with("recover.survey")).unwrap();
    assert_eq!(view.tasks.len(), 1);
    match survey.status.outcome() {
        Some(Outcome::Failed { failure }) => format!("{}: {failure} {}", failure.code, failure.causes.join("\n")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_that_the_inventory_lacks_is_said_at_once() {
    let text = refused(|spec| {
        spec["inventory"]["networks"].as_array_mut().unwrap().pop();
        spec["inventory"]["instances"][0]["nics"][0]["addresses"][0]["address"] = "10.2.0.11".into();
        spec["inventory"]["instances"][2]["flavor"] = "huge".into();
        spec["instances"] = json!([
            { "name": "db", "after": [{ "instance": "web" }] },
            { "name": "app", "after": [{ "instance": "db" }] },
            { "name": "web", "after": [{ "instance": "app" }], "diagnose": [{ "port": "x:1", "console": "y" }] },
            { "name": "ghost" },
        ]);
    })
    .await;
    for part in
        ["missing_network", "10.2.0.11", "missing_flavor", "circle: ", "unknown_instance", "ghost", "invalid_check"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(
        text.contains("db after web after app after db") || text.contains("app after db after web after app"),
        "{text}"
    );
}

#[tokio::test]
async fn unknown_fields_missing_sources_and_unnamed_sites_are_refused() {
    assert!(refused(|spec| spec["maap"] = json!({})).await.contains("map"));
    assert!(refused(|spec| drop(spec.as_object_mut().unwrap().remove("inventory"))).await.contains("source"));
    assert!(refused(|spec| spec["target"] = "nowhere".into()).await.contains("nowhere"));
    assert!(
        refused(|spec| spec["inventory"]["instances"][0]["volumes"][0]["boot_index"] = Value::Null)
            .await
            .contains("no_boot_volume")
    );
}

#[tokio::test]
async fn what_the_target_site_lacks_is_said_at_once_and_nothing_is_made() {
    let text = surveyed(|rig| {
        rig.spec["map"] = json!({ "external_networks": { "public": "internet" } });
        rig.spec["instances"][0]["zone"] = "moon".into();
        rig.spec["instances"][0]["hypervisor"] = "compute-z9".into();
        rig.spec["volumes"] = json!({ "cinder-native": { "replicas": { "vol-data": "no-such-volume" } } });
    })
    .await;
    for part in [
        "plan_refused",
        "missing_external_network",
        "internet",
        "missing_zone",
        "moon",
        "missing_hypervisor",
        "no_replica",
        "data",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn wrong_passwords_and_unreachable_sites_are_told_apart() {
    let text = surveyed(|rig| rig.spec["target"]["credential"]["password"]["user"] = "nobody".into()).await;
    assert!(text.contains("target_sign_in") && !text.contains("lab-secret"), "{text}");
    let mut rig = Rig::new().await;
    rig.spec["target"]["auth_url"] = "http://127.0.0.1:1/v3".into();
    let engine = rig.engine().await;
    let kind = windlass_recover::RecoverKind::new(windlass_recover::RecoverConfig::foreground(
        std::collections::BTreeMap::new(),
    ));
    let failure = kind.survey(&rig.clock, &rig.spec).await.unwrap_err();
    assert_eq!(failure.code, "no_connection", "{failure}");
    drop(engine);
}

#[tokio::test]
async fn templates_waves_hooks_limits_and_moments_that_do_not_fit_are_all_said_at_once() {
    let text = refused(|spec| {
        spec["templates"] = json!({ "tier": { "after": [{ "instance": "ghost" }], "done": [{ "command": ["true"], "post": "http://x" }] } });
        spec["instances"] = json!([
            { "name": "app", "template": "teer" },
            { "name": "db", "template": "tier", "after": [{ "instance": "web" }] },
        ]);
        spec["waves"] = json!([{ "name": "one", "instances": ["db", "app"] }, { "instances": ["web", "app", "phantom"] }]);
        spec["for_inventory"] = "2026-01-01T00:00:00Z".into();
        spec["inventory"]["taken_at"] = "2026-02-01T00:00:00Z".into();
        spec["inventory"]["tenants"][0]["quotas"]["compute"]["instances"] = 2.into();
    })
    .await;
    for part in [
        "unknown_instance: `after` of the template \"tier\" names the instance \"ghost\"",
        "invalid_hook",
        "unknown_template",
        "\"teer\"",
        "planned_twice",
        "wave 2 names the instance \"phantom\"",
        "plan_outdated",
        "quota_exceeded",
        "3",
        "instance_cycle",
        "wave one",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn old_inventories_taken_names_and_protected_sites_that_have_changed_are_found_before_anything_is_made() {
    let text = surveyed(|rig| {
        rig.spec["inventory"]["taken_at"] = "2026-01-01T00:00:00Z".into();
        rig.spec["max_inventory_age"] = "1h".into();
        rig.spec["map"] = json!({ "tenants": { "shop": "admin" } });
    })
    .await;
    for part in ["inventory_age", "name_taken", "admin"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // The site itself as the protected one: it has none of the instances any more.
    let mut rig = Rig::new().await;
    rig.spec["source"] = rig.spec["target"].clone();
    let kind = windlass_recover::RecoverKind::new(windlass_recover::RecoverConfig::foreground(
        std::collections::BTreeMap::new(),
    ));
    let survey = kind.survey(&rig.clock, &rig.spec).await.unwrap();
    let drift =
        survey.findings.iter().filter(|finding| ["drift", "source_unreachable"].contains(&&*finding.code)).count();
    assert!(drift > 0 && survey.findings.iter().all(|finding| !finding.blocks), "{:?}", survey.findings);
}
