//! The conformance table of the agent's queue semantics, row by row, and the rules around it.

use super::super::options::Stored;
use super::*;

/// A moment after all times in the table.
const NOW: i64 = 1_000_000;
const HOUR: i64 = 3_600_000_000_000;

fn a() -> Vector {
    [1.0, 0.0].into()
}

fn b() -> Vector {
    [0.0, 2.0].into()
}

fn agent() -> AgentState {
    AgentState::new(AgentOptions::new(2))
}

/// One agent, one id; names as in the table.
#[derive(Debug)]
struct Row(AgentState);

impl Row {
    fn new() -> Self {
        Self(agent())
    }

    #[track_caller]
    fn insert(mut self, vector: &Vector, time: i64) -> Self {
        self.0.insert("id", vector.clone(), time, time, NOW).unwrap();
        self
    }

    #[track_caller]
    fn remove(mut self, time: i64) -> Self {
        self.0.remove("id", time, NOW).unwrap();
        self
    }

    #[track_caller]
    fn update(mut self, vector: &Vector, time: i64) -> Self {
        self.0.update("id", vector.clone(), time, NOW).unwrap();
        self
    }

    #[track_caller]
    fn commit(mut self) -> Self {
        assert_eq!(self.0.begin_build(NOW, false).unwrap(), Build::Begun);
        self.0.finish_build();
        self
    }

    /// All ways of reading agree.
    #[track_caller]
    fn reads(self, expected: Option<(&Vector, i64)>) -> Self {
        let state = &self.0;
        match expected {
            Some((vector, time)) => {
                assert_eq!(state.get("id"), Ok((vector.clone(), time)));
                assert_eq!(state.timestamp("id"), Ok(time));
                assert_eq!(state.exists("id"), Ok(()));
                assert_eq!(state.list().unwrap(), [("id".into(), vector.clone(), time)]);
                assert_eq!(state.readable().map(|(id, time)| (&**id, time)).collect::<Vec<_>>(), [("id", time)]);
            }
            None => {
                assert!(matches!(state.get("id"), Err(Refusal::NotFound(_))));
                assert!(matches!(state.timestamp("id"), Err(Refusal::NotFound(_))));
                assert!(matches!(state.exists("id"), Err(Refusal::NotFound(_))));
                assert_eq!(state.list().unwrap(), []);
                assert_eq!(state.readable().count(), 0);
            }
        }
        self
    }
}

#[test]
fn a_remove_with_the_time_of_a_queued_insert_comes_back_on_commit() {
    Row::new().insert(&a(), 100).remove(100).reads(None).commit().reads(Some((&a(), 100)));
}

#[test]
fn a_remove_one_later_than_a_queued_insert_holds() {
    Row::new().insert(&a(), 100).remove(101).reads(None).commit().reads(None);
}

#[test]
fn an_older_remove_takes_a_committed_entry() {
    Row::new().insert(&a(), 100).commit().remove(50).reads(None).commit().reads(None);
}

#[test]
fn an_insert_older_than_a_pending_remove_is_answered_ok_and_dropped() {
    Row::new().insert(&a(), 100).commit().remove(500).insert(&b(), 100).reads(None).commit().reads(None);
}

#[test]
fn moving_back_too_early_is_dropped() {
    Row::new().insert(&a(), 100).commit().remove(101).insert(&b(), 100).reads(None).commit().reads(None);
}

#[test]
fn an_insert_with_the_time_of_a_pending_remove_shows_the_old_vector_until_the_commit() {
    Row::new()
        .insert(&a(), 100)
        .commit()
        .remove(100)
        .insert(&b(), 100)
        .reads(Some((&a(), 100)))
        .commit()
        .reads(Some((&b(), 100)));
}

#[test]
fn a_queued_update_survives_an_older_remove() {
    Row::new()
        .insert(&a(), 100)
        .commit()
        .update(&b(), 200)
        .reads(Some((&b(), 201)))
        .remove(101)
        .reads(Some((&b(), 201)))
        .commit()
        .reads(Some((&b(), 201)));
}

