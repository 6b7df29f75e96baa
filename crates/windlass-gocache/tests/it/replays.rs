//! The recorded conversations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::conversation::{Asked, Conversation, action, noise};
use crate::program::{Setup, run};

const ALL: [&str; 7] = [
    "go1.24-build-cold",
    "go1.26-build-cold",
    "go1.27-build-cold",
    "go1.26-build-warm",
    "go1.26-list-eof",
    "go1.24-test-first",
    "go1.26-test-expired",
];

fn nothing() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::new()
}

#[test]
fn every_recording_is_answered_from_an_empty_folder_and_again_from_a_full_one() {
    for name in ALL {
        let (setup, conversation) = (Setup::new(), Conversation::recorded(name));
        setup.run(&conversation).check(&conversation, &nothing());
        setup.run(&conversation).check(&conversation, &conversation.bodies());
        setup.verify();
    }
}

#[test]
fn after_a_cold_build_a_warm_one_and_a_list_without_close_find_everything() {
    let setup = Setup::new();
    let cold = Conversation::recorded("go1.26-build-cold");
    let said = setup.run(&cold);
    said.check(&cold, &nothing());
    let misses = cold.asked.keys().filter(|id| said.answers[id].get("Miss").is_some()).count();
    assert_eq!(misses, 6);
    let (stats, _) = setup.ask(&["stats"]);
    assert_eq!((stats["records"].as_u64(), stats["outputs"].as_u64()), (Some(12), Some(10)), "{stats}");
    for name in ["go1.26-build-warm", "go1.26-list-eof"] {
        let warm = Conversation::recorded(name);
        let said = setup.run(&warm);
        said.check(&warm, &cold.bodies());
        assert!(!warm.hits.is_empty());
        for (id, output) in &warm.hits {
            assert_eq!(said.answers[id]["OutputID"].as_str(), Some(output.as_str()), "{name} {id}");
        }
    }
}

#[test]
fn a_second_test_run_finds_exactly_what_the_first_one_put() {
    let (setup, first) = (Setup::new(), Conversation::recorded("go1.24-test-first"));
    setup.run(&first).check(&first, &nothing());
    let said = setup.run(&first);
    let known = first.bodies();
    said.check(&first, &known);
    for (id, asked) in &first.asked {
        if let Asked::Get { action } = asked {
            assert_eq!(said.is_miss(*id), !known.contains_key(action));
        }
    }
}

#[test]
fn the_time_of_a_hit_is_that_of_the_put() {
    let setup = Setup::new();
    let mut put = Conversation::default();
    put.put(action(1), b"x");
    put.close();
    setup.run(&put);
    let mut get = Conversation::default();
    let id = get.get(action(1));
    let time = |said: crate::program::Said| said.answers[&id]["Time"].as_str().unwrap().to_owned();
    let first = time(setup.run(&get));
    assert_eq!(time(setup.run(&get)), first);
    setup.run(&put);
    assert_ne!(time(setup.run(&get)), first, "a put that repeats another one renews the time");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn input_may_come_in_pieces_of_any_size(sizes in proptest::collection::vec(1_usize..4000, 1..5)) {
        let (setup, cold) = (Setup::new(), Conversation::recorded("go1.26-build-cold"));
        let (mut rest, mut pieces) = (&cold.input[..], Vec::new());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = later;
        }
        run(setup.command(), &pieces).check(&cold, &nothing());
    }
}

#[test]
fn input_may_come_byte_by_byte() {
    let (setup, cold) = (Setup::new(), Conversation::recorded("go1.26-build-cold"));
    let pieces: Vec<Vec<u8>> = cold.input.iter().map(|byte| vec![*byte]).collect();
    run(setup.command(), &pieces).check(&cold, &nothing());
}

#[test]
fn large_bodies_are_stored_while_small_ones_pass_them_by() {
    let (setup, mut conversation) = (Setup::new(), Conversation::default());
    for number in 0..6_u8 {
        conversation.put(action(number), &noise(u64::from(number), 3_000_000 + usize::from(number)));
        conversation.put(action(100 + number), &noise(100 + u64::from(number), 700));
        conversation.get(action(200));
    }
    conversation.close();
    setup.run(&conversation).check(&conversation, &nothing());
    setup.run(&conversation).check(&conversation, &conversation.bodies());
    setup.verify();
}

#[test]
fn wrong_bodies_are_refused_and_stored_nowhere() {
    let (setup, mut conversation) = (Setup::new(), Conversation::default());
    let id = conversation.put(action(1), b"right");
    let text = String::from_utf8(conversation.input.clone()).unwrap();
    // Another body of the same length, a shorter and a longer one, none, and no base64.
    let body = base64_simd::STANDARD.encode_to_string(b"right");
    for wrong in ["\"d3Jvbmc=\"", "\"cmln\"", "\"cmlnaHQgcmlnaHQ=\"", "", "\"####\""] {
        let mut broken =
            Conversation { input: text.replace(&format!("\"{body}\""), wrong).into_bytes(), ..conversation.clone() };
        let get = broken.get(action(1));
        let said = setup.run(&broken);
        assert!(said.failure(id).is_some(), "{wrong}: {:?}", said.answers);
        assert!(said.is_miss(get), "{wrong}");
        assert_eq!(said.status, Some(0));
    }
    let (stats, _) = setup.ask(&["stats"]);
    let counted = ["outputs", "records", "temporaries"].map(|name| stats[name].as_u64().unwrap());
    assert_eq!(counted, [0, 0, 0]);
}

#[test]
fn unknown_commands_are_answered_and_do_not_disturb() {
    let (setup, mut conversation) = (Setup::new(), Conversation::default());
    let put = conversation.put(action(1), b"x");
    conversation.input.extend_from_slice(b"{\"ID\":77,\"Command\":\"trim\"}\n\n");
    conversation.input.extend_from_slice(b"{\"ID\":78,\"Command\":\"get\",\"ActionID\":\"AAAA\"}\n\n");
    conversation.close();
    let said = setup.run(&conversation);
    assert!(said.failure(77).unwrap().contains("trim"));
    assert!(said.failure(78).unwrap().contains("ActionID"));
    assert_eq!(said.bytes(put), b"x");
    assert_eq!(said.status, Some(0));
}
