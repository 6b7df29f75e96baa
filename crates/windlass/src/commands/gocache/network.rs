//! The commands that talk to the remote.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_clock::SystemClock;
use windlass_gocache::Config;
use windlass_gocache::disk::Disk;
use windlass_gocache::local::OpenOptions;
use windlass_gocache::network::from_environment;
use windlass_gocache_remote::{Remote, RemoteConfig};

use super::folder;
use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::problem::Problem;

/// How long to upload.
#[derive(Debug, clap::Args)]
pub(super) struct FlushArgs {
    #[command(flatten)]
    folder: folder::Args,
    /// Longest time
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = figures::parse_span)]
    limit: Duration,
}

/// How long to fetch.
#[derive(Debug, clap::Args)]
pub(super) struct PrefetchArgs {
    #[command(flatten)]
    folder: folder::Args,
    /// Longest time
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = figures::parse_span)]
    limit: Duration,
}

/// What to check.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    folder: folder::Args,
}

/// The remote of this environment; an error when it names none.
pub(super) fn remote(config: &Config, app: &App) -> anyhow::Result<RemoteConfig> {
    let (remote, wrong) = from_environment(&|name| std::env::var(name).ok(), config.layout);
    for line in &wrong {
        app.output.note(format!("{} {line}", app.output.notes.warning("warning:")));
    }
    if remote.is_local_only() {
        let hint = "set the five S3_… variables, or WINDLASS_GOCACHE_REMOTE to a blob URL such as s3://bucket/prefix";
        return Err(Problem::usage("no remote is set").hint(hint).into());
    }
    Ok(remote)
}

/// Does blocking work with the remote over the local folder.
async fn with_remote<T: Send + 'static>(
    app: &App,
    config: Config,
    remote: RemoteConfig,
    work: impl FnOnce(&Remote) -> T + Send + 'static,
) -> anyhow::Result<(T, Vec<String>)> {
    let output = app.output.clone();
    Ok(tokio::task::spawn_blocking(move || {
        let options = OpenOptions { layout: config.layout, verify: config.verify, foreign_owner: config.foreign_owner };
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let warn = {
            let told = told.clone();
            move |line: &str| {
                output.note(format!("{} {line}", output.notes.warning("warning:")));
                told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line.to_owned());
            }
        };
        let clock = SystemClock::real();
        let disk = Disk::open(&config.dir, config.spare_dir, &options, clock.clone(), &warn);
        let remote = Remote::start(remote, Arc::new(disk), clock, warn);
        let done = work(&remote);
        let told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        (done, told)
    })
    .await?)
}

pub(super) async fn flush(app: &App, args: FlushArgs) -> anyhow::Result<Exit> {
    let config = args.folder.config(app)?;
    let remote = remote(&config, app)?;
    if remote.write.is_none() {
        return Err(Problem::usage("the remote is read-only").hint("unset WINDLASS_GOCACHE_READ_ONLY").into());
    }
    let limit = args.limit;
    let ((closed, counters), _) =
        with_remote(app, config, remote, move |remote| (remote.flush(limit), remote.counters())).await?;
    let document = json!({ "left": closed.left, "left_bytes": closed.left_bytes, "remote": counters });
    app.output.result(&document, || figures::value(&document, 0))?;
    Ok(if closed.left == 0 { Exit::Done } else { Exit::Unreachable })
}

pub(super) async fn prefetch(app: &App, args: PrefetchArgs) -> anyhow::Result<Exit> {
    let config = args.folder.config(app)?;
    let remote = remote(&config, app)?;
    let limit = args.limit;
    let ((fetched, counters), told) =
        with_remote(app, config, remote, move |remote| (remote.prefetch(limit), remote.counters())).await?;
    let document = json!({
        "actions": fetched.actions,
        "outputs": fetched.outputs,
        "local": fetched.local,
        "missing": fetched.missing,
        "remote": counters,
    });
    app.output.result(&document, || figures::value(&document, 0))?;
    Ok(if told.is_empty() || fetched.actions > 0 { Exit::Done } else { Exit::Unreachable })
}

pub(super) async fn doctor(app: &App, args: DoctorArgs) -> anyhow::Result<Exit> {
    let config = args.folder.config(app)?;
    let remote = remote(&config, app)?;
    let mut places: Vec<_> = remote.read.iter().map(|url| (url.clone(), remote.write.as_ref() == Some(url))).collect();
    if let Some(write) = remote.write.as_ref().filter(|write| !remote.read.contains(write)) {
        places.push((write.clone(), true));
    }
    let (mut rows, mut all_well) = (Vec::new(), true);
    for (url, writes) in places {
        let checks = windlass_gocache_remote::doctor(&url, writes, &remote.environment, SystemClock::real()).await;
        for check in checks {
            all_well &= check.ok != Some(false);
            rows.push((url.of_key(""), check));
        }
    }
    let document = json!({
        "ok": all_well,
        "checks": rows.iter().map(|(place, check)| {
            json!({ "place": place, "name": check.name, "ok": check.ok, "detail": check.detail })
        }).collect::<Vec<_>>(),
    });
    app.output.result(&document, || {
        let word = |ok: Option<bool>| match ok {
            Some(true) => "ok",
            Some(false) => "FAILED",
            None => "-",
        };
        let line = |(place, check): &(String, windlass_gocache_remote::Check)| {
            [place.clone(), check.name.to_owned(), word(check.ok).to_owned(), check.detail.clone()]
        };
        figures::table(["place", "check", "", "found"], rows.iter().map(line))
    })?;
    Ok(if all_well { Exit::Done } else { Exit::Unreachable })
}
