//! Clients who write at the wrong moment, agents that refuse, backups that are needed, and being told to stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tonic::Code;
use windlass_model::{ErrorClass, Failure};
use windlass_sim::vald::{Action, Fault, Method, Release, Stored};

use super::rig::{Rig, Try, cluster, count, quick};
use crate::journal::JournalWriter;
use crate::moves::access::{BackedUpId, BackupAccess, BackupState, WantedVector};
use crate::moves::input::{BackupRef, ChunkKind, CommitMode, Durability, MoveInput, MoveSettings};

const LATER: i64 = 1_700_100_000_000_000_000;

fn one_by_one() -> MoveSettings {
    MoveSettings { parallelism: 1, ..quick() }
}

/// Runs moves of everything on agent 0, one after the other, each with a client that does something right before one
/// change more than the last; and looks at what became of the first id and of the others.
async fn with_a_client(client: impl Fn(&Rig, &str) + Send + Sync + 'static, look: impl Fn(&Rig, &str, usize)) {
    let client = Arc::new(client);
    for at in 1.. {
        let rig = Arc::new(Rig::new(cluster().ids(6)).await);
        let ids = rig.ids_on(0);
        assert!(ids.len() > 1);
        let input = MoveInput { settings: one_by_one(), ..rig.input(ChunkKind::Move, &ids) };
        let (hooked, id, client) = (Arc::clone(&rig), ids[0].clone(), Arc::clone(&client));
        let fired = Arc::new(AtomicUsize::new(0));
        let firing = Arc::clone(&fired);
        let attempt = rig.watched(move |_, number| {
            if number == at {
                firing.fetch_add(1, Ordering::SeqCst);
                client(&hooked, &id);
            }
        });
        let output = rig.run_as(&attempt, &input).await.unwrap().unwrap();
        assert_eq!(output.outcomes.values().sum::<u64>(), output.planned);
        if fired.load(Ordering::SeqCst) == 0 {
            assert!(at > 8, "only {at} changes");
            return;
        }
        look(&rig, &ids[0], at);
        rig.assert_on(&ids[1..], &[1]);
        rig.assert_sound();
    }
}

#[tokio::test]
async fn an_id_deleted_by_a_client_at_any_moment_stays_deleted() {
    let client = |rig: &Rig, id: &str| rig.cluster.client_delete(id, LATER).unwrap();
    with_a_client(client, |rig, id, at| {
        assert_eq!(rig.holders(id), Vec::<usize>::new(), "deleted at change {at}");
    })
    .await;
}

