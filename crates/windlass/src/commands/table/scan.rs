//! Printing rows.

use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, json};
use windlass_table::run::Around;
use windlass_table::scan::{Selection, digest, scan};
use windlass_table::{Day, Table, TableError, rows};

use super::look::day;
use super::place::{Place, around};
use super::problem;
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
    /// At most so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print digests of the days instead of rows
    #[arg(long, conflicts_with = "limit")]
    digest: bool,
}

pub(super) async fn run(app: &App, args: &ScanArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let selection = Selection { version: args.version, from: args.from, to: args.to, live: args.live };
    if args.digest {
        return digests(app, &table, &selection, &around).await;
    }
    let most = args.limit.unwrap_or(u64::MAX);
    // Rows go out as they are read: a table may be larger than memory.
    let out = Arc::new(Mutex::new((BufWriter::new(std::io::stdout()), 0_u64)));
    let shared = out.clone();
    let scanned = scan(&table, &selection, &around, move |day, found, shape| {
        let mut out = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, printed) = &mut *out;
        for row in 0..found.num_rows() {
            if *printed >= most {
                return Err(TableError::Cancelled);
            }
            let mut object = Map::new();
            object.insert("day".to_owned(), day.to_string().into());
            for (at, field) in shape.schema.fields().iter().enumerate() {
                let cell = rows::cell(found.column(at), &shape.types[at], row);
                object.insert(field.name().clone(), cell.to_json(&shape.types[at]));
            }
            let line = serde_json::Value::Object(object);
            // Whoever reads has enough.
            writeln!(stream, "{line}").map_err(|_| TableError::Cancelled)?;
            *printed += 1;
        }
        Ok(())
    })
    .await;
    let _ = out.lock().unwrap_or_else(PoisonError::into_inner).0.flush();
    match scanned {
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
