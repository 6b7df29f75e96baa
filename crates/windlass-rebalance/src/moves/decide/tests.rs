use super::*;

fn entry(step: Step, marks: &[Marks]) -> Entry {
    let mut entry = Entry { step, time: 100, ..Entry::default() };
    for mark in marks {
        entry.marks.add(*mark);
    }
    entry
}

fn rules(kind: ChunkKind) -> Rules {
    Rules { kind, adopt: false, only: None }
}

fn after_look(rules: Rules, source: Option<i64>, there: Option<i64>) -> Entry {
    let mut entry = Entry::default();
    looked(&mut entry, rules, Seen { source, there, now: 1_000 });
    entry
}

const OURS: &[Marks] = &[Marks::TOUCHED];
const GONE: Step = Step::Ended(Outcome::Gone);
const DELETED: Step = Step::Withdraw(Outcome::DeletedMeanwhile);

#[test]
fn the_first_look_decides_what_is_a_move_at_all() {
    use ChunkKind::{Fill, Move, Refresh};
    let there = Step::Ended(Outcome::AlreadyThere);
    let table = [
        (Move, Some(100), None, Step::Copy),
        (Move, None, None, GONE),
        (Move, None, Some(100), GONE),
        // It was there before the job: removing the source's would lower the number of copies.
        (Move, Some(100), Some(50), there),
        (Fill, Some(100), Some(100), there),
        (Fill, Some(100), None, Step::Copy),
        (Refresh, Some(100), Some(50), Step::Copy),
        (Refresh, Some(100), Some(100), there),
        (Refresh, Some(100), None, GONE),
        (Refresh, None, Some(50), GONE),
        (Move, Some(1_001), None, Step::Ended(Outcome::Failed)),
    ];
    for (kind, source, copy, expected) in table {
        assert_eq!(after_look(rules(kind), source, copy).step, expected, "{kind:?} {source:?} {copy:?}");
    }
    assert_eq!(after_look(rules(Move), Some(1_001), None).why, Why::FutureTime);
    assert_eq!(after_look(rules(Move), Some(100), None).time, 100);
}

#[test]
fn a_restore_copies_only_what_nobody_has() {
    assert_eq!(after_look(rules(ChunkKind::Restore), None, None).step, Step::Copy);
    let seen = after_look(rules(ChunkKind::Restore), None, Some(1));
    assert_eq!(seen.step, Step::Ended(Outcome::AlreadyThere));
}

#[test]
fn undoing_takes_an_original_that_is_there_for_the_copy_wanted() {
    let rules = Rules { kind: ChunkKind::Move, adopt: true, only: Some(100) };
    assert_eq!(after_look(rules, Some(100), Some(100)).step, Step::Verify);
    assert_eq!(after_look(rules, Some(100), None).step, Step::Copy);
    assert_eq!(after_look(rules, Some(101), None).step, Step::Ended(Outcome::Changed));
    assert_eq!(after_look(rules, None, Some(100)).step, GONE);
    // What was there is never withdrawn.
    let mut adopted = after_look(rules, Some(100), Some(100));
    adopted.marks.add(Marks::TOUCHED);
    withdraw(&mut adopted, Outcome::Changed);
    assert_eq!(adopted.step, Step::Ended(Outcome::Changed));
}

#[test]
fn an_id_that_the_destination_has_already_is_judged_by_time_and_vector() {
    let table = [
        // time, same, replace, then
        (100, true, Replace::No, Step::Verify),
        (150, true, Replace::No, Step::Verify),
        (50, false, Replace::Update(99), Step::Verify),
        (50, true, Replace::Update(100), Step::Verify),
        (150, false, Replace::No, Step::Reread),
        (100, false, Replace::No, Step::Ended(Outcome::Conflicting)),
    ];
    for (time, same, replace, then) in table {
        let mut entry = entry(Step::Copy, OURS);
        assert_eq!(exists_already(&mut entry, Some(Other { time, same }), true, true), replace, "{time} {same}");
        assert_eq!(entry.step, then, "{time} {same}");
        assert!(entry.marks.has(Marks::UNSURE) && !entry.marks.has(Marks::NOT_OURS));
    }
    let mut vanished = entry(Step::Copy, OURS);
    assert_eq!(exists_already(&mut vanished, None, false, false), Replace::No);
    assert_eq!(vanished.step, Step::Verify);
}

