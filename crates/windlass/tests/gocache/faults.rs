//! The remote misbehaves in every way there is; go does not notice.

use std::net::TcpListener;
use std::path::Path;

use windlass_sim::s3::{Fault, FaultProxy, S3Server, Script};

use crate::machine::{BUCKET, Machine};
use crate::module;
use crate::toolchain::Toolchain;

const PACKAGES: usize = 8;

/// A bucket that a build has filled, behind a proxy.
struct Remote {
    _buckets: tempfile::TempDir,
    _server: S3Server,
    proxy: FaultProxy,
}

fn filled(toolchain: &Toolchain, folder: &Path) -> Remote {
    let buckets = tempfile::tempdir().unwrap();
    let server = S3Server::start(buckets.path()).unwrap();
    server.create_bucket(BUCKET).unwrap();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let machine = Machine::with_remote(toolchain, folder, &proxy.endpoint());
    machine.go(&["build", "./..."]).good();
    machine.windlass(&["flush"]).good();
    Remote { _buckets: buckets, _server: server, proxy }
}

/// Builds, vets and lists with an empty disk and this remote; it has to be as with go's own cache.
#[track_caller]
fn assert_unharmed(machine: &Machine, built_in: &Machine, what: &str) {
    let mut warnings = 0;
    for words in [&["build", "./..."][..], &["list", "-export", "-f", "{{ne .Export \"\"}}", "./..."]] {
        let ours = machine.go(words);
        assert_eq!(ours.seen(), built_in.go(words).seen(), "{what}: go {words:?}\n{}", ours.stderr);
        assert!(!ours.stderr.contains(S3Server::SECRET_KEY), "{what}: {}", ours.stderr);
        // One line for one cause, at the end how much is left to upload, and nothing but such lines.
        let left = ours.warnings().iter().filter(|line| line.contains("are left; the next run finishes them")).count();
        let causes = ours.warnings().len() - left;
        assert!(causes <= 1 && left <= 1, "{what}: {}", ours.stderr);
        assert_eq!(ours.stderr.lines().count(), ours.warnings().len(), "{what}: {}", ours.stderr);
        warnings += causes;
    }
    assert!(warnings > 0 || ["flip", "cut"].iter().any(|quiet| what.starts_with(quiet)), "{what}: nobody was told");
    let verified = machine.windlass(&["verify"]);
    assert_eq!(verified.code, Some(0), "{what}: {}{}", verified.stdout, verified.stderr);
}

#[test]
fn a_remote_that_misbehaves_changes_no_build() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 0);
    let remote = filled(&toolchain, folder.path());
    let built_in = Machine::new(&toolchain, folder.path());
    for fault in [
        "refuse",
        "status 403",
        "status 503",
        "slow-down",
        "expired-token",
        "wrong-clock",
        "no-bucket",
        "cut 40",
        "flip 30",
        "hang",
    ] {
        let chosen: Fault = fault.parse().unwrap();
        remote.proxy.run(Script::by(move |_| chosen.clone()));
        let machine = Machine::with_remote(&toolchain, folder.path(), &remote.proxy.endpoint());
        assert_unharmed(&machine, &built_in, fault);
        assert!(remote.proxy.traffic().requests > 0, "{fault}: the remote was never asked");
    }
}

#[test]
fn a_remote_that_is_not_there_changes_no_build() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 1);
    let built_in = Machine::new(&toolchain, folder.path());
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machine = Machine::with_remote(&toolchain, folder.path(), &format!("http://127.0.0.1:{port}"));
    assert_unharmed(&machine, &built_in, "nobody listens");
}

#[test]
fn wrong_credentials_change_no_build_and_are_told_without_naming_them() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 2);
    let remote = filled(&toolchain, folder.path());
    let built_in = Machine::new(&toolchain, folder.path());
    let mut machine = Machine::with_remote(&toolchain, folder.path(), &remote.proxy.endpoint());
    machine.set("S3_SECRET_ACCESS_KEY", "not-the-secret-of-this-bucket");
    assert_unharmed(&machine, &built_in, "wrong secret");
    assert!(!machine.go(&["build", "./..."]).stderr.contains("not-the-secret"));
}
