//! Every fixture of the manifest, in both modes, against the outcome it names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use windlass_index_backup::{
    BackupError, Code, Compression, CompressionSetting, CopiesReader, Copy, Engine, Form, Inspection, Place, ReadMode,
    ReadOptions, Timestamps, collect_copies, inspect, inspect_ids, read_vectors,
};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[derive(Deserialize)]
struct Row {
    file: String,
    fast: Vec<String>,
    full: Vec<String>,
    count: Option<u64>,
    ids_sha256: Option<String>,
    pairs_sha256: Option<String>,
}

/// The options that go with a fixture's folder: bare files say so, and plain tars without a magic are configured.
fn options_for(file: &str, read_mode: ReadMode) -> ReadOptions {
    let (form, compression) = match file.split_once('/') {
        Some(("gob", _)) => (Form::IdMap, CompressionSetting::Auto),
        Some(("timestamp", _)) => (Form::Times, CompressionSetting::Auto),
        Some(("tar", _)) => (Form::Backup, CompressionSetting::Exactly(Compression::None)),
        _ => (Form::Auto, CompressionSetting::Auto),
    };
    ReadOptions { form, compression, read_mode, ..ReadOptions::default() }
}

fn inspect_fixture(file: &str, read_mode: ReadMode) -> Result<Inspection, BackupError> {
    inspect(File::open(folder().join(file)).unwrap(), &options_for(file, read_mode))
}

fn warning_codes(inspection: &Inspection) -> Vec<&'static str> {
    inspection.warnings.iter().map(|warning| warning.code).collect()
}

