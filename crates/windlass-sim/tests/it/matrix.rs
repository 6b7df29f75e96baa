//! The crash matrix of the engine itself, over the simulated world.

use std::time::Duration;

use windlass_clock::{SharedClock, SystemClock};
use windlass_engine::{Command, JobRequest, Kinds, Reconcile};
use windlass_sim::keeper::{KeepKind, Wishes};
use windlass_sim::matrix::{self, Case, Cast, Matrix};
use windlass_sim::world::{Mistake, Step, StepKind, StepSpec, World};

async fn case(mistake: Mistake, then: Option<Command>) -> Case {
    case_of(mistake, then, false)
}

/// The case; `two`: some of its tasks need a worker at site b.
fn case_of(mistake: Mistake, then: Option<Command>, two: bool) -> Case {
    let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let world = World::new(clock.clone(), 1);
    let steps = vec![
        Step::new("network", 2),
        Step::new("volume", 1),
        Step { adds: vec![Step::new("disk", 1).requires("server")], ..Step::new("server", 2) }
            .requires("network")
            .requires("volume"),
        Step { fails: true, ..Step::new("broken", 1) },
        Step::new("never", 1).requires("broken"),
    ];
    let at_b = |step: Step| match step.name.as_str() {
        "server" | "broken" if two => step.needs("site", "b"),
        _ => step,
    };
    let steps = steps.into_iter().map(at_b).collect();
    let spec = StepSpec { steps, exclusive: Some("site/a".into()) };
    let request = JobRequest { kind: "step".into(), name: "m".into(), spec: spec.to_json(), ..JobRequest::default() };
    let kinds = Kinds::new().with(StepKind::with_mistake(world.clone(), mistake));
    Case {
        clock,
        kinds,
        request,
        then,
        others: Vec::new(),
        reversed: false,
        work_dir: std::env::temp_dir(),
        fingerprint: Box::new(move || {
            let world = world.clone();
            Box::pin(async move { format!("{} things, {} faults", world.things().len(), world.faults().len()) })
        }),
    }
}

/// Two jobs that share a resource, which one has to make before its own things.
async fn shared_case(then: Command, reversed: bool) -> Case {
    shared_case_of(then, reversed, false)
}

