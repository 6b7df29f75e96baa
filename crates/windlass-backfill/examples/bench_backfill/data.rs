//! The bench data set: every value is a function of the seed, a stream and an index, so that it can be made again
//! anywhere.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The first day, counted from 1970, and the seconds of a day.
pub(crate) const DAY0: i64 = 20_400;
pub(crate) const DAY: i64 = 86_400;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const STATUS: [&str; 5] = ["cancelled", "completed", "paid", "refunded", "requested"];

/// Rows of a day that are made at a time.
const AT_ONCE: u64 = 4_000_000;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data {
    pub(crate) seed: u64,
    pub(crate) days: i64,
    /// Rows of a day.
    pub(crate) per_day: u64,
}

/// One row; what is `None` was not sent, or is null.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) at: i64,
    trip: i64,
    leg: i16,
    city: Option<i32>,
    status: Option<usize>,
    fare: Option<f64>,
    driver: Option<i64>,
    surge: Option<bool>,
    note: Option<u64>,
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(GOLDEN);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Data {
    fn h(self, stream: u64, i: u64) -> u64 {
        let base = self.seed.wrapping_mul(GOLDEN).wrapping_add(stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        mix(base.wrapping_add(i))
    }

    fn below(self, stream: u64, i: u64, most: u64) -> i64 {
        i64::try_from(self.h(stream, i) % most).unwrap_or(0)
    }

    fn city(self, i: u64) -> i32 {
        let a = self.below(4, i, 1024);
        i32::try_from((a * a * a) >> 21).unwrap_or(0)
    }

    fn base(self, i: u64) -> Row {
        let day = i64::try_from(i / self.per_day).unwrap_or(0);
        Row {
            at: DAY0.wrapping_add(day).wrapping_mul(DAY).wrapping_add(self.below(1, i, 86_400)),
            trip: i64::try_from(self.h(2, i) >> 1).unwrap_or(0),
            leg: i16::try_from(self.below(3, i, 2)).unwrap_or(0),
            city: Some(self.city(i)),
            status: usize::try_from(self.below(5, i, 5)).ok(),
            fare: (!self.h(7, i).is_multiple_of(50)).then(|| self.below(6, i, 20_000) as f64 / 4.0),
            driver: (!self.h(42, i).is_multiple_of(100)).then(|| self.below(8, i, 200_000)),
            surge: Some(self.h(9, i).is_multiple_of(10)),
            note: (self.h(43, i) % 10 >= 7).then(|| self.h(10, i) % 1000),
        }
    }

    /// The late row `j`.
    pub(crate) fn late(self, j: u64, late_days: u64) -> Row {
        let repeats = self.h(23, j).is_multiple_of(10);
        let k = if repeats { j.saturating_sub(1 + self.h(24, j) % 50) } else { j };
        let is_new = self.h(20, k) % 100 >= 75;
        let day = self.days - 1 - self.below(21, k, late_days);
        let known = self.base(u64::try_from(day).unwrap_or(0) * self.per_day + self.h(22, k) % self.per_day);
        let kind = self.h(26, j) % 75;
        let value = self.base(j + 8_000_000_000);
        if is_new {
            let fresh = self.base(k + 4_000_000_000);
            return Row {
                at: (DAY0 + day) * DAY + self.below(25, k, 86_400),
                trip: fresh.trip,
                leg: fresh.leg,
                city: fresh.city,
                status: fresh.status,
                fare: value.fare,
                driver: value.driver,
                surge: value.surge,
                note: value.note,
            };
        }
        let (resort, same) = (kind < 15, (15..20).contains(&kind));
        let update = kind >= 20;
        // A key is known by its row, but for the nulls of generated values, which the driver has beside its value.
        let driver = self.below(8, j + 8_000_000_000, 200_000);
        Row {
            at: known.at,
            trip: known.trip,
            leg: known.leg,
            city: known.city.filter(|_| same),
            status: match (resort, same) {
                (true, _) => value.status,
                (_, true) => known.status,
                _ => None,
            },
            fare: match (update, same) {
                (true, _) => value.fare,
                (_, true) => known.fare,
                _ => None,
            },
            driver: (update && self.h(27, j).is_multiple_of(2)).then_some(driver),
            surge: None,
            note: (update && self.h(28, j).is_multiple_of(5)).then(|| self.h(10, j + 8_000_000_000) % 1000),
        }
    }

    /// Writes the archive, `FOLDER/day=YYYY-MM-DD/part-00000.parquet`.
    pub(crate) fn write(self, folder: &Path) -> Fallible<()> {
        for day in 0..self.days {
            let from = u64::try_from(day)? * self.per_day;
            let name = windlass_table::Day(i32::try_from(DAY0 + day)?);
            let place = folder.join(format!("day={name}"));
            std::fs::create_dir_all(&place)?;
            // A large day is made in parts, by the city that its rows are sorted by first.
            let passes = self.per_day.div_ceil(AT_ONCE);
            let chunks = (0..passes).flat_map(|pass| {
                let ours = |i: &u64| part_of(self.city(*i), passes) == pass;
                let mut rows: Vec<Row> = (from..from + self.per_day).filter(ours).map(|i| self.base(i)).collect();
                // The words for the status are in the order of their numbers.
                rows.sort_by_key(|row| (row.city, row.status, row.trip, row.leg));
                rows.chunks(65_536).map(|rows| batch(rows, None)).collect::<Vec<_>>()
            });
            write(&place.join("part-00000.parquet"), chunks)?;
        }
        Ok(())
    }
}

/// Which of so many parts of a day the rows of a city are in.
fn part_of(city: i32, parts: u64) -> u64 {
    let cities = f64::from(city + 1) / 512.0;
    // Their number is the cube of something that is evenly distributed.
    ((cities.cbrt() * parts as f64) as u64).min(parts - 1)
}

/// A file of these rows, as the archive's files are.
pub(crate) fn write(path: &Path, batches: impl Iterator<Item = Fallible<RecordBatch>>) -> Fallible<u64> {
    let mut writer = None;
    for batch in batches {
        let batch = batch?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                    .set_max_row_group_row_count(Some(122_880))
                    .build();
                none.insert(ArrowWriter::try_new(File::create(path)?, batch.schema(), Some(properties))?)
            }
        };
        writer.write(&batch)?;
    }
    if let Some(writer) = writer {
        writer.close()?;
    }
    Ok(std::fs::metadata(path)?.len())
}

/// Rows as columns; late ones with their numbers, from the first on.
pub(crate) fn batch(rows: &[Row], first: Option<u64>) -> Fallible<RecordBatch> {
    let late = first.is_some();
    let mut fields = vec![
        Field::new("event_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), late),
        Field::new("trip_id", DataType::Int64, late),
        Field::new("leg", DataType::Int16, late),
        Field::new("city_id", DataType::Int32, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("fare", DataType::Float64, true),
        Field::new("driver_id", DataType::Int64, true),
        Field::new("surge", DataType::Boolean, true),
        Field::new("note", DataType::Utf8, true),
    ];
    let at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.at * 1_000_000));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(at.with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.trip))),
        Arc::new(Int16Array::from_iter_values(rows.iter().map(|row| row.leg))),
        Arc::new(rows.iter().map(|row| row.city).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.status.map(|status| STATUS[status])).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.fare).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.driver).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.surge).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.note.map(|note| format!("n{note}"))).collect::<StringArray>()),
    ];
    if let Some(first) = first {
        fields.push(Field::new("seq", DataType::Int64, false));
        let first = i64::try_from(first)?;
        columns.push(Arc::new(Int64Array::from_iter_values((0..rows.len() as i64).map(|n| first + n))));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
