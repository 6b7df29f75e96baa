//! The ingest log: what was answered is there, whatever the end looks like.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use windlass_table::log::{Appended, Identity, Limits, Lsn, Reader, Writer, repair, trim};
use windlass_table::source::{Meaning, json_batches};
use windlass_table::{Batch, Definition, Sender, TableError};

const WHO: Identity = Identity { table: 7, shard: 3 };

fn definition() -> Definition {
    Definition::parse(
        r#"{"name": "t", "event_time": "at", "primary_key": ["id"], "columns": [
            {"name": "at", "type": "timestamp", "nullable": false},
            {"name": "id", "type": "int64", "nullable": false},
            {"name": "note", "type": "string"}]}"#,
    )
    .unwrap()
}

fn batch(n: u64) -> Batch {
    let line = format!(r#"{{"at": {n}, "id": {n}, "note": "{}"}}"#, "x".repeat(200));
    let meaning = Meaning { modes: BTreeMap::new(), arrival: 1_000_000_000_000, batch_rows: 100 };
    let mut found = None;
    json_batches(&mut Cursor::new(line), &definition(), &meaning, |batch| {
        found = Some(batch);
        Ok(())
    })
    .unwrap();
    found.unwrap()
}

fn open(folder: &Path, limits: Limits) -> Writer {
    Writer::open(folder, WHO, limits, Lsn::default()).unwrap()
}

async fn fill(folder: &Path, limits: Limits, numbers: std::ops::Range<u64>) -> Vec<Lsn> {
    let writer = open(folder, limits);
    let mut given = Vec::new();
    for n in numbers {
        match writer.append(&batch(n)).await.unwrap() {
            Appended::At(lsn) => given.push(lsn),
            Appended::Before(_) => panic!("nobody sent it before"),
        }
    }
    given
}

fn read(folder: &Path, after: Lsn) -> Result<Vec<Lsn>, TableError> {
    let mut found = Vec::new();
    Reader::open(folder, WHO)?.read(after, |lsn, batch, _| {
        assert_eq!(batch.len(), 1);
        found.push(lsn);
        Ok(true)
    })?;
    Ok(found)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

fn small() -> Limits {
    Limits { segment_bytes: 4_000, ..Limits::default() }
}

#[tokio::test]
async fn many_at_once_are_all_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let writer = open(folder.path(), small());
    let batches: Vec<Batch> = (0..300).map(batch).collect();
    let mut answers = Vec::new();
    {
        let mut all: Vec<_> = batches.iter().map(|batch| Box::pin(writer.append(batch))).collect();
        // In step, as far as the runtime lets them.
        for waiting in &mut all {
            answers.push(waiting.await.unwrap());
        }
    }
    let mut given: Vec<Lsn> = answers
        .into_iter()
        .map(|answer| match answer {
            Appended::At(lsn) => lsn,
            Appended::Before(_) => panic!("nobody sent it before"),
        })
        .collect();
    given.sort();
    assert_eq!(read(folder.path(), Lsn::default()).unwrap(), given);
    assert!(segments(folder.path()).len() > 5);
    assert_eq!(read(folder.path(), given[99]).unwrap(), given[100..]);
}

#[tokio::test]
async fn an_end_that_is_torn_at_any_byte_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let given = fill(folder.path(), Limits::default(), 0..3).await;
    let [path] = segments(folder.path()).try_into().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let last = (whole.len() - 44) / 3;
    for cut in (1..last).step_by(37) {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(read(folder.path(), Lsn::default()).unwrap(), given[..2], "{cut} bytes are missing");
        let writer = open(folder.path(), Limits::default());
        assert_eq!(writer.cut(), (last - cut) as u64);
        assert_eq!(writer.append(&batch(9)).await.unwrap(), Appended::At(given[2]));
        drop(writer);
        assert_eq!(read(folder.path(), Lsn::default()).unwrap(), given);
    }
    // What a file system may leave where it had only made room.
    let mut zeros = whole[..whole.len() - last].to_vec();
    zeros.extend([0; 5000]);
    std::fs::write(&path, zeros).unwrap();
    assert_eq!(read(folder.path(), Lsn::default()).unwrap(), given[..2]);
    assert_eq!(open(folder.path(), Limits::default()).cut(), 5000);
    // A header that was not finished.
    std::fs::write(folder.path().join(format!("{:016x}.seg", 2)), &whole[..20]).unwrap();
    assert_eq!(read(folder.path(), Lsn::default()).unwrap(), given[..2]);
    assert_eq!(open(folder.path(), Limits::default()).cut(), 20);
}