#[test]
fn a_committed_update_is_lost_to_an_older_remove() {
    let row = Row::new().insert(&a(), 100).commit().update(&b(), 200).commit().reads(Some((&b(), 201)));
    row.remove(101).reads(None).commit().reads(None);
}

#[test]
fn an_insert_from_the_future_stays_queued() {
    let row = Row::new().insert(&a(), NOW + HOUR).commit().reads(Some((&a(), NOW + HOUR)));
    assert_eq!(row.0.counts(), Counts { stored: 0, uncommitted: 1, indexing: false, saving: false });
}

#[test]
fn a_second_insert_is_already_there() {
    let mut row = Row::new().insert(&a(), 100);
    assert!(matches!(row.0.insert("id", b(), 200, 200, NOW), Err(Refusal::AlreadyExists(_))));
    row.reads(Some((&a(), 100))).commit().reads(Some((&a(), 100)));
}

#[test]
fn a_remove_from_the_future_hides_at_once_and_is_not_committed() {
    let row = Row::new().insert(&a(), 100).commit().remove(NOW + HOUR).reads(None).commit().reads(None);
    assert_eq!(row.0.counts(), Counts { stored: 1, uncommitted: 1, indexing: false, saving: false });
}

#[test]
fn insert_takes_the_vectors_time_then_the_configs_then_now() {
    for (vector, config, expected) in [(5, 7, 5), (0, 7, 7), (-3, 7, 7), (0, 0, NOW), (-1, -1, NOW)] {
        let mut agent = agent();
        agent.insert("id", a(), vector, config, NOW).unwrap();
        assert_eq!(agent.timestamp("id"), Ok(expected), "{vector} {config}");
    }
}

#[test]
fn update_and_remove_look_only_at_the_configs_time() {
    let mut agent = agent();
    agent.insert("id", a(), 100, 0, NOW).unwrap();
    agent.update("id", b(), 0, NOW).unwrap();
    assert_eq!(agent.timestamp("id"), Ok(NOW + 1));
    agent.remove("id", 0, NOW).unwrap();
    // The remove at `NOW` is older than the update's insert.
    assert_eq!(agent.timestamp("id"), Ok(NOW + 1));
}

#[test]
fn invalid_writes_are_refused_before_anything_else() {
    let mut agent = agent();
    let short: Vector = [1.0].into();
    for refusal in [
        agent.insert("", a(), 1, 1, NOW),
        agent.insert("id", short.clone(), 1, 1, NOW),
        agent.update("id", short.clone(), 1, NOW),
        agent.upsert("id", short.clone(), 1, 1, NOW),
        agent.insert_many(vec![("x".into(), a(), 1, 1), ("id".into(), short, 1, 1)], NOW),
    ] {
        assert!(matches!(refusal, Err(Refusal::InvalidArgument(_))));
    }
    assert_eq!(agent.counts(), Counts::default());
}

#[test]
fn multi_insert_uses_the_first_ones_time_for_all() {
    let mut agent = agent();
    agent.insert_many(vec![("x".into(), a(), 0, 50), ("y".into(), b(), 900, 900)], NOW).unwrap();
    assert_eq!((agent.timestamp("x"), agent.timestamp("y")), (Ok(50), Ok(50)));
    let again = agent.insert_many(vec![("x".into(), a(), 60, 60), ("z".into(), b(), 0, 0)], NOW);
    assert!(matches!(again, Err(Refusal::AlreadyExists(_))));
    assert_eq!((agent.timestamp("x"), agent.timestamp("z")), (Ok(50), Ok(60)));
}

