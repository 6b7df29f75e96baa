//! Sites that answer late, wrong, or not at all: what is there in the end is the same.

use futures::StreamExt;
use windlass_engine::Command;
use windlass_sim_cloud::{Rule, What};

use crate::rig::{Rig, troubles};

/// Runs a drill during which `rules` hold, and gives what is there then; undoes it under `later`, and gives what is left.
async fn drill(rules: &[Rule], later: &[Rule]) -> (Vec<String>, Vec<String>) {
    let rig = Rig::new().await;
    let before = rig.b.objects();
    rules.iter().cloned().for_each(|rule| rig.b.fail(rule));
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new(), "{rules:?}");
    let marks = rig.b.marks();
    assert!(marks.values().all(|count| *count == 1), "made twice under {rules:?}: {marks:?}");
    let there = rig.b.objects();
    rig.b.calm();
    later.iter().cloned().for_each(|rule| rig.b.fail(rule));
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{later:?}: {:?}", troubles(&undone));
    let mut left = rig.b.objects();
    left.retain(|object| !before.contains(object));
    (there, left)
}

/// How many changes a clean drill makes, up and down, and what is there in between.
async fn clean() -> (usize, usize, Vec<String>) {
    let rig = Rig::new().await;
    let (engine, job, _) = rig.run().await;
    let (up, there) = (rig.b.changes(), rig.b.objects());
    rig.command(&engine, job, Command::Undo).await;
    (up, rig.b.changes() - up, there)
}

#[tokio::test]
async fn an_answer_swallowed_at_any_change_changes_nothing_in_the_end() {
    let (up, down, there) = clean().await;
    assert!(up > 40 && down > 20, "{up} {down}");
    let runs = (0..up.max(down)).map(|n| {
        let lost = [Rule::nth_change(n, What::LostAfter)];
        let there = &there;
        async move {
            let (now, left) = drill(&lost, &lost).await;
            assert_eq!(&now, there, "answer {n} swallowed");
            assert_eq!(left, Vec::<String>::new(), "answer {n} swallowed");
        }
    });
    let done = futures::stream::iter(runs).buffer_unordered(8).count().await;
    println!("answers swallowed one at a time: {up} changes up, {down} down, {done} drills ended as the clean one");
}

#[tokio::test]
async fn refusals_that_pass_pass() {
    let (up, _, there) = clean().await;
    let faults = [
        What::Status(429, Some(0)),
        What::Status(503, None),
        What::Status(500, None),
        What::LostBefore,
        What::TokensExpire,
        What::Slow(30),
        What::Late(10),
    ];
    let cases = faults.iter().enumerate().flat_map(|(i, what)| (i..up).step_by(9).map(move |n| (n, what.clone())));
    let runs = cases.map(|(n, what)| {
        let there = &there;
        async move {
            let down = [Rule { method: "DELETE", path: "", after: n % 20, times: 2, what: What::Status(409, None) }];
            let (now, left) = drill(&[Rule::nth_change(n, what.clone())], &down).await;
            assert_eq!(&now, there, "{what:?} at change {n}");
            assert_eq!(left, Vec::<String>::new(), "{what:?} at change {n}");
        }
    });
    let done = futures::stream::iter(runs).buffer_unordered(8).count().await;
    println!("{done} drills under {} sorts of faults ended as the clean one", faults.len());
}

#[tokio::test]
async fn lists_in_pages_are_read_to_their_end_and_short_tokens_are_renewed() {
    let rig = Rig::with(|options| {
        options.page = 2;
        options.token_s = 2;
        options.ready_ms = 150;
    })
    .await;
    let before = rig.b.objects();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    rig.command(&engine, job, Command::Undo).await;
    assert_eq!(rig.b.objects(), before);
}

#[tokio::test]
async fn a_server_that_ends_in_error_fails_alone_and_is_removed() {
    let mut rig = Rig::new().await;
    rig.spec["inventory"]["instances"][1]["metadata"]["lab_fault"] = "spawn".into();
    let before = rig.b.objects();
    let (engine, job, view) = rig.run().await;
    let troubles = troubles(&view);
    assert!(
        troubles.iter().any(|text| text.contains("boot.instance[app") && text.contains("server_error")),
        "{troubles:?}"
    );
    assert!(
        troubles.iter().any(|text| text.contains("create-and-diagnose.instance[web") && text.contains("ignored")),
        "{troubles:?}"
    );
    assert!(rig.b.all("server").iter().any(|server| server["name"] == "db" && server["status"] == "ACTIVE"));
    rig.command(&engine, job, Command::Undo).await;
    assert_eq!(rig.b.objects(), before);
}

#[tokio::test]
async fn what_ended_in_error_is_made_anew_when_it_is_tried_again() {
    let rig = Rig::new().await;
    let before = rig.b.objects();
    rig.b.fail(Rule { method: "POST", path: "/volumes", after: 1, times: 1, what: What::EndsInError });
    rig.b.fail(Rule { method: "POST", path: "/servers", after: 0, times: 1, what: What::EndsInError });
    let (engine, job, view) = rig.run().await;
    assert!(troubles(&view).iter().any(|text| text.contains("copy.volume") && text.contains("ended_in_error")));
    rig.b.calm();
    let retry =
        |from: Option<String>| Command::Retry { failed_only: true, from, inputs: std::collections::BTreeMap::new() };
    let mut view = rig.command(&engine, job, retry(None)).await;
    // A server that is in error is made anew from its create task on.
    let failed = view.tasks.iter().find(|task| {
        task.name.starts_with("recover.boot") && task.status.outcome().is_some_and(|outcome| outcome.name() == "failed")
    });
    if let Some(boot) = failed {
        let create = boot.name.replace("boot.instance", "create-and-diagnose.instance");
        view = rig.command(&engine, job, retry(Some(create))).await;
    }
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert!(rig.b.marks().values().all(|count| *count == 1), "{:?}", rig.b.marks());
    assert_eq!(rig.b.all("server").len(), 3);
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(rig.b.objects(), before);
}
