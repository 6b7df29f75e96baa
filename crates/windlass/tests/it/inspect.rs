//! `windlass index inspect` on every backup of the reader's manifest, with the memory it took.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::documents::{json, windlass};

#[derive(Deserialize)]
struct Row {
    file: String,
    fast: Vec<String>,
    full: Vec<String>,
    count: Option<u64>,
    ids_sha256: Option<String>,
    pairs_sha256: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../windlass-index-backup/tests/fixtures")
}

fn rows() -> Vec<Row> {
    serde_json::from_slice(&fs::read(folder().join("manifest.json")).unwrap()).unwrap()
}

/// The options that go with a fixture's folder: bare files and plain tars without a magic say what they are.
fn options(file: &str) -> &'static [&'static str] {
    match file.split('/').next() {
        Some("gob") => &["--form", "id-map"],
        Some("timestamp") => &["--form", "times"],
        Some("tar") => &["--form", "backup", "--compression", "none"],
        _ => &[],
    }
}

#[test]
fn every_fixture_has_the_outcome_of_its_manifest_in_both_modes() {
    let rows = rows();
    assert!(rows.len() > 100, "the manifest has shrunk to {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        for (mode, allowed) in [(&[][..], &row.fast), (&["--full"][..], &row.full)] {
            let mut command = windlass();
            command.args(["index", "inspect"]).arg(folder().join(&row.file)).args(options(&row.file)).args(mode);
            let (document, code) = json(&mut command);
            let outcome = document["error"]["code"].as_str().unwrap_or("ok");
            let code_fits = (code == 0) == (outcome == "ok") && code < 2;
            if !allowed.iter().any(|allowed| allowed == outcome) || !code_fits {
                wrong.push(format!("{} {mode:?}: {outcome}, exit code {code}, wanted {allowed:?}", row.file));
            }
            if outcome != "ok" {
                continue;
            }
            if row.count.is_some_and(|count| document["count"] != count) {
                wrong.push(format!("{} {mode:?}: {} ids", row.file, document["count"]));
            }
            for (name, wanted) in [("ids_sha256", &row.ids_sha256), ("pairs_sha256", &row.pairs_sha256)] {
                if wanted.as_ref().is_some_and(|wanted| document[name] != **wanted) {
                    wrong.push(format!("{} {mode:?}: {name} {}", row.file, document[name]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Peak memory in bytes of one run, as the program tells it at its end.
fn peak(file: &Path, options: &[&str]) -> u64 {
    let output = windlass().args(["index", "inspect", "-v"]).arg(file).args(options).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("peak memory: "));
    let kib: u64 = line.and_then(|line| line.strip_suffix(" kB")).unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    kib * 1024
}

#[test]
fn memory_stays_below_64_mib_for_every_fixture() {
    for row in rows() {
        let path = folder().join(&row.file);
        let mut all = options(&row.file).to_vec();
        all.push("--full");
        let peak = peak(&path, &all);
        assert!(peak > 1 << 20, "{} was not measured", row.file);
        assert!(peak < 64 << 20, "{} took {} MiB", row.file, peak >> 20);
    }
}

#[test]
fn ids_are_printed_and_match_the_checksum() {
    let path = folder().join("gob/unicode.kvsdb");
    let inspect = |more: &[&str]| {
        let mut command = windlass();
        command.args(["index", "inspect"]).arg(&path).args(["--form", "id-map"]).args(more);
        command
    };
    let (document, code) = json(&mut inspect(&["--ids"]));
    assert_eq!(code, 0);
    assert_eq!(document["ids"].as_array().map(Vec::len), Some(14));
    assert_eq!(document["inspection"]["count"], 14);
    let lines = inspect(&["--ids"]).output().unwrap();
    assert_eq!(String::from_utf8(lines.stdout).unwrap().lines().count(), 14);
    assert!(String::from_utf8(lines.stderr).unwrap().contains("ids_sha256"));
    let bytes = inspect(&["--ids=length-prefixed"]).output().unwrap().stdout;
    // The checksum of the manifest is defined over exactly these bytes.
    let digest = windlass_model::Digest::of(&bytes).to_string();
    let row = rows().into_iter().find(|row| row.file == "gob/unicode.kvsdb").unwrap();
    assert_eq!(digest, format!("sha256:{}", row.ids_sha256.unwrap()));
    let (error, code) = json(&mut inspect(&["--ids=length-prefixed"]));
    assert_eq!(code, 2, "{error}");
}

#[test]
fn a_damaged_backup_with_ids_is_still_one_document() {
    let row = rows().into_iter().find(|row| row.file.starts_with("gob/") && !row.full.contains(&"ok".into())).unwrap();
    let mut command = windlass();
    command.args(["index", "inspect", "--ids", "--full"]).arg(folder().join(&row.file)).args(["--form", "id-map"]);
    let (document, code) = json(&mut command);
    assert_eq!(code, 1);
    assert!(document["ids"].is_array());
    assert!(row.full.iter().any(|code| document["error"]["code"] == **code), "{document}");
}

#[test]
fn standard_input_and_blob_urls_are_read_as_files_are() {
    let path = folder().join("tar/flat.tar");
    let whole = |document: Value| document["ids_sha256"].clone();
    let (from_file, _) = json(windlass().args(["index", "inspect", "--compression", "none"]).arg(&path));
    let input = fs::read(&path).unwrap();
    let (from_input, code) =
        json(windlass().args(["index", "inspect", "-", "--compression", "none"]).write_stdin(input));
    assert_eq!(code, 0);
    let url = format!("file://{}", path.canonicalize().unwrap().display());
    let (from_url, code) = json(windlass().args(["index", "inspect", &url, "--compression", "none"]));
    assert_eq!(code, 0, "{from_url}");
    let [a, b, c] = [from_file, from_input, from_url].map(whole);
    assert!(a.is_string() && a == b && b == c, "{a} {b} {c}");
    let (error, code) = json(windlass().args(["index", "inspect", &format!("{url}.missing")]));
    assert_eq!((code, error["error"]["code"].as_str()), (3, Some("object_not_found")), "{error}");
    windlass().args(["index", "inspect", "/does/not/exist"]).assert().code(2);
    windlass().args(["index", "inspect"]).arg(folder()).assert().code(2);
}

#[test]
fn a_limit_on_decompressed_bytes_is_kept() {
    let path = folder().join("compressed/backup.tar.gz");
    assert!(File::open(&path).is_ok());
    let (error, code) = json(windlass().args(["index", "inspect", "--full", "--max-plain-bytes", "1000"]).arg(&path));
    assert_eq!((code, error["error"]["code"].as_str()), (1, Some("compression_limit")), "{error}");
}
