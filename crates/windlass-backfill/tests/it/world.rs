//! A small table, and what is done to it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_table::run::Around;
use windlass_table::scan::{Selection, scan};
use windlass_table::{Creation, Definition, Table, rows};

/// Midnight of 2025-11-20, in seconds.
pub(crate) const CUTOFF: i64 = 1_763_596_800;

pub(crate) fn definition(name: &str) -> Value {
    json!({
        "name": name, "event_time": "at", "primary_key": ["ride"], "sort_columns": ["city"],
        "columns": [
            {"name": "at", "type": "timestamp", "nullable": false},
            {"name": "ride", "type": "int64", "nullable": false},
            {"name": "city", "type": "string"},
            {"name": "fare", "type": "float64"},
        ],
    })
}

/// A table whose archive ends at [`CUTOFF`].
pub(crate) async fn table(folder: &Path, name: &str, shards: u32, settings: &Value) -> Table {
    let mut text = definition(name);
    text.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap_or_default());
    let definition = Definition::from_value(text).unwrap();
    let creation = Creation { shards, cutoff: Some(CUTOFF), ..Creation::default() };
    Table::create(&folder.join(name), &definition, creation, &Context::real()).await.unwrap()
}

/// Rows as JSON lines: ride, seconds before the cutoff, fare.
pub(crate) fn lines(rows: &[(i64, i64, f64)]) -> String {
    let line = |(ride, before, fare): &(i64, i64, f64)| {
        json!({"at": CUTOFF - before, "ride": ride, "city": "Oslo", "fare": fare}).to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The fares of the rides in the table, with what waits if that is wanted.
pub(crate) async fn fares(table: &Table, work: &Path, live: bool) -> Vec<(i64, f64)> {
    let around = Around::new(SystemClock::real(), SystemEntropy::real(), work.to_path_buf());
    let found = Arc::new(Mutex::new(Vec::new()));
    let shared = found.clone();
    let selection = Selection { live, ..Selection::default() };
    let scanned = scan(table, &selection, &around, move |_, batch, shape| {
        for row in 0..batch.num_rows() {
            let value = |at: usize| rows::cell(batch.column(at), &shape.types[at], row).to_json(&shape.types[at]);
            shared.lock().unwrap().push((value(1).as_i64().unwrap(), value(3).as_f64().unwrap()));
        }
        Ok(())
    });
    drop(scanned.await.unwrap());
    let mut found = std::mem::take(&mut *found.lock().unwrap());
    found.sort_by_key(|(ride, _)| *ride);
    found
}
