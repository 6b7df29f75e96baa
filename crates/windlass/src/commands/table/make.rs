//! Making, changing and dropping tables.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use windlass_table::column::ColumnType;
use windlass_table::definition::Column;
use windlass_table::{Creation, Definition, Layout, Table};

use super::place::{Place, context};
use super::problem;
use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;

/// What table.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    place: Place,
    /// Its name [default: the one in the definition]
    name: Option<String>,
    /// The definition, a JSON file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Where its data lies, a blob URL [default: a folder in its home]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How many ingest logs it has
    #[arg(long, default_value_t = 1, value_name = "N")]
    shards: u32,
    /// Begin with the day files of this folder, named day=YYYY-MM-DD/….parquet
    #[arg(long, value_name = "FOLDER")]
    import: Option<PathBuf>,
    /// What happened before counts as archived: seconds since 1970, or 2025-11-20T00:00:00Z
    #[arg(long, value_name = "TIME")]
    cutoff: Option<String>,
    /// A setting of the definition, instead of what it says, such as uniqueness=table or retention_days=30
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// Which table, and what of it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct EvolveArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// Add a column at the end: NAME:TYPE or NAME:TYPE=DEFAULT
    #[arg(long, value_name = "COLUMN", group = "what")]
    add: Option<String>,
    /// Drop a column. Its name is not given again
    #[arg(long, value_name = "NAME", group = "what")]
    drop: Option<String>,
    /// How changed days are written from now on: copy_on_write or merge_on_read
    #[arg(long, value_name = "LAYOUT", group = "what")]
    layout: Option<String>,
}

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct DropArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// Delete its data as well
    #[arg(long)]
    with_data: bool,
}

/// A moment as people write it, in seconds since 1970.
pub(super) fn moment(text: &str) -> anyhow::Result<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(jiff::Timestamp::as_second).map_err(|_| {
        Problem::usage(format!("{text:?} is no moment; write seconds since 1970, or 2025-11-20T00:00:00Z")).into()
    })
}

/// A value as JSON, or as text if it is none.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

pub(super) async fn create(app: &App, args: &CreateArgs) -> anyhow::Result<Exit> {
    let text = if args.from.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read the definition from standard input")?;
        text
    } else {
        std::fs::read_to_string(&args.from).with_context(|| format!("read the definition {}", args.from.display()))?
    };
    let mut definition: Value = serde_json::from_str(&text)
        .map_err(|error| Problem::usage(format!("{} is no JSON: {error}", args.from.display())))?;
    if let Some(object) = definition.as_object_mut() {
        if let Some(name) = &args.name {
            object.insert("name".to_owned(), name.as_str().into());
        }
        for setting in &args.settings {
            let (name, text) = setting
                .split_once('=')
                .ok_or_else(|| Problem::usage(format!("{setting:?} is no setting; write NAME=VALUE")))?;
            object.insert(name.to_owned(), value(text));
        }
    }
    let definition = Definition::from_value(definition).map_err(problem)?;
    let creation = Creation {
        url: args.url.clone(),
        shards: args.shards,
        cutoff: args.cutoff.as_deref().map(moment).transpose()?,
        import: args.import.clone(),
    };
    let home = args.place.folder()?.join(&definition.name);
    differs(app, &home, &creation).await?;
    let table = Table::create(&home, &definition, creation, &context(app)).await.map_err(problem)?;
    let snapshot = table.snapshot().await.map_err(problem)?;
    let document = json!({
        "table": definition.name,
        "home": home,
        "url": table.descriptor().url,
        "files": snapshot.files.len(),
    });
    app.output.result(&document, || {
        format!("table {} is at {} with {} file(s)\n", definition.name, table.descriptor().url, snapshot.files.len())
    })?;
    Ok(Exit::Done)
}

/// Refuses what would be ignored because the table is there already.
async fn differs(app: &App, home: &Path, creation: &Creation) -> anyhow::Result<()> {
    if !home.join("table.json").exists() {
        return Ok(());
    }
    let table = Table::open(home, &context(app)).map_err(problem)?;
    let there = |what: String| -> anyhow::Error {
        Problem::usage(format!("the table {} is there already, {what}", table.descriptor().name))
            .hint("choose another name, or drop it first")
            .into()
    };
    if creation.url.as_ref().is_some_and(|url| *url != table.descriptor().url) {
        return Err(there(format!("and its data lies at {}", table.descriptor().url)));
    }
    // Cut short, it has no version yet, and is made now.
    let newest = table.log().at(None).await.map_err(problem)?;
    if newest.version < 0 {
        return Ok(());
    }
    let first = table.log().at(Some(0)).await.map_err(problem)?;
    if let Some(cutoff) = creation.cutoff {
        let (_, made_with) = table.progress(&first, 0);
        if made_with != cutoff.saturating_mul(1_000_000) {
            let why = "and was not made with this --cutoff; `windlass table archive` moves it on";
            return Err(there(why.to_owned()));
        }
    }
    if let Some(folder) = &creation.import {
        let found = windlass_table::import::find(folder).map_err(problem)?;
        if found.len() != first.files.len() {
            return Err(there("and was not made with the files of this --import".to_owned()));
        }
    }
    Ok(())
}

pub(super) async fn evolve(app: &App, args: &EvolveArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    if let Some(name) = &args.drop {
        let version = table.drop_column(name, &context(app)).await.map_err(problem)?;
        app.output.result(&json!({ "version": version }), || format!("version {version} has no column {name}\n"))?;
        return Ok(Exit::Done);
    }
    if let Some(name) = &args.layout {
        let layout: Layout = serde_json::from_value(name.as_str().into())
            .map_err(|_| Problem::usage(format!("{name:?} is no layout; write copy_on_write or merge_on_read")))?;
        let version = table.relayout(layout, &context(app)).await.map_err(problem)?;
        app.output.result(&json!({ "version": version }), || format!("version {version} has the layout {name}\n"))?;
        return Ok(Exit::Done);
    }
    let text = args.add.as_deref().unwrap_or_default();
    let wrong = || Problem::usage(format!("{text:?} is no column; write NAME:TYPE or NAME:TYPE=DEFAULT"));
    let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (kind, default) = match rest.split_once('=') {
        Some((kind, default)) => (kind, Some(value(default))),
        None => (rest, None),
    };
    let column_type: ColumnType = kind.parse().map_err(problem)?;
    let column = Column { name: name.to_owned(), column_type, nullable: true, default };
    let version = table.evolve(column, &context(app)).await.map_err(problem)?;
    app.output.result(&json!({ "version": version }), || format!("version {version} has the column {name}\n"))?;
    Ok(Exit::Done)
}

pub(super) async fn drop(app: &App, args: &DropArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (name, url) = (table.descriptor().name.clone(), table.descriptor().url.clone());
    // Data in the home goes with the home.
    let kept = !args.with_data && table.local_data().is_none_or(|data| !data.starts_with(table.home()));
    table.drop_table(args.with_data, &context(app)).await.map_err(problem)?;
    app.output.result(&json!({ "dropped": name, "data_kept": kept }), || {
        if kept {
            format!("table {name} is dropped; its data stays at {url}\n")
        } else {
            format!("table {name} is dropped\n")
        }
    })?;
    Ok(Exit::Done)
}