#[test]
fn a_copy_that_came_from_a_client_is_never_taken_for_ours() {
    // time, sent, touched: whose
    let table =
        [(100, true, true, true), (100, false, true, false), (150, false, true, false), (50, false, true, true)];
    for (time, sent, touched, ours) in table {
        let mut entry = entry(Step::Copy, OURS);
        exists_already(&mut entry, Some(Other { time, same: true }), sent, touched);
        assert_eq!(!entry.marks.has(Marks::NOT_OURS), ours, "{time} {sent} {touched}");
        withdraw(&mut entry, Outcome::Changed);
        assert_eq!(entry.step == Step::Withdraw(Outcome::Changed), ours);
    }
    let copies = |copies| Others { newest: Some(100), with_newest: copies, copies };
    let mut both_wanted = entry(Step::Remove, &[Marks::UNSURE]);
    assert!(!enough_left(&mut both_wanted, copies(1), 2));
    assert_eq!(both_wanted.step, Step::Ended(Outcome::AlreadyThere));
    assert!(enough_left(&mut entry(Step::Remove, &[]), copies(2), 2));
}

#[test]
fn another_version_has_not_been_sent_yet() {
    let mut entry = entry(Step::Reread, &[Marks::TOUCHED, Marks::SENT]);
    reread(&mut entry, Some(100), 1_000);
    assert!(entry.marks.has(Marks::SENT));
    reread(&mut entry, Some(200), 1_000);
    assert!(!entry.marks.has(Marks::SENT) && entry.marks.has(Marks::TOUCHED));
}

#[test]
fn reading_back_proves_the_copy_or_finds_the_reason() {
    let table = [
        (Some((100, true)), OURS, Step::Glance),
        // An agent that stamps the time of its commits.
        (Some((150, true)), OURS, Step::Glance),
        (Some((50, true)), OURS, Step::Copy),
        (Some((150, false)), OURS, Step::Reread),
        (Some((100, false)), OURS, Step::Withdraw(Outcome::Failed)),
        (None, OURS, Step::Rescue),
        (None, &[Marks::TOUCHED, Marks::RESCUED], Step::Withdraw(Outcome::BlockedByDelete)),
    ];
    for (copy, marks, then) in table {
        let mut entry = entry(Step::Verify, marks);
        verified(&mut entry, ChunkKind::Move, copy.map(|(time, same)| ReadBack { time, same }));
        assert_eq!(entry.step, then, "{copy:?}");
    }
    let mut refresh = entry(Step::Verify, OURS);
    verified(&mut refresh, ChunkKind::Refresh, None);
    assert_eq!(refresh.step, GONE);
}

#[test]
fn a_pending_delete_gets_one_commit_and_then_blocks() {
    let mut entry = entry(Step::Verify, OURS);
    verified(&mut entry, ChunkKind::Move, None);
    rescued(&mut entry);
    assert_eq!(entry.step, Step::Copy);
    verified(&mut entry, ChunkKind::Move, None);
    assert_eq!(entry.step, Step::Withdraw(Outcome::BlockedByDelete));
}

#[test]
fn the_recheck_sends_each_id_where_it_belongs() {
    let same = |time| Some(ReadBack { time, same: true });
    let other = |time| Some(ReadBack { time, same: false });
    let table = [
        (Some(100), same(100), Step::Remove),
        (Some(100), same(150), Step::Remove),
        (Some(100), same(50), Step::Copy),
        (Some(100), None, Step::Copy),
        (Some(100), other(150), Step::Reread),
        (Some(200), same(100), Step::Reread),
        // Older than it was: the agent came back with an older index.
        (Some(50), same(100), Step::Reread),
        (None, same(100), DELETED),
        (None, None, DELETED),
    ];
    for (source, there, then) in table {
        let mut entry = entry(Step::Recheck, OURS);
        rechecked(&mut entry, ChunkKind::Move, source, there);
        assert_eq!(entry.step, then, "{source:?} {there:?}");
        let mut entry = self::entry(Step::Remove, OURS);
        let removal = may_remove(&mut entry, source, there);
        assert_eq!(removal == Removal::Go, then == Step::Remove, "{source:?} {there:?}");
        if then != Step::Remove {
            assert_eq!(entry.step, then, "{source:?} {there:?}");
        }
    }
    for kind in [ChunkKind::Fill, ChunkKind::Refresh, ChunkKind::Restore] {
        let mut entry = entry(Step::Recheck, OURS);
        rechecked(&mut entry, kind, Some(100), same(100));
        assert_eq!(entry.step, Step::Ended(Outcome::Done), "{kind:?}");
    }
}

