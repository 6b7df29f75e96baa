//! Taking rows in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;
use tokio::sync::mpsc;
use windlass_table::log::{Appended, Limits, Lsn, Writer, repair as mend};
use windlass_table::source::{Meaning, Source, arrow_batches, csv_batches, json_batches, parquet_batches};
use windlass_table::{Batch, Definition, Mode, Result as TableResult, Sender, TableError};

use super::make::moment;
use super::place::Place;
use super::problem;
use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;

/// Batches between the reader of a file and the log.
const AHEAD: usize = 4;

/// Which rows, and for which table.
#[derive(Debug, clap::Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    pub(super) table: String,
    /// Files; `-` is standard input
    #[arg(required = true)]
    pub(super) files: Vec<PathBuf>,
    /// What they are [default: by the end of their names, JSON lines otherwise]
    #[arg(long, value_enum, value_name = "FORM")]
    pub(super) format: Option<Format>,
    /// How a column is meant: COLUMN=overwrite_not_null, force_overwrite, add, min or max
    #[arg(long = "mode", value_name = "COLUMN=MODE")]
    pub(super) modes: Vec<String>,
    /// Which of the table's logs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) shard: u32,
    /// Who sends them. With --sequence, rows that are sent again after a lost answer count once
    #[arg(long, requires = "sequence", value_name = "NAME")]
    pub(super) client: Option<String>,
    /// The number of the first batch; each further one counts on
    #[arg(long, requires = "client", value_name = "N")]
    pub(super) sequence: Option<u64>,
    /// Most rows of one batch
    #[arg(long, default_value_t = 65_536, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) batch_rows: u32,
    /// Take them as if they arrived at this moment
    #[arg(long, value_name = "TIME")]
    pub(super) arrival: Option<String>,
}

/// Which log.
#[derive(Debug, clap::Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// Which of the table's logs
    #[arg(long, default_value_t = 0, value_name = "N")]
    shard: u32,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line
    Json,
    /// CSV with the names of the columns in its first line
    Csv,
    /// Parquet
    Parquet,
    /// A file or stream of Arrow
    Arrow,
}

impl Format {
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            Some("arrow" | "arrows" | "feather" | "ipc") => Self::Arrow,
            _ => Self::Json,
        }
    }
}

pub(super) fn modes(given: &[String]) -> anyhow::Result<BTreeMap<String, Mode>> {
    let mut modes = BTreeMap::new();
    for text in given {
        let parsed = text
            .split_once('=')
            .and_then(|(column, mode)| Some((column.to_owned(), serde_json::from_value::<Mode>(mode.into()).ok()?)));
        let (column, mode) = parsed.ok_or_else(|| {
            Problem::usage(format!(
                "{text:?} is no update mode; write COLUMN=overwrite_not_null, force_overwrite, add, min or max"
            ))
        })?;
        modes.insert(column, mode);
    }
    Ok(modes)
}

