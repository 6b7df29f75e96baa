//! A process that is killed at any moment loses nothing that it was told is durable.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use windlass_clock::{Entropy, Seeded, SystemClock};
use windlass_store::{Committed, Compare, Store, Txn, read_all};
use windlass_store_embedded::{EmbeddedStore, Options};

/// Names the state folder to the process that is going to be killed.
const FOLDER: &str = "WINDLASS_CRASH_TEST_FOLDER";
/// Writers in that process: enough that most kills hit a commit of several transactions.
const WRITERS: usize = 8;
const KILLS: usize = 25;
/// The killed process is told this many acknowledgements at most before it dies.
const MOST_ACKNOWLEDGED: u64 = 400;

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, Options::new(SystemClock::real())).expect("the state opens, also after a crash")
}

/// One step of a writer: a counter, two records that belong together, one record less, and a leased key.
async fn step(store: &EmbeddedStore, writer: usize, number: u64) {
    let counter = format!("counter/{writer}");
    let guard = match store.get(&counter).await.expect("readable") {
        Some(entry) => Compare::Version(counter.clone(), entry.version),
        None => Compare::Absent(counter.clone()),
    };
    let lease = store.grant(std::time::Duration::from_secs(600)).await.expect("a lease");
    let txn = Txn::new()
        .when(guard)
        .put(counter, number.to_string())
        .put(format!("left/{writer}/{number:06}"), vec![number as u8; 700])
        .put(format!("right/{writer}/{number:06}"), vec![number as u8; 50])
        .put_leased(format!("claim/{writer}"), "", lease)
        .delete(format!("right/{writer}/{:06}", number.saturating_sub(10)))
        .delete(format!("left/{writer}/{:06}", number.saturating_sub(10)));
    assert!(matches!(store.commit(txn).await.expect("writable"), Committed::At(_)));
}

/// Not a test of its own: the process that the test below starts and kills. Does nothing otherwise.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(Path::new(&folder)));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                let last = store.get(&format!("counter/{writer}")).await.unwrap();
                let last = last.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
                for number in last + 1.. {
                    step(&store, writer, number).await;
                    // One write call: a line is there wholly or not at all.
                    std::io::stdout().write_all(format!("ack {writer} {number}\n").as_bytes()).unwrap();
                }
            });
        }
        writers.join_next().await.unwrap().unwrap();
    });
}

/// Starts the writers, kills them after some acknowledgements, and records all that were given.
fn write_and_kill(dir: &Path, acknowledgements: u64, acknowledged: &mut [u64; WRITERS]) {
    let mut child = Command::new(std::env::current_exe().expect("this test's program"))
        .args(["--exact", "crash::writes_until_it_is_killed", "--nocapture"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's program starts again");
    let stdout = child.stdout.take().expect("a pipe");
    let mut left = acknowledgements;
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("text");
        // The test harness prints before it on the same line.
        let Some((_, acknowledgement)) = line.split_once("ack ") else { continue };
        let Some((writer, number)) = acknowledgement.split_once(' ') else { continue };
        let writer: usize = writer.parse().expect("a writer");
        acknowledged[writer] = number.parse().expect("a number");
        if left == 0 {
            // SIGKILL. What it printed before it died is still read to the end.
            child.kill().expect("the child can be killed");
        }
        left = left.saturating_sub(1);
    }
    assert!(!child.wait().expect("the child ends").success(), "it was killed, and did not fail before that");
    assert!(left < acknowledgements || acknowledgements == 0, "it did write");
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_commit_and_leaves_no_half_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = Seeded::new(42);
    let mut acknowledged = [0; WRITERS];
    for kill in 0..KILLS {
        write_and_kill(dir.path(), entropy.next_u64() % MOST_ACKNOWLEDGED, &mut acknowledged);
        let store = open(dir.path());
        for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
            let counter = store.get(&format!("counter/{writer}")).await.unwrap();
            let last: u64 = counter.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
            assert!(
                last >= *acknowledged,
                "kill {kill}, writer {writer}: {acknowledged} was acknowledged, {last} is there"
            );
            assert!(last <= *acknowledged + 1, "kill {kill}, writer {writer}: one commit at most was on its way");
            let (left, right) = (format!("left/{writer}/"), format!("right/{writer}/"));
            let (left, right) = (read_all(&store, &left).await.unwrap(), read_all(&store, &right).await.unwrap());
            let numbers = |entries: &[windlass_store::Entry]| -> Vec<u64> {
                entries.iter().map(|entry| entry.key.rsplit('/').next().unwrap().parse().unwrap()).collect()
            };
            assert_eq!(numbers(&left), (last.saturating_sub(10) + 1..=last).collect::<Vec<_>>());
            assert_eq!(numbers(&left), numbers(&right), "kill {kill}: half a transaction");
            assert!(left.iter().zip(&right).all(|(left, right)| left.version == right.version));
            *acknowledged = last;
        }
        assert!(read_all(&store, "claim/").await.unwrap().is_empty(), "leases died with the process");
        // Not closed: the next process finds what a crash leaves, half of the time.
        if kill % 2 == 0 {
            store.close().await;
        }
    }
    assert!(acknowledged.iter().sum::<u64>() > 0);
}
