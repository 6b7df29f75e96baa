//! Tables whose files and log of versions lie in S3: killed before each change there, with answers that are lost, beside a
//! rival, and with a store that refuses.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use windlass_blob::{Context, Environment, RetryPolicy, Settings, Timeouts};
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_sim::s3::{Fault, FaultProxy, S3Server, Script, Seen};
use windlass_table::compact::{CompactOrder, compact};
use windlass_table::log::{Limits, Writer};
use windlass_table::run::{self, Around, Finished, Order};
use windlass_table::source::{Meaning, json_batches};
use windlass_table::vacuum::{VacuumOrder, vacuum};
use windlass_table::{Creation, Definition, Layout, Mode, Result, Table, TableError, Uniqueness};

use crate::world::{World, data, json as read_json};

/// Midnight of 2025-11-20, in seconds.
const CUTOFF: i64 = 1_763_596_800;

fn credentials() -> Environment {
    Environment::from_pairs(S3Server::credentials())
}

/// Little patience, so that what fails for ever fails soon.
fn context() -> Context {
    let retry = RetryPolicy {
        attempts: NonZeroU32::new(3).unwrap(),
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        ..RetryPolicy::default()
    };
    Context::real().with_environment(credentials()).with_settings(Settings { retry, ..Settings::default() })
}

/// The same, with a store that is silent.
fn impatient() -> Context {
    let settings = context().settings;
    let timeouts = Timeouts { idle: Duration::from_millis(500), ..Timeouts::default() };
    context().with_settings(Settings { timeouts, ..settings })
}

/// A server of S3, with a proxy before it, and a small table: two days, ten versions, late rows for both days in its log.
struct Site {
    folder: TempDir,
    _server: S3Server,
    proxy: FaultProxy,
}

impl Site {
    async fn new(layout: Layout) -> Self {
        let folder = TempDir::new().unwrap();
        let place = folder.path().join("s3");
        std::fs::create_dir_all(&place).unwrap();
        let server = S3Server::start(&place).unwrap();
        server.create_bucket("bucket").unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        let site = Self { folder, _server: server, proxy };
        let definition = definition(layout);
        let url = format!("s3://bucket/tables/trips?endpoint={}", site.proxy.endpoint());
        let creation = Creation { url: Some(url), ..Creation::default() };
        let table = Table::create(&site.home(), &definition, creation, &context()).await.unwrap();
        let rows = |ids: std::ops::Range<i64>, fare: f64| -> String {
            let row =
                |id: i64| json!({"at": CUTOFF - 10 - (id % 2) * 86_400, "id": id, "fare": fare}).to_string() + "\n";
            ids.map(row).collect()
        };
        ingest(&table, &rows(0..80, 1.0)).await;
        let order = Order { archive_to: Some(CUTOFF), ..order("archive") };
        whole(&table, &order, &site.around("archive")).await.unwrap();
        while table.snapshot().await.unwrap().version < 9 {
            table
                .alter("SET TBLPROPERTIES", &context(), |metadata| {
                    metadata.configuration.insert("note".into(), "none".into());
                    Ok(())
                })
                .await
                .unwrap();
        }
        // Three batches in segments of their own: rows that add up, new rows.
        for from in [0, 2, 78] {
            ingest(&table, &rows(from..from + 4, 0.25)).await;
        }
        copy(&site.home(), &site.folder.path().join("as-it-was/home"));
        copy(&place.join("bucket"), &site.folder.path().join("as-it-was/bucket"));
        site
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("trips")
    }

    fn table(&self) -> Table {
        Table::open(&self.home(), &context()).unwrap()
    }

    fn around(&self, name: &str) -> Around {
        Around::new(SystemClock::real(), SystemEntropy::real(), self.folder.path().join("work").join(name))
    }

    /// Makes everything as it was before the late rows were merged.
    fn restore(&self) {
        for (part, place) in [("home", self.home()), ("bucket", self.folder.path().join("s3/bucket"))] {
            std::fs::remove_dir_all(&place).unwrap();
            copy(&self.folder.path().join("as-it-was").join(part), &place);
        }
    }

    /// What the table holds, how far it is merged, and what lies in its place that belongs to nobody.
    async fn state(&self) -> String {
        self.proxy.run(Script::pass());
        let table = self.table();
        let (days, rows, all) =
            windlass_table::scan::digest(&table, &Default::default(), &self.around("look")).await.unwrap().finish();
        let snapshot = table.snapshot().await.unwrap();
        let known = snapshot.known_objects();
        let listing = table.store().list("").await.unwrap();
        let strangers: Vec<String> = listing
            .entries
            .into_iter()
            .map(|entry| entry.key)
            .filter(|key| !key.starts_with("_delta_log/") && !known.contains(key))
            .collect();
        let (merged, _) = table.progress(&snapshot, 0);
        let segments = std::fs::read_dir(table.log_folder(0).unwrap()).unwrap();
        let segments = segments.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("seg".as_ref()));
        format!(
            "{} days, {rows} rows, {all}, merged up to {merged}, strangers {strangers:?}, {} segment(s), version {}",
            days.len(),
            segments.count(),
            snapshot.version,
        )
    }
}

