//! How the program begins and ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::conversation::{Conversation, action};
use crate::program::Setup;

#[test]
fn the_handshake_comes_although_the_folder_cannot_be_used() {
    let setup = Setup::new();
    // A file where the folder should be, and one where the spare folder should be.
    std::fs::write(setup.dir(), b"").unwrap();
    let mut conversation = Conversation::default();
    let (put, get) = (conversation.put(action(1), b"x"), conversation.get(action(1)));
    conversation.close();
    let said = setup.run(&conversation);
    assert_eq!(said.bytes(put), b"x");
    assert_eq!(said.status, Some(0));
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    let _ = get;
    // What the spare folder took is found again.
    let mut again = Conversation::default();
    let get = again.get(action(1));
    assert_eq!(setup.run(&again).bytes(get), b"x");
    let setup = Setup::new();
    std::fs::write(setup.dir(), b"").unwrap();
    std::fs::write(setup.spare(), b"").unwrap();
    let said = setup.run(&conversation);
    assert!(said.failure(put).unwrap().contains("free some space"), "{:?}", said.answers);
    assert_eq!(said.status, Some(0));
}

#[test]
fn signals_from_the_terminal_are_ignored_and_sigterm_ends_it() {
    let setup = Setup::new();
    let mut command = setup.command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut conversation = Conversation::default();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    for (number, signal) in [(1, None), (2, Some(Signal::INT)), (3, Some(Signal::HUP))] {
        // The first answer says that the signals are taken over.
        if let Some(signal) = signal {
            kill_process(pid, signal).unwrap();
        }
        let mut next = Conversation { asked: conversation.asked.clone(), ..Conversation::default() };
        let id = next.put(action(number), &[number; 100]);
        stdin.write_all(&next.input).unwrap();
        line.clear();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"ID\":{id},")) && line.contains("DiskPath"), "{line}");
        conversation.asked = next.asked;
    }
    // In the middle of a body.
    stdin.write_all(b"{\"ID\":9,\"Command\":\"put\",\"ActionID\":\"").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    setup.verify();
    let (stats, _) = setup.ask(&["stats"]);
    assert_eq!((stats["records"].as_u64(), stats["runs"][0]["end"].as_str()), (Some(3), Some("terminated")), "{stats}");
}

#[test]
fn a_reader_that_goes_away_is_a_normal_end() {
    let setup = Setup::new();
    let mut command = setup.command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut conversation = Conversation::default();
    conversation.get(action(1));
    let mut stdin = child.stdin.take().unwrap();
    // It may be gone before it reads this.
    let _ = stdin.write_all(&conversation.input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    drop(stdin);
}

#[test]
fn nonsense_ends_it_with_one_line() {
    let setup = Setup::new();
    let conversation = Conversation { input: b"hello\n".to_vec(), ..Conversation::default() };
    let said = setup.run(&conversation);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(said.answers.is_empty());
}

#[test]
fn wrong_usage_is_told_and_has_its_own_status() {
    for arguments in [&["--max-size", "much"][..], &["--frobnicate"], &["why"]] {
        let output = Setup::new().command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: windlass-gocache"));
    }
}

#[test]
fn the_folder_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    let mut conversation = Conversation::default();
    conversation.put(action(1), b"x");
    setup.run(&conversation);
    assert_eq!(std::fs::metadata(setup.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    let (stats, _) = setup.ask(&["stats"]);
    assert_eq!(stats["runs"][0]["puts"].as_u64(), Some(1));
}
