//! What thousands are built upon is undone as well: no record has to list them all.

use std::time::Duration;

use serde_json::json;
use windlass_engine::Command;

use crate::rig::{Rig, troubles};

/// More than one record of an undo has room for.
const RULES: u64 = 2_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_security_group_of_thousands_of_rules_is_made_and_undone() {
    let mut rig = Rig::new().await;
    // On a busy machine.
    rig.patience = Duration::from_secs(600);
    rig.spec["only"] = json!(["web"]);
    rig.spec["instances"] = json!([]);
    let rule = |n: u64| {
        json!({ "id": format!("many-{n}"), "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
            "port_min": n, "port_max": n })
    };
    rig.spec["inventory"]["security_groups"][0]["rules"] = (1..=RULES).map(rule).collect();
    let before = rig.b.objects();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let made = rig.b.all("security_group_rule").len();
    assert!(made as u64 >= RULES, "{made}");
    let begun = rig.clock.monotonic();
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", undone.status.failure);
    assert_eq!(rig.b.objects(), before);
    println!("{RULES} rules undone in {:?}", rig.clock.monotonic() - begun);
}