pub(super) async fn ingest(app: &App, args: &IngestArgs) -> anyhow::Result<Exit> {
    if app.server.typed {
        return super::send::send(app, args).await;
    }
    let table = args.place.open(app, &args.table)?;
    let snapshot = table.snapshot().await.map_err(problem)?;
    let definition = snapshot.definition().map_err(problem)?;
    let (checkpoint, _) = table.progress(&snapshot, args.shard);
    let arrival = match &args.arrival {
        Some(text) => moment(text)?.saturating_mul(1_000_000),
        None => app.setting.clock.wall().as_microsecond(),
    };
    let meaning = Meaning { modes: modes(&args.modes)?, arrival, batch_rows: args.batch_rows as usize };
    let limits = Limits { hard_bytes: definition.hard_limit_bytes, ..Limits::default() };
    let folder = table.log_folder(args.shard).map_err(problem)?;
    let identity = table.identity(args.shard).map_err(problem)?;
    let writer = Writer::open(folder, identity, limits, checkpoint).map_err(problem)?;
    if writer.cut() > 0 {
        app.output.note(format!("{} bytes of a batch that nobody was told of are cut off the log", writer.cut()));
    }
    let (mut rows, mut batches, mut again, mut last) = (0_u64, 0_u64, 0_u64, Lsn::default());
    let mut sequence = args.sequence.unwrap_or(0);
    for file in &args.files {
        let (batch_sender, mut found) = mpsc::channel::<Batch>(AHEAD);
        let (path, form) = (file.clone(), args.format.unwrap_or_else(|| Format::of(file)));
        let (definition, meaning) = (definition.clone(), meaning.clone());
        let reading = tokio::task::spawn_blocking(move || {
            read(&path, form, &definition, &meaning, |batch| {
                // The log has failed, and says so itself.
                batch_sender.blocking_send(batch).map_err(|_| TableError::Cancelled)
            })
        });
        let mut failed = None;
        while let Some(batch) = found.recv().await {
            let count = batch.len() as u64;
            let batch = match &args.client {
                Some(client) => batch.from_sender(Sender { client: client.clone(), sequence }),
                None => batch,
            };
            sequence += 1;
            match writer.append(&batch).await {
                Ok(Appended::At(lsn)) => (rows, batches, last) = (rows + count, batches + 1, lsn),
                Ok(Appended::Before(_)) => again += 1,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(found);
        let read = reading.await?;
        if let Some(error) = failed {
            return Err(problem(error).context(format!("take in {}; {rows} row(s) are in the log", file.display())));
        }
        read.map_err(|error| match error.downcast::<TableError>() {
            Ok(error) => problem(error).context(format!("read {}; {rows} row(s) are in the log", file.display())),
            Err(error) => error,
        })?;
    }
    let pending = writer.pending();
    let due = pending >= definition.soft_limit_bytes;
    let document = json!({
        "rows": rows,
        "batches": batches,
        "batches_before": again,
        "last_lsn": last,
        "pending_bytes": pending,
        "backfill_due": due,
    });
    app.output.result(&document, || {
        let mut text = format!("{rows} row(s) in {batches} batch(es) are in the log");
        if again > 0 {
            text += &format!("; {again} batch(es) had come before");
        }
        if due {
            text += &format!("; a backfill is due: windlass table backfill {}", args.table);
        }
        text + "\n"
    })?;
    Ok(Exit::Done)
}

fn read(
    path: &Path,
    form: Format,
    definition: &Definition,
    meaning: &Meaning,
    sink: impl FnMut(Batch) -> TableResult<()>,
) -> anyhow::Result<()> {
    let standard = path.as_os_str() == "-";
    let open = || File::open(path).with_context(|| format!("open {}", path.display()));
    let lines = || -> anyhow::Result<Box<dyn BufRead>> {
        Ok(if standard { Box::new(BufReader::new(std::io::stdin())) } else { Box::new(BufReader::new(open()?)) })
    };
    match form {
        Format::Json => json_batches(&mut *lines()?, definition, meaning, sink)?,
        Format::Csv => csv_batches(&mut *lines()?, definition, meaning, sink)?,
        Format::Arrow if standard => arrow_batches(Source::Stream(&mut *lines()?), definition, meaning, sink)?,
        Format::Arrow => arrow_batches(Source::File(open()?), definition, meaning, sink)?,
        Format::Parquet if standard => {
            return Err(Problem::usage("Parquet cannot be read from standard input, because its end comes first")
                .hint("write it to a file, or send Arrow")
                .into());
        }
        Format::Parquet => parquet_batches(path, definition, meaning, sink)?,
    }
    Ok(())
}

pub(super) async fn repair(app: &App, args: &RepairArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let folder = table.log_folder(args.shard).map_err(problem)?;
    let identity = table.identity(args.shard).map_err(problem)?;
    let repaired = tokio::task::spawn_blocking(move || mend(&folder, identity)).await?.map_err(problem)?;
    app.output.result(&json!({ "repaired": repaired }), || {
        if repaired.is_empty() {
            return "nothing is damaged\n".to_owned();
        }
        let mut text = String::new();
        for one in &repaired {
            text += &format!("segment {:x}: {} byte(s) skipped\n", one.segment, one.skipped_bytes);
            for (after, before) in &one.lost {
                text += &format!("  lost: batches after {after} and before {before}\n");
            }
        }
        text
    })?;
    Ok(Exit::Done)
}
