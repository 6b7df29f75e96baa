//! kill -9 of go and of the program at any moment: the next build succeeds, and nothing in the store is damaged.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use windlass_sim::s3::S3Server;

use crate::machine::{BUCKET, Machine, kill};
use crate::module;
use crate::toolchain::Toolchain;

/// How many kills, unless `WINDLASS_ROUNDS` says otherwise.
const ROUNDS: u64 = 12;
const PACKAGES: usize = 10;
/// Looks at the store until it is told to stop; each takes about a millisecond.
const LOOKS: usize = 4000;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Go,
    Program,
    Both,
}

fn rounds() -> u64 {
    std::env::var("WINDLASS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

fn files_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let entries = entries.filter_map(Result::ok);
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

/// The children of a process, from what the system says about all.
fn children_of(id: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.is_some_and(|parent| parent.trim() == id.to_string())
            && fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.starts_with("windlass"))
    })
    .collect()
}

/// Kills when the store holds this many files more than it did, or the build has ended.
fn kill_at(child: Child, victim: Victim, store: &Path, files: usize) {
    let go = child.id();
    let (send, receive) = mpsc::sync_channel(1);
    let before = files_below(store);
    let waiting = std::thread::spawn(move || {
        let _ = send.send(child.wait_with_output().map(|output| output.status));
    });
    for _ in 0..LOOKS {
        if files_below(store) >= before + files || receive.recv_timeout(Duration::from_millis(1)).is_ok() {
            break;
        }
    }
    let programs = children_of(go);
    if !matches!(victim, Victim::Program) {
        kill(go);
    }
    if !matches!(victim, Victim::Go) {
        programs.into_iter().for_each(kill);
    }
    waiting.join().unwrap();
}

#[test]
fn killed_at_any_moment_the_next_build_succeeds_and_nothing_is_damaged() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    let buckets = tempfile::tempdir().unwrap();
    let server = S3Server::start(buckets.path()).unwrap();
    server.create_bucket(BUCKET).unwrap();
    module::tiny(folder.path(), PACKAGES, 0);
    let machine = Machine::with_remote(&toolchain, folder.path(), &server.endpoint());
    for round in 0..rounds() {
        module::tiny(folder.path(), PACKAGES, 1000 + round);
        let victim = [Victim::Go, Victim::Program, Victim::Both][usize::try_from(round % 3).unwrap()];
        // A moment of its own for each round, spread over all that a build writes.
        let files = usize::try_from((round * 7919 + 13) % 60).unwrap();
        kill_at(machine.start(&["build", "./..."]), victim, &machine.store(), files);
        let next = machine.go(&["build", "./..."]);
        assert_eq!(next.code, Some(0), "round {round}, {victim:?} after {files} files: {}", next.stderr);
        assert_eq!(next.warnings(), Vec::<&str>::new(), "round {round}, {victim:?} after {files} files");
        let verified = machine.windlass(&["verify"]);
        assert_eq!(verified.code, Some(0), "round {round}, {victim:?}: {}{}", verified.stdout, verified.stderr);
    }
    // Whatever was killed, what the last build put is there for everybody.
    machine.windlass(&["flush"]).good();
    let other = Machine::with_remote(&toolchain, folder.path(), &server.endpoint());
    assert_eq!(other.go(&["build", "-v", "./..."]).good().stderr, "", "nothing that was acknowledged is lost");
}
