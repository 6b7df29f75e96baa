//! `windlass gocache clean`: removes what is in the local folder, in the remote, or in both.

use std::io::{self, BufRead, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use windlass_blob::{BlobStore, BlobUrl, Context};
use windlass_clock::{SystemClock, deadline};
use windlass_gocache::Config;
use windlass_gocache::local::Cleaning;

use super::{folder, go_duration, network};
use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::problem::Problem;

/// What to remove.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: folder::Args,
    /// The local folder
    #[arg(long)]
    local: bool,
    /// The place in the remote that is written to
    #[arg(long)]
    remote: bool,
    /// Only below this prefix of the remote
    #[arg(long, value_name = "PREFIX", requires = "remote")]
    prefix: Option<String>,
    /// Only what is older than this: not used for so long, in the remote not written for so long
    #[arg(long, value_name = "SPAN", value_parser = figures::parse_span)]
    older_than: Option<Duration>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Objects that are removed at a time
    #[arg(long, env = "MAX_WORKERS", default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Longest time, as Go writes it
    #[arg(long, env = "CLEANUP_TIMEOUT", default_value = "30m", value_name = "SPAN", value_parser = go_duration::parse)]
    timeout: Duration,
}

/// So many, so large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Amount {
    objects: u64,
    bytes: u64,
}

impl Amount {
    fn words(self) -> String {
        format!("{} objects, {}", figures::count(self.objects), figures::bytes(self.bytes))
    }
}

/// What became of one place.
#[derive(Clone, Debug, Default, Serialize)]
struct Outcome {
    place: String,
    found: Amount,
    removed: Amount,
    failed: u64,
    /// Why the first that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    if !args.local && !args.remote {
        return Err(Problem::usage("nothing to clean is named").hint("add --local, --remote, or both").into());
    }
    let config = args.folder.config(app)?;
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let clock = SystemClock::real();
    let work = async {
        let remote = if args.remote { Some(clean_remote(app, &args, &config).await?) } else { None };
        let local = if args.local { Some(clean_local(app, &args, &config).await?) } else { None };
        anyhow::Ok((local, remote))
    };
    let ended = tokio::select! {
        ended = deadline(&*clock, args.timeout, work) => ended,
        () = interrupt.came() => return Ok(Exit::Interrupted),
    };
    let Ok(done) = ended else {
        let message = format!("cleaning took longer than {}", figures::span(args.timeout));
        return Err(Problem::failed(message).hint("run it again to go on, or set CLEANUP_TIMEOUT").into());
    };
    let (local, remote) = done?;
    if matches!(local, Some(None)) || matches!(remote, Some(None)) {
        return Ok(Exit::Interrupted);
    }
    let (local, remote) = (local.flatten(), remote.flatten());
    let failed = remote.as_ref().map_or(0, |outcome| outcome.failed);
    let document = json!({ "dry_run": args.dry_run, "local": local, "remote": remote });
    app.output.result(&document, || {
        let line = |outcome: &Outcome| {
            let verb = if args.dry_run { "would remove" } else { "removed" };
            let amount = if args.dry_run { outcome.found } else { outcome.removed };
            let failed = if outcome.failed > 0 { format!(", {} failed", outcome.failed) } else { String::new() };
            format!("{}: {verb} {}{failed}\n", outcome.place, amount.words())
        };
        local.iter().chain(&remote).map(line).collect()
    })?;
    if failed > 0 {
        let reason = remote.and_then(|outcome| outcome.reason).unwrap_or_default();
        return Err(Problem::unreachable(format!("{failed} objects could not be removed: {reason}")).into());
    }
    Ok(Exit::Done)
}

/// Asks on standard error; anything but yes is no.
fn agreed(app: &App, args: &Args, place: &str, found: Amount) -> anyhow::Result<bool> {
    if args.yes {
        return Ok(true);
    }
    let mut err = io::stderr().lock();
    write!(err, "{place}: {}. Remove them? (y/N) ", found.words()).and_then(|()| err.flush()).context("ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    let yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !yes {
        drop(err);
        app.output.note("\nnothing was removed");
    }
    Ok(yes)
}

