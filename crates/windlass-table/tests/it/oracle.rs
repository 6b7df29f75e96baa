//! What must come of a data set: one row at a time, on maps, without a line of the crate. Written again after the program
//! that computed `tests/data/sample/expected`, with which it is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use windlass_table::{Day, Uniqueness};

use crate::generator::{Delivery, Generated, Record, order};

const DAY: i64 = 86_400;
const KEY: [&str; 2] = ["trip_id", "leg"];
const SORT: [&str; 2] = ["city_id", "status"];
const COLUMNS: [&str; 11] =
    ["event_time", "trip_id", "leg", "city_id", "status", "fare", "driver_id", "surge", "note", "stops", "rides"];

/// A day when keys count within it, else nothing; and the key.
type Key = (Option<i64>, i64, i64);

/// What each run must come to, in the form of the sample's expected results.
pub(crate) fn expect(of: &Generated, uniqueness: Uniqueness) -> Vec<Value> {
    let mut state: BTreeMap<Key, (i64, Record)> = BTreeMap::new();
    for (day, rows) in &of.archive {
        for row in rows {
            state.insert(key(row, *day, uniqueness), (*day, row.clone()));
        }
    }
    let mut merged = 0;
    let mut found = Vec::new();
    for (name, deliver) in &of.runs {
        let mut counts: BTreeMap<&str, u64> = [
            "rows_in",
            "rows_late",
            "rows_live",
            "out_of_retention",
            "from_future",
            "rejected_no_event_time",
            "rejected_no_key",
        ]
        .map(|name| (name, 0))
        .into();
        let mut before: BTreeMap<Key, Option<(i64, Record)>> = BTreeMap::new();
        for number in deliver.clone().filter(|number| *number >= merged) {
            let delivery = &of.deliveries[number];
            for row in &delivery.rows {
                *counts.entry("rows_in").or_default() += 1;
                let verdict = verdict(row, of);
                *counts.entry(verdict).or_default() += 1;
                if verdict != "rows_late" {
                    continue;
                }
                let day = row["event_time"].as_i64().unwrap().div_euclid(DAY);
                let key = key(row, day, uniqueness);
                let old = state.get(&key).cloned();
                before.entry(key).or_insert_with(|| old.clone());
                let new = applied(old.as_ref().map(|(_, row)| row), row, delivery);
                state.insert(key, (day, new));
            }
        }
        merged = merged.max(deliver.end);
        found.push(outcome(name, &counts, &before, &state));
    }
    found
}

fn key(row: &Record, day: i64, uniqueness: Uniqueness) -> Key {
    let of = |name: &str| row[name].as_i64().unwrap();
    (matches!(uniqueness, Uniqueness::Day).then_some(day), of(KEY[0]), of(KEY[1]))
}

fn verdict(row: &Record, of: &Generated) -> &'static str {
    let Some(at) = row.get("event_time").and_then(Value::as_i64) else { return "rejected_no_event_time" };
    if KEY.iter().any(|name| row.get(*name).is_none_or(Value::is_null)) {
        return "rejected_no_key";
    }
    if at.div_euclid(DAY) < of.now.div_euclid(DAY) - of.retention_days {
        return "out_of_retention";
    }
    if at > of.now {
        return "from_future";
    }
    if at >= of.cutoff { "rows_live" } else { "rows_late" }
}

fn default(column: &str) -> Value {
    match column {
        "status" => json!("unknown"),
        "surge" => json!(false),
        "rides" => json!(0),
        _ => Value::Null,
    }
}

fn applied(old: Option<&Record>, given: &Record, delivery: &Delivery) -> Record {
    let mut row = match old {
        Some(old) => old.clone(),
        None => COLUMNS.iter().map(|name| ((*name).to_owned(), default(name))).collect(),
    };
    for (name, value) in given {
        let mode = delivery.modes.get(name).map_or("overwrite_not_null", String::as_str);
        if value.is_null() && mode != "force_overwrite" {
            continue;
        }
        let stored = old.map_or(&Value::Null, |old| &old[name]);
        let value = match mode {
            "add" | "min" | "max" if stored.is_null() => value.clone(),
            "add" => match (stored.as_i64(), value.as_i64()) {
                (Some(a), Some(b)) => json!(a + b),
                _ => json!(stored.as_f64().unwrap() + value.as_f64().unwrap()),
            },
            "min" if value.as_f64() < stored.as_f64() => value.clone(),
            "max" if value.as_f64() > stored.as_f64() => value.clone(),
            "min" | "max" => stored.clone(),
            _ => value.clone(),
        };
        row.insert(name.clone(), value);
    }
    row
}

fn outcome(
    name: &str,
    counts: &BTreeMap<&str, u64>,
    before: &BTreeMap<Key, Option<(i64, Record)>>,
    state: &BTreeMap<Key, (i64, Record)>,
) -> Value {
    let none = || -> BTreeMap<&str, u64> {
        ["inserted", "updated", "resorted", "moved", "no_effect"].map(|effect| (effect, 0)).into()
    };
    let mut all = none();
    let mut by_day: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
    let mut rewritten: BTreeSet<i64> = BTreeSet::new();
    for (key, was) in before {
        let (day, row) = &state[key];
        let effect = match was {
            None => "inserted",
            Some((home, _)) if home != day => "moved",
            Some((_, old)) if SORT.iter().any(|column| old[*column] != row[*column]) => "resorted",
            Some((_, old)) if old != row => "updated",
            Some(_) => "no_effect",
        };
        *all.entry(effect).or_default() += 1;
        *by_day.entry(name_of(*day)).or_insert_with(none).entry(effect).or_default() += 1;
        if effect != "no_effect" {
            rewritten.insert(*day);
            rewritten.extend(was.iter().map(|(home, _)| *home));
        }
    }
    let mut days: BTreeMap<i64, Vec<&Record>> = BTreeMap::new();
    for (day, row) in state.values() {
        days.entry(*day).or_default().push(row);
    }
    let mut digests = Map::new();
    let mut table = Sha256::new();
    for (day, mut rows) in days {
        rows.sort_by_cached_key(|row| order(row));
        let mut digest = Sha256::new();
        rows.iter().for_each(|row| digest.update(line(row)));
        let digest = hex(&digest.finalize());
        table.update(format!("day={} {digest}\n", name_of(day)));
        digests.insert(name_of(day), json!({ "rows": rows.len(), "sha256": digest }));
    }
    json!({
        "run": name,
        "counts": counts,
        "effects": all,
        "effects_by_day": by_day,
        "rewritten_days": rewritten.into_iter().map(name_of).collect::<Vec<_>>(),
        "days": digests,
        "rows": state.len(),
        "sha256": hex(&table.finalize()),
    })
}

fn name_of(day: i64) -> String {
    Day(i32::try_from(day).unwrap()).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn line(row: &Record) -> String {
    let cells: Vec<String> = COLUMNS.iter().map(|name| cell(name, &row[*name])).collect();
    cells.join("|") + "\n"
}

fn cell(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "~".to_owned(),
        Value::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        Value::Number(number) if name == "fare" => format!("{:016x}", number.as_f64().unwrap().to_bits()),
        Value::Number(number) if name == "event_time" => (number.as_i64().unwrap() * 1_000_000).to_string(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) => {
            let inner: Vec<String> = values.iter().map(|value| cell("", value)).collect();
            format!("[{}]", inner.join(","))
        }
        Value::String(text) => {
            let text = text.replace('%', "%25").replace('|', "%7C").replace('~', "%7E");
            text.replace('\n', "%0A").replace('\r', "%0D")
        }
        Value::Object(_) => panic!("{value} is no cell"),
    }
}
