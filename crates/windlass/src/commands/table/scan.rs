//! Printing rows.

use std::io::BufWriter;

use serde_json::json;
use windlass_table::query::{Printed, Query, count, print};
use windlass_table::run::Around;
use windlass_table::scan::{Selection, digest};
use windlass_table::{Day, Table, TableError};

use super::look::day;
use super::place::{Place, around};
use super::problem;
use super::rows::Format;
use crate::app::App;
use crate::exit::Exit;

/// Which rows.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// An earlier version
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    /// The first day, such as 2025-11-08
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: Option<Day>,
    /// The last day
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: Option<Day>,
    /// Rows that still wait in the logs as well, as they would be merged now
    #[arg(long)]
    live: bool,
    /// The columns, separated by commas, `day` among them [default: all]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Only rows for which a condition holds, such as "city = 'Oslo' AND (fare >= 10 OR note IS NULL)"
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// By these columns, separated by commas; one with a `-` in front has the largest first [default: as they lie]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', allow_hyphen_values = true)]
    order_by: Vec<String>,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print how many rows there are, and nothing else
    #[arg(long, conflicts_with_all = ["columns", "order_by", "format"])]
    count: bool,
    /// How rows are written
    #[arg(long, value_enum, default_value = "json", value_name = "FORM")]
    format: Format,
    /// Print digests of the days instead of rows
    #[arg(long, conflicts_with_all = ["limit", "columns", "condition", "order_by", "count", "format"])]
    digest: bool,
}

pub(super) async fn run(app: &App, args: &ScanArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let selection = Selection { version: args.version, from: args.from, to: args.to, live: args.live };
    if args.digest {
        return digests(app, &table, &selection, &around).await;
    }
    let wanted = Query {
        columns: args.columns.clone(),
        condition: args.condition.clone(),
        order: args.order_by.clone(),
        limit: args.limit,
    };
    if args.count {
        let rows = count(&table, &selection, &wanted, &around).await.map_err(problem)?;
        app.output.result(&json!({ "rows": rows }), || format!("{rows}\n"))?;
        return Ok(Exit::Done);
    }
    let how = match args.format {
        Format::Json => Printed::Json,
        Format::Csv => Printed::Csv,
        Format::Arrow => Printed::Arrow,
        Format::Parquet => Printed::Parquet,
    };
    // Rows go out as they are read: a table may be larger than memory.
    let out = Box::new(BufWriter::new(std::io::stdout()));
    match print(&table, &selection, &wanted, how, &around, out).await {
        // Whoever reads has enough.
        Ok(_) | Err(TableError::Cancelled) => Ok(Exit::Done),
        Err(error) => Err(problem(error)),
    }
}

async fn digests(app: &App, table: &Table, selection: &Selection, around: &Around) -> anyhow::Result<Exit> {
    let (days, rows, all) = digest(table, selection, around).await.map_err(problem)?.finish();
    app.output.result(&json!({ "days": days, "rows": rows, "sha256": all }), || {
        let mut text: String = days.iter().map(|(day, of)| format!("{day}  {}  {}\n", of.sha256, of.rows)).collect();
        text += &format!("all         {all}  {rows}\n");
        text
    })?;
    Ok(Exit::Done)
}