#[test]
fn clients_who_keep_changing_an_id_win_after_three_rounds() {
    let mut entry = entry(Step::Glance, OURS);
    for _ in 0..ROUNDS {
        let newer = entry.time + 1;
        glanced(&mut entry, Some(newer));
        assert_eq!(entry.step, Step::Reread);
        reread(&mut entry, Some(newer), 1_000);
        assert_eq!((entry.step, entry.time), (Step::Copy, newer));
    }
    let newer = entry.time + 1;
    glanced(&mut entry, Some(newer));
    assert_eq!(entry.step, Step::Withdraw(Outcome::Changed));
}

#[test]
fn a_copy_that_keeps_vanishing_fails() {
    let mut entry = entry(Step::Recheck, OURS);
    for _ in 0..ROUNDS {
        rechecked(&mut entry, ChunkKind::Move, Some(100), None);
        assert_eq!(entry.step, Step::Copy);
    }
    rechecked(&mut entry, ChunkKind::Move, Some(100), None);
    assert_eq!((entry.step, entry.why), (Step::Withdraw(Outcome::Failed), Why::CopyVanished));
}

#[test]
fn a_source_that_is_gone_was_us_only_if_we_may_have_removed_it() {
    let there = Some(ReadBack { time: 100, same: true });
    let mut by_us = entry(Step::Remove, &[Marks::TOUCHED, Marks::REMOVING]);
    assert_eq!(may_remove(&mut by_us, None, there), Removal::Not);
    assert_eq!(by_us.step, Step::Audit);
    let mut by_client = entry(Step::Remove, OURS);
    assert_eq!(may_remove(&mut by_client, None, there), Removal::Not);
    assert_eq!(by_client.step, DELETED);
}

#[test]
fn the_audit_passes_repeats_or_puts_back() {
    let removed = &[Marks::TOUCHED, Marks::REMOVING, Marks::REMOVED];
    let table = [
        (None, Some(100), Audit::Passed, Step::Settle),
        (None, Some(150), Audit::Passed, Step::Settle),
        (None, None, Audit::PutBack, Step::Audit),
        (None, Some(50), Audit::PutBack, Step::Audit),
        // A client wrote it anew: what is there now is what has to move.
        (Some(300), Some(100), Audit::Passed, Step::Reread),
        // The removal was lost.
        (Some(100), Some(100), Audit::Passed, Step::Remove),
        (Some(100), None, Audit::Passed, Step::Copy),
    ];
    for (source, there, audit, then) in table {
        let mut entry = entry(Step::Audit, removed);
        assert_eq!(audited(&mut entry, source, there), audit, "{source:?} {there:?}");
        assert_eq!(entry.step, then, "{source:?} {there:?}");
    }
}

#[test]
fn after_the_commit_the_source_has_lost_it_or_loses_it_again() {
    let table =
        [(None, Step::Ended(Outcome::Done)), (Some(102), Step::Ended(Outcome::Done)), (Some(100), Step::Remove)];
    for (source, then) in table {
        let mut entry = entry(Step::Settle, OURS);
        settled(&mut entry, source);
        assert_eq!(entry.step, then, "{source:?}");
    }
    let mut stubborn = Entry { tries: ROUNDS, ..entry(Step::Settle, OURS) };
    settled(&mut stubborn, Some(100));
    assert_eq!((stubborn.step, stubborn.why), (Step::Ended(Outcome::Failed), Why::StillThere));
}