#[tokio::test]
async fn damage_stops_everything_until_it_is_repaired_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let given = fill(folder.path(), small(), 0..20).await;
    let paths = segments(folder.path());
    let file = OpenOptions::new().write(true).open(&paths[0]).unwrap();
    file.write_all_at(b"?", 1500).unwrap();
    let error = read(folder.path(), Lsn::default()).unwrap_err().to_string();
    assert!(error.contains("0000000000000001.seg") && error.contains("repair"), "{error}");
    assert!(Writer::open(folder.path(), WHO, small(), Lsn::default()).is_err());

    let repaired = repair(folder.path(), WHO).unwrap();
    assert_eq!(repaired.len(), 1);
    let lost: Vec<Lsn> = given
        .iter()
        .filter(|lsn| repaired[0].lost.iter().any(|(after, before)| *lsn > after && *lsn < before))
        .copied()
        .collect();
    assert_eq!(lost.len(), 1);
    let rest: Vec<Lsn> = given.iter().filter(|lsn| !lost.contains(lsn)).copied().collect();
    assert_eq!(read(folder.path(), Lsn::default()).unwrap(), rest);
    assert!(paths[0].with_extension("seg.damaged").exists());
    assert_eq!(repair(folder.path(), WHO).unwrap(), []);
    drop(open(folder.path(), small()));

    std::fs::remove_file(&paths[1]).unwrap();
    assert!(read(folder.path(), Lsn::default()).unwrap_err().to_string().contains("missing"));
}

#[tokio::test]
async fn what_is_sent_again_counts_once_also_after_the_segment_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let from = |n: u64| batch(n).from_sender(Sender { client: "one".into(), sequence: n });
    let writer = open(folder.path(), small());
    let mut last = Lsn::default();
    for n in 0..20 {
        match writer.append(&from(n)).await.unwrap() {
            Appended::At(lsn) => last = lsn,
            Appended::Before(_) => panic!("it is new"),
        }
        assert_eq!(writer.append(&from(n)).await.unwrap(), Appended::Before(last));
    }
    drop(writer);
    let kept = trim(folder.path(), WHO, last, i64::MAX).unwrap();
    assert!(kept.deleted > 0 && kept.segments == 1);
    let writer = open(folder.path(), small());
    assert_eq!(writer.append(&from(3)).await.unwrap(), Appended::Before(last));
    assert!(matches!(writer.append(&from(20)).await.unwrap(), Appended::At(lsn) if lsn > last));
}

#[tokio::test]
async fn segments_go_from_the_oldest_and_only_when_nobody_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let given = fill(folder.path(), small(), 0..40).await;
    let count = segments(folder.path()).len() as u64;
    assert_eq!(trim(folder.path(), WHO, Lsn::default(), i64::MAX).unwrap().deleted, 0, "nothing is merged");
    assert_eq!(trim(folder.path(), WHO, given[39], 0).unwrap().deleted, 0, "everything is live");
    // The rows of the first segments happened before second 10.
    let kept = trim(folder.path(), WHO, given[39], 10 * 1_000_000).unwrap();
    assert!(kept.deleted > 0 && kept.deleted < count - 1);
    let first = read(folder.path(), Lsn::default()).unwrap()[0];
    assert!(Reader::open(folder.path(), WHO).unwrap().must_follow(Lsn(first.0 - 1)).is_ok());
    let error = Reader::open(folder.path(), WHO).unwrap().must_follow(Lsn::default()).unwrap_err();
    assert!(error.to_string().contains("missing"));
    let kept = trim(folder.path(), WHO, given[39], i64::MAX).unwrap();
    assert_eq!(kept.segments, 1, "the newest says which number is next");
    assert!(fill(folder.path(), small(), 40..41).await[0] > given[39]);
}

#[tokio::test]
async fn too_much_that_waits_is_refused_before_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { hard_bytes: 20_000, ..Limits::default() };
    let writer = open(folder.path(), limits);
    let mut last = Lsn::default();
    let refused = loop {
        match writer.append(&batch(1)).await {
            Ok(Appended::At(lsn)) => last = lsn,
            Ok(Appended::Before(_)) => panic!("nobody sent it before"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, TableError::Full { .. }) && refused.may_pass(), "{refused}");
    assert_eq!(read(folder.path(), Lsn::default()).unwrap().last(), Some(&last));
    writer.merged(last);
    assert_eq!(writer.append(&batch(2)).await.unwrap(), Appended::At(Lsn(last.0 + 1)));
    // It is told after the answer is.
    let clock = windlass_clock::SystemClock::real();
    let begun = clock.monotonic();
    while writer.pending() >= 2_000 {
        assert!(clock.monotonic() - begun < std::time::Duration::from_secs(60), "{}", writer.pending());
        clock.sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(writer);
    assert!(open(folder.path(), limits).pending() >= 20_000, "what is merged is said by who opens it");
}

#[tokio::test]
async fn one_writes_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let writer = open(folder.path(), Limits::default());
    let second = Writer::open(folder.path(), WHO, Limits::default(), Lsn::default());
    assert!(matches!(second, Err(TableError::Held(_))));
    // What the writer takes in would go to the file that a repair has replaced.
    assert!(matches!(repair(folder.path(), WHO), Err(TableError::Held(_))));
    drop(writer);
    drop(open(folder.path(), Limits::default()));
    let other = Identity { table: 8, shard: 3 };
    assert!(Writer::open(folder.path(), other, Limits::default(), Lsn::default()).is_err(), "another table's log");
}
