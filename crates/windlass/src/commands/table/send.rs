//! Sending rows to a server.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use windlass_api::{Client, RowsQuery};

use super::rows::{Format, IngestArgs, modes};
use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::state::State;

/// Bytes of JSON lines that are sent at a time.
const PIECE: usize = 8 << 20;
/// Most bytes of a file that cannot be cut.
const WHOLE: u64 = 32 << 20;

/// What was sent so far.
struct Sending<'a> {
    client: Client,
    args: &'a IngestArgs,
    query: RowsQuery,
    rows: u64,
    batches: u64,
    again: u64,
    last_lsn: u64,
    pending: u64,
    due: bool,
}

impl Sending<'_> {
    async fn send(&mut self, media_type: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let taken = self.client.send_rows(&self.args.table, &self.query, media_type, bytes).await;
        let taken = taken.map_err(|error| {
            let at = self.query.sequence.unwrap_or(0);
            let hint = format!(
                "the rows before are in the log; the same command with --client and --sequence of the batch {at} goes on"
            );
            anyhow::Error::new(error).context(Problem::failed(format!("send rows to {}", self.args.table)).hint(hint))
        })?;
        if taken.before {
            self.again += 1;
        } else if taken.rows > 0 {
            self.rows += taken.rows;
            self.batches += 1;
        }
        (self.last_lsn, self.pending, self.due) = (taken.lsn, taken.pending_bytes, taken.backfill_due);
        self.query.sequence = self.query.sequence.map(|sequence| sequence + 1);
        Ok(())
    }
}

fn reader(path: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Sends files to a server, each piece as one batch.
pub(super) async fn send(app: &App, args: &IngestArgs) -> anyhow::Result<Exit> {
    if args.arrival.is_some() {
        return Err(Problem::usage("--arrival is not for a server, which says itself when rows arrive").into());
    }
    let State::Server(server) = app.state()? else { return Err(Problem::usage("no server is named").into()) };
    let modes = modes(&args.modes)?;
    let modes: Vec<String> = modes
        .iter()
        .map(|(column, mode)| {
            let mode = serde_json::to_value(mode).unwrap_or_default();
            format!("{column}={}", mode.as_str().unwrap_or_default())
        })
        .collect();
    // A name of its own lets a batch whose answer is lost be sent again.
    let client = args.client.clone().unwrap_or_else(|| app.setting.request_id());
    let query = RowsQuery {
        shard: (args.shard > 0).then_some(args.shard),
        client: Some(client),
        sequence: Some(args.sequence.unwrap_or(0)),
        modes: (!modes.is_empty()).then(|| modes.join(",")),
    };
    let client = server.client(&app.setting)?;
    let mut sending =
        Sending { client, args, query, rows: 0, batches: 0, again: 0, last_lsn: 0, pending: 0, due: false };
    for path in &args.files {
        let mut from = reader(path)?;
        let reading = || format!("read {}", path.display());
        let media_type = match args.format.unwrap_or_else(|| Format::of(path)) {
            Format::Json => {
                let mut piece = Vec::with_capacity(PIECE);
                let mut lines = 0;
                loop {
                    let read = from.by_ref().take(WHOLE).read_until(b'\n', &mut piece).with_context(reading)?;
                    lines += usize::from(read > 0);
                    let full = piece.len() >= PIECE || lines >= args.batch_rows as usize;
                    if (full || read == 0) && !piece.is_empty() {
                        sending.send("application/x-ndjson", std::mem::take(&mut piece)).await?;
                        lines = 0;
                    }
                    if read == 0 {
                        break;
                    }
                }
                continue;
            }
            Format::Csv => "text/csv",
            Format::Parquet => "application/vnd.apache.parquet",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        };
        let mut bytes = Vec::new();
        from.take(WHOLE + 1).read_to_end(&mut bytes).with_context(reading)?;
        if bytes.len() as u64 > WHOLE {
            return Err(Problem::usage(format!("{} has more than {WHOLE} bytes", path.display()))
                .hint("send JSON lines, which are sent in pieces, or several files")
                .into());
        }
        sending.send(media_type, bytes).await?;
    }
    let document = json!({
        "rows": sending.rows,
        "batches": sending.batches,
        "batches_before": sending.again,
        "last_lsn": sending.last_lsn,
        "pending_bytes": sending.pending,
        "backfill_due": sending.due,
    });
    app.output.result(&document, || {
        let mut text = format!("{} row(s) in {} batch(es) are in the log", sending.rows, sending.batches);
        if sending.again > 0 {
            text += &format!("; {} batch(es) had come before", sending.again);
        }
        text + if sending.due { "; a backfill is due\n" } else { "\n" }
    })?;
    Ok(Exit::Done)
}
