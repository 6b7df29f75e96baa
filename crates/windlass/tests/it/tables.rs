//! Tables as people make and fill them, here and through a server.

use std::path::Path;

use serde_json::{Value, json as object};

use crate::documents::{json, windlass};
use crate::server::Up;

fn definition(folder: &Path) -> String {
    let path = folder.join("rides.json");
    let document = object!({
        "name": "rides", "event_time": "at", "primary_key": ["ride"],
        "columns": [
            {"name": "at", "type": "timestamp", "nullable": false},
            {"name": "ride", "type": "int64", "nullable": false},
            {"name": "fare", "type": "float64"},
        ],
    });
    std::fs::write(&path, document.to_string()).unwrap();
    path.display().to_string()
}

fn table(tables: &Path, words: &[&str]) -> (Value, i32) {
    json(windlass().arg("table").args(words).env("WINDLASS_TABLES", tables))
}

#[test]
fn what_is_asked_of_a_table_that_is_there_is_never_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let (tables, definition) = (folder.path().join("tables"), definition(folder.path()));
    let create = |more: &[&str]| table(&tables, &[&["create", "--from", &definition], more].concat());
    assert_eq!(create(&["--cutoff", "2025-11-20T00:00:00Z"]).1, 0);
    // The first attempt may have been cut short.
    assert_eq!(create(&["--cutoff", "2025-11-20T00:00:00Z"]).1, 0);
    assert_eq!(create(&[]).1, 0);
    let days = folder.path().join("days");
    std::fs::create_dir_all(days.join("day=2025-11-18")).unwrap();
    std::fs::write(days.join("day=2025-11-18/part.parquet"), "none that is read").unwrap();
    for other in [
        ["--cutoff", "2025-11-21T00:00:00Z"],
        ["--url", "file:///elsewhere?create=true"],
        ["--import", days.to_str().unwrap()],
        ["--shards", "2"],
    ] {
        let (error, code) = create(&other);
        assert_eq!(code, 2, "{other:?} {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("there already"), "{error}");
    }
}

#[test]
fn rows_go_to_a_server_and_are_merged_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let (tables, definition) = (folder.path().join("tables"), definition(folder.path()));
    let made = table(&tables, &["create", "--from", &definition, "--cutoff", "2025-11-20T00:00:00Z"]);
    assert_eq!(made.1, 0, "{}", made.0);
    let state = folder.path().join("state").display().to_string();
    let place = tables.to_str().unwrap();
    let up = Up::start(&state, &["--listen", "127.0.0.1:0", "--tables", place]);
    let rows = folder.path().join("rows.jsonl");
    let late = "{\"at\": \"2025-11-18T07:10:00Z\", \"ride\": 1, \"fare\": 14.0}\n";
    std::fs::write(&rows, format!("{late}{{\"at\": \"2025-11-21T07:10:00Z\", \"ride\": 2}}\n")).unwrap();
    let rows = rows.to_str().unwrap();
    let sent = ["ingest", "rides", rows, "--server", &up.url, "--client", "me", "--sequence", "5"];
    let (answer, code) = table(&tables, &sent);
    assert_eq!((code, &answer["rows"], &answer["batches"]), (0, &2.into(), &1.into()), "{answer}");
    let (answer, code) = table(&tables, &sent);
    assert_eq!((code, &answer["rows"], &answer["batches_before"]), (0, &0.into(), &1.into()), "{answer}");
    // The server holds the log, and says so.
    let (error, code) = table(&tables, &["ingest", "rides", rows]);
    assert_eq!(code, 3, "{error}");
    let (error, code) = table(&tables, &["ingest", "nothing", rows, "--server", &up.url]);
    assert_ne!(code, 0, "{error}");
    let job = folder.path().join("job.json");
    let spec = object!({ "table": tables.join("rides") });
    std::fs::write(&job, object!({ "kind": "backfill", "name": "once", "spec": spec }).to_string()).unwrap();
    let (answer, code) = json(windlass().args(["submit", job.to_str().unwrap(), "--server", &up.url]));
    assert_eq!(code, 0, "{answer}");
    let (_, code) = json(windlass().args(["watch", "once", "--server", &up.url]));
    assert_eq!(code, 0);
    let (report, _) = json(windlass().args(["report", "once", "--server", &up.url]));
    let summary = &report["summary"];
    assert_eq!((&summary["inserted"], &summary["rows_live"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(summary["days"], object!([{"day": "2025-11-18", "rows": 1, "changed": 1, "done": true}]), "{report}");
    up.kill();
}
