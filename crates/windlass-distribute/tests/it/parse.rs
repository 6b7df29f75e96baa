//! Recorded single cases of the inputs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::event_log::{Entry, Watched};
use windlass_distribute::input::space::StatFs;
use windlass_distribute::input::{Catalogue, Space};
use windlass_distribute::{Fleet, Names, Settings};

const NOW: i64 = 1_767_193_200;
const WINDOW: i64 = 600;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures")
}

fn cases(file: &str) -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("parse").join(file)).unwrap()).unwrap()
}

/// The file credited with a line: `null` for none, `crash` where the original dies.
fn credited(line: &str, reading: Reading) -> Value {
    let watched = Watched::new(&["10.99.0.3".to_owned()], reading).unwrap();
    let line = line.strip_suffix('\r').unwrap_or(line);
    let latest = if reading == Reading::Legacy { i64::MAX } else { NOW + 60 };
    match watched.read(line.as_bytes()) {
        Entry::Hit(time, file) if (NOW - WINDOW..=latest).contains(&time) => {
            String::from_utf8(file.to_vec()).unwrap().into()
        }
        Entry::Crash => "crash".into(),
        _ => Value::Null,
    }
}

#[test]
fn each_line_of_the_event_log_is_credited_as_recorded() {
    let document = cases("eventlog_cases.json");
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() >= 24);
    for case in cases {
        let line = case["line"].as_str().unwrap();
        assert_eq!(credited(line, Reading::Product), case["product"], "{case}");
        assert_eq!(credited(line, Reading::Legacy), case["legacy"], "{case}");
    }
}

#[test]
fn odd_inputs_give_the_recorded_catalogue_in_both_ways_of_reading() {
    let expected = cases("odd_inputs_metas.json");
    let addresses: Vec<String> = ["127.16.0.2", "127.16.0.9", "127.16.0.10"].map(|ip| format!("{ip}:28888")).into();
    let fleet = Fleet::new(&[], &addresses, &Settings::default()).unwrap();
    let folder = fixtures().join("scenarios/10-odd-inputs");
    for reading in [Reading::Product, Reading::Legacy] {
        let mut names = Names::default();
        let open = |file: &str| File::open(folder.join(file)).unwrap();
        let (grades, history) = (open(".grade.info"), open(".hitcount.history"));
        let catalogue = Catalogue::read(&mut names, &fleet, grades, history, reading).unwrap();
        let metas = expected["metas"].as_object().unwrap();
        assert_eq!(catalogue.len(), metas.len());
        for (name, meta) in metas {
            let id = names.find(name.as_bytes()).unwrap();
            assert_eq!(catalogue.rank(id), meta["rank"], "{name}");
            assert_eq!(catalogue.size(id), meta["size"], "{name}");
            let claims = meta["claims"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap());
            let claims: Vec<u16> = claims.map(|ip| fleet.ip(ip.as_bytes()).unwrap()).collect();
            assert_eq!(catalogue.claims(id), claims, "{name}");
        }
        let order: Vec<&str> = catalogue.by_rank().map(|id| std::str::from_utf8(names.get(id)).unwrap()).collect();
        assert_eq!(order, ["MV02.mpg", "MV03.mpg", "MV01.mpg", "MV 04.mpg", "MV05.mpg", "MV06.mpg"]);
        assert_eq!(catalogue.by_first_line()[0], names.find(b"MV01.mpg").unwrap());
        assert!(catalogue.headers_known && !catalogue.ended);
        let bad: Vec<&str> = catalogue.bad_history.examples.iter().map(|example| example.why).collect();
        assert_eq!(bad, ["has a size that is no number", "has fewer than five columns"]);
    }
}

#[test]
fn disks_are_answered_and_limited_as_recorded() {
    let document = cases("df_cases.json");
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let stat: StatFs = serde_json::from_value(case["statfs"].clone()).unwrap();
        assert_eq!(serde_json::to_value(stat.df()).unwrap(), case["df"], "{case}");
        let percent = u32::try_from(case["limit_percent"].as_u64().unwrap()).unwrap();
        let settings = Settings { limit_percent: percent, ..Settings::default() };
        let space = stat.space();
        let limit = settings.limit_bytes(space.size());
        assert_eq!(limit, case["limit_used"], "{case}");
        assert_eq!((space.used - limit).max(0), case["over"], "{case}");
        if space.size() > 0 {
            assert_eq!(Space::read(&serde_json::to_vec(&stat.df()).unwrap()), Some(space));
        }
    }
}

#[test]
fn a_repeated_name_and_an_illegal_one_take_ranks() {
    let fleet = Fleet::default();
    let grades = &b"filename\nA\nB/x\nC\nA\n.\n\nD\n"[..];
    let mut names = Names::default();
    let history = &b"historyheader:1\n"[..];
    let catalogue = Catalogue::read(&mut names, &fleet, grades, history, Reading::Product).unwrap();
    let rank = |name: &[u8]| names.find(name).map_or(0, |id| catalogue.rank(id));
    assert_eq!((rank(b"A"), rank(b"C"), rank(b"D"), rank(b"B/x")), (4, 3, 6, 0));
    assert_eq!((catalogue.len(), catalogue.bad_grades.count), (3, 2));
}
