//! Files that are not what they should be.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use windlass_gocache_remote::OutputId;

use crate::conversation::{Conversation, action, noise};
use crate::program::Setup;

fn filled() -> (Setup, Conversation, Vec<u8>) {
    let (setup, body, mut put) = (Setup::new(), noise(1, 50_000), Conversation::default());
    put.put(action(1), &body);
    put.close();
    setup.run(&put).check(&put, &std::collections::BTreeMap::new());
    (setup, put, body)
}

fn output(setup: &Setup, body: &[u8]) -> PathBuf {
    let hex = OutputId::of(body).hex();
    setup.dir().join("o").join(&hex[..2]).join(hex)
}

fn record(setup: &Setup, number: u8) -> PathBuf {
    let hex = action(number).hex();
    setup.dir().join("a").join(&hex[..2]).join(hex)
}

#[test]
fn no_wrong_byte_is_given_out_and_the_next_put_repairs() {
    type Harm = fn(&Setup, &[u8]);
    let harms: [(&str, Harm); 8] = [
        ("a flipped byte", |setup, body| {
            let mut wrong = body.to_vec();
            wrong[30_000] ^= 1;
            fs::write(output(setup, body), wrong).unwrap();
        }),
        ("cut short", |setup, body| fs::write(output(setup, body), &body[..100]).unwrap()),
        ("too long", |setup, body| fs::write(output(setup, body), [body, b"x"].concat()).unwrap()),
        ("gone", |setup, body| fs::remove_file(output(setup, body)).unwrap()),
        ("a folder instead", |setup, body| {
            fs::remove_file(output(setup, body)).unwrap();
            fs::create_dir(output(setup, body)).unwrap();
        }),
        ("a link instead", |setup, body| {
            fs::rename(output(setup, body), setup.dir().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink(setup.dir().join("elsewhere"), output(setup, body)).unwrap();
        }),
        ("a record of zeros", |setup, _| fs::write(record(setup, 1), [0; 104]).unwrap()),
        ("an empty record", |setup, _| fs::write(record(setup, 1), b"").unwrap()),
    ];
    for (name, harm) in harms {
        let (setup, put, body) = filled();
        harm(&setup, &body);
        let mut get = Conversation::default();
        let id = get.get(action(1));
        let said = setup.run(&get);
        assert!(said.is_miss(id), "{name}: {:?}", said.answers);
        assert!(setup.run(&get).is_miss(id), "{name}: still");
        setup.run(&put).check(&put, &std::collections::BTreeMap::new());
        assert!(setup.run(&get).bytes(id) == body, "{name}");
        setup.verify();
    }
}

#[test]
fn a_put_repairs_what_nobody_has_asked_for() {
    let (setup, put, body) = filled();
    let mut wrong = body.clone();
    wrong[49_999] ^= 1;
    fs::write(output(&setup, &body), wrong).unwrap();
    let said = setup.run(&put);
    assert!(said.bytes(1) == body);
    setup.verify();
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let (setup, put, body) = filled();
    let before = fs::metadata(output(&setup, &body)).unwrap();
    setup.run(&put);
    let after = fs::metadata(output(&setup, &body)).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
}

#[test]
fn a_folder_copied_from_elsewhere_is_hashed_once_before_it_is_used() {
    let (setup, _, body) = filled();
    // A copy has other inodes, as it has after a restore on another machine.
    let path = output(&setup, &body);
    let copy = path.with_file_name("copy");
    fs::copy(&path, &copy).unwrap();
    fs::rename(&copy, &path).unwrap();
    let mut get = Conversation::default();
    let id = get.get(action(1));
    get.close();
    for confirmed in [1, 0] {
        assert!(setup.run(&get).bytes(id) == body);
        let (stats, _) = setup.ask(&["stats"]);
        let last = stats["runs"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["confirmed"].as_u64(), Some(confirmed), "{last}");
    }
}

#[test]
fn verify_finds_and_repairs_and_why_tells() {
    let (setup, _, body) = filled();
    let text = action(1).hex();
    let (why, _) = setup.ask(&["why", &text]);
    assert_eq!(why["verdict"], "a hit", "{why}");
    let mut wrong = body.clone();
    wrong[0] ^= 1;
    fs::write(output(&setup, &body), wrong).unwrap();
    let (why, _) = setup.ask(&["why", &action(1).base64()]);
    assert!(why["verdict"].as_str().unwrap().contains("damaged"), "{why}");
    let (found, status) = setup.ask(&["verify"]);
    assert_eq!((found["damaged"].as_u64(), found["removed"].as_u64(), status), (Some(1), Some(0), 1), "{found}");
    let (found, _) = setup.ask(&["verify", "--repair"]);
    assert_eq!(found["removed"].as_u64(), Some(1), "{found}");
    setup.verify();
    let (why, _) = setup.ask(&["why", &action(2).hex()]);
    assert!(why["verdict"].as_str().unwrap().contains("no record"), "{why}");
}

#[test]
fn clean_removes_everything_of_ours_and_nothing_else() {
    let (setup, _, body) = filled();
    fs::write(setup.dir().join("o").join("notes"), b"mine").unwrap();
    let (cleaned, _) = setup.ask(&["clean"]);
    assert_eq!((cleaned["outputs"].as_u64(), cleaned["records"].as_u64()), (Some(1), Some(1)), "{cleaned}");
    assert!(!output(&setup, &body).exists() && !record(&setup, 1).exists());
    assert!(setup.dir().join("o").join("notes").exists());
}
