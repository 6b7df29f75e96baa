//! The generator of the test data, written again after the one that made `tests/data/sample`: every value is a function
//! of a seed, a stream and an index, so that both make the same from the same seed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value, json};
use windlass_table::Day;

use crate::world::data;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const DAY: i64 = 86_400;
/// 2025-11-08.
const FIRST: i64 = 20_400;
const DAYS: i64 = 12;
const STATUS: [&str; 5] = ["cancelled", "completed", "paid", "refunded", "requested"];
const NOTES: [&str; 10] = [
    "ok",
    "",
    "customer called|twice",
    "100% refund",
    "a~b",
    "ligne 1\nligne 2",
    "京都駅",
    "Zürich HB",
    "\"quoted\"",
    "tab\there",
];

/// A row, by the names of its columns. Event times are in seconds.
pub(crate) type Record = Map<String, Value>;

/// What comes in one batch.
pub(crate) struct Delivery {
    pub(crate) modes: BTreeMap<String, String>,
    pub(crate) rows: Vec<Record>,
}

/// A data set.
pub(crate) struct Generated {
    /// By day: the rows that are archived, in no order.
    pub(crate) archive: BTreeMap<i64, Vec<Record>>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) cutoff: i64,
    pub(crate) now: i64,
    pub(crate) retention_days: i64,
    /// Which deliveries each run brings.
    pub(crate) runs: [(&'static str, std::ops::Range<usize>); 3],
}

#[derive(Clone, Copy)]
struct Numbers(u64);

impl Numbers {
    fn of(self, stream: u64, index: u64) -> u64 {
        let mut x = self
            .0
            .wrapping_mul(GOLDEN)
            .wrapping_add(stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
            .wrapping_add(index)
            .wrapping_add(GOLDEN);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// Below `most`.
    fn below(self, stream: u64, index: u64, most: u64) -> u64 {
        self.of(stream, index) % most
    }

    fn quarter(self, stream: u64, index: u64, most: u64) -> Value {
        json!(self.below(stream, index, most) as f64 / 4.0)
    }

    fn status(self, stream: u64, index: u64) -> Value {
        json!(STATUS[self.below(stream, index, 5) as usize])
    }

    fn note(self, stream: u64, index: u64) -> Value {
        json!(NOTES[self.below(stream, index, 10) as usize])
    }

    fn stops(self, count: u64, stream: u64, first: u64) -> Value {
        (0..count).map(|n| self.below(stream, first + n, 90)).collect::<Vec<u64>>().into()
    }

    /// A value of a late row.
    fn late_cell(self, i: u64, column: &str) -> Value {
        match column {
            "fare" => self.quarter(60, i, 40_000),
            "driver_id" => json!(self.below(61, i, 5000)),
            "surge" => json!(self.below(62, i, 2) == 0),
            "note" => self.note(63, i),
            "stops" => self.stops(self.below(65, i, 5), 64, i * 9),
            "status" => self.status(66, i),
            "city_id" => json!(self.below(67, i, 8).pow(2)),
            _ => json!(self.below(68, i, 4)),
        }
    }

    fn archived(self, day: i64, i: u64, n: u64) -> Record {
        let or_null = |null: bool, value: Value| if null { Value::Null } else { value };
        let mut row = Record::new();
        let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
        let offset = (day - FIRST) as u64;
        set("event_time", json!(day * DAY + self.below(1, i, DAY as u64) as i64));
        set("trip_id", json!(1_000_000 + offset * 1000 + n / 2));
        set("leg", json!(n % 2));
        set("city_id", or_null(self.below(40, i, 97) == 0, json!(self.below(4, i, 8).pow(2))));
        set("status", or_null(self.below(41, i, 41) == 0, self.status(5, i)));
        set("fare", or_null(self.below(7, i, 11) == 0, self.quarter(6, i, 20_000)));
        set("driver_id", or_null(self.below(42, i, 13) == 0, json!(self.below(8, i, 5000))));
        set("surge", json!(offset != 4 && self.below(9, i, 10) == 0));
        set("note", or_null(offset == 3 || self.below(43, i, 10) < 6, self.note(10, i)));
        let stops = self.stops(self.below(46, i, 4), 45, i * 7);
        set("stops", or_null(self.below(44, i, 5) == 0, stops));
        set("rides", json!(1 + self.below(11, i, 3)));
        row
    }
}

fn letter(name: &str, at: usize) -> u64 {
    u64::from(name.as_bytes()[at])
}

fn record(value: Value) -> Record {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no row"),
    }
}

fn set(row: &mut Record, name: &str, value: Value) {
    row.insert(name.to_owned(), value);
}

fn key_of(row: &Record) -> Record {
    ["event_time", "trip_id", "leg"].iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect()
}

fn second(row: &Record) -> i64 {
    row["event_time"].as_i64().unwrap()
}

fn modes(number: u64) -> BTreeMap<String, String> {
    let given: &[(&str, &str)] = match number % 4 {
        1 => &[("fare", "force_overwrite"), ("note", "force_overwrite"), ("status", "force_overwrite")],
        2 => &[("rides", "add"), ("fare", "max")],
        3 => &[("rides", "add"), ("fare", "min")],
        _ => &[],
    };
    given.iter().map(|(name, mode)| ((*name).to_owned(), (*mode).to_owned())).collect()
}

/// The data set of a seed.
pub(crate) fn generate(seed: u64) -> Generated {
    let h = Numbers(seed);
    let mut archive: BTreeMap<i64, Vec<Record>> = BTreeMap::new();
    let mut keys: Vec<(i64, Record)> = Vec::new();
    // One day in the middle has no file.
    for offset in (0..DAYS as u64).filter(|offset| *offset != 8) {
        let day = FIRST + offset as i64;
        for n in 0..320 + offset * 7 {
            let row = h.archived(day, offset * 100_000 + n, n);
            keys.push((day, row.clone()));
            archive.entry(day).or_default().push(row);
        }
    }
    let cutoff = (FIRST + DAYS) * DAY;
    let now = cutoff + DAY + 3600;
    let live: Vec<&(i64, Record)> = keys.iter().filter(|(day, _)| *day > FIRST + 1).collect();
    let of_one_day: Vec<&(i64, Record)> = live.iter().copied().filter(|(day, _)| *day == FIRST + 5).collect();
    let mut inserted: Vec<Record> = Vec::new();
    let mut deliveries = Vec::new();
    for b in 0..15_u64 {
        let mut rows: Vec<Record> = Vec::new();
        for q in 0..if b < 14 { 40 + 5 * (b % 3) } else { 0 } {
            let i = 10_000_000 + b * 1000 + q;
            if b == 9 {
                let (_, base) = of_one_day[h.below(71, i, of_one_day.len() as u64) as usize];
                rows.push(key_of(base));
                continue;
            }
            let kind = if b == 6 { 99 } else { h.below(70, i, 100) };
            let (day, base) = live[h.below(71, i, live.len() as u64) as usize];
            let row = late_row(h, (b, q, i), kind, (*day, base), (cutoff, now), &mut inserted);
            rows.push(row.clone());
            // The same key again in the batch: the later value wins.
            if h.below(85, i, 9) == 0 {
                let mut again = row;
                set(&mut again, "fare", h.late_cell(i + 500, "fare"));
                rows.push(again);
            }
        }
        corners(b, &archive, cutoff, &mut rows);
        deliveries.push(Delivery { modes: modes(b), rows });
    }
    // The second run and the third get something again that was merged before.
    let runs = [("run1", 0..8), ("run2", 6..14), ("run3", 13..15)];
    Generated { archive, deliveries, cutoff, now, retention_days: 11, runs }
}

fn late_row(
    h: Numbers,
    (b, q, i): (u64, u64, u64),
    kind: u64,
    (day, base): (i64, &Record),
    (cutoff, now): (i64, i64),
    inserted: &mut Vec<Record>,
) -> Record {
    let mut row = key_of(base);
    let within_day = |stream: u64| h.below(stream, i, DAY as u64) as i64;
    match kind {
        0..40 => {
            for column in ["fare", "driver_id", "note", "surge", "stops", "rides"] {
                if h.below(72, i * 13 + letter(column, 0), 3) == 0 {
                    set(&mut row, column, h.late_cell(i, column));
                }
            }
            if h.below(86, i, 8) == 0 {
                set(&mut row, "event_time", json!(day * DAY + within_day(87)));
            }
            for (stream, column) in [(73, "fare"), (74, "note")] {
                if h.below(stream, i, 6) == 0 {
                    set(&mut row, column, Value::Null);
                }
            }
        }
        40..60 => {
            let status = if h.below(75, i, 5) == 0 { Value::Null } else { h.late_cell(i, "status") };
            set(&mut row, "status", status);
            if h.below(76, i, 3) == 0 {
                set(&mut row, "city_id", h.late_cell(i, "city_id"));
            }
            set(&mut row, "fare", h.late_cell(i, "fare"));
        }
        60..66 => {
            set(&mut row, "driver_id", base["driver_id"].clone());
            set(&mut row, "city_id", base["city_id"].clone());
        }
        66..72 => {
            let to = if day + 1 < FIRST + DAYS { DAY } else { -DAY };
            set(&mut row, "event_time", json!(second(base) + to));
            set(&mut row, "fare", h.late_cell(i, "fare"));
        }
        72..76 if !inserted.is_empty() => {
            row = inserted[h.below(77, i, inserted.len() as u64) as usize].clone();
            set(&mut row, "fare", h.late_cell(i, "fare"));
            set(&mut row, "status", h.late_cell(i, "status"));
        }
        72..79 => set(&mut row, "event_time", json!(FIRST * DAY + within_day(78))),
        79..81 => set(&mut row, "event_time", json!(now + 1 + within_day(79))),
        81..84 => {
            set(&mut row, "event_time", json!(cutoff + within_day(80)));
            set(&mut row, "trip_id", json!(9_000_000 + i));
        }
        _ => {
            let day = FIRST + 2 + h.below(81, i, DAYS as u64 - 2) as i64;
            let at = day * DAY + within_day(82);
            row = record(json!({ "event_time": at, "trip_id": 5_000_000 + b * 1000 + q, "leg": h.below(83, i, 2) }));
            inserted.push(row.clone());
            for column in ["city_id", "status", "fare", "driver_id", "note", "surge", "stops", "rides"] {
                let index = i * 17 + column.len() as u64 * 3 + letter(column, 1);
                match h.below(84, index, 5) {
                    0 => {}
                    1 => set(&mut row, column, Value::Null),
                    _ => set(&mut row, column, h.late_cell(i, column)),
                }
            }
        }
    }
    row
}

/// Rows that some batches bring beside the others.
fn corners(b: u64, archive: &BTreeMap<i64, Vec<Record>>, cutoff: i64, rows: &mut Vec<Record>) {
    let at = (FIRST + 5) * DAY;
    let midnight = (FIRST + 6) * DAY;
    let more = match b {
        2 => json!([{ "trip_id": 1, "leg": 0, "fare": 1.0 }, { "event_time": null, "trip_id": 2, "leg": 0 }]),
        3 => json!([{ "event_time": at, "leg": 0, "fare": 2.0 }, { "event_time": at + 1, "trip_id": null, "leg": 1 }]),
        11 => {
            // A column that is null in the whole day, and one that is the default in the whole day.
            for (noted, surged) in archive[&(FIRST + 3)].iter().zip(&archive[&(FIRST + 4)]).take(5) {
                for (base, column, value) in [(noted, "note", json!("late note")), (surged, "surge", json!(true))] {
                    let mut row = key_of(base);
                    set(&mut row, column, value);
                    rows.push(row);
                }
            }
            json!([])
        }
        12 => json!([
            { "event_time": midnight - 1, "trip_id": 7_000_001, "leg": 0, "city_id": 1 },
            { "event_time": midnight, "trip_id": 7_000_002, "leg": 0, "city_id": 1 },
            { "event_time": cutoff - 1, "trip_id": 7_000_003, "leg": 0 },
            { "event_time": cutoff, "trip_id": 7_000_004, "leg": 0 },
        ]),
        // Nothing in here changes the archive.
        14 => json!([
            { "event_time": midnight - 1, "trip_id": 7_000_001, "leg": 0, "city_id": 1 },
            { "event_time": midnight, "trip_id": 7_000_002, "leg": 0, "fare": null },
            { "event_time": FIRST * DAY + 5, "trip_id": 7_000_009, "leg": 0 },
            { "event_time": cutoff + 5, "trip_id": 7_000_010, "leg": 0 },
        ]),
        _ => json!([]),
    };
    rows.extend(more.as_array().unwrap().iter().cloned().map(record));
}

/// Sort columns, then the key; nulls first.
pub(crate) fn order(row: &Record) -> (Option<i64>, Option<Vec<u8>>, i64, i64) {
    let status = row["status"].as_str().map(|status| status.as_bytes().to_vec());
    (row["city_id"].as_i64(), status, row["trip_id"].as_i64().unwrap(), row["leg"].as_i64().unwrap())
}

impl Generated {
    /// Writes the data set to a folder, in the form in which the sample is.
    pub(crate) fn write(&self, to: &Path) {
        fs::create_dir_all(to.join("late")).unwrap();
        fs::copy(data("sample/table.json"), to.join("table.json")).unwrap();
        let mut batches = Vec::new();
        for (number, delivery) in self.deliveries.iter().enumerate() {
            let file = format!("batch_{number:04}.jsonl");
            let lines: String = delivery.rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect();
            fs::write(to.join("late").join(&file), lines).unwrap();
            batches.push(json!({ "file": file, "modes": delivery.modes, "rows": delivery.rows.len() }));
        }
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|(name, of)| json!({ "name": name, "deliver": of.clone().collect::<Vec<_>>() }))
            .collect();
        let about = json!({
            "cutoff": self.cutoff,
            "now": self.now,
            "retention_days": self.retention_days,
            "batches": batches,
            "runs": runs,
        });
        fs::write(to.join("late/batches.json"), about.to_string()).unwrap();
        for (day, rows) in &self.archive {
            let folder = to.join("archive").join(format!("day={}", Day(i32::try_from(*day).unwrap())));
            fs::create_dir_all(&folder).unwrap();
            let mut rows: Vec<&Record> = rows.iter().collect();
            rows.sort_by_cached_key(|row| order(row));
            write_day(&folder.join("part-00000.parquet"), &rows);
        }
    }
}

fn write_day(path: &Path, rows: &[&Record]) {
    let long = |name: &'static str| rows.iter().map(move |row| row[name].as_i64());
    let text = |name: &'static str| rows.iter().map(move |row| row[name].as_str()).collect::<StringArray>();
    let mut stops = ListBuilder::new(Int32Builder::new());
    for row in rows {
        match row["stops"].as_array() {
            Some(of) => {
                of.iter().for_each(|stop| stops.values().append_option(stop.as_i64().map(|stop| stop as i32)));
                stops.append(true);
            }
            None => stops.append(false),
        }
    }
    let times: TimestampMicrosecondArray = long("event_time").map(|at| at.map(|at| at * 1_000_000)).collect();
    let columns: Vec<(&str, bool, ArrayRef)> = vec![
        ("event_time", false, Arc::new(times.with_timezone("UTC"))),
        ("trip_id", false, Arc::new(long("trip_id").collect::<Int64Array>())),
        ("leg", false, Arc::new(long("leg").map(|leg| leg.map(|leg| leg as i16)).collect::<Int16Array>())),
        ("city_id", true, Arc::new(long("city_id").map(|city| city.map(|city| city as i32)).collect::<Int32Array>())),
        ("status", true, Arc::new(text("status"))),
        ("fare", true, Arc::new(rows.iter().map(|row| row["fare"].as_f64()).collect::<Float64Array>())),
        ("driver_id", true, Arc::new(long("driver_id").collect::<Int64Array>())),
        ("surge", true, Arc::new(rows.iter().map(|row| row["surge"].as_bool()).collect::<BooleanArray>())),
        ("note", true, Arc::new(text("note"))),
        ("stops", true, Arc::new(stops.finish())),
        ("rides", true, Arc::new(long("rides").map(|n| n.map(|n| n as i32)).collect::<Int32Array>())),
    ];
    let field = |(name, null, array): &(&str, bool, ArrayRef)| Field::new(*name, array.data_type().clone(), *null);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    assert_eq!(schema.field(0).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    // Several row groups a file, so that what goes by row group is tried.
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(96)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
