//! The demo of `backfill`: a month of rides in an archive, a burst of rows that come late, a process that dies while it
//! merges them, and the exact result, with sums that would show a row that counts twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};
use windlass_clock::{Entropy as _, Seeded};
use windlass_engine::{report, view};
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::rows::cell;
use windlass_table::run::Around;
use windlass_table::scan::{Selection, scan};
use windlass_table::source::{Form, Meaning, whole_batch};
use windlass_table::{Creation, Definition, Mode, Table};

use crate::app::App;
use crate::commands::table::place::context;
use crate::output::Palette;
use crate::problem::Problem;
use crate::state::Part;

const DAYS: i64 = 30;
const RIDES: i64 = 2000;
/// Rows that come late, and days that they belong to.
const LATE: u64 = 400;
const LATE_DAYS: u64 = 12;
/// The child dies after it has merged so many days.
const DIES_AFTER: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// A ride as it should be: its day, and fare and tips in cents.
type Rides = BTreeMap<i64, (i64, i64, i64)>;

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Merged {
    rides: usize,
    late: u64,
    days: u64,
    inserted: u64,
    updated: u64,
    killed: bool,
    wrong: Vec<String>,
}

impl Merged {
    /// What is not as it should be.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    pub(super) fn text(&self, palette: Palette) -> String {
        let Self { rides, late, days, inserted, updated, .. } = self;
        let mut text = format!("\nan archive of {DAYS} days of rides, and {late} rows that came late\n");
        let _ = writeln!(
            text,
            "  merged into {days} days: {inserted} rides are new, {updated} changed; the first process died on the way"
        );
        if self.wrong.is_empty() {
            let checked = palette.good("checked:");
            let _ = writeln!(text, "{checked} all {rides} rides are there once, and every tip was added once");
        }
        text
    }
}

fn definition() -> Value {
    json!({
        "name": "rides",
        "event_time": "at",
        "primary_key": ["ride"],
        "sort_columns": ["city"],
        "columns": [
            { "name": "at", "type": "timestamp", "nullable": false },
            { "name": "ride", "type": "int64", "nullable": false },
            { "name": "city", "type": "string" },
            { "name": "fare", "type": "int64" },
            { "name": "tips", "type": "int64" },
        ],
    })
}

/// Rows for the table, and what they make of the rides.
struct Scene {
    table: Table,
    definition: Definition,
    arrival: i64,
    /// Midnight of the last day that is archived, in seconds.
    last: i64,
}

impl Scene {
    fn row(&self, ride: i64, day: i64, fare: i64, tips: i64) -> String {
        let at = self.last - day * 86_400 + ride % 80_000;
        let city = ["Oslo", "Bergen", "Tromsø"][usize::try_from(ride % 3).unwrap_or(0)];
        json!({ "at": at, "ride": ride, "city": city, "fare": fare, "tips": tips }).to_string()
    }

    async fn take_in(&self, lines: &[String], modes: &[(&str, Mode)]) -> anyhow::Result<()> {
        let modes = modes.iter().map(|(column, mode)| ((*column).to_owned(), *mode)).collect();
        let meaning = Meaning { modes, arrival: self.arrival, batch_rows: lines.len() };
        let bytes = lines.join("\n").into();
        let batch = whole_batch(Form::JsonLines, &bytes, &self.definition, &meaning)?.context("rows for the demo")?;
        let (folder, identity) = (self.table.log_folder(0)?, self.table.identity(0)?);
        let writer = Writer::open(folder, identity, Limits::default(), Lsn::default())?;
        writer.append(&batch).await?;
        tokio::task::spawn_blocking(move || drop(writer)).await?;
        Ok(())
    }

    /// What the table holds.
    async fn rides(&self, around: &Around) -> anyhow::Result<(Rides, usize)> {
        let found = Arc::new(Mutex::new((Rides::new(), 0)));
        let (shared, last) = (found.clone(), self.last);
        let selection = Selection::default();
        let scanned = scan(&self.table, &selection, around, move |_, rows, shape| {
            let mut found = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let place = |name: &str| shape.schema.index_of(name).unwrap_or(0);
            for row in 0..rows.num_rows() {
                let number = |name: &str| {
                    let at = place(name);
                    let value = cell(rows.column(at), &shape.types[at], row).to_json(&shape.types[at]);
                    value.as_i64().unwrap_or(i64::MIN)
                };
                let at = place("at");
                let event = match cell(rows.column(at), &shape.types[at], row) {
                    windlass_table::cell::Cell::Int(micros) => micros,
                    _ => i64::MIN,
                };
                let day = (last + 86_399 - event.div_euclid(1_000_000)).div_euclid(86_400);
                found.0.insert(number("ride"), (day, number("fare"), number("tips")));
                found.1 += 1;
            }
            Ok(())
        });
        drop(scanned.await?);
        let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(found)
    }
}