/// `None`: nobody said yes.
async fn clean_local(app: &App, args: &Args, config: &Config) -> anyhow::Result<Option<Outcome>> {
    let place = config.dir.display().to_string();
    let cleaning = |dry_run| Cleaning { older_than: args.older_than, dry_run };
    let look = cleaning(true);
    let seen = folder::work(app, config.clone(), move |store, _, stop| store.clean(&look, stop)).await?;
    let found = Amount { objects: seen.outputs + seen.records + seen.temporaries, bytes: seen.bytes };
    let mut outcome = Outcome { place, found, ..Outcome::default() };
    if args.dry_run || found.objects == 0 {
        return Ok(Some(outcome));
    }
    if !agreed(app, args, &outcome.place, found)? {
        return Ok(None);
    }
    let remove = cleaning(false);
    let gone = folder::work(app, config.clone(), move |store, _, stop| store.clean(&remove, stop)).await?;
    outcome.removed = Amount { objects: gone.outputs + gone.records + gone.temporaries, bytes: gone.bytes };
    Ok(Some(outcome))
}

/// `None`: nobody said yes.
async fn clean_remote(app: &App, args: &Args, config: &Config) -> anyhow::Result<Option<Outcome>> {
    let remote = network::remote(config, app)?;
    let write = remote.write.clone().ok_or_else(|| {
        Problem::usage("the remote is read-only, so there is nothing that may be removed")
            .hint("unset WINDLASS_GOCACHE_READ_ONLY")
    })?;
    let url = args.prefix.as_deref().map_or(write.clone(), |prefix| write.join(prefix));
    let context = Context::real().with_environment(remote.environment.clone());
    let store = BlobStore::open(&url, &context)?;
    let clock = SystemClock::real();
    let before = args.older_than.and_then(|age| clock.wall().checked_sub(age).ok());
    let (mut outcome, keys) = found(&store, &url, before).await?;
    if args.dry_run || keys.is_empty() {
        return Ok(Some(outcome));
    }
    app.output.note(format!("{}: found {}", outcome.place, outcome.found.words()));
    if !agreed(app, args, &outcome.place, outcome.found)? {
        return Ok(None);
    }
    remove(app, &store, keys, usize::from(args.workers), &mut outcome).await;
    Ok(Some(outcome))
}

/// What is there. A listing that ends early is an error, never a short list.
async fn found(
    store: &BlobStore,
    url: &BlobUrl,
    before: Option<Timestamp>,
) -> anyhow::Result<(Outcome, Vec<(String, u64)>)> {
    let mut outcome = Outcome { place: url.of_key(""), ..Outcome::default() };
    let mut keys = Vec::new();
    let mut pages = store.list_pages("");
    while let Some(page) = pages.next_page().await? {
        for entry in page {
            if before.is_none_or(|before| entry.meta.modified < before) {
                outcome.found.objects += 1;
                outcome.found.bytes += entry.meta.size;
                keys.push((entry.key, entry.meta.size));
            }
        }
    }
    Ok((outcome, keys))
}

/// Removes the objects, so many at a time, and says once per second how far it is.
async fn remove(app: &App, store: &BlobStore, keys: Vec<(String, u64)>, workers: usize, outcome: &mut Outcome) {
    let clock = SystemClock::real();
    let (objects, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let removing = futures::stream::iter(keys).map(|(key, size)| {
        let (objects, bytes) = (&objects, &bytes);
        async move {
            let gone = store.delete(&key).await;
            if gone.is_ok() {
                objects.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(size, Ordering::Relaxed);
            }
            gone.err()
        }
    });
    let mut removing = removing.buffer_unordered(workers);
    let mut tick = clock.sleep(Duration::from_secs(1));
    loop {
        tokio::select! {
            next = removing.next() => match next {
                None => break,
                Some(None) => {}
                Some(Some(error)) => {
                    outcome.failed += 1;
                    outcome.reason.get_or_insert_with(|| error.to_string());
                }
            },
            () = &mut tick => {
                let (done, all) = (objects.load(Ordering::Relaxed), outcome.found.objects);
                app.output.note(format!("removed {} of {}", figures::count(done), figures::count(all)));
                tick = clock.sleep(Duration::from_secs(1));
            }
        }
    }
    drop(removing);
    outcome.removed = Amount { objects: objects.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) };
}