#[test]
fn a_surplus_copy_goes_only_if_the_newest_is_on_enough_others() {
    let others = |times: &[i64]| {
        let mut others = Others::default();
        times.iter().for_each(|time| others.note(Some(*time)));
        others.note(None);
        others
    };
    let table = [
        (Some(100), others(&[100, 100]), true),
        (Some(50), others(&[100, 100]), true),
        (Some(100), others(&[100, 50]), false),
        (Some(150), others(&[100, 100]), false),
        (Some(100), others(&[100]), false),
        (None, others(&[100, 100]), false),
    ];
    for (source, others, expected) in table {
        let mut entry = entry(Step::Look, &[]);
        let go = may_trim(&mut entry, source, others, 2) == Removal::Go;
        assert_eq!(go, expected, "{source:?} {others:?}");
        if go {
            assert_eq!(Some(entry.time), source);
        }
    }
    assert_eq!(others(&[50, 100, 100]), Others { newest: Some(100), with_newest: 2, copies: 3 });
}

#[test]
fn only_what_is_ours_is_withdrawn() {
    let mut entry = entry(Step::Withdraw(Outcome::Changed), OURS);
    entry.there = 150;
    assert_eq!(is_ours(&entry, 100), Some(true));
    assert_eq!(is_ours(&entry, 150), Some(true));
    assert_eq!(is_ours(&entry, 90), Some(true));
    assert_eq!(is_ours(&entry, 200), None);
    // Without times only the vector can tell.
    assert_eq!(is_ours(&Entry { time: 0, ..entry }, 0), None);
}

#[test]
fn vectors_are_close_within_a_relative_error() {
    assert!(close(&[1.0, -1e30], &[1.000_001, -1e30]));
    assert!(!close(&[1.0], &[1.000_1]));
    assert!(!close(&[1.0], &[1.0, 1.0]));
    assert!(!close(&[0.0], &[1e-20]));
    assert!(close(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY]));
    assert!(!close(&[f32::INFINITY], &[1.0]));
    assert!(!equal_enough(Verify::Exact, &[0.0], &[-0.0]));
    assert!(equal_enough(Verify::Close, &[0.0], &[-0.0]));
    assert!(equal_enough(Verify::Timestamp, &[0.0], &[]));
}

#[test]
fn removes_come_right_after_the_version_and_before_any_newer() {
    assert_eq!(entry(Step::Remove, &[]).remove_time(), 101);
    assert_eq!(Entry::default().remove_time(), 0);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Something that may be seen or answered at any step.
    fn time() -> impl Strategy<Value = Option<i64>> {
        prop_oneof![Just(None), (1i64..6).prop_map(Some)]
    }

    proptest! {
        /// Whatever agents show, an id comes to an end, and its source's copy is removed only right after both
        /// were seen with the version.
        #[test]
        fn every_id_ends_and_removals_are_justified(
            seen in proptest::collection::vec((time(), time(), any::<bool>()), 200),
        ) {
            let mut entry = Entry::default();
            let mut steps = 0;
            for (source, there, same) in seen {
                let back = there.map(|time| ReadBack { time, same });
                match entry.step {
                    Step::Look => looked(&mut entry, rules(ChunkKind::Move), Seen { source, there: None, now: 9 }),
                    Step::Reread => reread(&mut entry, source, 9),
                    Step::Copy => {
                        if source_still(&mut entry, source) {
                            entry.marks.add(Marks::TOUCHED);
                            let _ = exists_already(&mut entry, there.map(|time| Other { time, same }), true, true);
                        }
                    }
                    Step::Verify => verified(&mut entry, ChunkKind::Move, back),
                    Step::Rescue => rescued(&mut entry),
                    Step::Glance => glanced(&mut entry, source),
                    Step::Withdraw(outcome) => entry.end(outcome),
                    Step::Commit => entry.step = Step::Recheck,
                    Step::Recheck => rechecked(&mut entry, ChunkKind::Move, source, back),
                    Step::Remove => {
                        if may_remove(&mut entry, source, back) == Removal::Go {
                            prop_assert_eq!(source, Some(entry.time));
                            prop_assert!(there >= source && same);
                            entry.marks.add(Marks::REMOVING);
                            removed(&mut entry);
                        }
                    }
                    Step::Audit => {
                        if audited(&mut entry, source, there) == Audit::PutBack {
                            entry.fail(Why::PutBack);
                        }
                    }
                    Step::Settle => settled(&mut entry, source),
                    Step::Ended(_) => break,
                }
                steps += 1;
            }
            prop_assert!(entry.outcome().is_some(), "{:?} after {} steps", entry, steps);
        }
    }
}
