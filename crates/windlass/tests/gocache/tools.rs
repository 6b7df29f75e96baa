//! The commands around the cache: statistics, checks, cleaning.

use windlass_sim::s3::{FaultProxy, S3Server};

use crate::machine::{BUCKET, Machine};
use crate::module;
use crate::toolchain::Toolchain;

const PACKAGES: usize = 5;

/// A machine whose builds are in a bucket.
struct Filled {
    _module: tempfile::TempDir,
    _buckets: tempfile::TempDir,
    _server: S3Server,
    proxy: FaultProxy,
    machine: Machine,
}

fn filled() -> Filled {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 0);
    let buckets = tempfile::tempdir().unwrap();
    let server = S3Server::start(buckets.path()).unwrap();
    server.create_bucket(BUCKET).unwrap();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let machine = Machine::with_remote(&toolchain, folder.path(), &proxy.endpoint());
    machine.go(&["build", "./..."]).good();
    machine.windlass(&["flush"]).good();
    Filled { _module: folder, _buckets: buckets, _server: server, proxy, machine }
}

fn json(machine: &Machine, words: &[&str]) -> serde_json::Value {
    let words = [words, &["--output", "json"]].concat();
    let ended = machine.windlass(&words).good();
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", ended.stdout))
}

#[test]
fn cleaning_asks_first_and_removes_what_was_named() {
    let Filled { machine, _server: server, .. } = &filled();
    let asked = machine.windlass(&["clean", "--remote"]);
    assert!(asked.stderr.contains("(y/N)"), "{}", asked.stderr);
    assert_eq!(asked.code, Some(130), "nobody said yes: {}", asked.stderr);
    let dry = json(machine, &["clean", "--remote", "--dry-run"]);
    let found = dry["remote"]["found"]["objects"].as_u64().unwrap();
    assert!(found > 0, "{dry}");
    let cleaned = json(machine, &["clean", "--remote", "--yes"]);
    assert_eq!(cleaned["remote"]["removed"]["objects"].as_u64(), Some(found), "{cleaned}");
    let again = json(machine, &["clean", "--remote", "--yes"]);
    assert_eq!(again["remote"]["found"]["objects"].as_u64(), Some(0), "{again}");
    let local = json(machine, &["clean", "--local", "--yes"]);
    assert!(local["local"]["removed"]["objects"].as_u64().unwrap() > 0, "{local}");
    let built = machine.go(&["build", "-v", "./..."]).good();
    assert_eq!(built.stderr.lines().count(), PACKAGES, "everything is gone: {}", built.stderr);
    assert!(server.address().port() > 0);
}

#[test]
fn a_remote_that_cannot_be_listed_to_the_end_loses_nothing() {
    let Filled { machine, proxy, .. } = &filled();
    proxy.run(windlass_sim::s3::Script::by(|seen| {
        if seen.is_listing() { windlass_sim::s3::Fault::CutAfter(60) } else { windlass_sim::s3::Fault::Pass }
    }));
    let cleaned = machine.windlass(&["clean", "--remote", "--yes"]);
    assert_eq!(cleaned.code, Some(3), "{}{}", cleaned.stdout, cleaned.stderr);
    assert!(proxy.seen().iter().all(|seen| seen.method != "DELETE" && seen.method != "POST"), "{:?}", proxy.seen());
}

#[test]
fn the_store_is_measured_explained_and_checked() {
    let Filled { machine, .. } = &filled();
    let stats = json(machine, &["stats"]);
    assert!(stats["store"]["outputs"].as_u64().is_some_and(|outputs| outputs > 0), "{stats}");
    let verified = json(machine, &["verify"]);
    assert_eq!(verified["damaged"], 0, "{verified}");
    let doctor = machine.windlass(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}{}", doctor.stdout, doctor.stderr);
    machine.lose_store();
    let fetched = machine.windlass(&["prefetch"]);
    assert_eq!(fetched.code, Some(0), "{}", fetched.stderr);
}
