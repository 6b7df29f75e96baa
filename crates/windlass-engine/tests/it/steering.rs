//! Approvals, delays, retries from a task or with other input, undo by itself, deletion.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_engine::{Command, CommandReply, JobRequest, report, view};
use windlass_model::JobId;
use windlass_model::job::{Closing, JobResult, JobState};
use windlass_sim::world::{Step, Weather};
use windlass_store::read_all;

use crate::bench::{Bench, done, request};

async fn view_of(bench: &Bench, job: JobId) -> view::JobView {
    view::job(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap()
}

fn approve(task: &str) -> Command {
    Command::Approve { task: task.into(), by: "eve".into(), note: Some("looks right".into()) }
}

fn refused(reply: CommandReply) -> String {
    match reply {
        CommandReply::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_asks_waits_without_a_place_until_a_person_says_yes() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let asks = Step { asks: Some("delete the old one?".into()), ..Step::new("gate", 1) }.requires("a");
    let job = engine.submit(request(vec![Step::new("a", 1), asks, Step::new("b", 1)])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(60)).await;
    let seen = view_of(&bench, job).await;
    assert_eq!((seen.status.state, seen.counts.succeeded, seen.counts.running), (JobState::Running, 2, 0));
    let gate = seen.tasks.iter().find(|task| task.name == "step.make[gate]").unwrap();
    assert_eq!(gate.waits, [view::Wait::Approval { question: "delete the old one?".into() }]);
    assert!(refused(engine.command(job, approve("b"), None).await.unwrap()).contains("asks nobody"));
    assert!(refused(engine.command(job, approve("nope"), None).await.unwrap()).contains("no task nope"));
    // While the job is paused the answer is taken, and nothing runs.
    done(engine.command(job, Command::Pause { until: None }, None).await.unwrap());
    done(engine.command(job, approve("gate"), None).await.unwrap());
    done(engine.command(job, approve("step.make[gate]"), None).await.unwrap());
    bench.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(view_of(&bench, job).await.counts.waiting, 1);
    done(engine.command(job, Command::Resume, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let seen = view_of(&bench, job).await;
    let approval = seen.tasks.iter().find_map(|task| task.status.approval.clone()).unwrap();
    assert_eq!((approval.by.as_str(), approval.note.as_deref()), ("eve", Some("looks right")));
    let log = view::log(&bench.store, job, 0, 100).await.unwrap();
    assert_eq!(log.iter().filter(|entry| entry.code == "task.approved").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_yes_can_be_cancelled_and_undone() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let asks = Step { asks: Some("go on?".into()), ..Step::new("gate", 1) }.requires("a");
    let job = engine.submit(request(vec![Step::new("a", 2), asks])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(5)).await;
    done(engine.command(job, Command::Cancel { undo: true }, None).await.unwrap());
    let status = engine.wait(job).await.unwrap();
    assert_eq!((status.state, status.closing), (JobState::Finished, Some(Closing::Undo)));
    assert_eq!(bench.world.things(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_an_absolute_moment_that_outlives_the_process() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let delayed = Step { delay_ms: Some(3_600_000), ..Step::new("b", 1) }.requires("a");
    let job = engine.submit(request(vec![Step::new("a", 1), delayed])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(600)).await;
    let began = view_of(&bench, job).await;
    let until = began.tasks[1].status.delayed_until.unwrap();
    assert_eq!(began.tasks[1].waits, [view::Wait::Delay { until }]);
    drop(engine);
    bench.clock.sleep(Duration::from_secs(600)).await;
    let engine = bench.engine().await;
    engine.wait(job).await.unwrap();
    let seen = view_of(&bench, job).await;
    assert_eq!(seen.status.result, Some(JobResult::Succeeded));
    assert_eq!(seen.tasks[1].status.delayed_until, Some(until));
    let late = seen.tasks[1].status.started.unwrap().as_second() - until.as_second();
    assert!((0..30).contains(&late), "{late}");
}

#[tokio::test(start_paused = true)]
async fn retry_from_a_task_runs_it_and_what_follows_and_nothing_else() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let steps = vec![
        Step::new("a", 1),
        Step::new("b", 1).requires("a"),
        Step::new("c", 1).requires("b"),
        Step::new("other", 1),
    ];
    let job = engine.submit(request(steps)).await.unwrap();
    engine.wait(job).await.unwrap();
    let retry = Command::Retry { failed_only: true, from: Some("b".into()), inputs: BTreeMap::new() };
    done(engine.command(job, retry, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let seen = view_of(&bench, job).await;
    let epochs: BTreeMap<&str, u64> = seen.tasks.iter().map(|task| (task.name.as_str(), task.status.epoch.0)).collect();
    let expected = [("step.make[a]", 1), ("step.make[b]", 2), ("step.make[c]", 2), ("step.make[other]", 1)];
    assert_eq!(epochs, BTreeMap::from(expected));
    assert_eq!((bench.world.things().len(), bench.world.faults()), (4, vec![]));
    let all = Command::Retry { failed_only: false, from: None, inputs: BTreeMap::new() };
    done(engine.command(job, all, None).await.unwrap());
    engine.wait(job).await.unwrap();
    assert!(view_of(&bench, job).await.tasks.iter().all(|task| task.status.epoch.0 >= 2));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_failed_runs_with_other_input_and_what_it_made_before_is_undone_all_the_same() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let fails = Step { fails: true, ..Step::new("a", 2) };
    let job = engine.submit(request(vec![fails, Step::new("b", 1).requires("a")])).await.unwrap();
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Partial));
    let with = |name: &str| Command::Retry {
        failed_only: true,
        from: None,
        inputs: BTreeMap::from([(name.to_owned(), serde_json::to_value(Step::new("a", 3)).unwrap())]),
    };
    assert!(refused(engine.command(job, with("nope"), None).await.unwrap()).contains("no task"));
    done(engine.command(job, with("a"), None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.things().len(), 4);
    done(engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
    assert_eq!((bench.world.things(), bench.world.faults()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_brought_others_does_not_run_again() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let root = Step { adds: vec![Step::new("x", 1)], ..Step::new("root", 1) };
    let job = engine.submit(request(vec![root])).await.unwrap();
    engine.wait(job).await.unwrap();
    let from = |task: &str| Command::Retry { failed_only: true, from: Some(task.into()), inputs: BTreeMap::new() };
    assert!(refused(engine.command(job, from("root"), None).await.unwrap()).contains("brought further tasks"));
    done(engine.command(job, from("x"), None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_drill_undoes_itself_at_a_moment_that_can_be_extended_and_outlives_the_process() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let drill = JobRequest { undo_after: Some(Duration::from_secs(3_600)), ..request(vec![Step::new("a", 2)]) };
    let job = engine.submit(drill).await.unwrap();
    bench.clock.sleep(Duration::from_secs(60)).await;
    let seen = view_of(&bench, job).await;
    assert_eq!(seen.status.state, JobState::Completed);
    let at = seen.status.undo_at.unwrap();
    assert_eq!(seen.waits, [view::Wait::Undo { at }]);
    let status = done(engine.command(job, Command::Extend { by_ms: 1_800_000 }, None).await.unwrap());
    assert_eq!(status.undo_at.unwrap().as_second() - at.as_second(), 1_800);
    bench.clock.sleep(Duration::from_secs(3_600)).await;
    assert_eq!(bench.world.things().len(), 2);
    drop(engine);
    let engine = bench.engine().await;
    bench.clock.sleep(Duration::from_secs(1_830)).await;
    let status = engine.wait(job).await.unwrap();
    assert_eq!((status.state, status.closing), (JobState::Finished, Some(Closing::Undo)));
    assert_eq!(bench.world.things(), Vec::<String>::new());
    let again = engine.command(job, Command::Extend { by_ms: 1 }, None).await.unwrap();
    assert!(refused(again).contains("waits for no moment"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_can_be_extended() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let job = engine.submit(request(vec![Step::new("a", 20)])).await.unwrap();
    let until = bench.clock.wall() + jiff::SignedDuration::from_secs(60);
    done(engine.command(job, Command::Pause { until: Some(until) }, None).await.unwrap());
    done(engine.command(job, Command::Extend { by_ms: 600_000 }, None).await.unwrap());
    bench.clock.sleep(Duration::from_secs(500)).await;
    assert_eq!(view_of(&bench, job).await.status.state, JobState::Paused);
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_job_leaves_no_key_behind_and_by_force_says_what_it_left_outside() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let job = engine.submit(request((0..150).map(|n| Step::new(format!("s{n}"), 1)).collect())).await.unwrap();
    engine.wait(job).await.unwrap();
    let delete = |force| Command::Delete { force };
    assert!(refused(engine.command(job, delete(false), None).await.unwrap()).contains("undo or confirm"));
    match engine.command(job, delete(true), None).await.unwrap() {
        CommandReply::Deleted { leftovers, .. } => {
            assert_eq!(leftovers.len(), 150);
            let script = report::clean_up_script(job, &leftovers);
            assert_eq!(script.matches("{ remove '").count(), 150, "{script}");
        }
        other => panic!("{other:?}"),
    }
    engine.wait(job).await.unwrap_err();
    assert_eq!(bench.world.things().len(), 150, "nothing outside is touched");
    let left: Vec<String> = read_all(&bench.store, "").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert!(left.iter().all(|key| ["worker/", "retention/"].iter().any(|prefix| key.starts_with(prefix))), "{left:?}");
    let other = engine.submit(request(vec![Step::new("a", 1)])).await.unwrap();
    engine.wait(other).await.unwrap();
    done(engine.command(other, Command::Confirm, None).await.unwrap());
    assert!(matches!(engine.command(other, delete(false), None).await.unwrap(), CommandReply::Deleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_running_job_is_deleted_by_force_only_and_a_pending_one_too() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let spec = windlass_sim::world::StepSpec { steps: vec![Step::new("a", 50)], exclusive: Some("x".into()) };
    let request = JobRequest { spec: spec.to_json(), ..request(vec![]) };
    let running = engine.submit(request.clone()).await.unwrap();
    let pending = engine.submit(request).await.unwrap();
    bench.clock.sleep(Duration::from_secs(5)).await;
    assert!(refused(engine.command(running, Command::Delete { force: false }, None).await.unwrap()).contains("force"));
    for job in [pending, running] {
        let reply = engine.command(job, Command::Delete { force: true }, None).await.unwrap();
        assert!(matches!(reply, CommandReply::Deleted { .. }));
        engine.wait(job).await.unwrap_err();
    }
    let calls = bench.world.calls();
    bench.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.world.calls(), calls);
    let left = read_all(&bench.store, "").await.unwrap();
    assert!(
        left.iter().all(|entry| ["worker/", "retention/"].iter().any(|prefix| entry.key.starts_with(prefix))),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_go_after_thirty_days_and_those_that_can_be_undone_stay() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = engine.submit(request(vec![Step::new("a", 1)])).await.unwrap();
        engine.wait(job).await.unwrap();
        jobs.push(job);
    }
    let nothing = engine.submit(request(vec![Step::new("a", 0)])).await.unwrap();
    engine.wait(nothing).await.unwrap();
    done(engine.command(jobs[0], Command::Confirm, None).await.unwrap());
    done(engine.command(jobs[1], Command::Undo, None).await.unwrap());
    let of = |summaries: Vec<view::JobSummary>| summaries.into_iter().map(|job| job.id).collect::<Vec<_>>();
    bench.clock.sleep(Duration::from_secs(29 * 24 * 3600)).await;
    assert_eq!(view::jobs(&bench.store).await.unwrap().len(), 4);
    bench.clock.sleep(Duration::from_secs(2 * 24 * 3600)).await;
    assert_eq!(of(view::jobs(&bench.store).await.unwrap()), [jobs[2]]);
    let left = read_all(&bench.store, "job/").await.unwrap();
    assert!(left.iter().all(|entry| entry.key.contains(&jobs[2].to_string())), "{left:?}");
    assert!(read_all(&bench.store, "gone/").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_last_look_finds_keeps_the_job_from_being_over_and_is_in_the_script() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let job = engine.submit(request(vec![Step::new("a", 1)])).await.unwrap();
    engine.wait(job).await.unwrap();
    let stray = format!("{job}/stray");
    bench.world.plant(&stray);
    done(engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().state, JobState::UndoFailed);
    let made = report::make(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap();
    assert_eq!(made.leftovers.len(), 1, "{:?}", made.leftovers);
    assert!(report::clean_up_script(job, &made.leftovers).contains(&format!("remove '{stray}'")));
    bench.world.lose(&stray);
    done(engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
}
