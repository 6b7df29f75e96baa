//! `windlass table …`

mod look;
mod make;
mod merge;
pub(super) mod place;
mod rows;
mod scan;
mod send;
mod upkeep;

use clap::Subcommand;
use windlass_table::TableError;

use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;

/// Tables of events in day partitions, and the late rows that belong into them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a table
    Create(make::CreateArgs),
    /// List the tables
    Ls(look::LsArgs),
    /// Show a table: its definition, its days, how far it is merged
    Show(look::ShowArgs),
    /// Add or drop a column, or change how changed days are written
    Evolve(make::EvolveArgs),
    /// Drop a table
    Drop(make::DropArgs),
    /// Take rows into a table's log: JSON lines, CSV, Parquet or Arrow
    Ingest(rows::IngestArgs),
    /// Archive what is older than the table's delay, in the foreground
    Archive(merge::ArchiveArgs),
    /// Merge late rows into the days they belong to, in the foreground
    Backfill(merge::BackfillArgs),
    /// Show what waits to be merged, and why
    Late(look::LateArgs),
    /// Print rows, or the digest of all of them
    Scan(scan::ScanArgs),
    /// Skip what is damaged of a table's log, and say what is lost
    Repair(rows::RepairArgs),
    /// Write days anew that have many small files or hidden rows
    Compact(upkeep::CompactArgs),
    /// Remove days that are older than the table keeps
    Retain(upkeep::RetainArgs),
    /// Delete files that no version needs any more
    Vacuum(upkeep::VacuumArgs),
    /// Keep the files of a version for a while, whatever vacuum is told
    Pin(upkeep::PinArgs),
    /// Give up a pin
    Unpin(upkeep::UnpinArgs),
    /// List the pins of a table
    Pins(upkeep::PinsArgs),
}

/// Runs a command.
pub(super) async fn run(app: &App, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Create(args) => make::create(app, args).await,
        Command::Ls(args) => look::ls(app, args),
        Command::Show(args) => look::show(app, args).await,
        Command::Evolve(args) => make::evolve(app, args).await,
        Command::Drop(args) => make::drop(app, args).await,
        Command::Ingest(args) => rows::ingest(app, args).await,
        Command::Archive(args) => merge::archive(app, args).await,
        Command::Backfill(args) => merge::backfill(app, args).await,
        Command::Late(args) => look::late(app, args).await,
        Command::Scan(args) => scan::run(app, args).await,
        Command::Repair(args) => rows::repair(app, args).await,
        Command::Compact(args) => upkeep::compact(app, args).await,
        Command::Retain(args) => upkeep::retain(app, args).await,
        Command::Vacuum(args) => upkeep::vacuum(app, args).await,
        Command::Pin(args) => upkeep::pin(app, args).await,
        Command::Unpin(args) => upkeep::unpin(app, args).await,
        Command::Pins(args) => upkeep::pins(app, args).await,
    }
}

/// An error of a table with the exit code that goes with it.
pub(super) fn problem(error: TableError) -> anyhow::Error {
    let text = error.to_string();
    match error {
        TableError::Blob(error) => error.into(),
        TableError::Invalid(_) | TableError::TooLarge(_) | TableError::Unsupported(_) | TableError::Dropped(_) => {
            Problem::usage(text).into()
        }
        TableError::Held(_) | TableError::Full { .. } => Problem::unreachable(text).into(),
        TableError::Cancelled => Problem::interrupted(text).into(),
        TableError::Disk { .. } | TableError::Damaged(_) | TableError::Changed(_) => Problem::failed(text).into(),
    }
}