/// Merges late rides.
pub(super) async fn merge(app: &App, folder: &Path) -> anyhow::Result<Merged> {
    let tables = folder.join("tables");
    let now = app.setting.clock.wall();
    let definition = Definition::from_value(definition())?;
    let table = Table::create(&tables.join("rides"), &definition, Creation::default(), &context(app)).await?;
    let last = now.as_second().div_euclid(86_400) * 86_400 - 2 * 86_400;
    let scene = Scene { table, definition, arrival: now.as_microsecond(), last };
    let mut wanted = Rides::new();
    let mut lines = Vec::new();
    for ride in 0..RIDES {
        let (day, fare) = (ride % DAYS, 1000 + ride % 700);
        lines.push(scene.row(ride, day, fare, 0));
        wanted.insert(ride, (day, fare, 0));
    }
    scene.take_in(&lines, &[]).await?;
    let archived = run(app, &tables, "archive", None).await?;
    let mut wrong = Vec::new();
    if !archived {
        wrong.push("archiving the rides failed".to_owned());
    }

    let random = Seeded::new(11);
    let mut burst = Vec::new();
    for n in 0..LATE {
        let of_known = !random.next_u64().is_multiple_of(4);
        let number = i64::try_from(random.next_u64() % 100_000).unwrap_or(0);
        let late_day = i64::try_from(random.next_u64() % LATE_DAYS).unwrap_or(0) * 2;
        let ride = if of_known { late_day + DAYS * (number % (RIDES / DAYS)) } else { RIDES + i64::try_from(n)? };
        let tips = 1 + number % 50;
        burst.push(scene.row(ride, late_day, 2000, tips));
        let known = wanted.entry(ride).or_insert((late_day, 2000, 0));
        *known = (known.0, 2000, known.2 + tips);
    }
    scene.take_in(&burst, &[("tips", Mode::Add)]).await?;
    // Dies by SIGKILL after some days are merged; whoever comes next goes on.
    let killed = !run(app, &tables, "backfill", Some(format!("merge:after:{DIES_AFTER}"))).await?;
    if !killed {
        wrong.push("the process that was to die did not".to_owned());
    }
    let held = app.state()?.open(&app.setting, Part::worker(None)).await?;
    let job = view::find(&**held.engine.store(), "backfill-rides-0").await?;
    let began = app.setting.clock.monotonic();
    let status = loop {
        let status = held.engine.wait(job).await?;
        if status.result.is_some() {
            break status;
        }
        if app.setting.clock.monotonic().saturating_sub(began) > PATIENCE {
            return Err(Problem::failed("nobody went on with the backfill").into());
        }
        app.setting.clock.sleep(PAUSE).await;
    };
    if !status.result.is_some_and(windlass_model::job::JobResult::is_success) {
        wrong.push("the backfill failed".to_owned());
    }
    let report = report::make(&**held.engine.store(), &app.setting.kinds, job, app.setting.clock.wall()).await?;
    let summary = report.summary;
    held.close().await?;

    let around = Around::new(app.setting.clock.clone(), app.setting.entropy.clone(), folder.join("look"));
    let (found, rows) = scene.rides(&around).await?;
    if found != wanted || rows != wanted.len() {
        let differ = wanted.iter().filter(|(ride, what)| found.get(ride) != Some(what)).count();
        wrong.push(format!("{differ} of {} rides are not as they should be, and {rows} are there", wanted.len()));
    }
    let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or(0);
    Ok(Merged {
        rides: wanted.len(),
        late: LATE,
        days: number("days_rewritten"),
        inserted: number("inserted"),
        updated: number("updated"),
        killed,
        wrong,
    })
}

/// Runs this program as people do; whether it succeeded.
async fn run(app: &App, tables: &Path, command: &str, crash: Option<String>) -> anyhow::Result<bool> {
    let state = app.state.as_deref().context("the demo has a state of its own")?;
    let mut child = tokio::process::Command::new(std::env::current_exe().context("find this program")?);
    child.args(["--state", state, "table", command, "rides", "--tables"]).arg(tables);
    child.env_remove("WINDLASS_SERVER").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(at) = crash {
        child.env(crate::crash::CRASH_AT, at);
    }
    Ok(child.kill_on_drop(true).status().await.context("start this program")?.success())
}
