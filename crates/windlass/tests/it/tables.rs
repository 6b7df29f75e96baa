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

fn scan(tables: &Path, words: &[&str]) -> Vec<u8> {
    let output =
        windlass().args(["table", "scan", "rides"]).args(words).env("WINDLASS_TABLES", tables).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn rows_that_are_looked_at_can_be_sent_again_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let definition = definition(folder.path());
    let made_of = |name: &str, rows: &Path| {
        let tables = folder.path().join(name);
        let rows = rows.to_str().unwrap();
        for words in [
            &["create", "--from", &definition, "--cutoff", "2025-11-20T00:00:00Z"][..],
            &["ingest", "rides", rows],
            &["backfill", "rides"],
        ] {
            let (answer, code) = table(&tables, words);
            assert_eq!(code, 0, "{name} {words:?} {answer}");
        }
        tables
    };
    let rows = folder.path().join("rows.jsonl");
    let line = |at: &str, ride: i64, fare: Value| object!({ "at": at, "ride": ride, "fare": fare }).to_string() + "\n";
    let lines = [
        line("2025-11-18T07:10:00.000001Z", 1, 14.25.into()),
        line("2025-11-18T08:00:00Z", 2, Value::Null),
        line("2025-11-19T08:00:00Z", -3, 9.5.into()),
    ];
    std::fs::write(&rows, lines.concat()).unwrap();
    let tables = made_of("first", &rows);
    let looked =
        ["--columns", "day,ride,fare", "--where", "fare >= 10 OR fare IS NULL", "--order-by=-ride", "--format", "csv"];
    let text = String::from_utf8(scan(&tables, &looked)).unwrap();
    assert_eq!(text, "day,ride,fare\n2025-11-18,2,\n2025-11-18,1,14.25\n");
    assert_eq!(
        scan(&tables, &["--order-by", "fare", "--limit", "1", "--columns", "ride", "--where", "fare IS NOT NULL"]),
        b"{\"ride\":-3}\n"
    );
    let (answer, code) = table(&tables, &["scan", "rides", "--count", "--where", "ride BETWEEN -3 AND 1"]);
    assert_eq!((code, &answer["rows"]), (0, &2.into()), "{answer}");
    let (error, code) = table(&tables, &["scan", "rides", "--where", "wings = 2"]);
    assert_eq!(code, 2, "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("wings"), "{error}");
    let digest = scan(&tables, &["--digest"]);
    for (form, ending) in [("json", "jsonl"), ("csv", "csv"), ("arrow", "arrow"), ("parquet", "parquet")] {
        let again = folder.path().join(format!("again.{ending}"));
        std::fs::write(&again, scan(&tables, &["--columns", "at,ride,fare", "--format", form])).unwrap();
        let copy = made_of(form, &again);
        assert_eq!(String::from_utf8(scan(&copy, &["--digest"])), String::from_utf8(digest.clone()), "{form}");
    }
}