/// The case; `two`: what they share is made, used and removed by a worker at site b.
fn shared_case_of(then: Command, reversed: bool, two: bool) -> Case {
    let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let world = World::new(clock.clone(), 1);
    let request = |name: &str| {
        let pool = Some(("makers".to_owned(), 1));
        let steps = vec![
            Step { pool, ..Step::sharing("net", 2) },
            Step::new("own", 1).requires("net"),
            Step { fails: true, ..Step::sharing(format!("{name}-broken"), 1) },
        ];
        let at_b = |step: Step| if two && step.name != "own" { step.needs("site", "b") } else { step };
        let steps = steps.into_iter().map(at_b).collect();
        let spec = StepSpec { steps, exclusive: None }.to_json();
        JobRequest { kind: "step".into(), name: name.into(), spec, ..JobRequest::default() }
    };
    Case {
        clock,
        kinds: Kinds::new().with(StepKind::new(world.clone())),
        request: request("first"),
        others: vec![request("second")],
        then: Some(then),
        reversed,
        work_dir: std::env::temp_dir(),
        fingerprint: Box::new(move || {
            let world = world.clone();
            Box::pin(async move { format!("{:?}, {} faults", world.things().len(), world.faults().len()) })
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_share_end_the_same_wherever_they_are_killed_and_whoever_lets_go_first() {
    for reversed in [false, true] {
        let matrix = matrix::make(|| shared_case(Command::Undo, reversed), 1).await;
        assert!(matrix.clean.contains("0, 0 faults"), "{}", matrix.clean);
        for label in ["acquire", "share", "let-go", "unshare", "release"] {
            assert!(matrix.rows.iter().any(|row| row.label == label), "{label} is not in\n{}", matrix.to_table());
        }
        assert_same(&matrix);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_and_made_elsewhere_ends_the_same_whoever_is_killed() {
    for cast in [Cast::CoordinatorDies, Cast::HostDies] {
        for reversed in [false, true] {
            let make = || async { shared_case_of(Command::Undo, reversed, true) };
            let matrix = matrix::make_with(make, 1, cast).await;
            assert!(matrix.clean.contains("0, 0 faults"), "{}", matrix.clean);
            println!("{cast:?}\n{}", matrix.to_table());
            assert!(matrix.rows.len() > 30, "a run with few points proves little: {}", matrix.rows.len());
            assert!(matrix.different().is_empty(), "{cast:?}: {:#?}", matrix.different());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_share_and_are_confirmed_end_the_same_wherever_they_are_killed() {
    let matrix = matrix::make(|| shared_case(Command::Confirm, false), 1).await;
    assert!(matrix.clean.contains("4, 0 faults"), "{}", matrix.clean);
    assert_same(&matrix);
}

/// A standing job that is to bring about three states of the world one after the other; `two`: at site b.
fn standing_case(two: bool) -> Case {
    let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let world = World::new(clock.clone(), 1);
    let settings = Reconcile { keep_ended: 3, keep_log: 20, ..Reconcile::every(Duration::from_secs(5)) };
    let phases = serde_json::json!([["a", "b", "c", "d"], ["c", "d", "e"], ["a", "f"]]);
    let mut spec = serde_json::json!({ "phases": phases });
    if two {
        spec["site"] = "b".into();
    }
    Case {
        clock,
        kinds: Kinds::new().with(KeepKind::new(world.clone(), Wishes::default(), settings)),
        request: JobRequest { kind: "keep".into(), name: "m".into(), spec, ..JobRequest::default() },
        then: Some(Command::Cancel { undo: false }),
        others: Vec::new(),
        reversed: false,
        work_dir: std::env::temp_dir(),
        fingerprint: Box::new(move || {
            let world = world.clone();
            Box::pin(async move { format!("{:?}, {:?}", world.things(), world.faults()) })
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_standing_job_killed_anywhere_brings_about_the_same_and_doubles_nothing() {
    for cast in [Cast::Alone, Cast::CoordinatorDies, Cast::HostDies] {
        let matrix = matrix::make_with(|| async { standing_case(cast != Cast::Alone) }, 1, cast).await;
        // 4 made, 2 removed and 1 made, 3 removed and 2 made.
        assert!(matrix.clean.contains("12 succeeded of 12"), "{}", matrix.clean);
        assert!(matrix.clean.ends_with(r#"["a", "f"], []"#), "{}", matrix.clean);
        let rounds = matrix.rows.iter().filter(|row| row.label == "reconcile").count();
        assert!(rounds >= 6 || cast == Cast::HostDies, "{rounds} kills around rounds in\n{}", matrix.to_table());
        println!("{}", matrix.to_table());
        assert!(matrix.different().is_empty(), "{cast:?}: {:#?}", matrix.different());
    }
}

fn assert_same(matrix: &Matrix) {
    println!("{}", matrix.to_table());
    assert!(matrix.rows.len() > 40, "a run with few points proves little: {}", matrix.rows.len());
    assert!(matrix.different().is_empty(), "{:#?}", matrix.different());
}

#[tokio::test(start_paused = true)]
async fn a_run_killed_anywhere_ends_as_if_never_killed() {
    let matrix = matrix::make(|| case(Mistake::None, None), 1).await;
    assert!(matrix.clean.contains("7 things, 0 faults"), "{}", matrix.clean);
    assert_same(&matrix);
}

#[tokio::test(start_paused = true)]
async fn an_undo_killed_anywhere_leaves_nothing() {
    let matrix = matrix::make(|| case(Mistake::None, Some(Command::Undo)), 1).await;
    assert!(matrix.clean.contains("0 things, 0 faults"), "{}", matrix.clean);
    assert_same(&matrix);
}

#[tokio::test(start_paused = true)]
async fn a_retry_killed_anywhere_ends_as_if_never_killed() {
    let matrix = matrix::make(|| case(Mistake::None, Some(Command::retry())), 1).await;
    assert_same(&matrix);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_killed_anywhere_beside_a_worker_changes_nothing() {
    let make = || async { case_of(Mistake::None, Some(Command::Undo), true) };
    let matrix = matrix::make_with(make, 1, Cast::CoordinatorDies).await;
    assert!(matrix.clean.contains("0 things, 0 faults"), "{}", matrix.clean);
    assert_same(&matrix);
}

#[tokio::test(start_paused = true)]
async fn a_worker_killed_anywhere_in_tasks_that_others_coordinate_changes_nothing() {
    for then in [None, Some(Command::Undo)] {
        let make = || {
            let then = then.clone();
            async move { case_of(Mistake::None, then, true) }
        };
        let matrix = matrix::make_with(make, 1, Cast::HostDies).await;
        let things = if then.is_none() { "7 things, 0 faults" } else { "0 things, 0 faults" };
        assert!(matrix.clean.contains(things), "{}", matrix.clean);
        println!("{}", matrix.to_table());
        assert!(matrix.rows.len() > 20, "a run with few points proves little: {}", matrix.rows.len());
        assert!(matrix.different().is_empty(), "{:#?}", matrix.different());
    }
}

#[tokio::test(start_paused = true)]
async fn the_matrix_sees_a_task_that_repeats_blindly() {
    let matrix = matrix::make(|| case(Mistake::RepeatsBlindly, None), 1).await;
    let different = matrix.different();
    assert!(!different.is_empty());
    assert!(different.iter().any(|row| row.label == "make"), "{different:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_matrix_of_samples_has_every_label_on_both_sides() {
    let seen = |matrix: &Matrix| {
        let labels = matrix.rows.iter().map(|row| format!("{:?} {}", row.moment, row.label));
        labels.collect::<std::collections::BTreeSet<_>>()
    };
    let all = matrix::make(|| case(Mistake::None, None), 1).await;
    let some = matrix::make(|| case(Mistake::None, None), 10).await;
    assert_eq!(seen(&some), seen(&all));
    assert!(some.rows.len() * 3 < all.rows.len() * 2, "{} of {}", some.rows.len(), all.rows.len());
}