fn definition(layout: Layout) -> Definition {
    let text = json!({
        "name": "trips", "event_time": "at", "primary_key": ["id"], "layout": layout,
        "columns": [
            {"name": "at", "type": "timestamp", "nullable": false},
            {"name": "id", "type": "int64", "nullable": false},
            {"name": "fare", "type": "float64"},
        ],
    });
    Definition::parse(&text.to_string()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

async fn ingest(table: &Table, lines: &str) {
    let snapshot = table.snapshot().await.unwrap();
    let (checkpoint, _) = table.progress(&snapshot, 0);
    let (folder, identity) = (table.log_folder(0).unwrap(), table.identity(0).unwrap());
    let limits = Limits { segment_bytes: 100, ..Limits::default() };
    let writer = Writer::open(folder, identity, limits, checkpoint).unwrap();
    let modes = BTreeMap::from([("fare".to_owned(), Mode::Add)]);
    let meaning = Meaning { modes, arrival: (CUTOFF + 60) * 1_000_000, batch_rows: 1000 };
    let mut found = Vec::new();
    json_batches(&mut lines.as_bytes(), &snapshot.definition().unwrap(), &meaning, |batch| {
        found.push(batch);
        Ok(())
    })
    .unwrap();
    for batch in found {
        writer.append(&batch).await.unwrap();
    }
}

fn order(run: &str) -> Order {
    Order { run: run.to_owned(), shard: 0, archive_to: None, most_bytes: u64::MAX }
}

/// A run from its plan to its end.
async fn whole(table: &Table, order: &Order, around: &Around) -> Result<Option<Finished>> {
    let done = match run::plan(table, order, around).await? {
        None => None,
        Some(plan) => {
            for day in &plan.days {
                run::merge_day(table, &plan, day.day, around, |_| async { Ok(()) }).await?;
            }
            Some(run::commit(table, &plan, around).await?)
        }
    };
    run::clean(table, &order.run, 0, around).await?;
    run::checkpoint(table, around).await?;
    Ok(done)
}

fn changes(seen: &Seen) -> bool {
    ["PUT", "POST", "DELETE"].contains(&seen.method.as_str())
}

/// Hangs at the `n`th change, and tells that it does.
fn hang_at(n: usize, told: &Arc<Notify>) -> Script {
    let (count, told) = (AtomicUsize::new(0), told.clone());
    Script::by(move |seen| {
        if !changes(seen) || count.fetch_add(1, Ordering::Relaxed) + 1 != n {
            return Fault::Pass;
        }
        told.notify_one();
        Fault::Hang
    })
}

/// Kills a run before each change that it makes in S3 and lets either the same run be made again or another one, and
/// compares with a run that was not killed.
async fn killed_anywhere(layout: Layout) {
    let site = Site::new(layout).await;
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    let wanted = site.state().await;
    assert!(wanted.contains("82 rows") && wanted.contains("strangers [], 1 segment(s), version 10"), "{wanted}");
    let mut kills = 0;
    for n in 1.. {
        site.restore();
        let told = Arc::new(Notify::new());
        site.proxy.run(hang_at(n, &told));
        let killed = {
            let (table, around, order) = (site.table(), site.around("one"), order("one"));
            let life = whole(&table, &order, &around);
            tokio::select! {
                biased;
                () = told.notified() => true,
                ended = life => { ended.unwrap(); false }
            }
        };
        site.proxy.run(Script::pass());
        if !killed {
            break;
        }
        kills += 1;
        let again = if n % 2 == 0 { "one" } else { "other" };
        whole(&site.table(), &order(again), &site.around(again)).await.unwrap();
        run::clean(&site.table(), "one", 0, &site.around("one")).await.unwrap();
        assert_eq!(site.state().await, wanted, "killed before change {n}");
    }
    assert!(kills > 15, "{kills}");
}

#[tokio::test]
async fn a_run_that_is_killed_before_any_change_in_s3_merges_every_row_once() {
    killed_anywhere(Layout::CopyOnWrite).await;
}

#[tokio::test]
async fn a_run_that_hides_rows_and_is_killed_before_any_change_in_s3_merges_every_row_once() {
    killed_anywhere(Layout::MergeOnRead).await;
}

#[tokio::test]
async fn answers_that_are_lost_change_nothing() {
    let site = Site::new(Layout::CopyOnWrite).await;
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    let wanted = site.state().await;
    for n in 1.. {
        site.restore();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        site.proxy.run(Script::by(move |seen| {
            let lost = changes(seen) && counted.fetch_add(1, Ordering::Relaxed) + 1 == n;
            if lost { Fault::LoseAnswer } else { Fault::Pass }
        }));
        whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
        if count.load(Ordering::Relaxed) < n {
            assert!(n > 15);
            break;
        }
        assert_eq!(site.state().await, wanted, "the answer to change {n} was lost");
    }
}

#[tokio::test]
async fn of_two_workers_at_the_same_time_one_commits_and_the_other_finds_that_out() {
    let site = Site::new(Layout::CopyOnWrite).await;
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    let wanted = site.state().await;
    for _ in 0..2 {
        site.restore();
        // The stand-in looks whether an object is there before it makes one, which a second writer may come between.
        let entries = AtomicUsize::new(0);
        site.proxy.run(Script::by(move |seen| {
            let second = commits(seen) && entries.fetch_add(1, Ordering::Relaxed) > 0;
            if second { Fault::Delay(Duration::from_secs(1)) } else { Fault::Pass }
        }));
        let (one, other) = (site.table(), site.table());
        let (here, there) = (site.around("here"), site.around("there"));
        let (first, second) = (order("here"), order("there"));
        let (left, right) = tokio::join!(whole(&one, &first, &here), whole(&other, &second, &there));
        let ends: Vec<Finished> = [left.unwrap(), right.unwrap()].into_iter().flatten().collect();
        assert_eq!(ends.iter().filter(|end| !end.already).count(), 1, "{ends:?}");
        assert!(ends.iter().all(|end| end.committed_version == Some(10)), "{ends:?}");
        assert_eq!(site.state().await, wanted);
    }
}

#[tokio::test]
async fn a_worker_whose_rival_merged_less_plans_anew() {
    let site = Site::new(Layout::CopyOnWrite).await;
    let (table, around) = (site.table(), site.around("work"));
    let (small, large) = (Order { most_bytes: 1, ..order("small") }, order("large"));
    let mut plans = Vec::new();
    for order in [&small, &large] {
        let plan = run::plan(&table, order, &around).await.unwrap().unwrap();
        for day in &plan.days {
            run::merge_day(&table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
        }
        plans.push(plan);
    }
    assert!(run::commit(&table, &plans[0], &around).await.unwrap().committed_version.is_some());
    let why = run::commit(&table, &plans[1], &around).await.unwrap().replan.unwrap();
    assert!(why.contains("has merged the log"), "{why}");
    for order in [&small, &large] {
        run::clean(&table, &order.run, 0, &around).await.unwrap();
    }
    let done = whole(&table, &order("again"), &around).await.unwrap().unwrap();
    assert_eq!(done.metrics["batches"], 2, "the first batch is merged already");
    let (found, wanted) = (site.state().await, {
        site.restore();
        whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
        site.state().await
    });
    assert_eq!(found.replace("version 11", "version 10"), wanted);
}

/// Runs while a store does `fault` to what `matches`, and then without.
async fn refusing(site: &Site, fault: Fault, matches: fn(&Seen) -> bool) -> TableError {
    site.restore();
    let context = if let Fault::Hang = fault { impatient() } else { context() };
    let table = Table::open(&site.home(), &context).unwrap();
    site.proxy.run(Script::by(move |seen| if matches(seen) { fault.clone() } else { Fault::Pass }));
    let error = whole(&table, &order("one"), &site.around("one")).await.unwrap_err();
    site.proxy.run(Script::pass());
    let snapshot = site.table().snapshot().await.unwrap();
    assert_eq!(snapshot.version, 9, "nothing is visible: {error}");
    error
}

fn writes(seen: &Seen) -> bool {
    seen.method == "PUT"
}

fn commits(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.ends_with("/00000000000000000010.json")
}

fn uploads(seen: &Seen) -> bool {
    changes(seen) && seen.path.ends_with(".parquet")
}

/// What happens to which requests, and with what the run ends.
type Case = (&'static str, Fault, fn(&Seen) -> bool, &'static str, bool);

#[tokio::test]
async fn a_store_that_refuses_ends_a_run_with_its_reason_and_loses_nothing() {
    let site = Site::new(Layout::CopyOnWrite).await;
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    let wanted = site.state().await;
    let conflict = Fault::Status { status: 409, code: "ConditionalRequestConflict", retry_after: None };
    let cases: [Case; 9] = [
        ("no rights", Fault::status(403), writes, "access_denied", false),
        ("no rights to commit", Fault::status(403), commits, "access_denied", false),
        ("clock is wrong", Fault::wrong_clock(), writes, "access_denied", false),
        ("busy", Fault::status(503), uploads, "unavailable", true),
        ("busy at the commit", Fault::slow_down(None), commits, "unavailable", true),
        ("silent", Fault::Hang, uploads, "unavailable", true),
        ("silent at the commit", Fault::Hang, commits, "unavailable", true),
        ("an entry that is refused and not there", Fault::status(412), commits, "changed", true),
        ("another's attempt that comes to nothing", conflict.clone(), commits, "changed", true),
    ];
    for (name, fault, matches, code, may_pass) in cases {
        let error = refusing(&site, fault, matches).await;
        assert_eq!((error.code(), error.may_pass()), (code, may_pass), "{name}: {error}");
        assert!(error.to_string().len() > 40, "{name}: {error}");
        // Whoever comes next goes on, and cleans up after both.
        whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
        assert_eq!(site.state().await, wanted, "{name}");
    }
    // Somebody else's attempt was under way just once.
    site.restore();
    let first = AtomicUsize::new(0);
    site.proxy.run(Script::by(move |seen| {
        let refused = commits(seen) && first.fetch_add(1, Ordering::Relaxed) == 0;
        if refused { conflict.clone() } else { Fault::Pass }
    }));
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    assert_eq!(site.state().await, wanted);
}

#[tokio::test]
async fn a_slow_store_is_waited_for() {
    let site = Site::new(Layout::CopyOnWrite).await;
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    let wanted = site.state().await;
    site.restore();
    site.proxy.run(Script::by(|seen| {
        if changes(seen) { Fault::Delay(Duration::from_millis(50)) } else { Fault::Throttle(100_000) }
    }));
    whole(&site.table(), &order("one"), &site.around("one")).await.unwrap();
    assert_eq!(site.state().await, wanted);
}

#[tokio::test]
async fn a_place_that_does_not_refuse_the_second_is_no_place_for_a_table() {
    let folder = TempDir::new().unwrap();
    let options = windlass_sim::s3::Options { ignore_conditions: true, ..Default::default() };
    let server = S3Server::start_with(folder.path(), "127.0.0.1:0", options).unwrap();
    server.create_bucket("bucket").unwrap();
    let home = TempDir::new().unwrap();
    let url = format!("s3://bucket/t?endpoint={}", server.endpoint());
    let creation = Creation { url: Some(url), ..Creation::default() };
    let made = Table::create(&home.path().join("t"), &definition(Layout::CopyOnWrite), creation, &context()).await;
    let error = made.unwrap_err();
    assert!(matches!(&error, TableError::Unsupported(why) if why.contains("does not refuse to write over")), "{error}");
}

fn expected(run: usize) -> Value {
    read_json(&data("sample/expected/expected.day.json"))[run].clone()
}

#[tokio::test]
async fn the_sample_in_s3_is_as_the_oracle_says_through_compaction_and_vacuum() {
    let folder = TempDir::new().unwrap();
    let server = S3Server::start(folder.path()).unwrap();
    server.create_bucket("bucket").unwrap();
    let url = format!("s3://bucket/tables/trips?endpoint={}", server.endpoint());
    let mut world = World::at(&data("sample"), Uniqueness::Day, Layout::MergeOnRead, Some(url), context()).await;
    assert_eq!(world.table.local_data(), None);
    world.ingest(0..8).await;
    world.backfill().await.unwrap();
    world.assert_is(&expected(0)).await;
    world.ingest(8..14).await;
    world.backfill().await.unwrap();
    let around = world.around("upkeep");
    compact(&world.table, &CompactOrder { all: true, ..CompactOrder::new("c") }, &around).await.unwrap();
    let now = VacuumOrder { retention: Some(Duration::ZERO), strangers: Duration::ZERO, ..VacuumOrder::new("v") };
    let files = world.table.snapshot().await.unwrap().files.len();
    // The store's clock shows whole seconds: what was replaced within the last one is not old yet.
    let begun = around.clock.monotonic();
    while vacuum(&world.table, &now, &around).await.is_ok()
        && world.table.store().list("day=").await.unwrap().entries.len() > files
    {
        assert!(around.clock.monotonic() - begun < Duration::from_secs(60), "what was replaced stays");
        around.clock.sleep(Duration::from_millis(200)).await;
    }
    world.assert_is(&expected(1)).await;
    assert_eq!(world.table.store().list("day=").await.unwrap().entries.len(), files);
}
