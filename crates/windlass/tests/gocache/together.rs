//! Many go commands on one store, flags that bypass lookups, and the race detector.

use windlass_sim::s3::S3Server;

use crate::machine::{BUCKET, Machine, ended};
use crate::module;
use crate::toolchain::Toolchain;

const PACKAGES: usize = 24;

#[test]
fn eight_go_commands_at_once_share_a_store_while_it_is_made_smaller() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), PACKAGES, 0);
    let buckets = tempfile::tempdir().unwrap();
    let server = S3Server::start(buckets.path()).unwrap();
    server.create_bucket(BUCKET).unwrap();
    let machine = Machine::with_remote(&toolchain, folder.path(), &server.endpoint());
    for round in 0..3 {
        let commands: Vec<_> = (0..8)
            .map(|n| {
                machine.start(if (n + round) % 2 == 0 { &["build", "./..."] } else { &["list", "-export", "./..."] })
            })
            .collect();
        let collected = machine.windlass(&["gc", "--max-size", "64KiB", "--keep-recent", "0s"]);
        assert_eq!(collected.code, Some(0), "{}", collected.stderr);
        for command in commands {
            let ended = ended(command).good();
            assert_eq!(ended.stderr, "");
        }
        machine.windlass(&["verify"]).good();
    }
}

#[test]
fn flags_that_bypass_lookups_and_the_race_detector_work_as_ever() {
    let toolchain = Toolchain::of("1.26");
    let folder = tempfile::tempdir().unwrap();
    module::tiny(folder.path(), 6, 0);
    let mut built_in = Machine::new(&toolchain, folder.path());
    let mut machine = Machine::with_program(&toolchain, folder.path());
    for machine in [&mut built_in, &mut machine] {
        // The race detector needs a C compiler, which building this workspace does too.
        machine.set("CGO_ENABLED", "1");
    }
    for words in [
        &["build", "./..."][..],
        &["build", "-a", "./..."],
        &["build", "-race", "./..."],
        &["build", "-race", "-trimpath", "./..."],
        &["list", "-race", "-export", "-f", "{{ne .Export \"\"}}", "./..."],
    ] {
        let ours = machine.go(words);
        assert_eq!(ours.seen(), built_in.go(words).seen(), "go {words:?}\n{}", ours.stderr);
        assert_eq!(ours.code, Some(0), "go {words:?}: {}", ours.stderr);
    }
    assert_eq!(machine.go(&["build", "-v", "-race", "./..."]).good().stderr, "");
    machine.windlass(&["verify"]).good();
}
