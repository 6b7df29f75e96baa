//! What a job does from submission to its end, on a store in memory with paused time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_clock::Seeded;
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, EngineError, JobRequest, report, view};
use windlass_model::job::{JobResult, JobState};
use windlass_sim::world::{Step, StepSpec, Weather};
use windlass_store::{Store, read_all};

use crate::bench::{Bench, done, request};

#[tokio::test(start_paused = true)]
async fn a_diamond_runs_in_order_and_references_carry_outputs() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let steps = vec![
        Step::new("a", 2),
        Step::new("b", 1).requires("a"),
        Step::new("c", 0).requires("a"),
        Step::new("d", 1).requires("b").requires("c"),
    ];
    let job = engine.submit(request(steps)).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!((status.state, status.result), (JobState::Completed, Some(JobResult::Succeeded)));
    assert_eq!(bench.world.things().len(), 4);
    assert_eq!(bench.world.calls(), 4);
    let report = report::make(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    assert_eq!(report.effects["make"].made, 4);
    let log = view::log(&bench.store, job, 0, 1000).await.unwrap();
    assert!(log.iter().map(|entry| entry.n).eq(1..=log.len() as u64), "{log:?}");
    assert!(log.last().unwrap().message.contains("completed"));
    assert!(read_all(&bench.store, "active/").await.unwrap().is_empty());
    assert!(read_all(&bench.store, "claim/").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_requires_a_failed_task_is_ignored_and_the_rest_goes_on() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let failing = Step { fails: true, ..Step::new("a", 1) };
    let soft = Step { after: vec!["a".into()], ..Step::new("soft", 0) };
    let steps =
        vec![failing, Step::new("b", 1).requires("a"), Step::new("c", 1).requires("b"), Step::new("free", 1), soft];
    let job = engine.submit(request(steps)).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Partial));
    let outcomes = bench.outcomes(job).await;
    for line in ["[a] failed", "[b] ignored", "[c] ignored", "[free] succeeded", "[soft] succeeded"] {
        assert!(outcomes.contains(line), "{line} is not in\n{outcomes}");
    }
    let report = report::make(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    let c = report.unsuccessful.iter().find(|task| task.task == "step.make[c]").unwrap();
    assert_eq!(c.roots, ["step.make[a]"]);
}

#[tokio::test(start_paused = true)]
async fn undo_removes_everything_that_the_ledger_names_even_of_failed_tasks() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let steps = vec![Step::new("a", 3), Step { fails: true, ..Step::new("b", 2) }.requires("a"), Step::new("c", 1)];
    let job = engine.submit(request(steps)).await.unwrap();
    engine.wait(job).await.unwrap();
    assert_eq!(bench.world.things().len(), 6);
    let status = done(engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(status.state, JobState::Undoing);
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.state, JobState::Finished);
    assert_eq!(bench.world.things(), Vec::<String>::new());
    let again = engine.command(job, Command::Undo, None).await.unwrap();
    assert!(matches!(again, CommandReply::Refused(why) if why.contains("finished")));
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_starts_nothing_and_resumes_at_its_checkpoint_by_itself() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let job = engine.submit(request(vec![Step::new("a", 20), Step::new("b", 1).requires("a")])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(5)).await;
    let until = bench.clock.wall() + jiff::SignedDuration::from_secs(60);
    let status = done(engine.command(job, Command::Pause { until: Some(until) }, None).await.unwrap());
    assert_eq!(status.state, JobState::Pausing);
    bench.clock.sleep(Duration::from_secs(20)).await;
    let calls = bench.world.calls();
    let before = view::job(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    assert_eq!(before.status.state, JobState::Paused);
    assert!(before.waiting_on[0].contains("the end of the pause"), "{:?}", before.waiting_on);
    bench.clock.sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.world.calls(), calls);
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.calls(), 21, "nothing was made twice, nothing was left out");
}

#[tokio::test(start_paused = true)]
async fn cancel_with_undo_leaves_nothing_behind() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let job = engine.submit(request(vec![Step::new("a", 20), Step::new("b", 1).requires("a")])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(7)).await;
    done(engine.command(job, Command::Cancel { undo: true }, Some("r1".into())).await.unwrap());
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.state, JobState::Finished);
    assert_eq!(status.result, Some(JobResult::Cancelled));
    assert!(bench.world.calls() > 0);
    assert_eq!(bench.world.things(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_refusals_never_double_an_effect() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 50, refused: 0.2, lost_answers: 0.2, ..Weather::default() });
    let engine = bench.engine().await;
    let steps = (0..30).map(|n| Step::new(format!("s{n}"), 3)).collect();
    let job = engine.submit(request(steps)).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.things().len(), 90);
    assert_eq!(bench.world.faults(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_after_a_crash_in_another_process_once_the_lease_is_over() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 500, ..Weather::default() });
    let engine = bench.engine().await;
    let steps = (0..10).map(|n| Step::new(format!("s{n}"), 5)).collect();
    let job = engine.submit(request(steps)).await.unwrap();
    bench.clock.sleep(Duration::from_secs(1)).await;
    drop(engine);
    let calls = bench.world.calls();
    assert!(calls > 0 && calls < 50);
    let engine = bench.engine().await;
    bench.clock.sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.world.calls(), calls, "the dead worker's lease still holds");
    bench.clock.sleep(Duration::from_secs(50)).await;
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!((bench.world.things().len(), bench.world.faults()), (50, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_gives_the_job_back_at_once() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 500, ..Weather::default() });
    let engine = bench.engine().await;
    let job = engine.submit(request(vec![Step::new("a", 20)])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(2)).await;
    engine.shutdown().await.unwrap();
    let engine = bench.engine().await;
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.calls(), 20);
}

