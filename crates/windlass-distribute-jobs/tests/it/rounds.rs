//! What a controller does when all is well.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_clock::Seeded;
use windlass_engine::{Engine, EngineConfig};
use windlass_store::memory::MemoryStore;

use crate::node::Lie;
use crate::old_agents::free;
use crate::rig::{Rig, request};

const FILES: [(&str, u64); 6] =
    [("A.mpg", 100), ("B.mpg", 100), ("C#1?.mpg", 100), ("D%41.mpg", 100), ("E e.mpg", 100), ("F.mpg", 100)];

#[tokio::test]
async fn what_is_missing_comes_one_at_a_time_and_surplus_goes() {
    let rig = Rig::new(&FILES);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[("A.mpg", 100), ("C#1?.mpg", 100), ("C", 100), ("unknown", 5)]).await;
    let b = rig.nodes.start(1_000, &[("A.mpg", 100), ("C#1?.mpg", 100)]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a, &b])).await;
    let status = rig.settled(job).await;
    for (name, _) in FILES {
        assert_eq!(rig.nodes.holders(name).len(), 1, "{name}: {}", rig.nodes.picture());
    }
    assert!(rig.nodes.files(&a).contains(&"unknown".to_owned()) && rig.nodes.files(&a).contains(&"C".to_owned()));
    assert_eq!((rig.nodes.copies().len(), rig.nodes.deletes().len()), (4, 2), "{}", rig.nodes.picture());
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
    assert_eq!((status["trusted"].as_u64(), status["waiting"].as_u64()), (Some(2), Some(0)), "{status:#}");
}

#[tokio::test]
async fn a_free_source_is_used_at_once_and_a_lost_copy_comes_back() {
    let rig = Rig::new(&FILES);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a])).await;
    rig.settled(job).await;
    rig.nodes.lose(&a, "B.mpg");
    rig.until("it comes back", async || !rig.nodes.holders("B.mpg").is_empty()).await;
    rig.on_origin("G.mpg", 50);
    let more: Vec<(&str, u64)> = FILES.into_iter().chain([("G.mpg", 50)]).collect();
    rig.catalogue(&more);
    rig.until("the new file comes", async || !rig.nodes.holders("G.mpg").is_empty()).await;
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn constant_inputs_at_the_limit_come_to_rest() {
    let files: Vec<(String, u64)> = (0..30).map(|n| (format!("F{n:02}.mpg"), 100)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    let rig = Rig::new(&files);
    rig.nodes.may_lose();
    rig.nodes.takes(Duration::from_millis(5));
    let source = rig.nodes.start(1_000, &[]).await;
    // Full of the worst, with room for 9 of 30 files each.
    let a = rig.nodes.start(1_000, &files[20..30]).await;
    let b = rig.nodes.start(1_000, &files[15..24]).await;
    let engine = rig.engine().await;
    let mut spec = rig.spec(&source, &[&a, &b]);
    spec["rules"]["protect_after_copy_sec"] = json!(0);
    let job = rig.submit(&engine, spec).await;
    let waits = async || rig.status(job).await["passed_over"]["no_room"].as_u64().unwrap_or(0) > 0;
    rig.until("the best 18 are placed", async || {
        files[..18].iter().all(|(name, _)| rig.nodes.holders(name).len() == 1) && waits().await
    })
    .await;
    rig.settled(job).await;
    let (copies, deletes, asked) = (rig.nodes.copies().len(), rig.nodes.deletes().len(), rig.nodes.asked());
    rig.until("it has looked again and again", async || rig.nodes.asked() > asked + 60).await;
    assert_eq!((rig.nodes.copies().len(), rig.nodes.deletes().len()), (copies, deletes), "it moves for ever");
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_many_ask_for_pushes_out_the_worst() {
    let files = [("A.mpg", 300), ("B.mpg", 300), ("C.mpg", 300), ("HOT.mpg", 300)];
    let rig = Rig::new(&files);
    rig.nodes.may_lose();
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &files[..3]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a])).await;
    rig.settled(job).await;
    assert_eq!(rig.nodes.copies(), Vec::<String>::new());
    let now = rig.clock.wall();
    let line = format!(
        "0x40ffff,1,{},Server 10.0.0.1 Selected for Client StreamID : x, GLB IP : y's file(HOT.mpg) Request\n",
        now.as_second()
    );
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d").to_string();
    fs::write(rig.path(&format!("events/EventLog[{day}].log")), line.repeat(5)).unwrap();
    rig.until("it comes", async || !rig.nodes.holders("HOT.mpg").is_empty()).await;
    assert_eq!(rig.nodes.files(&a), ["A.mpg", "B.mpg", "HOT.mpg"]);
    let status = rig.settled(job).await;
    assert_eq!(status["rising"][0]["hits"], 5, "{status:#}");
}

