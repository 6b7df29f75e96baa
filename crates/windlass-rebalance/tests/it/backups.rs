//! Backups that cannot be used, and other places for them.

use std::path::PathBuf;

use serde_json::json;
use windlass_sim::s3::S3Server;
use windlass_sim::vald::{Cluster, ClusterBuilder};

use crate::rig::Rig;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../windlass-index-backup/tests/fixtures").join(name)
}

async fn small() -> Rig {
    Rig::start(Cluster::builder().ids(200).skew(2.0).seed(11)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unusable_backup_is_named_with_the_code_of_the_manifest() {
    let rig = small().await;
    let cases = [
        ("tar/no-kvsdb.tar", "kvsdb_missing"),
        ("tar/invalid-backup.tar", "backup_invalid"),
        ("tar/stale-kvsdb.tar", "backup_stale"),
        ("tar/too-few.tar", "backup_count_mismatch"),
        ("tar/cut-before-kvsdb.tar", "archive_truncated"),
        ("tar/bad-checksum.tar", "archive_corrupt"),
        ("tar/kvsdb-entry-short.tar", "kvsdb_truncated"),
        ("compressed/cut-half.tar.gz", "compression_truncated"),
        ("compressed/zero-bytes.tar.gz", "compression_truncated"),
    ];
    for (name, code) in cases {
        for agent in ["vald-agent-0", "vald-agent-2"] {
            std::fs::copy(fixture(name), rig.backups().join(format!("{agent}.tar.gz"))).unwrap();
        }
        let run = rig.run(rig.spec(json!({ "mode": "manual" }))).await.failed();
        let mut failures = run.failures();
        failures.sort();
        let expected = ["vald-agent-0", "vald-agent-2"].map(|agent| (code.to_owned(), agent.to_owned()));
        assert_eq!(failures, expected, "{name}");
        let details = &run.summary["failures"][0]["details"];
        assert!(details["stage"].is_string() && details["offset"].is_u64(), "{details}");
        assert!(details["object"].as_str().unwrap().ends_with(".tar.gz"), "{details}");
    }
    assert_eq!(rig.cluster.mutations(), [], "nothing moves while one agent's copies are unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_backup_is_an_error_unless_the_live_agent_may_be_listed() {
    let rig = small().await;
    std::fs::remove_file(rig.backups().join("vald-agent-1.tar.gz")).unwrap();
    let run = rig.run(rig.spec(json!({}))).await.failed();
    assert_eq!(run.failures(), [("object_not_found".to_owned(), "vald-agent-1".to_owned())]);

    let before = rig.cluster.placement();
    let run = rig.run(rig.spec(json!({ "list_live": "fallback" }))).await.succeeded();
    assert_eq!(run.verdict(), "done");
    assert_eq!(run.summary["backups"][1]["read_mode"], "live");
    assert!(run.spread("after") <= 1.1 + 1e-9);
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_backup_is_refused_unless_forced() {
    let rig = small().await;
    let file = std::fs::File::open(rig.backups().join("vald-agent-0.tar.gz")).unwrap();
    let old = file.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(3 * 86_400);
    file.set_modified(old).unwrap();
    let run = rig.run(rig.spec(json!({}))).await.failed();
    assert_eq!(run.failures(), [("backup_stale".to_owned(), "vald-agent-0".to_owned())]);
    let run = rig.run(rig.spec(json!({ "force": true }))).await.succeeded();
    assert!(run.summary["backups"][0]["warnings"].to_string().contains("backup_old"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_small_object_with_the_id_map_is_tried_first() {
    let rig = small().await;
    let whole = rig.backups().join("vald-agent-1.tar.gz");
    std::fs::rename(&whole, rig.backups().join("vald-agent-1-kvsdb.tar.gz")).unwrap();
    let run = rig.run(rig.spec(json!({ "mode": "plan", "kvsdb_suffix": "-kvsdb.tar.gz" }))).await.succeeded();
    let keys: Vec<&str> = (0..3).map(|n| run.summary["backups"][n]["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["vald-agent-0.tar.gz", "vald-agent-1-kvsdb.tar.gz", "vald-agent-2.tar.gz"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fixture_cluster_is_seen_as_its_truth_says() {
    let truth: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("cluster3/truth.json")).unwrap()).unwrap();
    let rig = Rig::start(ClusterBuilder::cluster3()).await;
    for agent in 0..3 {
        let name = format!("vald-agent-{agent}.tar.gz");
        let bytes = std::fs::read(fixture(&format!("cluster3/{name}"))).unwrap();
        std::fs::write(rig.backups().join(name), bytes).unwrap();
    }
    let run = rig.run(rig.spec(json!({ "mode": "plan", "plan_for": "manual" }))).await.succeeded();
    for (n, agent) in truth["agents"].as_array().unwrap().iter().enumerate() {
        assert_eq!(run.summary["backups"][n]["copies"], agent["count"]);
        assert_eq!(run.summary["agents"][n]["in_backup"], agent["count"]);
    }
    let ids = &run.summary["plan"]["ids"];
    assert_eq!(ids["ids"], truth["distinct_ids"]);
    assert_eq!(ids["lacking"], 5);
    assert_eq!(ids["surplus"], 5);
    assert_eq!(ids["differing"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_read_from_s3_with_secrets_that_are_only_named() {
    let rig = small().await;
    let store = tempfile::tempdir().unwrap();
    let server = S3Server::start(store.path()).unwrap();
    server.create_bucket("vald").unwrap();
    std::fs::create_dir_all(store.path().join("vald/prod")).unwrap();
    for agent in 0..3 {
        let name = format!("vald-agent-{agent}.tar.gz");
        std::fs::copy(rig.backups().join(&name), store.path().join("vald/prod").join(&name)).unwrap();
    }
    let secret = rig.folder.path().join("secret");
    std::fs::write(&secret, format!("{}\n", S3Server::SECRET_KEY)).unwrap();
    let key = rig.folder.path().join("key");
    std::fs::write(&key, S3Server::ACCESS_KEY).unwrap();
    let before = rig.cluster.placement();
    let spec = rig.spec(json!({ "backups": {
        "url": format!("s3://vald/prod?endpoint={}&region=us-east-1", server.endpoint()),
        "credentials": {
            "AWS_ACCESS_KEY_ID": { "file": key.display().to_string() },
            "AWS_SECRET_ACCESS_KEY": { "file": secret.display().to_string() },
        },
    } }));
    let run = rig.run(spec).await.succeeded();
    assert_eq!(run.verdict(), "done");
    assert!(run.summary["backups"][0]["etag"].is_string());
    assert!(!run.report.to_string().contains(S3Server::SECRET_KEY), "a secret is in the report");
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);
}
