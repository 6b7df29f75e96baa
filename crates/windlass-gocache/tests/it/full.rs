//! Disks that take no more.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::conversation::{Conversation, action, noise};
use crate::program::{Setup, run};

/// The command of a setup, run by a shell that does something before.
fn through(shell: &str, setup: &Setup) -> Command {
    let inner = setup.command();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{shell} && exec \"$0\" \"$@\"")).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[test]
fn what_no_disk_takes_is_refused_and_the_rest_goes_on() {
    let (setup, mut conversation) = (Setup::new(), Conversation::default());
    let large = conversation.put(action(1), &noise(1, 900_000));
    let small = conversation.put(action(2), b"small");
    let get = conversation.get(action(1));
    conversation.close();
    // No file may have more than 64 KiB: for one file, that is a full disk.
    let said = run(through("trap '' XFSZ; ulimit -f 128", &setup), std::slice::from_ref(&conversation.input));
    let why = said.failure(large).unwrap();
    assert!(why.contains("cannot store the output") && why.contains("spare"), "{why}");
    assert_eq!(said.bytes(small), b"small");
    assert!(said.is_miss(get));
    assert_eq!(said.status, Some(0));
    setup.verify();
    let (stats, _) = setup.ask(&["stats"]);
    assert_eq!((stats["outputs"].as_u64(), stats["temporaries"].as_u64()), (Some(1), Some(0)), "{stats}");
}

#[test]
fn when_the_disk_fills_up_in_the_middle_the_spare_folder_takes_over() {
    let (setup, mut conversation) = (Setup::new(), Conversation::default());
    let bodies: Vec<Vec<u8>> = (0..6).map(|number| noise(number, 500_000)).collect();
    let puts: Vec<i64> =
        (0..6_u8).map(|number| conversation.put(action(number), &bodies[usize::from(number)])).collect();
    conversation.close();
    fs::create_dir(setup.dir()).unwrap();
    let mount = format!("mount -t tmpfs -o size=1200k,mode=0700 none '{}'", setup.dir().display());
    let mut command = Command::new("unshare");
    let inner = through(&mount, &setup);
    command.args(["--user", "--map-root-user", "--mount"]).arg(inner.get_program()).args(inner.get_args());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WINDLASS_") || name.starts_with("S3_")) {
        command.env_remove(name);
    }
    let probe = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        // Where no name spaces are allowed there is no small disk to be had; what goes over is tested in the store.
        return;
    }
    let said = run(command, std::slice::from_ref(&conversation.input));
    assert_eq!(said.status, Some(0), "{}", said.stderr);
    let spare = setup.spare().display().to_string();
    let mut spared = 0;
    for (put, body) in puts.iter().zip(&bodies) {
        let path = said.answers[put]["DiskPath"].as_str().unwrap_or_else(|| panic!("{:?}", said.answers[put]));
        // What was on the small disk is gone with it.
        if path.starts_with(&spare) {
            assert!(said.bytes(*put) == *body);
            spared += 1;
        }
    }
    assert!((4..6).contains(&spared), "{spared} of 6 went to the spare folder");
}

#[test]
fn a_folder_that_can_only_be_read_is_read_and_the_spare_one_written() {
    let (setup, mut put) = (Setup::new(), Conversation::default());
    put.put(action(1), b"old");
    setup.run(&put);
    let set_mode = |mode| {
        for entry in fs::read_dir(setup.dir()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
        {
            fs::set_permissions(entry, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(setup.dir(), fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut command = setup.command();
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root: somebody else runs it.
        fs::set_permissions(setup.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        own(&setup.dir(), 65_534);
        command.uid(65_534).gid(65_534);
    }
    set_mode(0o500);
    let mut conversation = Conversation::default();
    let old = conversation.get(action(1));
    let new = conversation.put(action(2), b"new");
    conversation.close();
    let mut again = Conversation::default();
    let found = again.get(action(2));
    // Where tests run in a folder that is closed to others, that one cannot start the program.
    let started = command.arg("--help").output();
    let (said, later) = match started {
        Ok(output) if output.status.success() => {
            let run = |conversation: &Conversation| {
                let mut command = setup.command();
                if rustix::process::geteuid().is_root() {
                    command.uid(65_534).gid(65_534);
                }
                run(command, std::slice::from_ref(&conversation.input))
            };
            (run(&conversation), run(&again))
        }
        _ => {
            set_mode(0o700);
            return;
        }
    };
    set_mode(0o700);
    assert_eq!(said.bytes(old), b"old");
    assert_eq!(said.bytes(new), b"new");
    assert!(said.answers[&new]["DiskPath"].as_str().unwrap().starts_with(setup.spare().to_str().unwrap()));
    assert_eq!(later.bytes(found), b"new");
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("it is read, and new results go to"), "{}", said.stderr);
}

fn own(path: &std::path::Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), user);
        }
    }
}

#[test]
fn a_folder_of_somebody_else_is_refused_unless_it_is_allowed() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a folder away.
        return;
    }
    let (setup, mut put) = (Setup::new(), Conversation::default());
    let id = put.put(action(1), b"x");
    fs::create_dir(setup.dir()).unwrap();
    own(&setup.dir(), 65_534);
    let said = setup.run(&put);
    assert_eq!(said.bytes(id), b"x");
    assert!(said.stderr.contains("belongs to user 65534"), "{}", said.stderr);
    assert!(said.answers[&id]["DiskPath"].as_str().unwrap().starts_with(setup.spare().to_str().unwrap()));
    let mut command = setup.command();
    command.arg("--foreign-owner");
    let said = run(command, std::slice::from_ref(&put.input));
    assert!(said.answers[&id]["DiskPath"].as_str().unwrap().starts_with(setup.dir().to_str().unwrap()));
    assert_eq!(said.stderr, "");
}