#[tokio::test]
async fn a_dry_run_and_a_freeze_move_nothing() {
    let rig = Rig::new(&FILES);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[("A.mpg", 100)]).await;
    let b = rig.nodes.start(1_000, &[("A.mpg", 100)]).await;
    let engine = rig.engine().await;
    let mut spec = rig.spec(&source, &[&a, &b]);
    spec["dry_run"] = json!(true);
    let job = rig.submit(&engine, spec.clone()).await;
    rig.until("it says what it would do", async || {
        let status = rig.status(job).await;
        status["would_delete"].as_array().is_some_and(|list| list.len() == 1)
            && status["would_copy"].as_array().is_some_and(|list| list.len() == 1)
    })
    .await;
    (spec["dry_run"], spec["freeze"], spec["controller"]) = (json!(false), json!("deletes"), json!("other"));
    let frozen = rig.submit(&engine, spec).await;
    rig.until("all is copied", async || FILES.iter().all(|(name, _)| !rig.nodes.holders(name).is_empty())).await;
    rig.alarm(frozen, "frozen").await;
    assert_eq!(rig.nodes.deletes(), Vec::<String>::new());
    assert_eq!(rig.nodes.holders("A.mpg").len(), 2);
}

#[tokio::test]
async fn a_preview_shows_what_a_dry_run_would_do_beside_a_controller_that_has_acted() {
    let rig = Rig::new(&FILES[..1]);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let engine = rig.engine().await;
    let mut spec = rig.spec(&source, &[&a]);
    let listen = free().await;
    spec["listen"] = json!(listen);
    let job = rig.submit(&engine, spec.clone()).await;
    rig.settled(job).await;
    // What comes now is not seen by that controller.
    rig.kill(engine).await;
    let moved = rig.nodes.copies().len();
    rig.on_origin(FILES[1].0, FILES[1].1);
    rig.catalogue(&FILES[..2]);
    spec["dry_run"] = json!(true);
    let (store, clock) = (Arc::new(MemoryStore::new(rig.clock.clone())), rig.clock.clone());
    let config = EngineConfig::new(store, clock, Seeded::shared(9), Rig::kinds(), rig.path("preview"));
    let preview = Engine::preview(config, request(spec)).await.unwrap();
    let names: Vec<String> = preview.would_run.iter().map(|task| task.name()).collect();
    assert!(names.len() == 1 && names[0].contains(FILES[1].0), "{names:?}");
    assert_eq!(rig.nodes.copies().len(), moved, "nothing of it happens");
}

#[tokio::test]
async fn a_node_that_hangs_holds_nobody_up_and_what_it_may_have_is_not_copied() {
    let rig = Rig::new(&FILES);
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let b = rig.nodes.start(1_000, &[("A.mpg", 100)]).await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, rig.spec(&source, &[&a, &b])).await;
    rig.settled(job).await;
    rig.nodes.lie(&b, Lie::Hangs);
    rig.alarm(job, "does not answer its heartbeat").await;
    rig.on_origin("G.mpg", 50);
    let more: Vec<(&str, u64)> = FILES.into_iter().chain([("G.mpg", 50)]).collect();
    let begun = rig.clock.monotonic();
    rig.catalogue(&more);
    rig.until("the new file comes", async || !rig.nodes.holders("G.mpg").is_empty()).await;
    assert!(rig.clock.monotonic() - begun < Duration::from_secs(10));
    assert_eq!(rig.nodes.holders("A.mpg"), std::slice::from_ref(&b), "it may still be there");
    rig.nodes.lie(&b, Lie::None);
    rig.until("it is trusted again", async || rig.status(job).await["trusted"] == 2).await;
    rig.settled(job).await;
    assert_eq!((rig.nodes.wrong(), rig.nodes.deletes()), (Vec::new(), Vec::new()));
}
