//! The commands that look after the local folder.

use std::io;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use windlass_clock::{SharedClock, SystemClock};
use windlass_gocache::Config;
use windlass_gocache::local::{LocalStore, OpenOptions};

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::problem::Problem;

/// Which folder, and what it may hold. What is not given here is in the variables that go's program reads.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "local_folder")]
pub(super) struct Args {
    /// The folder [default: WINDLASS_GOCACHE_DIR, or windlass/gocache in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<String>,
    /// How it is laid out: sharded or seed
    #[arg(long, value_name = "NAME")]
    layout: Option<String>,
    /// Use a folder that belongs to somebody else
    #[arg(long)]
    foreign_owner: bool,
    /// Bytes that it may hold, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// What was not used for so long goes, such as 30d
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// What was used so recently stays in any case, such as 1h
    #[arg(long, value_name = "SPAN")]
    keep_recent: Option<String>,
}

/// What to hash.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    folder: Args,
    /// Remove what is damaged
    #[arg(long)]
    repair: bool,
}

/// What to explain.
#[derive(Debug, clap::Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    folder: Args,
    /// An action or output, in hexadecimal digits or as go writes it
    id: String,
}

impl Args {
    /// The settings of the environment, with these over them.
    pub(super) fn config(&self, app: &App) -> anyhow::Result<Config> {
        let (mut config, wrong) = Config::from_environment(&|name| std::env::var(name).ok());
        for error in wrong {
            app.output.note(format!("{} {error}; it is left out", app.output.notes.warning("warning:")));
        }
        let mut words = Vec::new();
        let values = [
            ("--dir", &self.dir),
            ("--layout", &self.layout),
            ("--max-size", &self.max_size),
            ("--max-age", &self.max_age),
            ("--keep-recent", &self.keep_recent),
        ];
        for (name, value) in values {
            words.extend(value.iter().map(|value| format!("{name}={value}")));
        }
        if self.foreign_owner {
            words.push("--foreign-owner".to_owned());
        }
        config.apply_arguments(words).map_err(|error| Problem::usage(error.to_string()))?;
        Ok(config)
    }
}

/// Opens the folder.
pub(super) fn open(config: &Config, clock: SharedClock) -> anyhow::Result<LocalStore> {
    let options = OpenOptions { layout: config.layout, verify: config.verify, foreign_owner: config.foreign_owner };
    LocalStore::open(&config.dir, &options, clock).map_err(|error| Problem::failed(error.to_string()).into())
}

/// Does blocking work on the folder; an interrupt stops it at a point from which it can go on.
pub(super) async fn work<T: Serialize + Send + 'static>(
    app: &App,
    config: Config,
    work: impl FnOnce(&LocalStore, &Config, &dyn Fn() -> bool) -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let stop = interrupt.token();
    let done = tokio::task::spawn_blocking(move || {
        let store = open(&config, SystemClock::real())?;
        let place = store.root().display().to_string();
        work(&store, &config, &|| stop.is_cancelled()).with_context(|| format!("work on {place}"))
    });
    done.await?
}

fn show<T: Serialize>(app: &App, result: &T) -> anyhow::Result<Value> {
    let document = serde_json::to_value(result)?;
    app.output.result(&document, || figures::value(&document, 0))?;
    Ok(document)
}

/// An interrupted walk can be given again.
fn ended(document: &Value) -> Exit {
    if document["stopped"] == true { Exit::Interrupted } else { Exit::Done }
}

pub(super) async fn gc(app: &App, args: Args) -> anyhow::Result<Exit> {
    let config = args.config(app)?;
    let collected = work(app, config, |store, config, stop| store.gc(&config.limits, stop)).await?;
    Ok(ended(&show(app, &collected)?))
}

pub(super) async fn stats(app: &App, args: Args) -> anyhow::Result<Exit> {
    let config = args.config(app)?;
    let stats = work(app, config, |store, _, _| store.stats()).await?;
    let waiting = waiting(&args.config(app)?);
    let document = serde_json::json!({ "store": stats, "waiting_for_upload": waiting });
    show(app, &document)?;
    Ok(Exit::Done)
}

/// Entries that earlier runs left to be uploaded, and their bytes.
fn waiting(config: &Config) -> Option<(u64, u64)> {
    let store = open(config, SystemClock::real()).ok()?;
    Some(windlass_gocache_remote::waiting(store.remote_state()))
}

pub(super) async fn verify(app: &App, args: VerifyArgs) -> anyhow::Result<Exit> {
    let config = args.folder.config(app)?;
    let repair = args.repair;
    let verified = work(app, config, move |store, _, stop| store.verify(repair, stop)).await?;
    let damaged = verified.damaged;
    let document = show(app, &verified)?;
    Ok(if damaged > 0 { Exit::Failed } else { ended(&document) })
}

pub(super) async fn why(app: &App, args: WhyArgs) -> anyhow::Result<Exit> {
    let config = args.folder.config(app)?;
    let id = args.id;
    let why = work(app, config, move |store, _, _| store.why(&id)).await?;
    show(app, &why)?;
    Ok(Exit::Done)
}
