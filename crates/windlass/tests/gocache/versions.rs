//! The same commands under three versions of go: with its own cache, with ours, with a remote, with an empty disk.

use std::path::Path;

use windlass_sim::s3::{FaultProxy, S3Server};

use crate::machine::{BUCKET, Ended, Machine};
use crate::module;
use crate::toolchain::Toolchain;

/// What is run, in this order. Paths of files are not printed: they lie in the cache.
const COMMANDS: [&[&str]; 11] = [
    &["build", "./..."],
    &["vet", "./..."],
    &["test", "./..."],
    &["test", "./..."],
    &["clean", "-testcache"],
    &["test", "./..."],
    &["list", "-export", "-f", "{{.ImportPath}} {{ne .Export \"\"}}", "./..."],
    &["list", "-test", "-f", "{{.ImportPath}} {{len .GoFiles}}", "./..."],
    &["list", "-deps", "-f", "{{.ImportPath}}", "./c"],
    &["run", "./c"],
    &["vet", "-tags", "broken", "./broken"],
];

fn run_all(machine: &Machine) -> Vec<Ended> {
    COMMANDS.iter().map(|words| machine.go(words)).collect()
}

#[track_caller]
fn assert_alike(what: &str, ours: &[Ended], built_in: &[Ended]) {
    for ((words, ours), theirs) in COMMANDS.iter().zip(ours).zip(built_in) {
        assert_eq!(ours.seen(), theirs.seen(), "{what}: go {words:?}\nstderr: {}", ours.stderr);
        assert_eq!(ours.warnings(), Vec::<&str>::new(), "{what}: go {words:?} was told something");
    }
}

/// The whole matrix for one version.
fn all_alike(version: &str) {
    let toolchain = Toolchain::of(version);
    let folder = tempfile::tempdir().unwrap();
    module::hello(folder.path());
    let built_in = run_all(&Machine::new(&toolchain, folder.path()));
    assert_eq!(built_in[2].code, Some(0), "{built_in:?}");
    assert!(built_in[3].stdout.contains("(cached)") && !built_in[5].stdout.contains("(cached)"), "{built_in:?}");
    assert_ne!(built_in[10].code, Some(0));

    let buckets = tempfile::tempdir().unwrap();
    let server = S3Server::start(buckets.path()).unwrap();
    server.create_bucket(BUCKET).unwrap();
    let proxy = FaultProxy::start(server.address()).unwrap();

    // From nothing, filling both.
    let mut machine = Machine::with_remote(&toolchain, folder.path(), &proxy.endpoint());
    assert_alike("empty", &run_all(&machine), &built_in);
    machine.windlass(&["flush"]).good();
    // Another machine: everything comes from the remote.
    machine.lose_store();
    let built = machine.go(&["build", "-v", "./..."]).good();
    assert_eq!(built.stderr, "", "nothing is compiled that the remote has");
    assert_alike("from the remote", &run_all(&machine), &built_in);
    let traffic = proxy.traffic();
    assert!(traffic.requests > 0 && traffic.bytes_up > 1 << 20, "{traffic:?}");
    // The network goes away, the disk stays.
    machine.unset("S3_ENDPOINT");
    let built = machine.go(&["build", "-v", "./..."]).good();
    assert_eq!(built.stderr.lines().filter(|line| line.starts_with("example")).count(), 0, "{}", built.stderr);
    assert_files_are_there(&machine);
    let verified = machine.windlass(&["verify", "--output", "json"]).good();
    assert!(verified.stdout.starts_with('{'), "{}", verified.stdout);
}

/// What `go list -export` names is there, and is what a compiler can read.
fn assert_files_are_there(machine: &Machine) {
    let listed = machine.go(&["list", "-export", "-f", "{{.Export}}", "./a", "fmt"]).good();
    let mut count = 0;
    for path in listed.stdout.lines().map(Path::new) {
        assert!(path.is_absolute() && path.extension().is_none(), "{}", path.display());
        assert!(std::fs::read(path).unwrap().starts_with(b"!<arch>\n"), "{}", path.display());
        count += 1;
    }
    assert_eq!(count, 2, "{}", listed.stdout);
}

#[test]
fn go_1_24_ends_and_prints_as_with_its_own_cache() {
    all_alike("1.24");
}

#[test]
fn go_1_26_ends_and_prints_as_with_its_own_cache() {
    all_alike("1.26");
}

#[test]
fn go_1_27_ends_and_prints_as_with_its_own_cache() {
    all_alike("1.27");
}

#[test]
fn without_a_remote_everything_is_as_with_its_own_cache_and_a_second_look_compiles_nothing() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::hello(folder.path());
    let built_in = run_all(&Machine::new(&toolchain, folder.path()));
    let machine = Machine::with_program(&toolchain, folder.path());
    assert_alike("local only", &run_all(&machine), &built_in);
    assert_eq!(machine.go(&["build", "-v", "./..."]).good().stderr, "");
    assert_files_are_there(&machine);
}
