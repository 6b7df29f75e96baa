//! A drill a day: every day a report, every day nothing is left and the replicas are as they were, although the process
//! is killed at some moment of each day.
//!
//! `WINDLASS_DAYS=30` runs more days than the usual eight.

use std::time::Duration;

use serde_json::json;
use windlass_clock::{Entropy, Seeded, SystemClock};
use windlass_engine::{Command, Engine, JobRequest};
use windlass_model::JobId;
use windlass_model::job::JobState;
use windlass_store::{keys, read_all};

use crate::rig::Rig;

/// Comes to rest, through one kill after so many milliseconds.
async fn through_a_kill(rig: &Rig, job: JobId, engine: Engine, after: Option<u64>) -> Engine {
    if let Some(ms) = after {
        let rest = windlass_clock::deadline(&*rig.clock, Duration::from_millis(ms), engine.wait(job)).await;
        if rest.is_err() {
            drop(engine);
            for entry in read_all(&*rig.store, keys::WORKERS).await.unwrap() {
                if let Some(lease) = entry.lease {
                    rig.store.revoke(lease).await.unwrap();
                }
            }
            let engine = rig.engine().await;
            rig.rest(&engine, job).await;
            return engine;
        }
    }
    rig.rest(&engine, job).await;
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_a_day_leaves_a_report_a_day_and_nothing_else() {
    let days = std::env::var("WINDLASS_DAYS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let clock = SystemClock::starting_at("2026-01-01T03:00:00Z".parse().unwrap());
    let mut rig = Rig::on(clock.clone(), |_| {}).await;
    rig.spec["only"] = json!(["db"]);
    rig.spec["rto"] = "1h".into();
    let (before, images) = (rig.b.objects(), rig.b.images());
    let dice = Seeded::new(30);
    let mut engine = rig.engine().await;
    let (mut kills, mut last) = (0, None);
    for day in 0..days {
        let request = JobRequest { name: format!("day-{day}"), ..rig.request() };
        let job = engine.submit(request).await.unwrap();
        // Some days while it is built, some while it is removed, some at no time.
        let (up, down) = match dice.next_u64() % 3 {
            0 => (Some(dice.next_u64() % 150), None),
            1 => (None, Some(dice.next_u64() % 80)),
            _ => (None, None),
        };
        kills += usize::from(up.or(down).is_some());
        engine = through_a_kill(&rig, job, engine, up).await;
        let _ = engine.command(job, Command::Undo, None).await.unwrap();
        engine = through_a_kill(&rig, job, engine, down).await;
        let report = windlass_engine::report::make(&*rig.store, engine.kinds(), job, engine.now()).await.unwrap();
        assert_eq!(report.status.state, JobState::Finished, "day {day}: {report:?}");
        assert_eq!(report.leftovers.len(), 0, "day {day}");
        assert_eq!(rig.b.objects(), before, "day {day}");
        assert_eq!(rig.b.images(), images, "day {day}");
        let summary = report.summary;
        assert_eq!((&summary["recovered"], &summary["score"]), (&json!(1), &json!(100)), "day {day}: {summary}");
        assert_eq!(summary["history"].as_array().unwrap().len(), (day + 1).min(31), "day {day}");
        assert_eq!(summary["since_last"].is_object(), day > 0);
        last = Some(summary);
        clock.jump_wall(24 * 3_600_000);
    }
    let history = &last.unwrap()["history"];
    println!("{days} days, {kills} kills, the last reports:");
    for line in history.as_array().unwrap().iter().rev().take(3) {
        println!("  {line}");
    }
}