#[test]
fn multi_remove_ignores_times_and_goes_on_past_a_missing_id() {
    let mut agent = agent();
    agent.insert("x", a(), 50, 0, NOW).unwrap();
    let outcome = agent.remove_many(vec!["missing".into(), "x".into()], NOW);
    assert!(matches!(outcome, Err(Refusal::NotFound(_))));
    assert!(agent.exists("x").is_err());
}

#[test]
fn remove_of_an_unknown_id_is_not_found_and_keeps_the_later_time() {
    let mut row = Row::new();
    assert!(matches!(row.0.remove("id", 5, NOW), Err(Refusal::NotFound(_))));
    row = row.insert(&a(), 100).commit().remove(500).remove(200);
    // Had the earlier time won, this insert would show.
    row.insert(&b(), 300).reads(None).commit().reads(None);
}

#[test]
fn update_with_the_same_vector_is_refused_and_raises_the_time() {
    let mut row = Row::new().insert(&a(), 100);
    assert!(matches!(row.0.update("id", a(), 90, NOW), Err(Refusal::AlreadyExists(_))));
    row = row.reads(Some((&a(), 100)));
    assert!(matches!(row.0.update("id", a(), 150, NOW), Err(Refusal::AlreadyExists(_))));
    row = row.reads(Some((&a(), 150))).commit();
    assert!(matches!(row.0.update("id", a(), 160, NOW), Err(Refusal::AlreadyExists(_))));
    row.reads(Some((&a(), 160)));
    assert!(matches!(agent().update("id", a(), 1, NOW), Err(Refusal::NotFound(_))));
}

#[test]
fn upsert_is_an_insert_or_an_update() {
    let mut row = Row::new();
    row.0.upsert("id", a(), 70, 60, NOW).unwrap();
    row = row.reads(Some((&a(), 70)));
    row.0.upsert("id", b(), 70, 90, NOW).unwrap();
    row.reads(Some((&b(), 91)));
}

#[test]
fn update_timestamp_raises_or_is_forced() {
    let mut row = Row::new().insert(&a(), 100).commit();
    assert!(matches!(row.0.update_timestamp("id", 90, false), Err(Refusal::AlreadyExists(_))));
    assert!(matches!(row.0.update_timestamp("other", 90, false), Err(Refusal::NotFound(_))));
    assert!(matches!(row.0.update_timestamp("id", 0, true), Err(Refusal::InvalidArgument(_))));
    row.0.update_timestamp("id", 110, false).unwrap();
    row = row.reads(Some((&a(), 110)));
    row.0.update_timestamp("id", 40, true).unwrap();
    row.reads(Some((&a(), 40)));
}

#[test]
fn remove_by_timestamp_takes_what_meets_all_conditions() {
    let mut agent = agent();
    for (id, time) in [("x", 10), ("y", 20), ("z", 30)] {
        agent.insert(id, a(), time, 0, NOW).unwrap();
    }
    let conditions = [(Comparison::Greater, 10), (Comparison::AtMost, 20)];
    assert_eq!(agent.remove_by_timestamp(&conditions, NOW).unwrap(), ["y".into()]);
    assert!(matches!(agent.remove_by_timestamp(&conditions, NOW), Err(Refusal::NotFound(_))));
    assert_eq!(agent.readable().count(), 2);
}

#[test]
fn everything_is_aborted_while_a_flush_is_under_way() {
    let mut agent = agent();
    agent.insert("id", a(), 1, 1, NOW).unwrap();
    agent.begin_flush().unwrap();
    let aborted = [
        agent.exists("id"),
        agent.get("id").map(|_| ()),
        agent.timestamp("id").map(|_| ()),
        agent.list().map(|_| ()),
        agent.insert("x", a(), 1, 1, NOW),
        agent.insert_many(vec![("x".into(), a(), 1, 1)], NOW),
        agent.update("id", b(), 1, NOW),
        agent.upsert("id", b(), 1, 1, NOW),
        agent.update_timestamp("id", 5, false),
        agent.remove("id", 1, NOW),
        agent.remove_many(vec!["id".into()], NOW),
        agent.remove_by_timestamp(&[(Comparison::AtLeast, 0)], NOW).map(|_| ()),
        agent.begin_flush(),
        agent.begin_build(NOW, false).map(|_| ()),
        agent.begin_save().map(|_| ()),
    ];
    for (at, answer) in aborted.into_iter().enumerate() {
        assert!(matches!(answer, Err(Refusal::Aborted(_))), "{at}");
    }
    assert_eq!(agent.counts().uncommitted, 1);
    agent.finish_flush();
    assert_eq!(agent.counts(), Counts::default());
    assert!(matches!(agent.exists("id"), Err(Refusal::NotFound(_))));
}

