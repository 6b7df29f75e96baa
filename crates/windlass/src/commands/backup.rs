//! `windlass backup FILE`, `windlass restore FILE`, `windlass export`

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use windlass_engine::records;
use windlass_store::dump;

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::problem::Problem;

/// Where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The file to write; it must not exist
    file: PathBuf,
}

/// Where from.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A file that `windlass backup` wrote
    file: PathBuf,
}

/// Nothing to choose.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {}

/// Writes everything of the state into a file, while others work on it.
pub(super) async fn backup(app: &App, args: &Backup) -> anyhow::Result<Exit> {
    let shown = args.file.display();
    if args.file.exists() {
        return Err(Problem::usage(format!("{shown} exists already")).hint("name another file").into());
    }
    let state = app.own_state()?;
    let store = state.read(&app.setting.clock).await?.ok_or_else(|| nothing(&state.to_string()))?;
    let folder = match args.file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Under another name until it is whole and on the disk.
    let mut file = tempfile::Builder::new()
        .prefix(".windlass-backup-")
        .tempfile_in(folder)
        .with_context(|| format!("write a backup into {}", folder.display()))?;
    let summary = {
        let mut out = BufWriter::new(file.as_file_mut());
        let summary = dump::write(&*store, u32::from(records::VERSION), app.setting.clock.wall(), &mut out).await;
        let summary = summary.with_context(|| format!("write the backup {shown}"))?;
        out.flush().with_context(|| format!("write the backup {shown}"))?;
        summary
    };
    file.as_file().sync_all().with_context(|| format!("make the backup {shown} durable"))?;
    file.persist_noclobber(&args.file).with_context(|| format!("name the backup {shown}"))?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("make {shown} durable"))?;
    let document = json!({ "file": args.file, "entries": summary.entries, "sha256": summary.sha256 });
    app.output.result(&document, || {
        format!("{shown}: {} entries, sha256 {}\n", figures::count(summary.entries), summary.sha256)
    })?;
    Ok(Exit::Done)
}

/// Writes everything of the state to standard output, one JSON document to a line.
pub(super) async fn export(app: &App, _args: &Export) -> anyhow::Result<Exit> {
    let state = app.own_state()?;
    let store = state.read(&app.setting.clock).await?.ok_or_else(|| nothing(&state.to_string()))?;
    let mut out = BufWriter::new(std::io::stdout());
    dump::write(&*store, u32::from(records::VERSION), app.setting.clock.wall(), &mut out)
        .await
        .context("export the state")?;
    Ok(Exit::Done)
}

/// Fills an empty state from a backup: all of it, or nothing.
pub(super) async fn restore(app: &App, args: &Restore) -> anyhow::Result<Exit> {
    let shown = args.file.display();
    let open = || {
        let file = File::open(&args.file).with_context(|| Problem::usage(format!("read the backup {shown}")))?;
        Ok::<_, anyhow::Error>(BufReader::new(file))
    };
    let records = u32::from(records::VERSION);
    // Read to its end before anything is written, here and once more by the restore: it may be larger than memory.
    dump::read(open()?, records, |_, _| Ok(())).with_context(|| {
        Problem::usage(format!("the backup {shown} cannot be restored; nothing was changed")).hint("use another backup")
    })?;
    let state = app.own_state()?;
    let store = state.hold_alone(&app.setting).await?;
    let restored = dump::restore_from(&*store.shared(), records, open()?).await;
    store.close().await;
    let (header, summary) = restored.with_context(|| {
        Problem::usage(format!("restore {shown} into {state}"))
            .hint("a backup is restored into a state that is empty: name a new folder, or another prefix of the etcd")
    })?;
    let document = json!({ "state": state.to_string(), "entries": summary.entries, "of": header.at });
    app.output.result(&document, || {
        format!(
            "{state}: {} entries, as they were at {}\n",
            figures::count(summary.entries),
            figures::moment(header.at)
        )
    })?;
    Ok(Exit::Done)
}

fn nothing(state: &str) -> anyhow::Error {
    Problem::usage(format!("{state} holds no state")).hint("name it with --state or WINDLASS_STATE").into()
}