#[test]
fn every_fixture_has_the_outcome_of_its_manifest_in_both_modes() {
    let rows: Vec<Row> = serde_json::from_slice(&fs::read(folder().join("manifest.json")).unwrap()).unwrap();
    assert!(rows.len() > 100, "the manifest has shrunk to {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        for (mode, allowed) in [(ReadMode::Fast, &row.fast), (ReadMode::Full, &row.full)] {
            let outcome = inspect_fixture(&row.file, mode);
            let code = outcome.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
            if !allowed.iter().any(|allowed| allowed == code) {
                wrong.push(format!("{} {mode:?}: {code}, wanted {allowed:?}: {outcome:?}", row.file));
                continue;
            }
            let Ok(found) = outcome else { continue };
            if let Some(count) = row.count.filter(|count| *count != found.count) {
                wrong.push(format!("{} {mode:?}: {} ids, wanted {count}", row.file, found.count));
            }
            for (wanted, sum) in
                [(&row.ids_sha256, found.ids_sha256_hex()), (&row.pairs_sha256, found.pairs_sha256_hex())]
            {
                if wanted.as_ref().is_some_and(|wanted| *wanted != sum) {
                    wrong.push(format!("{} {mode:?}: checksum {sum}", row.file));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} fixtures differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn warnings_and_counts_of_the_fixtures_are_reported() {
    let found = |file: &str| inspect_fixture(file, ReadMode::Fast).unwrap();
    assert_eq!(warning_codes(&found("tar/flat.tar")), [""; 0]);
    assert_eq!(warning_codes(&found("tar/slightly-off.tar")), ["counts_differ"]);
    assert_eq!(warning_codes(&found("tar/no-timestamps.tar")), ["timestamps_unreadable"]);
    assert_eq!(warning_codes(&found("tar/bad-timestamps.tar")), ["timestamps_unreadable"]);
    assert!(warning_codes(&found("tar/cut-after-kvsdb.tar")).contains(&"timestamps_unreadable"));
    assert!(warning_codes(&found("tar/twice.tar")).contains(&"second_entry"));
    assert_eq!(warning_codes(&found("gob/not-utf8.kvsdb")), ["not_movable"]);
    assert_eq!(found("gob/not-utf8.kvsdb").not_movable, 1);
    assert_eq!(found("gob/duplicate-id.kvsdb").repeated, 1);
    let half = found("tar/half-timestamps.tar").timestamps;
    assert_eq!(half, Some(Timestamps { count: 60, missing: 50, unknown: 10 }));
    let whole = found("tar/flat.tar").timestamps;
    assert_eq!(whole, Some(Timestamps { count: 100, missing: 0, unknown: 0 }));
    assert_eq!(found("tar/bad-timestamps.tar").timestamps, None);
    let junk = inspect_fixture("compressed/trailing-junk.tar.gz", ReadMode::Full).unwrap();
    assert_eq!(warning_codes(&junk), ["trailing_bytes"]);
}

#[test]
fn place_engine_and_compression_are_recognised() {
    let found = |file: &str| inspect_fixture(file, ReadMode::Full).unwrap();
    assert_eq!(found("tar/flat.tar").place, Some(Place::Top));
    assert_eq!(found("tar/origin.tar").place, Some(Place::Origin));
    assert_eq!(found("tar/origin-after-decoys.tar").place, Some(Place::Origin));
    assert_eq!(found("tar/origin.tar").engine, Some(Engine::Ngt));
    assert_eq!(found("tar/empty-agent.tar").place, None);
    for (file, compression) in [
        ("backup.tar", Compression::None),
        ("backup.tar.gz", Compression::Gzip),
        ("backup.tar.zst", Compression::Zstd),
        ("skippable-frame.tar.zst", Compression::Zstd),
        ("backup.tar.lz4", Compression::Lz4),
        ("backup-512.tar.gob", Compression::Gob),
        ("backup-one.tar.gob", Compression::Gob),
        ("zstd-named-gz.tar.gz", Compression::Zstd),
        ("plain-named-gz.tar.gz", Compression::None),
    ] {
        assert_eq!(found(&format!("compressed/{file}")).compression, compression, "{file}");
    }
}

#[test]
fn a_configured_compression_that_the_bytes_contradict_is_a_mismatch() {
    for (file, configured) in
        [("zstd-named-gz.tar.gz", "gzip"), ("plain-named-gz.tar.gz", "gzip"), ("backup.tar.gz", "none")]
    {
        let compression = configured.parse().unwrap();
        let options = ReadOptions { compression, ..ReadOptions::default() };
        let error = inspect(File::open(folder().join("compressed").join(file)).unwrap(), &options).unwrap_err();
        assert_eq!(error.code, Code::CompressionMismatch, "{file}");
        assert!(error.message.contains(configured), "both are named: {error}");
    }
}

#[test]
fn a_limit_on_plain_bytes_ends_a_bomb() {
    let options = ReadOptions { max_plain_bytes: 100 << 20, ..ReadOptions::default() };
    let bomb = File::open(folder().join("compressed/gib-of-zeros.tar.gz")).unwrap();
    assert_eq!(inspect(bomb, &options).unwrap_err().code, Code::CompressionLimit);
}

#[test]
fn a_window_that_fits_the_memory_limit_is_accepted() {
    let read = |memory_limit| {
        let options = ReadOptions { memory_limit, ..ReadOptions::default() };
        inspect(File::open(folder().join("compressed/window-128m.tar.zst")).unwrap(), &options)
    };
    assert_eq!(read(64 << 20).unwrap_err().code, Code::CompressionLimit);
    assert_eq!(read(256 << 20).unwrap().count, 100);
}

#[test]
fn bare_id_maps_are_recognised_without_being_told() {
    for file in ["hundred", "type-id-65", "type-id-128", "type-id-1000", "type-id-70000", "named-type"] {
        let input = File::open(folder().join(format!("gob/{file}.kvsdb"))).unwrap();
        assert_eq!(inspect(input, &ReadOptions::default()).unwrap().form, Form::IdMap, "{file}");
    }
}

#[test]
fn ids_come_sorted_and_once() {
    let input = File::open(folder().join("tar/flat.tar")).unwrap();
    let mut ids = Vec::new();
    let inspection = inspect_ids(input, &ReadOptions::default(), |id, number| {
        ids.push((id.to_vec(), number));
        Ok(())
    });
    assert_eq!(inspection.unwrap().count, ids.len() as u64);
    assert!(ids.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[derive(Deserialize)]
struct Truth {
    agents: Vec<AgentTruth>,
    one_copy_missing: Vec<Oddity>,
    copies_of_different_age: Vec<Oddity>,
}

#[derive(Deserialize)]
struct AgentTruth {
    name: String,
    object: String,
    count: u64,
    ids_sha256: String,
}

#[derive(Deserialize)]
struct Oddity {
    id: String,
    copies: Vec<CopyTruth>,
}

#[derive(Deserialize)]
struct CopyTruth {
    agent: String,
    timestamp: i64,
}

fn copies_of(object: &Path, options: &ReadOptions) -> Vec<Copy> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let collected = collect_copies(File::open(object).unwrap(), options, out.path()).unwrap();
    let mut reader = CopiesReader::open(out.path()).unwrap();
    assert_eq!(reader.count(), collected.count);
    let (mut all, mut copy) = (Vec::new(), Copy::default());
    while reader.next(&mut copy).unwrap() {
        all.push(copy.clone());
    }
    assert_eq!(all.len() as u64, collected.count);
    all
}

#[test]
fn the_cluster_of_three_has_the_copies_of_its_truth() {
    let cluster = folder().join("cluster3");
    let truth: Truth = serde_json::from_slice(&fs::read(cluster.join("truth.json")).unwrap()).unwrap();
    let mut holders: BTreeMap<Vec<u8>, BTreeMap<String, i64>> = BTreeMap::new();
    for agent in &truth.agents {
        let object = cluster.join(&agent.object);
        let options = ReadOptions { read_mode: ReadMode::Full, ..ReadOptions::default() };
        let inspection = inspect(File::open(&object).unwrap(), &options).unwrap();
        assert_eq!((inspection.count, inspection.ids_sha256_hex()), (agent.count, agent.ids_sha256.clone()));
        for copy in copies_of(&object, &options) {
            holders.entry(copy.id).or_default().insert(agent.name.clone(), copy.time);
        }
    }
    assert_eq!(holders.len(), 300);
    for odd in truth.one_copy_missing.iter().chain(&truth.copies_of_different_age) {
        let wanted: BTreeMap<String, i64> =
            odd.copies.iter().map(|copy| (copy.agent.clone(), copy.timestamp)).collect();
        assert_eq!(holders[odd.id.as_bytes()], wanted, "{}", odd.id);
    }
}

#[derive(Deserialize)]
struct EngineTruth {
    dimension: usize,
    distance: String,
    entries: Vec<EngineEntry>,
    freed_numbers: Vec<u32>,
    reinserted_number: u32,
}

#[derive(Deserialize)]
struct EngineEntry {
    id: String,
    number: u32,
    timestamp: i64,
    vector: Vec<f32>,
}

#[test]
fn vectors_of_a_real_engine_are_read_bit_for_bit() {
    let engine = folder().join("engine");
    let truth: BTreeMap<String, EngineTruth> =
        serde_json::from_slice(&fs::read(engine.join("engine.json")).unwrap()).unwrap();
    assert_eq!(truth.len(), 5);
    for (file, truth) in &truth {
        let object = engine.join(file);
        let options = ReadOptions { read_mode: ReadMode::Full, ..ReadOptions::default() };
        let inspection = inspect(File::open(&object).unwrap(), &options).unwrap();
        let properties = inspection.objects.unwrap();
        assert_eq!(properties.dimension, truth.dimension);
        assert!(properties.distance_type.starts_with(&truth.distance[..2]), "{properties:?}");
        // With the layout known, the vectors are decoded on the way; without it they are kept aside first.
        for known in [None, Some(&properties)] {
            let mut vectors = BTreeMap::new();
            let input = File::open(&object).unwrap();
            let summary = read_vectors(
                input,
                &options,
                Place::Top,
                known,
                |_| true,
                |number, vector| {
                    vectors.insert(number, vector.to_vec());
                    Ok(())
                },
            );
            assert_eq!(summary.unwrap().given, vectors.len() as u64);
            let wanted: BTreeMap<u32, Vec<f32>> =
                truth.entries.iter().map(|entry| (entry.number, entry.vector.clone())).collect();
            assert_eq!(vectors, wanted, "{file}");
            assert!(vectors.contains_key(&truth.reinserted_number));
            assert!(truth.freed_numbers.iter().all(|n| *n == truth.reinserted_number || !vectors.contains_key(n)));
        }
        let times: BTreeMap<_, _> =
            truth.entries.iter().map(|e| (e.id.clone().into_bytes(), (e.timestamp, e.number))).collect();
        let copies: BTreeMap<_, _> =
            copies_of(&object, &options).into_iter().map(|c| (c.id, (c.time, c.number))).collect();
        assert_eq!(copies, times, "{file}");
    }
}

#[test]
fn only_the_wanted_vectors_are_given() {
    let input = File::open(folder().join("engine/l2-float.tar.gz")).unwrap();
    let mut numbers = Vec::new();
    let summary = read_vectors(
        input,
        &ReadOptions::default(),
        Place::Top,
        None,
        |n| n % 10 == 0,
        |number, _| {
            numbers.push(number);
            Ok(())
        },
    );
    assert!(summary.unwrap().stored > numbers.len() as u64);
    assert!(!numbers.is_empty() && numbers.iter().all(|number| number % 10 == 0));
}