#[test]
fn an_empty_commit_is_a_failed_precondition_unless_the_agent_calls_it_ok() {
    assert!(matches!(agent().begin_build(NOW, false), Err(Refusal::FailedPrecondition(_))));
    let mut newer = AgentState::new(AgentOptions { empty_commit_is_ok: true, ..AgentOptions::new(2) });
    assert_eq!(newer.begin_build(NOW, false), Ok(Build::Nothing));
    assert!(!newer.counts().indexing);
}

#[test]
fn an_agent_may_stamp_the_time_of_the_commit() {
    let mut newer = AgentState::new(AgentOptions { stamps_commit_time: true, ..AgentOptions::new(2) });
    newer.insert("id", a(), 100, 100, NOW).unwrap();
    assert_eq!(newer.timestamp("id"), Ok(100));
    newer.build_and_save(NOW).unwrap();
    assert_eq!(newer.timestamp("id"), Ok(NOW));
}

#[test]
fn a_normalizing_engine_changes_the_vector_at_the_commit() {
    let mut agent = AgentState::new(AgentOptions { stored: Stored::Normalized, ..AgentOptions::new(2) });
    agent.insert("id", [3.0, 4.0], 1, 1, NOW).unwrap();
    assert_eq!(&*agent.get("id").unwrap().0, [3.0, 4.0]);
    agent.build_and_save(NOW).unwrap();
    assert_eq!(&*agent.get("id").unwrap().0, [0.6, 0.8]);
}

#[test]
fn during_a_build_one_further_waits_and_more_are_skipped() {
    let mut agent = agent();
    agent.insert("x", a(), 1, 1, NOW).unwrap();
    assert_eq!(agent.begin_build(NOW, false), Ok(Build::Begun));
    // Nothing is uncommitted any more, and yet it is not done.
    assert_eq!(agent.counts(), Counts { stored: 1, uncommitted: 0, indexing: true, saving: false });
    agent.insert("y", a(), 1, 1, NOW).unwrap();
    assert_eq!(agent.begin_build(NOW, false), Ok(Build::Wait));
    assert_eq!(agent.begin_build(NOW, false), Ok(Build::Skipped));
    assert_eq!(agent.begin_save(), Ok(Save::Wait));
    agent.finish_build();
    assert_eq!(agent.counts().uncommitted, 1);
    assert_eq!(agent.begin_build(NOW, true), Ok(Build::Begun));
    assert_eq!(agent.begin_build(NOW, false), Ok(Build::Wait));
}

#[test]
fn a_save_without_a_build_since_the_last_one_does_nothing() {
    let mut agent = agent();
    assert_eq!(agent.begin_save(), Ok(Save::Nothing));
    agent.insert("x", a(), 1, 1, NOW).unwrap();
    assert_eq!(agent.begin_save(), Ok(Save::Nothing));
    agent.begin_build(NOW, false).unwrap();
    agent.finish_build();
    assert_eq!(agent.begin_save(), Ok(Save::Begun));
    assert!(agent.counts().saving);
    assert_eq!(agent.begin_save(), Ok(Save::Wait));
    assert_eq!(agent.saved().entries().len(), 0);
    agent.finish_save();
    assert_eq!(agent.saved().entries().len(), 1);
    assert_eq!(agent.begin_save(), Ok(Save::Nothing));
}

