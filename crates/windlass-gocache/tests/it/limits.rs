//! Keeping within limits.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use windlass_clock::SystemClock;
use windlass_gocache::local::{Found, Limits, LocalStore, OpenOptions};
use windlass_gocache_remote::{Entry, OutputId};

use crate::conversation::{Conversation, action, noise};
use crate::program::Setup;

fn store(dir: &Path) -> LocalStore {
    LocalStore::open(dir, &OpenOptions::default(), SystemClock::real()).unwrap()
}

fn put(store: &LocalStore, number: u8, size: usize) -> OutputId {
    let body = noise(u64::from(number), size);
    let output = OutputId::of(&body);
    let mut writing = store.begin(&output, size as u64).unwrap();
    writing.write(&body).unwrap();
    let published = writing.publish().unwrap();
    let entry = Entry { output, size: size as u64, time_unix_nanos: 1 };
    store.put_published(&action(number), &entry, published).unwrap();
    output
}

/// Makes a file look as if it was last used so long ago.
fn age(path: &str, hours: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let then = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(hours * 3600);
    file.set_times(FileTimes::new().set_modified(then).set_accessed(then)).unwrap();
}

fn is_hit(found: Found) -> bool {
    match found {
        Found::Hit { .. } => true,
        Found::Doubtful(doubt) => is_hit(doubt.resolve()),
        Found::Absent | Found::Damaged => false,
    }
}

fn limits(max_size: u64) -> Limits {
    Limits { max_size, ..Limits::default() }
}

#[test]
fn the_least_recently_used_goes_until_the_rest_fits() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for number in 1..=5 {
        let output = put(&store, number, 100_000);
        age(&store.output_path(&output), 100 - u64::from(number) * 10);
        age(&store.action_path(&action(number)), 100 - u64::from(number) * 10);
    }
    // Looking one up is a use.
    assert!(is_hit(store.find(&action(1))));
    let collected = store.gc(&limits(450_000), &|| false).unwrap().unwrap();
    assert_eq!((collected.outputs, collected.over, collected.stopped), (2, 0, false), "{collected:?}");
    let there: Vec<u8> = (1..=5).filter(|number| is_hit(store.find(&action(*number)))).collect();
    assert_eq!(there, [1, 4, 5]);
    assert_eq!(store.verify(false, &|| false).unwrap().damaged, 0);
    let again = store.gc(&limits(450_000), &|| false).unwrap().unwrap();
    assert_eq!((again.outputs, again.records), (0, 0), "{again:?}");
}

#[test]
fn what_is_too_old_goes_with_its_records_and_with_what_the_dead_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let (old, new) = (put(&store, 1, 5_000), put(&store, 2, 5_000));
    let empty = put(&store, 3, 0);
    for (output, number) in [(old, 1), (empty, 3)] {
        age(&store.output_path(&output), 40 * 24);
        age(&store.action_path(&action(number)), 40 * 24);
    }
    // A record whose output somebody else removed.
    let gone = put(&store, 4, 10);
    fs::remove_file(store.output_path(&gone)).unwrap();
    age(&store.action_path(&action(4)), 3);
    let left = folder.path().join("o/e3/.00000000000000aa-1.tmp");
    fs::write(&left, b"half").unwrap();
    age(left.to_str().unwrap(), 3);
    let collected = store.gc(&Limits::default(), &|| false).unwrap().unwrap();
    assert_eq!((collected.outputs, collected.records, collected.temporaries), (1, 3, 1), "{collected:?}");
    assert!(!is_hit(store.find(&action(1))) && is_hit(store.find(&action(2))));
    assert!(fs::exists(store.output_path(&empty)).unwrap(), "the empty output stays");
    let _ = new;
}

#[test]
fn what_a_living_process_may_use_stays_and_a_dead_one_is_forgotten() {
    let setup = Setup::new();
    let store = store(&setup.dir());
    let output = put(&store, 1, 100_000);
    // Last used 90 minutes ago: within the hour before, and the hour of grace, of whoever began just now.
    age(&store.output_path(&output), 3);
    let mut child = setup.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut conversation = Conversation::default();
    let get = conversation.get(action(1));
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &conversation.input).unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = [String::new(), String::new()];
    for line in &mut lines {
        std::io::BufRead::read_line(&mut reader, line).unwrap();
    }
    assert!(lines[1].contains(&format!("\"ID\":{get},")) && lines[1].contains("DiskPath"), "{lines:?}");
    let none = Limits { max_size: 1, max_age: Duration::ZERO, keep_recent: Duration::ZERO };
    let collected = store.gc(&none, &|| false).unwrap().unwrap();
    assert_eq!(collected.outputs, 0, "{collected:?}");
    assert!(collected.over > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_dir(setup.dir().join("live")).unwrap().count(), 1, "the dead one left its mark");
    age(&store.output_path(&output), 3);
    let collected = store.gc(&none, &|| false).unwrap().unwrap();
    assert_eq!(collected.outputs, 1, "{collected:?}");
    assert_eq!(fs::read_dir(setup.dir().join("live")).unwrap().count(), 0);
}

#[test]
fn one_collection_at_a_time_and_each_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for number in 0..200 {
        let output = put(&store, number, 1_000);
        age(&store.output_path(&output), 24 * 50);
    }
    let stopped = store.gc(&Limits::default(), &|| true).unwrap().unwrap();
    assert!(stopped.stopped && stopped.outputs == 0, "{stopped:?}");
    assert!(store.gc_is_due(Duration::ZERO));
    let second = std::cell::RefCell::new(None);
    let whole = store
        .gc(&Limits::default(), &|| {
            second.replace(Some(store.gc(&Limits::default(), &|| false)));
            false
        })
        .unwrap()
        .unwrap();
    assert_eq!(whole.outputs, 200);
    assert!(second.into_inner().unwrap().unwrap().is_none(), "the second one found the first at work");
    assert!(!store.gc_is_due(Duration::from_secs(3600)));
}

#[test]
fn the_program_starts_a_collection_when_one_is_due_and_nobody_waits_for_it() {
    let setup = Setup::with(&["--gc-interval", "0s", "--max-age", "1h"]);
    let store = store(&setup.dir());
    let output = put(&store, 1, 1_000);
    age(&store.output_path(&output), 10);
    let mut conversation = Conversation::default();
    conversation.get(action(2));
    conversation.close();
    setup.run(&conversation);
    // It runs on its own. Each look at it takes as long as starting a program does.
    let gone = (0..3_000).any(|_| {
        let gone = setup.dir().join("gc.done").exists();
        gone || setup.command().arg("--help").output().is_err()
    });
    assert!(gone, "no collection came to its end");
    assert!(!fs::exists(store.output_path(&output)).unwrap());
}
