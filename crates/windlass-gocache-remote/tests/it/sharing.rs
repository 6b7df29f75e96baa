//! Several at once: writers, a merge of the index under a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use windlass_blob::Environment;
use windlass_clock::SystemClock;
use windlass_gocache_remote::{Closed, GcStep, RemotePlace};
use windlass_sim::s3::{Fault, S3Server, Script};

use crate::world::{Bucket, Machine, PATIENCE, at, files, memory, steps, wait};

#[test]
fn writers_at_once_lose_nothing_of_each_other() {
    let config = memory();
    let all: Vec<_> = (0..4).map(|writer| steps(40 + writer, 40)).collect();
    let everywhere = steps(50, 20);
    std::thread::scope(|scope| {
        for own in &all {
            let (config, everywhere) = (&config, &everywhere);
            scope.spawn(move || {
                let machine = Machine::new();
                let run = machine.run(config);
                machine.build(&run, own);
                machine.build(&run, everywhere);
                assert_eq!(run.remote.close(PATIENCE), Closed::default());
            });
        }
    });
    let reader = Machine::new();
    let run = reader.run(&config);
    for own in &all {
        reader.find_all(&run, own);
    }
    reader.find_all(&run, &everywhere);
}

#[test]
fn many_runs_leave_few_segments_and_lose_nothing() {
    let bucket = Bucket::new();
    let config = at(&bucket.direct("p"));
    let mut all = Vec::new();
    for number in 0..20 {
        let machine = Machine::new();
        let run = machine.run(&config);
        let own = steps(60 + number, 8);
        machine.build(&run, &own);
        assert_eq!(run.remote.close(PATIENCE), Closed::default());
        all.extend(own);
    }
    assert!(files(&bucket.folder(), ".idx").len() <= 14, "{:?}", files(&bucket.folder(), ".idx").len());
    let reader = Machine::new();
    reader.find_all(&reader.run(&config), &all);
}

#[test]
fn a_merge_between_listing_and_reading_is_noticed() {
    let bucket = Bucket::new();
    let direct = at(&bucket.direct("p"));
    let mut all = Vec::new();
    for number in 0..6 {
        let machine = Machine::new();
        let run = machine.run(&direct);
        let own = steps(90 + number, 6);
        machine.build(&run, &own);
        run.remote.close(PATIENCE);
        all.extend(own);
    }
    let before = files(&bucket.folder(), ".idx").len();
    assert_eq!(before, 6);
    let (url, merged) = (bucket.direct("p"), Arc::new(AtomicBool::new(false)));
    let once = Arc::clone(&merged);
    bucket.proxy.run(Script::by(move |seen| {
        if !seen.path.ends_with(".idx") || once.swap(true, Ordering::SeqCst) {
            return Fault::Pass;
        }
        let url = url.clone();
        // The reader has its listing; now all six become one, and are gone.
        Fault::Call(Arc::new(move || {
            let environment = Environment::from_pairs(S3Server::credentials());
            wait(async {
                let place = RemotePlace::open(&url, &environment, SystemClock::real()).unwrap();
                let old = place.survey(PATIENCE).await.unwrap().segments;
                assert!(place.merge_index().await.unwrap());
                let segments = old.iter().map(|segment| segment.name).collect();
                let done = place.carry_out(&GcStep::DeleteSegments { segments }).await.unwrap();
                assert_eq!(done.deleted, 6);
            });
        }))
    }));
    let reader = Machine::new();
    let run = reader.run(&at(&bucket.url("p")));
    reader.find_all(&run, &all);
    assert!(merged.load(Ordering::SeqCst));
    assert!(run.warnings.lock().unwrap().is_empty(), "{:?}", run.warnings.lock().unwrap());
}
