//! `windlass index …`

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use windlass_blob::{BlobStore, BlockingReader, ReadOptions as BlobReadOptions};
use windlass_clock::deadline;
use windlass_index_backup::{
    BackupError, CompressionSetting, Form, Inspection, ReadMode, ReadOptions, Watch, inspect_ids,
};

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::problem::Problem;

/// Time for the reader to notice that it shall stop; it may be stuck in a read of standard input.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Look into index backups.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what one index backup holds, with checksums
    Inspect(Args),
}

/// Which backup, and how far to look.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, `-` for standard input, or a blob URL such as s3://bucket/key
    input: String,
    /// Print the ids as well
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "escaped")]
    ids: Option<IdForm>,
    /// Read to the end and verify every checksum
    #[arg(long)]
    full: bool,
    /// Leave the timestamps alone: only the ids and their numbers are read and checked
    #[arg(long)]
    no_times: bool,
    /// How the backup is packed: auto, none, gzip, zstd, lz4 or gob
    #[arg(long, default_value = "auto", value_name = "NAME")]
    compression: CompressionSetting,
    /// What the bytes are
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    form: FormName,
    /// Largest number of decompressed bytes
    #[arg(long, default_value_t = 1 << 40, value_name = "BYTES")]
    max_plain_bytes: u64,
    /// Memory to stay below, in bytes
    #[arg(long, default_value_t = 48 << 20, value_name = "BYTES")]
    memory_limit: usize,
    /// Read an index that its agent marked as invalid
    #[arg(long)]
    force: bool,
}

/// How ids are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IdForm {
    /// One to a line; control characters, backslashes and bytes that are not UTF-8 are escaped.
    Escaped,
    /// Each with its length as a big-endian 32-bit number before it.
    LengthPrefixed,
}

/// [`Form`] as an option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FormName {
    /// A backup, or an id map that is recognised by its first bytes
    #[default]
    Auto,
    /// A backup: an archive, compressed or not
    Backup,
    /// A bare `…-meta.kvsdb` file
    IdMap,
    /// A bare `…-timestamp.kvsdb` file
    Times,
}

pub(super) async fn inspect(app: &App, args: &Args) -> anyhow::Result<Exit> {
    if args.ids == Some(IdForm::LengthPrefixed) && app.output.is_json() {
        return Err(Problem::usage("--ids=length-prefixed prints bytes, which one JSON document cannot hold").into());
    }
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let watch = Arc::new(Watch::default());
    let options = ReadOptions {
        compression: args.compression,
        form: match args.form {
            FormName::Auto => Form::Auto,
            FormName::Backup => Form::Backup,
            FormName::IdMap => Form::IdMap,
            FormName::Times => Form::Times,
        },
        times: !args.no_times,
        read_mode: if args.full { ReadMode::Full } else { ReadMode::Fast },
        max_plain_bytes: args.max_plain_bytes,
        memory_limit: args.memory_limit,
        force: args.force,
        watch: watch.clone(),
        ..ReadOptions::default()
    };
    let open = open(&args.input, &interrupt);
    let input = tokio::select! {
        input = open => input?,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };
    let (json, ids) = (app.output.is_json(), args.ids);
    let mut work = tokio::task::spawn_blocking(move || read(input, &options, json, ids));
    let result = tokio::select! {
        result = &mut work => result,
        () = interrupt.came() => {
            watch.stop();
            match deadline(&*app.setting.clock, STOP_WITHIN, &mut work).await {
                Ok(result) => result,
                Err(_) => return Ok(Exit::Interrupted),
            }
        }
    };
    let done = result.context("read the backup")?;
    if app.verbose > 0
        && let Some(peak) = peak_memory()
    {
        app.output.note(format!("peak memory: {peak}"));
    }
    let wrap = |error: BackupError| anyhow::Error::new(error).context(format!("inspect {}", args.input));
    match (done, json, ids) {
        // The document has been printed with the ids in it.
        (Printed::Whole(result), true, Some(_)) => match result {
            Ok(_) => Ok(Exit::Done),
            Err(error) => {
                let error = wrap(error);
                app.output.note(crate::problem::text(&error, app.output.notes));
                Ok(Exit::of(&error))
            }
        },
        (Printed::Whole(result), true, None) => {
            app.output.json(&result.map_err(wrap)?)?;
            Ok(Exit::Done)
        }
        (Printed::Whole(result), false, Some(_)) => {
            app.output.note(text(&args.input, &*result.map_err(wrap)?));
            Ok(Exit::Done)
        }
        (Printed::Whole(result), false, None) => {
            app.output.data(&text(&args.input, &*result.map_err(wrap)?))?;
            Ok(Exit::Done)
        }
        (Printed::NobodyReads, ..) => Ok(Exit::Done),
    }
}

/// The largest memory this process has had, where the system tells: `21304 kB`.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().to_owned())
}

/// Opens the input for a blocking reader.
async fn open(input: &str, interrupt: &Interrupt) -> anyhow::Result<Box<dyn Read + Send>> {
    if input == "-" {
        return Ok(Box::new(io::stdin()));
    }
    if !input.contains("://") {
        let missing = || Problem::usage(format!("the backup {input} cannot be read"));
        let path = Path::new(input);
        let file = File::open(path).with_context(missing)?;
        if file.metadata().with_context(missing)?.is_dir() {
            return Err(Problem::usage(format!("{input} is a folder; name the backup in it")).into());
        }
        return Ok(Box::new(file));
    }
    let (folder, key) = split(input)?;
    let store = BlobStore::open_text(&folder, &windlass_blob::Context::real())?.with_cancel(interrupt.token());
    let reader = store.get_stream(&key, BlobReadOptions::default()).await?;
    Ok(Box::new(BlockingReader::new(reader)))
}

