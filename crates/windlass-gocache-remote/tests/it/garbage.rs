//! Garbage collection over a real S3 server, with uploads under way; verification and the doctor.

use std::time::Duration;

use windlass_blob::Environment;
use windlass_clock::SystemClock;
use windlass_gocache_remote::{Closed, GcPolicy, GcStep, Lookup, RemoteConfig, RemotePlace, doctor, plan_gc};
use windlass_sim::s3::{Fault, S3Server, Script};

use crate::world::{Bucket, Later, Machine, PATIENCE, at, files, steps, wait};

const DAY: Duration = Duration::from_secs(86_400);

fn policy() -> GcPolicy {
    GcPolicy { keep_for: DAY * 30, grace: DAY }
}

/// Surveys and plans as if it were `days` later, and carries everything out. The plan.
fn collect(bucket: &Bucket, days: u64) -> windlass_gocache_remote::GcPlan {
    let environment = Environment::from_pairs(S3Server::credentials());
    wait(async {
        let place = RemotePlace::open(&bucket.direct("p"), &environment, Later::by_days(days)).unwrap();
        let holdings = place.survey(policy().keep_for).await.unwrap();
        assert!(holdings.complete, "{:?}", place.warnings());
        let plan = plan_gc(&holdings, &policy());
        for step in &plan.steps {
            place.carry_out(step).await.unwrap();
        }
        plan
    })
}

fn write(bucket: &Bucket, seed: u64, namespace: &str) -> Vec<crate::world::Step> {
    let config = RemoteConfig { namespaces: vec![namespace.to_owned()], ..at(&bucket.direct("p")) };
    let all = steps(seed, 16);
    let machine = Machine::new();
    let run = machine.run(&config);
    machine.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    all
}

#[test]
fn what_nobody_used_for_long_goes_in_two_rounds() {
    let bucket = Bucket::new();
    let old = write(&bucket, 70, "main");
    assert_eq!(collect(&bucket, 10).condemned, 0, "a manifest of ten days ago names it");
    let plan = collect(&bucket, 40);
    assert_eq!((plan.condemned, plan.deleted), (1, 0));
    let reader = Machine::new();
    let run = reader.run(&at(&bucket.direct("p")));
    assert_eq!(run.remote.lookup(&old[1].action), Lookup::Absent, "nobody relies on it any more");
    drop(run);
    assert_eq!(files(&bucket.folder(), ".pack").len(), 1, "those who do have a day");
    assert_eq!(collect(&bucket, 40).waiting, 1);
    let plan = collect(&bucket, 42);
    assert_eq!(plan.deleted, 1);
    assert_eq!(files(&bucket.folder(), ".pack").len(), 0);
    collect(&bucket, 43);
    assert_eq!(files(&bucket.folder(), ".json").len(), 0, "no list is left");
    assert_eq!(files(&bucket.folder(), ".run").len(), 0, "no manifest is left");
}

#[test]
fn an_output_that_an_upload_under_way_relies_on_survives() {
    let bucket = Bucket::new();
    let old = write(&bucket, 71, "main");
    // A run begins, and reads the index while the pack is in it.
    let machine = Machine::new();
    let run = machine.run_later(&at(&bucket.direct("p")), 40);
    assert_eq!(run.remote.lookup(&steps(72, 1)[0].action), Lookup::Absent);
    assert_eq!(collect(&bucket, 40).condemned, 1);
    // Only now the run puts the same output under another action: it need not be uploaded, as far as it knows.
    let mut again = old[4].clone();
    again.action = steps(73, 1)[0].action;
    machine.build(&run, std::slice::from_ref(&again));
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    assert_eq!(run.remote.counters().outputs_written, 0, "it relied on the pack");
    let plan = collect(&bucket, 42);
    assert_eq!((plan.deleted, plan.rescued), (0, 1), "{plan:?}");
    // Even a plan made before the upload leaves it alone.
    let pack = files(&bucket.folder(), ".pack")[0].file_stem().unwrap().to_string_lossy().into_owned();
    let step: GcStep = serde_json::from_str(&format!(r#"{{"step":"delete_packs","packs":["{pack}"]}}"#)).unwrap();
    let environment = Environment::from_pairs(S3Server::credentials());
    let done = wait(async {
        let place = RemotePlace::open(&bucket.direct("p"), &environment, SystemClock::real()).unwrap();
        place.carry_out(&step).await.unwrap()
    });
    assert_eq!((done.deleted, done.rescued), (0, 1));
    let reader = Machine::new();
    reader.find_all(&reader.run(&at(&bucket.direct("p"))), std::slice::from_ref(&again));
}

#[test]
fn an_incomplete_listing_or_a_damaged_manifest_deletes_nothing() {
    let bucket = Bucket::new();
    write(&bucket, 74, "main");
    let manifest = files(&bucket.folder(), ".run").remove(0);
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let environment = Environment::from_pairs(S3Server::credentials());
    let holdings = wait(async {
        let place = RemotePlace::open(&bucket.direct("p"), &environment, Later::by_days(10)).unwrap();
        place.survey(policy().keep_for).await.unwrap()
    });
    let plan = plan_gc(&holdings, &policy());
    assert!(plan.steps.is_empty() && plan.refused.is_some(), "{plan:?}");
}

#[test]
fn verification_names_what_is_damaged_and_what_is_gone() {
    let bucket = Bucket::new();
    write(&bucket, 75, "main");
    let environment = Environment::from_pairs(S3Server::credentials());
    let verify = || {
        wait(async {
            let place = RemotePlace::open(&bucket.direct("p"), &environment, SystemClock::real()).unwrap();
            let inspected = place.inspect().await.unwrap();
            assert_eq!((inspected.packs <= 1, inspected.actions, inspected.strangers), (true, 16, 0));
            place.verify(|_, _| {}).await.unwrap()
        })
    };
    let good = verify();
    assert!(good.flaws.is_empty() && good.outputs > 10, "{good:?}");
    let pack = files(&bucket.folder(), ".pack").remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    let damaged = verify();
    assert_eq!(damaged.flaws.len(), 1);
    assert!(damaged.outputs > 0 && damaged.outputs < good.outputs, "{damaged:?}");
    std::fs::remove_file(&pack).unwrap();
    let gone = verify();
    assert_eq!((gone.outputs, gone.flaws.len()), (0, 1));
    assert!(gone.flaws[0].why.contains("gone"));
}

#[test]
fn the_doctor_tries_everything_and_leaves_nothing() {
    let bucket = Bucket::new();
    let environment = Environment::from_pairs(S3Server::credentials());
    let examine = |write| wait(doctor(&bucket.url("p"), write, &environment, SystemClock::real()));
    let checks = examine(true);
    assert!(checks.iter().all(|check| check.ok == Some(true)), "{checks:?}");
    for name in ["listing", "writing", "reading", "clock", "deleting"] {
        assert!(checks.iter().any(|check| check.name == name), "{name}");
    }
    assert!(files(&bucket.folder(), "").iter().all(|file| !file.to_string_lossy().contains("probe")));
    bucket.proxy.run(Script::by(|seen| if seen.method == "PUT" { Fault::status(403) } else { Fault::Pass }));
    let checks = examine(true);
    let writing = checks.iter().find(|check| check.name == "writing").unwrap();
    assert_eq!(writing.ok, Some(false));
    assert_eq!(examine(false).iter().find(|check| check.name == "writing").unwrap().ok, None);
    let later = wait(doctor(&bucket.direct("p"), true, &environment, Later::by_days(1)));
    assert_eq!(later.iter().find(|check| check.name == "clock").and_then(|check| check.ok), Some(false), "{later:?}");
}
