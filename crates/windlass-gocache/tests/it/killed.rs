//! Processes that die at any moment, and many at once.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use windlass_clock::{Entropy, Seeded};

use crate::conversation::{Conversation, action, noise};
use crate::program::Setup;

/// How often the program is killed: `WINDLASS_GOCACHE_KILLS`, or a few times.
fn kills() -> u64 {
    std::env::var("WINDLASS_GOCACHE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn conversation(seed: u64) -> Conversation {
    let mut conversation = Conversation::default();
    for number in 0..24_u8 {
        let size = [0, 20, 700, 5_000, 90_000, 600_000][usize::from(number) % 6];
        // Half of them are the same in all conversations.
        let seed = if number % 2 == 0 { 7 } else { seed };
        conversation.put(action(number), &noise(seed + u64::from(number), size));
        conversation.get(action(number / 2));
    }
    conversation.close();
    conversation
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_wrong_behind() {
    let setup = Setup::new();
    let entropy = Seeded::new(0x60CA);
    let mut temporaries = 0;
    for round in 0..kills() {
        let conversation = conversation(round);
        let mut command = setup.command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // It is killed once it has said so many bytes: anywhere between the handshake and the last answer.
        let until = 60 + entropy.next_u64() % 9_000;
        thread::scope(|scope| {
            // It may be killed before it has read everything.
            scope.spawn(move || stdin.write_all(&conversation.input).is_ok());
            let mut said = 0;
            let mut buffer = [0; 64];
            while said < until {
                match stdout.read(&mut buffer).unwrap() {
                    0 => break,
                    read => said += read as u64,
                }
            }
            child.kill().unwrap();
            drop(stdout);
        });
        child.wait().unwrap();
        setup.verify();
        let (stats, _) = setup.ask(&["stats"]);
        temporaries += stats["temporaries"].as_u64().unwrap();
    }
    let last = conversation(999);
    // What it gets may still be what a killed one had put.
    assert_eq!(setup.run(&last).status, Some(0));
    setup.run(&last).check(&last, &last.bodies());
    setup.verify();
    // Temporary files that were left are old enough to go only later.
    let (collected, _) = setup.ask(&["gc"]);
    assert_eq!(collected["outputs"].as_u64(), Some(0), "{collected}, {temporaries} temporary files seen");
}

#[test]
fn eight_at_once_in_one_folder_while_garbage_is_collected() {
    let setup = Setup::new();
    thread::scope(|scope| {
        let setup = &setup;
        let running: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    for round in 0..4 {
                        let conversation = conversation(number);
                        let said = setup.run(&conversation);
                        assert_eq!(said.status, Some(0), "round {round}: {}", said.stderr);
                        for (id, answer) in &said.answers {
                            assert!(answer.get("Err").is_none(), "{id}: {answer}");
                            if answer.get("DiskPath").is_some() {
                                said.bytes(*id);
                            }
                        }
                    }
                })
            })
            .collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            let (collected, status) = setup.ask(&["gc", "--max-size", "1", "--max-age", "0s", "--keep-recent", "0s"]);
            assert_eq!(status, 0);
            // Another collection may be under way; nothing that is in use goes.
            assert!(collected.is_null() || collected["outputs"].as_u64() == Some(0), "{collected}");
        }
    });
    setup.verify();
}

#[test]
fn two_puts_of_the_same_pair_both_succeed() {
    let setup = Setup::new();
    let mut conversation = Conversation::default();
    for _ in 0..50 {
        conversation.put(action(1), &noise(1, 40_000));
    }
    conversation.close();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| setup.run(&conversation).check(&conversation, &BTreeMap::new()));
        }
    });
    setup.verify();
}