#[tokio::test]
async fn what_a_client_writes_at_any_moment_is_never_replaced_by_something_older() {
    let vector = [9.0f32; 8];
    for balanced in [false, true] {
        let client = move |rig: &Rig, id: &str| {
            if balanced {
                rig.cluster.client_update_balanced(id, &vector, LATER).unwrap();
            } else {
                rig.cluster.client_update(id, &vector, LATER).unwrap();
            }
        };
        with_a_client(client, |rig, id, at| {
            let holders = rig.holders(id);
            assert!(!holders.is_empty(), "updated at change {at}");
            for agent in holders {
                let (seen, time) = rig.cluster.copy(agent, id).unwrap();
                assert_eq!((&seen[..], time), (&vector[..], LATER + 1), "updated at change {at}, balanced: {balanced}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_copy_that_a_client_puts_on_the_destination_meanwhile_does_not_replace_the_sources() {
    // Agent 2 is the fullest, so a client's update through the gateway goes to source and destination.
    let rig = Arc::new(Rig::new(cluster().agents(3).replica(2).skew(2.0)).await);
    let ids: Vec<String> = rig.ids_on(0).into_iter().filter(|id| rig.holders(id) == [0, 2]).collect();
    let (hooked, id) = (Arc::clone(&rig), ids[0].clone());
    let attempt = rig.watched(move |_, number| {
        if number == 1 {
            hooked.cluster.client_update_balanced(&id, &[9.0; 8], LATER).unwrap();
        }
    });
    // The second id is the first to be copied; by then the first has been looked at.
    let order = [ids[1].clone(), ids[0].clone()];
    let input = MoveInput { index_replica: 2, settings: one_by_one(), ..rig.input(ChunkKind::Move, &order) };
    let output = rig.run_as(&attempt, &input).await.unwrap().unwrap();
    assert_eq!((count(&output, "already_there"), count(&output, "done")), (1, 1));
    assert_eq!((rig.holders(&ids[0]), rig.holders(&ids[1])), (vec![0, 1], vec![1, 2]));
    rig.assert_sound();
}

#[tokio::test]
async fn a_pending_delete_on_the_destination_gets_a_commit_and_then_the_copy() {
    let rig = Rig::new(cluster().ids(6)).await;
    let ids = rig.ids_on(0);
    rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
    // Back at once: the source's queue still holds removes that are later than the copies.
    *rig.state.checkpoint.lock().unwrap() = None;
    let settings = MoveSettings { commit_source: false, ..quick() };
    let back = MoveInput {
        source: Some(rig.agent(1)),
        destination: Some(rig.agent(0)),
        settings,
        ..rig.input(ChunkKind::Move, &ids)
    };
    let output = rig.run(&back).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    assert!(ids.iter().all(|id| rig.holders(id) == [0]));
    *rig.state.checkpoint.lock().unwrap() = None;
    let output = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn agents_of_every_kind_are_moved_between() {
    type Adjust = fn(&mut windlass_sim::vald::AgentOptions);
    let kinds: [(&str, Adjust); 7] = [
        ("stamps the commit's time", |agent| (agent.stamps_commit_time, agent.empty_commit_is_ok) = (true, true)),
        ("normalizes", |agent| agent.stored = Stored::Normalized),
        ("both", |agent| (agent.stamps_commit_time, agent.stored) = (true, Stored::Normalized)),
        ("no index service", |agent| agent.release = Release::WITHOUT_INDEX_SERVICE),
        ("no GetTimestamp", |agent| agent.release = Release::WITHOUT_GET_TIMESTAMP),
        ("no times", |agent| agent.release = Release::WITHOUT_TIME_IN_VECTOR),
        ("in memory", |agent| agent.memory_only = true),
    ];
    for (kind, adjust) in kinds {
        let rig = Rig::new(cluster().ids(8).agent_options(move |_, agent| adjust(agent))).await;
        let ids = rig.ids_on(0);
        let output = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
        assert_eq!(count(&output, "done"), ids.len() as u64, "{kind}: {output:?}");
        assert!(ids.iter().all(|id| rig.holders(id) == [1]), "{kind}");
        assert_eq!(output.times_unknown, kind == "no times");
        assert_eq!(rig.state.warnings.lock().unwrap().len(), usize::from(kind == "no times"));
        assert_eq!(rig.cluster.violations(), [], "{kind}");
    }
}

#[tokio::test]
async fn ids_of_another_dimension_are_rejected_and_too_many_in_a_row_end_the_job() {
    let odd = |agent: usize, options: &mut windlass_sim::vald::AgentOptions| {
        options.dimension = if agent == 1 { 9 } else { 8 };
    };
    let rig = Rig::new(cluster().ids(20).skew(0.0).agent_options(odd)).await;
    let ids = rig.ids_on(0);
    let output = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
    assert_eq!(count(&output, "rejected"), ids.len() as u64);
    rig.assert_on(&ids, &[0]);

    let rig = Rig::new(cluster().ids(300).skew(0.0).agent_options(odd)).await;
    let ids = rig.ids_on(0);
    let failure = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.class), ("agent_rejected", ErrorClass::Permanent));
    rig.assert_on(&ids, &[0]);
}

#[tokio::test]
async fn a_read_replica_ends_the_chunk_and_keeps_no_copies() {
    let rig = Rig::new(cluster().ids(6).agent_options(|agent, options| options.read_replica = agent == 1)).await;
    let ids = rig.ids_on(0);
    let failure = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.class), ("agent_rejected", ErrorClass::Permanent));
    assert!(ids.iter().all(|id| rig.holders(id) == [0]));
    rig.assert_sound();
}

#[tokio::test]
async fn an_agent_that_stays_away_pauses_the_job_which_can_be_resumed() {
    let rig = Rig::new(cluster().ids(6)).await;
    let ids = rig.ids_on(0);
    let input = rig.input(ChunkKind::Move, &ids);
    rig.cluster.crash(1);
    let failure = rig.run(&input).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.class), ("agent_unreachable", ErrorClass::NeedsAttention));
    rig.cluster.start(1);
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn an_agent_that_is_being_flushed_is_left_alone_until_it_is_over() {
    let rig = Arc::new(Rig::new(cluster().ids(4)).await);
    let ids = rig.ids_on(0);
    rig.cluster.flush_window(1, true).unwrap();
    let hooked = Arc::clone(&rig);
    let closing = tokio::spawn(async move {
        while hooked.cluster.calls(1, Method::GetTimestamp) == 0 {
            tokio::task::yield_now().await;
        }
        hooked.cluster.flush_window(1, false).unwrap();
    });
    let output = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
    closing.await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    rig.assert_sound();
}

#[tokio::test]
async fn a_stale_plan_is_given_up_and_its_copies_are_taken_back() {
    let rig = Rig::new(cluster().ids(40)).await;
    let mut ids = rig.ids_on(0);
    let here = ids.clone();
    ids.extend((0..here.len()).map(|n| format!("deleted-{n}")));
    let failure = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap_err();
    assert_eq!(failure.code, "backup_stale");
    rig.assert_on(&here, &[0]);
    rig.assert_sound();
}

#[tokio::test]
async fn a_cancel_is_obeyed_at_once_and_nothing_is_missing() {
    let rig = Arc::new(Rig::new(cluster().ids(40)).await);
    let ids = rig.ids_on(0);
    let input = MoveInput { settings: one_by_one(), ..rig.input(ChunkKind::Move, &ids) };
    let attempt = rig.attempt();
    let cancel = attempt.cancel.clone();
    rig.cluster.hang(1, true);
    let run = rig.run_as(&attempt, &input);
    let stop = async {
        tokio::task::yield_now().await;
        cancel.cancel();
    };
    let begun = windlass_clock::SystemClock::real();
    let (outcome, ()) = tokio::join!(run, stop);
    assert_eq!(outcome.unwrap().unwrap_err().class, ErrorClass::Interrupted);
    assert!(begun.monotonic() < Duration::from_secs(5));
    rig.cluster.hang(1, false);
    rig.assert_sound();
    rig.run(&input).await.unwrap();
    rig.assert_on(&ids, &[1]);
}

#[tokio::test]
async fn a_request_without_an_answer_is_made_again() {
    let rig = Rig::new(cluster().ids(6)).await;
    let ids = rig.ids_on(0);
    for method in [Method::Insert, Method::GetTimestamp, Method::CreateAndSaveIndex] {
        rig.cluster.inject(1, Fault::on(method).nth(1).after().action(Action::NoAnswer));
    }
    let settings = MoveSettings { call_timeout_ms: 200, commit_timeout_ms: 200, ..quick() };
    let input = MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) };
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    assert_eq!(output.retries, 3);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn refusals_that_no_repetition_mends_end_the_chunk() {
    for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented] {
        let rig = Rig::new(cluster().ids(6)).await;
        let ids = rig.ids_on(0);
        rig.cluster.inject(1, Fault::on(Method::Insert).fail(code));
        let failure = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap_err();
        assert_eq!(failure.class, ErrorClass::Permanent);
        assert_eq!(rig.cluster.calls(1, Method::Insert), 30.min(ids.len() as u64), "{code:?}");
        rig.assert_on(&ids, &[0]);
    }
}

