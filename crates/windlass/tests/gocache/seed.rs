//! The compatibility mode: what a program of the plainest kind wrote is read, and the other way round.

use std::path::{Path, PathBuf};
use std::process::Command;

use windlass_sim::s3::{FaultProxy, S3Server};

use crate::machine::{BUCKET, Machine, remote};
use crate::module;
use crate::toolchain::Toolchain;

const PACKAGES: usize = 6;

/// Builds the plain program of `bench/gocache-seed` into `folder`.
fn plain_program(toolchain: &Toolchain, folder: &Path) -> PathBuf {
    let program = folder.join("gocache-seed");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/gocache-seed");
    let mut build = Command::new(toolchain.go());
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(source);
    build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOPROXY", "off").env("CGO_ENABLED", "0");
    build.env("GOROOT", toolchain.root());
    // Its own cache, kept between runs: it is the tool of the test, not what is tested.
    build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-build")).env_remove("GOCACHEPROG");
    assert!(build.status().unwrap().success());
    program
}

fn plain(toolchain: &Toolchain, module: &Path, program: &Path, endpoint: &str) -> Machine {
    let mut machine = Machine::new(toolchain, module);
    machine.set("GOCACHEPROG", program);
    let folder = machine.store();
    machine.set("GOCACHE_SEED_DIR", folder);
    for (name, value) in remote(endpoint) {
        machine.set(name, value);
    }
    machine
}

/// Lines of standard error that go itself wrote.
fn compiled(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| *line != "CacheProg used.").collect()
}

#[test]
fn a_bucket_of_the_plain_program_is_read_and_one_of_ours_is_read_by_it() {
    let toolchain = Toolchain::of("1.26");
    let tools = tempfile::tempdir().unwrap();
    let program = plain_program(&toolchain, tools.path());
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 0);
    for ours_first in [false, true] {
        let buckets = tempfile::tempdir().unwrap();
        let server = S3Server::start(buckets.path()).unwrap();
        server.create_bucket(BUCKET).unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        let mut ours = Machine::with_remote(&toolchain, folder.path(), &proxy.endpoint());
        ours.set("WINDLASS_GOCACHE_LAYOUT", "seed");
        let theirs = plain(&toolchain, folder.path(), &program, &proxy.endpoint());
        let [first, second] = if ours_first { [&ours, &theirs] } else { [&theirs, &ours] };
        let built = first.go(&["build", "-v", "./..."]).good();
        assert_eq!(compiled(&built.stderr).len(), PACKAGES, "{}", built.stderr);
        if ours_first {
            ours.windlass(&["flush"]).good();
        }
        let again = second.go(&["build", "-v", "./..."]).good();
        assert_eq!(compiled(&again.stderr), Vec::<&str>::new(), "ours first: {ours_first}");
    }
}