#[tokio::test(start_paused = true)]
async fn tasks_may_add_tasks_few_or_many() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let many = (0..500).map(|n| Step::new(format!("x{n}"), 1).requires("root")).collect();
    let job = engine.submit(request(vec![Step { adds: many, ..Step::new("root", 1) }])).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.things().len(), 501);
}

#[tokio::test(start_paused = true)]
async fn bad_submissions_are_refused_whole() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let unknown = JobRequest { kind: "nope".into(), ..request(vec![]) };
    assert!(matches!(engine.submit(unknown).await, Err(EngineError::UnknownKind { .. })));
    let invalid = JobRequest { spec: json!({"stepz": []}), ..request(vec![]) };
    assert!(matches!(engine.submit(invalid).await, Err(EngineError::InvalidSpec { .. })));
    let huge = JobRequest { name: "x".repeat(200_000), ..request(vec![]) };
    assert!(matches!(engine.submit(huge).await, Err(EngineError::ValueTooLarge { .. })));
    let circle = vec![Step::new("a", 0).requires("b"), Step::new("b", 0).requires("a")];
    let error = engine.submit(request(circle)).await.unwrap_err().to_string();
    assert!(error.contains("fault"), "{error}");
    assert!(read_all(&bench.store, "job").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_name_is_held_by_one_job_at_a_time_and_why_says_by_which() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 1_000, ..Weather::default() });
    let engine = bench.engine().await;
    let spec = StepSpec { steps: vec![Step::new("a", 10)], exclusive: Some("cluster/x".into()) };
    let request = JobRequest { spec: spec.to_json(), ..request(vec![]) };
    let first = engine.submit(request.clone()).await.unwrap();
    let second = engine.submit(request).await.unwrap();
    bench.clock.sleep(Duration::from_secs(1)).await;
    let view = view::job(&bench.store, &bench.kinds(), second, bench.clock.wall()).await.unwrap();
    assert_eq!(view.status.state, JobState::Pending);
    assert!(view.waiting_on[0].contains(&first.to_string()), "{:?}", view.waiting_on);
    for job in [first, second] {
        assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    }
    assert!(read_all(&bench.store, "slot/").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn retry_runs_only_what_had_not_succeeded() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { refused: 1.0, ..Weather::default() });
    let engine = bench.engine().await;
    let steps = vec![Step::new("a", 0), Step::new("b", 2).requires("a"), Step::new("c", 1).requires("b")];
    let job = engine.submit(request(steps)).await.unwrap();
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Partial));
    bench.world.set_weather(Weather::default());
    done(engine.command(job, Command::retry(), None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let view = view::job(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    let epochs: Vec<u64> = view.tasks.iter().map(|task| task.status.epoch.0).collect();
    assert_eq!(epochs[0], 1, "a had succeeded and did not run again");
    assert_eq!(bench.world.things().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_job_as_failed() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let slow = Step { takes_ms: 3_600_000, ..Step::new("a", 1) };
    let request = JobRequest { deadline: Some(Duration::from_secs(60)), ..request(vec![slow]) };
    let job = engine.submit(request).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Failed));
    assert_eq!(status.failure.unwrap().code, "deadline_passed");
    assert_eq!(status.ended.unwrap().as_second() - bench.clock.wall().as_second(), 0);
    assert!(bench.world.things().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_preview_runs_only_what_changes_nothing_and_stores_nothing() {
    let bench = Bench::new();
    let look = Step { looks: true, ..Step::new("look", 0) };
    let make = Step { requires: vec!["look".into()], ..Step::new("make", 2) };
    let config = EngineConfig::new(
        Arc::new(bench.store.clone()),
        bench.clock.clone(),
        Seeded::shared(3),
        bench.kinds(),
        std::env::temp_dir(),
    );
    let preview = Engine::preview(config, request(vec![look, make])).await.unwrap();
    assert_eq!(preview.looked.len(), 1);
    assert_eq!(preview.would_run.iter().map(|task| task.name()).collect::<Vec<_>>(), ["step.make[make]"]);
    assert_eq!((bench.world.calls(), bench.store.revision().await.unwrap().0), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_sign_of_life_is_stopped_and_tried_again_until_it_fails() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    // The step sleeps for a day at each attempt; its type's stall limit is half an hour.
    let slow = Step { takes_ms: 86_400_000, ..Step::new("a", 1) };
    let job = engine.submit(request(vec![slow])).await.unwrap();
    let status = engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Failed));
    let view = view::job(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    let failures: Vec<_> = view.tasks[0].status.attempts.iter().flat_map(|attempt| &attempt.failure).collect();
    assert_eq!((failures.len(), failures[0].code.as_str()), (12, "stalled"));
    assert_eq!(bench.world.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_could_never_be_stored_is_refused_by_name_and_nothing_is_stored() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let mut steps: Vec<Step> = (0..5_000).map(|n| Step::new(format!("s{n}"), 0)).collect();
    let last = (0..5_000).fold(Step::new("last", 0), |last, n| last.requires(format!("s{n}")));
    steps.push(last);
    let error = engine.submit(request(steps)).await.unwrap_err();
    let EngineError::Plan(failure) = &error else { panic!("{error:?}") };
    assert_eq!(failure.code, "task_too_large");
    assert!(failure.causes[0].contains("step.make[last]") && failure.causes[0].contains("5000"), "{failure:?}");
    assert!(read_all(&bench.store, "job").await.unwrap().is_empty());
}