#[tokio::test]
async fn a_copy_that_vanishes_after_the_removal_is_put_back() {
    let rig = Arc::new(Rig::new(cluster().ids(5)).await);
    let ids = rig.ids_on(0);
    let settings = MoveSettings { journal: true, durability: Durability::Queued, ..one_by_one() };
    let input = MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) };
    let (hooked, removals) = (Arc::clone(&rig), AtomicUsize::new(0));
    let last = ids.len();
    // The destination crashes, with everything still in its queue, once the last source copy is about to go.
    let attempt = rig.watched(move |label, _| {
        if label == "remove" && removals.fetch_add(1, Ordering::SeqCst) + 1 == last {
            hooked.cluster.restart(1);
        }
    });
    let output = rig.run_as(&attempt, &input).await.unwrap().unwrap();
    assert_eq!(count(&output, "failed"), ids.len() as u64);
    assert!(ids.iter().all(|id| rig.holders(id) == [0]));
    // With durability `queued` a crash of the destination does lose copies for a moment; that is what it says.
    assert_eq!(rig.cluster.resurrected(), Vec::<Arc<str>>::new());
}

#[tokio::test]
async fn with_commit_wait_the_clusters_own_schedule_is_waited_for() {
    let rig = Arc::new(Rig::new(cluster().ids(6)).await);
    let ids = rig.ids_on(0);
    let settings = MoveSettings { commit: CommitMode::Wait, ..quick() };
    let input = MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) };
    let run = rig.run(&input);
    let schedule = async {
        loop {
            windlass_clock::SystemClock::real().sleep(Duration::from_millis(20)).await;
            rig.cluster.build_and_save(1).await.unwrap();
        }
    };
    let output = tokio::select! {
        output = run => output.unwrap(),
        () = schedule => unreachable!("a schedule does not end"),
    };
    assert_eq!(count(&output, "done"), ids.len() as u64);
    assert_eq!(rig.cluster.calls(1, Method::CreateIndex) + rig.cluster.calls(1, Method::CreateAndSaveIndex), 0);
    rig.assert_sound();
}

