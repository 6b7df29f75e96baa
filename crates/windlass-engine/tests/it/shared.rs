//! Shared resources and places in pools, over several jobs.

use std::time::Duration;

use windlass_engine::holders::SharedState;
use windlass_engine::{Command, CommandReply, JobRequest, view};
use windlass_model::JobId;
use windlass_model::job::{Closing, JobResult, JobState};
use windlass_model::task::SharedUse;
use windlass_sim::world::{Step, Weather};
use windlass_store::read_all;

use crate::bench::{Bench, done, request};

async fn view_of(bench: &Bench, job: JobId) -> view::JobView {
    view::job(&bench.store, &bench.kinds(), job, bench.clock.wall()).await.unwrap()
}

async fn states(bench: &Bench) -> Vec<(String, SharedState, usize, bool)> {
    let all = view::shared(&bench.store).await.unwrap();
    all.into_iter().map(|it| (it.key, it.state, it.holders.len(), it.permanent)).collect()
}

async fn nothing_is_left(bench: &Bench) {
    let left = read_all(&bench.store, "").await.unwrap().into_iter().map(|entry| entry.key);
    let left: Vec<String> = left
        .filter(|key| ["shared/", "slot/", "queue/", "claim/", "gone/"].iter().any(|prefix| key.starts_with(prefix)))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

fn with_net() -> Vec<Step> {
    vec![Step::sharing("net", 2), Step::new("own", 1).requires("net")]
}

#[tokio::test(start_paused = true)]
async fn two_jobs_make_it_once_and_the_last_one_removes_it() {
    for creator_first in [true, false] {
        let mut bench = Bench::new();
        bench.world.set_weather(Weather { delay_ms: 3_000, ..Weather::default() });
        let engine = bench.engine().await;
        let first = engine.submit(request(with_net())).await.unwrap();
        bench.clock.sleep(Duration::from_millis(100)).await;
        let second = engine.submit(request(with_net())).await.unwrap();
        bench.clock.sleep(Duration::from_millis(500)).await;
        let waits = view_of(&bench, second).await.tasks[0].waits.clone();
        let expected = view::Wait::Shared { key: "net".into(), state: "creating", holders: vec![first] };
        assert_eq!(waits, [expected]);
        for job in [first, second] {
            assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
        }
        assert_eq!(bench.world.calls(), 4, "two for the network, one for each job");
        assert_eq!(states(&bench).await, [("net".to_owned(), SharedState::Ready, 2, false)]);
        assert_eq!(view_of(&bench, second).await.tasks[0].status.shared, Some(SharedUse::Reused));
        let order = if creator_first { [first, second] } else { [second, first] };
        for (job, left) in order.into_iter().zip([3, 0]) {
            done(engine.command(job, Command::Undo, None).await.unwrap());
            assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
            assert_eq!(bench.world.things().len(), left, "{:?}", bench.world.things());
        }
        nothing_is_left(&bench).await;
        assert_eq!(bench.world.faults(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_to_make_it_cleans_up_and_the_next_one_makes_it() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let fails = Step { fails: true, ..Step::sharing("net", 2) };
    let first = engine.submit(request(vec![fails, Step::new("own", 1)])).await.unwrap();
    bench.clock.sleep(Duration::from_millis(100)).await;
    let second = engine.submit(request(with_net())).await.unwrap();
    assert_eq!(engine.wait(first).await.unwrap().result, Some(JobResult::Partial));
    assert_eq!(engine.wait(second).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!(states(&bench).await, [("net".to_owned(), SharedState::Ready, 1, false)]);
    for job in [first, second] {
        done(engine.command(job, Command::Undo, None).await.unwrap());
        assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
    }
    assert_eq!((bench.world.things(), bench.world.faults()), (vec![], vec![]));
    nothing_is_left(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_while_it_makes_it_leaves_it_to_the_next() {
    let mut bench = Bench::new();
    bench.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let engine = bench.engine().await;
    let first = engine.submit(request(vec![Step::sharing("net", 20)])).await.unwrap();
    let second = engine.submit(request(vec![Step::sharing("net", 20)])).await.unwrap();
    bench.clock.sleep(Duration::from_secs(8)).await;
    let maker = if view_of(&bench, first).await.counts.running > 0 { first } else { second };
    done(engine.command(maker, Command::Cancel { undo: false }, None).await.unwrap());
    let status = engine.wait(maker).await.unwrap();
    assert_eq!((status.state, status.result), (JobState::Completed, Some(JobResult::Cancelled)));
    let other = if maker == first { second } else { first };
    assert_eq!(engine.wait(other).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!((bench.world.things().len(), bench.world.faults()), (20, vec![]));
    let holders = view::shared(&bench.store).await.unwrap().remove(0).holders;
    assert_eq!(holders, [other]);
}

#[tokio::test(start_paused = true)]
async fn what_a_confirmed_job_needs_stays_whoever_is_undone() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = engine.submit(request(with_net())).await.unwrap();
        engine.wait(job).await.unwrap();
        jobs.push(job);
    }
    done(engine.command(jobs[0], Command::Confirm, None).await.unwrap());
    let status = engine.wait(jobs[0]).await.unwrap();
    assert_eq!((status.state, status.closing), (JobState::Finished, Some(Closing::Confirm)));
    assert_eq!(states(&bench).await, [("net".to_owned(), SharedState::Ready, 2, true)]);
    for job in [jobs[1], jobs[2]] {
        done(engine.command(job, Command::Undo, None).await.unwrap());
        assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
    }
    assert_eq!(states(&bench).await, [("net".to_owned(), SharedState::Ready, 0, true)]);
    assert_eq!(bench.world.things().len(), 3, "the network, and what the confirmed job made");
    let again = engine.submit(request(with_net())).await.unwrap();
    engine.wait(again).await.unwrap();
    assert_eq!((bench.world.things().len(), bench.world.faults()), (4, vec![]));
}

#[tokio::test(start_paused = true)]
async fn another_definition_fails_naming_the_holders_or_makes_a_private_copy() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let first = engine.submit(request(with_net())).await.unwrap();
    engine.wait(first).await.unwrap();
    let other = |private| Step { shared: Some(("net".into(), "wider".into())), private, ..Step::new("net", 2) };
    let refused = engine.submit(request(vec![other(false)])).await.unwrap();
    engine.wait(refused).await.unwrap();
    let outcome = view_of(&bench, refused).await.tasks[0].status.outcome().cloned().unwrap();
    let text = format!("{outcome:?}");
    assert!(text.contains("shared_conflict") && text.contains(&first.to_string()), "{text}");
    let private = engine.submit(request(vec![other(true)])).await.unwrap();
    assert_eq!(engine.wait(private).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!(bench.world.things().len(), 5);
    for job in [private, first] {
        done(engine.command(job, Command::Undo, None).await.unwrap());
        assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
    }
    assert_eq!(bench.world.things(), Vec::<String>::new());
    nothing_is_left(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_outside_is_made_again_by_the_next_job() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let first = engine.submit(request(with_net())).await.unwrap();
    engine.wait(first).await.unwrap();
    bench.world.lose("shared/net/1");
    let second = engine.submit(request(with_net())).await.unwrap();
    assert_eq!(engine.wait(second).await.unwrap().result, Some(JobResult::SucceededWithWarnings));
    assert!(bench.world.exists("shared/net/1"));
    let record = view::shared(&bench.store).await.unwrap().remove(0);
    assert_eq!((record.holders.len(), record.generation, record.owner), (2, 2, Some(second)));
    let log = view::log(&bench.store, second, 0, 100).await.unwrap();
    assert!(log.iter().any(|entry| entry.code == "shared.gone"), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_deleted_by_force_leaves_every_holder_set() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let first = engine.submit(request(with_net())).await.unwrap();
    let second = engine.submit(request(with_net())).await.unwrap();
    for job in [first, second] {
        engine.wait(job).await.unwrap();
    }
    for (job, left) in [(first, 1), (second, 3)] {
        match engine.command(job, Command::Delete { force: true }, None).await.unwrap() {
            CommandReply::Deleted { leftovers, .. } => assert_eq!(leftovers.len(), left, "{leftovers:?}"),
            other => panic!("{other:?}"),
        }
        engine.wait(job).await.unwrap_err();
    }
    assert_eq!(bench.world.things().len(), 4, "nothing outside is touched");
    nothing_is_left(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_of_all_jobs_run_than_a_pool_has_places_and_larger_priorities_come_first() {
    let mut bench = Bench::new();
    let engine = bench.engine().await;
    let step = |name: String| Step { pool: Some(("copies".into(), 2)), takes_ms: 10_000, ..Step::new(name, 0) };
    let steps = || (0..4).map(|n| step(format!("s{n}"))).collect();
    let first = engine.submit(request(steps())).await.unwrap();
    bench.clock.sleep(Duration::from_millis(50)).await;
    let low = engine.submit(request(steps())).await.unwrap();
    bench.clock.sleep(Duration::from_millis(50)).await;
    let high = engine.submit(JobRequest { priority: 9, ..request(steps()) }).await.unwrap();
    bench.clock.sleep(Duration::from_secs(1)).await;
    let waits = view_of(&bench, low).await.tasks[0].waits.clone();
    assert!(matches!(&waits[..], [view::Wait::Pool { size: 2, holders, .. }] if holders.len() == 2), "{waits:?}");
    let mut ended = Vec::new();
    for _ in 0..200 {
        bench.clock.sleep(Duration::from_millis(500)).await;
        assert!(read_all(&bench.store, "slot/").await.unwrap().len() <= 2);
        let mut running = 0;
        for job in [first, low, high] {
            let seen = view_of(&bench, job).await;
            running += seen.counts.running;
            if seen.status.state == JobState::Completed && !ended.contains(&job) {
                ended.push(job);
            }
        }
        assert!(running <= 2, "{running}");
        if ended.len() == 3 {
            break;
        }
    }
    assert_eq!(ended.last(), Some(&low), "{ended:?}");
    nothing_is_left(&bench).await;
}
