//! Keeping tables small, and holding what readers need.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::json;
use windlass_model::quantity::Span;
use windlass_table::Day;
use windlass_table::compact::{CompactOrder, compact as compact_table};
use windlass_table::pins::{Pin, pin as set_pin, pins as list_pins, unpin as give_up};
use windlass_table::retain::{RetainOrder, retain as retain_days};
use windlass_table::vacuum::{VacuumOrder, vacuum as vacuum_table};

use super::look::day;
use super::place::{Place, around};
use super::problem;
use crate::app::App;
use crate::exit::Exit;

/// Which days.
#[derive(Debug, clap::Args)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// From this day on
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: Option<Day>,
    /// Up to this day
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: Option<Day>,
    /// Every day that would get smaller, not only those that are scattered
    #[arg(long)]
    all: bool,
    /// Say only what would be done
    #[arg(long)]
    dry_run: bool,
}

/// How many days are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct RetainArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// Days that are kept [default: the table's own retention]
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// Even when no day would be left
    #[arg(long)]
    even_all: bool,
    /// Say only what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What is deleted.
#[derive(Debug, clap::Args)]
pub(crate) struct VacuumArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// How long files stay after they were replaced. Who has been reading for longer without a pin may fail
    #[arg(long, default_value = "7d", value_name = "SPAN")]
    keep: Span,
    /// Print what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Which version, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// The pin's name; setting it again prolongs it
    id: String,
    /// The version [default: the newest]
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    /// For how long
    #[arg(long = "for", default_value = "1d", value_name = "SPAN")]
    span: Span,
    /// Who needs it
    #[arg(long, default_value = "", value_name = "TEXT")]
    holder: String,
}

/// Which pin.
#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// The pin's name
    id: String,
}

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct PinsArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
}

fn name(app: &App, what: &str) -> String {
    format!("{what}-{:016x}", app.setting.entropy.next_u64())
}

fn days(days: &[Day]) -> String {
    match days {
        [] => "no day".to_owned(),
        [one] => one.to_string(),
        [first, .., last] => format!("{} days from {first} to {last}", days.len()),
    }
}

pub(super) async fn compact(app: &App, args: &CompactArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let order = CompactOrder {
        from: args.from,
        to: args.to,
        all: args.all,
        dry_run: args.dry_run,
        ..CompactOrder::new(name(app, "compact"))
    };
    let done = compact_table(&table, &order, &around).await.map_err(problem)?;
    app.output.result(&done, || {
        let what = if args.dry_run { "would be written anew" } else { "written anew" };
        let mut text = format!(
            "{} {what}: {} file(s) of {} bytes, {} row(s) of them hidden\n",
            days(&done.days),
            done.files_removed,
            done.bytes_read,
            done.rows_dropped
        );
        if !args.dry_run && !done.days.is_empty() {
            let _ = writeln!(text, "{} file(s) of {} bytes took their place", done.files_added, done.bytes_written);
        }
        if !done.busy.is_empty() {
            let _ = writeln!(text, "{} changed meanwhile and stay as they are", days(&done.busy));
        }
        text
    })?;
    Ok(Exit::Done)
}

pub(super) async fn retain(app: &App, args: &RetainArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let order =
        RetainOrder { run: name(app, "retain"), days: args.days, even_all: args.even_all, dry_run: args.dry_run };
    let done = retain_days(&table, &order, &around).await.map_err(problem)?;
    app.output.result(&done, || match done.first_kept {
        None => "the table keeps all its days\n".to_owned(),
        Some(first) => {
            let what = if args.dry_run { "would leave" } else { "left" };
            let (files, rows, bytes) = (done.files, done.rows, done.bytes);
            format!(
                "kept from {first} on; {} {what}: {rows} row(s), {files} file(s), {bytes} bytes\n",
                days(&done.days)
            )
        }
    })?;
    Ok(Exit::Done)
}

pub(super) async fn vacuum(app: &App, args: &VacuumArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let order =
        VacuumOrder { retention: Some(args.keep.0), dry_run: args.dry_run, ..VacuumOrder::new(name(app, "vacuum")) };
    let done = vacuum_table(&table, &order, &around).await.map_err(problem)?;
    app.output.result(&done, || {
        let mut text = String::new();
        if args.dry_run {
            done.keys.iter().for_each(|key| text += &format!("{key}\n"));
        }
        let what = if args.dry_run { "would be deleted" } else { "deleted" };
        let _ = writeln!(text, "{} file(s) of {} bytes {what}", done.files, done.bytes);
        if done.pinned > 0 {
            let _ = writeln!(text, "{} file(s) are held by pins", done.pinned);
        }
        let _ = writeln!(text, "versions from {} on can be read", done.oldest_version);
        text
    })?;
    Ok(Exit::Done)
}

fn line(pin: &Pin) -> String {
    let until = Timestamp::from_millisecond(pin.until_ms())
        .map_or_else(|_| "for ever".to_owned(), |at| format!("until {at:.0}"));
    let holder = if pin.holder.is_empty() { String::new() } else { format!(", for {}", pin.holder) };
    format!("{} holds version {} {until}{holder}\n", pin.id, pin.version)
}

pub(super) async fn pin(app: &App, args: &PinArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let set = set_pin(&table, &args.id, args.version, args.span.0, &args.holder, &around).await.map_err(problem)?;
    app.output.result(&set, || line(&set))?;
    Ok(Exit::Done)
}

pub(super) async fn unpin(app: &App, args: &UnpinArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    give_up(&table, &args.id).await.map_err(problem)?;
    app.output.result(&json!({ "given_up": args.id }), || format!("{} is given up\n", args.id))?;
    Ok(Exit::Done)
}

pub(super) async fn pins(app: &App, args: &PinsArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let found = list_pins(&table).await.map_err(problem)?;
    app.output.result(&found, || found.iter().map(line).collect())?;
    Ok(Exit::Done)
}