/// Backups as the test wants them.
#[derive(Default)]
struct Backups {
    asked: Mutex<Vec<usize>>,
    vectors: Vec<(u32, Vec<f32>)>,
}

#[async_trait]
impl BackupAccess<Try> for Arc<Backups> {
    async fn holds(&self, _: &Try, _: &str, _: Timestamp, ids: &[BackedUpId]) -> Result<BackupState, Failure> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(ids.len());
        Ok(match asked.len() {
            1 => BackupState::NotYet,
            2 => BackupState::Lacks(vec![0]),
            _ => BackupState::Holds,
        })
    }

    async fn restore(
        &self,
        _: &Try,
        _: &BackupRef,
        wanted: Vec<WantedVector>,
        mut into: JournalWriter,
    ) -> Result<JournalWriter, Failure> {
        for WantedVector { number, place, id, time } in wanted {
            if let Some((_, vector)) = self.vectors.iter().find(|(other, _)| *other == number) {
                into.append(place, &id, time, vector).unwrap();
            }
        }
        Ok(into)
    }
}

#[tokio::test]
async fn backed_up_waits_for_the_backup_and_copies_again_what_it_lacks() {
    let mut rig = Rig::new(cluster().ids(6)).await;
    let backups = Arc::new(Backups::default());
    rig.access = Box::new(Arc::clone(&backups));
    let ids = rig.ids_on(0);
    let settings = MoveSettings { durability: Durability::BackedUp, ..quick() };
    let output = rig.run(&MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) }).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    assert_eq!(*backups.asked.lock().unwrap(), [ids.len(), ids.len(), 1]);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn a_restore_brings_back_what_nobody_has_with_the_time_of_the_backup() {
    let mut rig = Rig::new(cluster().ids(6)).await;
    let vector = vec![0.5f32; 8];
    rig.access = Box::new(Arc::new(Backups { vectors: vec![(7, vector.clone())], ..Backups::default() }));
    let living = rig.ids_on(0)[0].clone();
    let list = rig.list_of(&[(living.as_bytes(), 5, 1), (b"lost", 5, 7), (b"lost, no time", 0, 7), (b"missing", 5, 8)]);
    let backup = BackupRef { agent: "vald-agent-9".into(), key: "k".into(), etag: None };
    let input = MoveInput { list, backup: Some(backup), ..rig.input(ChunkKind::Restore, &["x", "y"]) };
    let input = MoveInput {
        list: rig.list_of(&[(living.as_bytes(), 5, 1), (b"lost", 5, 7), (b"lost, no time", 0, 7), (b"missing", 5, 8)]),
        ..input
    };
    let output = rig.run(&input).await.unwrap();
    assert_eq!((count(&output, "done"), count(&output, "already_there"), count(&output, "failed")), (2, 1, 1));
    let (seen, time) = rig.cluster.copy(1, "lost").unwrap();
    assert_eq!((&seen[..], time), (&vector[..], 5));
    assert_eq!(rig.cluster.copy(1, "lost, no time").unwrap().1, 1);

    // Undone, unless a client has written it since.
    rig.cluster.client_update("lost, no time", &[1.0; 8], LATER).unwrap();
    rig.undo(&input).await;
    assert_eq!(rig.cluster.copy(1, "lost"), None);
    assert_eq!(rig.cluster.copy(1, "lost, no time").unwrap().1, LATER + 1);
    assert_eq!(rig.holders(&living), [0]);
}
