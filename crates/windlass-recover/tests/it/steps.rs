//! The order in which instances come, and what is done besides.

use serde_json::{Value, json};
use windlass_engine::Command;

use crate::rig::{Rig, troubles};

fn shell(line: &str) -> Value {
    json!({ "command": ["sh", "-c", line] })
}

#[tokio::test]
async fn waves_templates_and_hooks_run_in_their_order_and_leave_nothing() {
    let mut rig = Rig::new().await;
    let told = rig.folder.path().join("told");
    let tell = |word: &str| {
        shell(&format!("echo \"{word} $WINDLASS_WHAT $WINDLASS_MODE $WINDLASS_ADDRESS\" >> {}", told.display()))
    };
    rig.spec["templates"] =
        json!({ "looked": { "diagnose": [{ "console": "login", "interval": "5ms" }], "done": [tell("up")] } });
    rig.spec["instances"] = json!([
        { "name": "db", "template": "looked", "before": [tell("first"), tell("second")] },
        { "name": "app", "template": "looked" },
        { "name": "web", "template": "looked", "auto_start": false },
    ]);
    rig.spec["waves"] = json!([
        { "name": "data", "instances": ["db"], "done": [tell("through")] },
        { "instances": ["app"], "delay": "10ms", "before": [tell("begins")] },
        { "instances": ["web"], "done": [tell("end"), { "command": ["false"], "warn_only": true }] },
    ]);
    let before = rig.b.objects();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let text = std::fs::read_to_string(&told).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    // What waits for a done-hook of the last instance need not wait for the end of its wave.
    let mut sorted = lines[6..].to_vec();
    sorted.sort_unstable();
    assert_eq!(
        lines[..6],
        [
            "first before db drill",
            "second before db drill",
            "up db done drill 10.2.0.10",
            "through wave data done drill",
            "begins before wave 2 drill",
            "up app done drill 10.2.0.11",
        ],
        "{text}"
    );
    let floating = rig.b.all("floatingip")[0]["floating_ip_address"].as_str().unwrap().to_owned();
    assert_eq!(sorted, ["end wave 3 done drill".to_owned(), format!("up web done drill {floating}")], "{text}");
    let web = rig.b.all("server").into_iter().find(|server| server["name"] == "web").unwrap();
    assert_eq!(web["status"], "SHUTOFF");
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(rig.b.objects(), before);
}

#[tokio::test]
async fn a_wave_that_asks_waits_and_a_hook_that_fails_keeps_what_comes_after_from_being_tried() {
    let mut rig = Rig::new().await;
    rig.spec["instances"] = json!([]);
    rig.spec["waves"] = json!([
        { "instances": ["db"], "condition": "active" },
        { "instances": ["app"], "ask": "the databases are up; go on?" },
        { "instances": ["web"], "before": [{ "command": ["false"] }] },
    ]);
    let engine = rig.engine().await;
    let job = engine.submit(rig.request()).await.unwrap();
    let wave = loop {
        let view = windlass_engine::view::job(&*rig.store, engine.kinds(), job, engine.now()).await.unwrap();
        let waits = |wait: &windlass_engine::view::Wait| matches!(wait, windlass_engine::view::Wait::Approval { .. });
        if let Some(task) = view.tasks.iter().find(|task| task.waits.iter().any(waits)) {
            break task.name.clone();
        }
        rig.clock.sleep(std::time::Duration::from_millis(5)).await;
    };
    assert!(wave.contains("wave 2 begins"), "{wave}");
    assert!(rig.b.all("server").iter().all(|server| server["name"] == "db"));
    let view = rig.command(&engine, job, Command::Approve { task: wave, by: "ops".into(), note: None }).await;
    let troubles = troubles(&view);
    assert!(
        troubles.iter().any(|text| text.contains("recover.hook[before wave 3") && text.contains("hook_failed")),
        "{troubles:?}"
    );
    assert!(troubles.iter().any(|text| text.contains("instance[web") && text.contains("ignored")), "{troubles:?}");
    let summary = rig.summary(&engine, job).await;
    assert_eq!((&summary["recovered"], &summary["rto"]["met"]), (&json!(2), &json!(false)));
}

#[tokio::test]
async fn the_report_says_when_what_came_up_and_what_is_different_from_the_last_one() {
    let mut rig = Rig::new().await;
    rig.spec["rpo"] = "1h".into();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let first = rig.summary(&engine, job).await;
    assert_eq!((&first["recovered"], &first["planned"], &first["rto"]["met"]), (&json!(3), &json!(3), &json!(true)));
    for one in first["instances"].as_array().unwrap() {
        let phases: Vec<&str> =
            one["spans"].as_array().unwrap().iter().map(|span| span["phase"].as_str().unwrap()).collect();
        assert_eq!(phases, ["create", "boot", "diagnose"]);
        assert!(one["took_ms"].as_u64().unwrap() <= first["took_ms"].as_u64().unwrap(), "{one}");
    }
    let path: Vec<&str> =
        first["critical_path"].as_array().unwrap().iter().map(|step| step["task"].as_str().unwrap()).collect();
    assert!(
        path[0].starts_with("recover.survey") && path.last().unwrap().contains("diagnose.instance[web"),
        "{path:?}"
    );
    assert!(first["at_least_ms"].as_u64() <= first["took_ms"].as_u64(), "{first}");
    // Nobody has said how old the replicas are: that is not in time.
    assert_eq!((&first["rpo"]["met"], &first["rpo"]["unknown"]), (&json!(false), &json!(4)));
    assert!(first["since_last"].is_null() && !first.to_string().contains("lab-secret"));
    rig.command(&engine, job, Command::Undo).await;

    let older = json!({ "windlass_replica_of": "vol-web-root", "windlass_point": "2020-01-01T00:00:00Z" });
    let replica = rig.b.plant_volume("another replica", 1, "older", true, &older);
    rig.spec["volumes"] = json!({ "cinder-native": { "replicas": { "vol-web-root": replica } } });
    rig.spec["inventory"]["instances"][1]["metadata"]["lab_fault"] = "spawn".into();
    let job = engine.submit(rig.request()).await.unwrap();
    rig.rest(&engine, job).await;
    let second = rig.summary(&engine, job).await;
    let told = second["since_last"]["differences"].to_string();
    for part in [
        "the instance app: failed, before: success",
        "the instance web: ignored, before: success",
        "the readiness is 20, before: 80",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert_eq!(second["history"].as_array().unwrap().len(), 2);
    assert!(second["rpo"]["reached_ms"].as_u64().unwrap() > 86_400_000);
}