/// The URL of the folder that an object is in, and the object's key there.
fn split(url: &str) -> anyhow::Result<(String, String)> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let after_scheme = path.find("://").map_or(0, |at| at + 3);
    let slash = path[after_scheme..].rfind('/').map(|at| after_scheme + at);
    let key = slash.map_or("", |slash| &path[slash + 1..]);
    let Some(slash) = slash.filter(|_| !key.is_empty()) else {
        return Err(Problem::usage(format!("{path} names no object; write the key behind the bucket or folder")).into());
    };
    let key = percent_decode_str(key).decode_utf8().context("the key is not UTF-8")?.into_owned();
    // `file:///x` is in the folder `/`.
    let folder = if slash == after_scheme { &path[..=slash] } else { &path[..slash] };
    Ok((query.map_or_else(|| folder.to_owned(), |query| format!("{folder}?{query}")), key))
}

/// What was printed while reading.
enum Printed {
    /// Everything that there was to print.
    Whole(Result<Box<Inspection>, BackupError>),
    /// Whoever read the ids has gone away.
    NobodyReads,
}

/// Reads the backup, printing ids as they come. Blocking.
fn read(input: impl Read, options: &ReadOptions, json: bool, ids: Option<IdForm>) -> Printed {
    let Some(form) = ids else { return Printed::Whole(inspect_ids(input, options, |_, _| Ok(())).map(Box::new)) };
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let mut first = true;
    if json && out.write_all(b"{\"ids\": [").is_err() {
        return Printed::NobodyReads;
    }
    let result = inspect_ids(input, options, |id, _| {
        if json {
            out.write_all(if std::mem::take(&mut first) { b"\n  " } else { b",\n  " })?;
            serde_json::to_writer(&mut out, &escaped(id)).map_err(io::Error::from)
        } else if form == IdForm::Escaped {
            out.write_all(escaped(id).as_bytes()).and_then(|()| out.write_all(b"\n"))
        } else {
            let length = u32::try_from(id.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_be_bytes()).and_then(|()| out.write_all(id))
        }
    });
    let end = if json {
        let rest = match &result {
            Ok(inspection) => json!({ "inspection": inspection }),
            Err(error) => {
                let code = crate::exit::of_backup(error).code();
                json!({ "error": { "exit_code": code, "code": error.code, "message": error.to_string(), "details": error } })
            }
        };
        let rest = rest.to_string();
        // The ids are the first member of the document, these are the others.
        out.write_all(b"\n],").and_then(|()| out.write_all(&rest.as_bytes()[1..])).and_then(|()| out.write_all(b"\n"))
    } else {
        Ok(())
    };
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let lost = result.as_ref().err().and_then(|error| error.source.as_ref()).is_some_and(gone);
    if lost || end.and_then(|()| out.flush()).is_err() {
        return Printed::NobodyReads;
    }
    Printed::Whole(result.map(Box::new))
}

/// An id as one line of text: `\\`, `\n`, `\u{7}` and `\xff` stand for what cannot be shown.
fn escaped(id: &[u8]) -> String {
    let mut text = String::with_capacity(id.len());
    for chunk in id.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

fn text(input: &str, found: &Inspection) -> String {
    let named = |value: Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut lines = vec![
        ("input", input.to_owned()),
        ("form", named(json!(found.form))),
        ("compression", found.compression.as_str().to_owned()),
        ("read", format!("{} ({})", figures::bytes(found.bytes_read), named(json!(found.read_mode)))),
        ("unpacked", figures::bytes(found.plain_bytes)),
    ];
    if let Some(place) = found.place {
        lines.push(("place", named(json!(place))));
    }
    if let Some(engine) = found.engine {
        lines.push(("engine", named(json!(engine))));
    }
    if let Some(metadata) = &found.metadata {
        lines.push(("metadata", json!(metadata).to_string()));
    }
    lines.push(("ids", figures::count(found.count)));
    for (name, count) in
        [("repeated", found.repeated), ("invalid", found.invalid_count), ("not movable", found.not_movable)]
    {
        if count > 0 {
            lines.push((name, figures::count(count)));
        }
    }
    match &found.timestamps {
        Some(times) => lines.push((
            "times",
            format!("{}, {} missing, {} unknown", figures::count(times.count), times.missing, times.unknown),
        )),
        None => lines.push(("times", "none".to_owned())),
    }
    lines.push(("ids_sha256", found.ids_sha256_hex()));
    lines.push(("pairs_sha256", found.pairs_sha256_hex()));
    if found.entries_total > 0 {
        lines.push(("entries", figures::count(found.entries_total)));
    }
    let mut text: String = lines.into_iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect();
    text += &figures::value(&json!(found.entries), 2);
    for warning in &found.warnings {
        text += &format!("warning: {} ({})\n", warning.message, warning.code);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_into_folder_and_key() {
        let parts = |url: &str| split(url).unwrap();
        assert_eq!(parts("s3://b/p/k.tar.gz?region=x"), ("s3://b/p?region=x".into(), "k.tar.gz".into()));
        assert_eq!(parts("s3://b/k%20x"), ("s3://b".into(), "k x".into()));
        assert_eq!(parts("file:///k"), ("file:///".into(), "k".into()));
        assert_eq!(parts("file:///d/k"), ("file:///d".into(), "k".into()));
        assert!(split("s3://bucket").is_err() && split("s3://bucket/").is_err());
    }

    #[test]
    fn ids_are_escaped_without_loss() {
        assert_eq!(escaped(b"plain"), "plain");
        assert_eq!(escaped("商品\\\n".as_bytes()), "商品\\\\\\n");
        assert_eq!(escaped(b"a\xffb\x07"), "a\\xffb\\u{7}");
    }
}