#[test]
fn what_is_built_during_a_save_needs_another_save() {
    let mut agent = agent();
    agent.insert("x", a(), 1, 1, NOW).unwrap();
    agent.begin_build(NOW, false).unwrap();
    agent.finish_build();
    agent.begin_save().unwrap();
    agent.insert("y", a(), 1, 1, NOW).unwrap();
    agent.begin_build(NOW, false).unwrap();
    agent.finish_build();
    agent.finish_save();
    assert_eq!(agent.saved().entries().len(), 1);
    assert_eq!(agent.begin_save(), Ok(Save::Begun));
    agent.finish_save();
    assert_eq!(agent.saved().entries().len(), 2);
}

#[test]
fn a_read_replica_takes_writes_and_never_commits_them() {
    let mut replica = AgentState::new(AgentOptions { read_replica: true, ..AgentOptions::new(2) });
    replica.insert("x", a(), 1, 1, NOW).unwrap();
    assert_eq!(replica.timestamp("x"), Ok(1));
    let refusal = replica.begin_build(NOW, false).unwrap_err();
    assert_eq!(refusal, Refusal::Internal("write operation to read replica is not possible".into()));
    assert!(matches!(replica.begin_save(), Err(Refusal::Internal(_))));
    assert_eq!(replica.counts().stored, 0);
}

#[test]
fn a_memory_only_agent_says_ok_to_a_save_and_saves_nothing() {
    let mut agent = AgentState::new(AgentOptions { memory_only: true, ..AgentOptions::new(2) });
    agent.insert("x", a(), 1, 1, NOW).unwrap();
    agent.build_and_save(NOW).unwrap();
    agent.crash();
    assert_eq!(agent.readable().count(), 0);
}

#[test]
fn a_crash_with_a_volume_goes_back_to_the_last_save() {
    let mut agent = agent();
    for (id, save) in [("saved", true), ("committed", false)] {
        agent.insert(id, a(), 1, 1, NOW).unwrap();
        agent.begin_build(NOW, false).unwrap();
        agent.finish_build();
        if save {
            agent.begin_save().unwrap();
            agent.finish_save();
        }
    }
    agent.insert("queued", a(), 1, 1, NOW).unwrap();
    agent.remove("saved", 2, NOW).unwrap();
    agent.crash();
    assert_eq!(agent.readable().map(|(id, _)| &**id).collect::<Vec<_>>(), ["saved"]);
    assert_eq!(agent.counts(), Counts { stored: 1, ..Counts::default() });
}

#[test]
fn a_crash_without_a_volume_goes_back_to_the_last_backup() {
    let mut agent = AgentState::new(AgentOptions { persistent: false, ..AgentOptions::new(2) });
    agent.insert("backed-up", a(), 1, 1, NOW).unwrap();
    agent.build_and_save(NOW).unwrap();
    agent.back_up(Arc::clone(agent.saved()));
    agent.insert("saved", a(), 1, 1, NOW).unwrap();
    agent.build_and_save(NOW).unwrap();
    assert_eq!(agent.saved().entries().len(), 2);
    agent.crash();
    assert_eq!(agent.readable().map(|(id, _)| &**id).collect::<Vec<_>>(), ["backed-up"]);
}

#[test]
fn freed_object_numbers_are_used_again() {
    let mut agent = agent();
    agent.fill([("x".into(), a(), 1), ("y".into(), a(), 2), ("z".into(), a(), 3)]);
    agent.remove("y", 0, NOW).unwrap();
    agent.insert("w", a(), 4, 4, NOW).unwrap();
    agent.build_and_save(NOW).unwrap();
    let numbers: Vec<_> = agent.saved().entries().iter().map(|(id, entry)| (&**id, entry.number)).collect();
    assert_eq!(numbers, [("w", 2), ("x", 1), ("z", 3)]);
}
