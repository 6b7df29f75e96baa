//! What an earlier recovery left at the target site is known before the next one begins.

use windlass_engine::{Command, JobRequest};

use crate::rig::{Rig, troubles};

#[tokio::test]
async fn after_a_confirmed_migration_a_drill_there_is_refused_at_its_addresses_before_anything_is_made() {
    let mut rig = Rig::new().await;
    rig.spec["mode"] = "migrate".into();
    let (engine, job, _) = rig.run().await;
    let confirmed = rig.command(&engine, job, Command::Confirm).await;
    assert_eq!(confirmed.status.state.as_str(), "finished", "{:?}", troubles(&confirmed));
    let before = rig.b.objects();
    rig.spec["mode"] = "drill".into();
    let request = JobRequest { name: "again".into(), ..rig.request() };
    let job = engine.submit(request).await.unwrap();
    let view = rig.rest(&engine, job).await;
    let said = troubles(&view).join("\n");
    for words in ["address_in_use", "10.2.0.10", "the instance db", "on the network back", "drill at another site"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(rig.b.objects(), before);
}
