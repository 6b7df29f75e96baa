//! `windlass site …`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use serde::de::DeserializeOwned;
use windlass_recover::inventory::Inventory;
use windlass_recover::{CallFault, Cloud, Site, access, drift, reader};
use windlass_store::Store;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::inventories::{self, Shelf};
use crate::job_file;
use crate::kept::{Outcome, Version, Which};
use crate::problem::Problem;

/// Look at OpenStack sites; nothing is changed there.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign in at a site and say whether recoveries can use it
    Check(Place),
    /// Print what instances of a site need, as the inventory of a `recover` job; keep it in versions
    Inventory(InventoryArgs),
    /// Say what has changed between two inventories
    Diff(DiffArgs),
}

/// Which site.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// A file that describes the site, YAML or JSON: as `target` of a `recover` job
    file: PathBuf,
}

/// What to read.
#[derive(Debug, clap::Args)]
pub(crate) struct InventoryArgs {
    #[command(flatten)]
    place: Place,
    /// An instance, by name or id; can be given again. Without it: all
    #[arg(long = "instance", value_name = "NAME")]
    instances: Vec<String>,
    /// Keep it as a version in the state, unless the last version is the same
    #[arg(long, conflicts_with_all = ["at", "versions"])]
    keep: bool,
    /// Print a version that was kept: its number, the moment at which it was the newest, or `latest`
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["versions", "instances"])]
    at: Option<String>,
    /// List the versions that were kept
    #[arg(long, conflicts_with = "instances")]
    versions: bool,
    /// Object storage, s3://BUCKET/FOLDER or file:///FOLDER: keep versions there too; look there instead of in the state
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// What the versions are called, when they are of some instances only; else as the site
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The older inventory: a file, or a version that was kept, as `a@3`, `a@2026-03-01T02:00:00Z`
    old: String,
    /// The newer inventory, likewise: `a@latest`
    new: String,
    /// Object storage to look for versions in, instead of the state
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

fn read<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {what} from {}", path.display()))?;
    let wrong = |why: String| Problem::usage(format!("{} is not {what}: {why}", path.display()));
    let value = job_file::read_plain(&text).map_err(wrong)?;
    Ok(serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?)
}

fn refused(fault: &CallFault) -> anyhow::Error {
    let problem =
        if fault.may_pass() { Problem::unreachable(fault.to_string()) } else { Problem::failed(fault.to_string()) };
    problem.hint("check auth_url, credential, region and interface of the site").into()
}

pub(super) async fn run(app: &App, command: &Command) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    tokio::select! {
        done = carry_out(app, command) => done,
        () = interrupt.came() => Err(Problem::interrupted("stopped; nothing was changed").into()),
    }
}

async fn carry_out(app: &App, command: &Command) -> anyhow::Result<Exit> {
    let open = |place: &Place| {
        Ok::<_, anyhow::Error>(Cloud::new(read::<Site>(&place.file, "a site")?, app.setting.clock.clone()))
    };
    match command {
        Command::Check(place) => {
            let found = access::look(&open(place)?).await.map_err(|fault| refused(&fault))?;
            app.output.result(&found, || text(&found))?;
            Ok(if found.is_enough() { Exit::Done } else { Exit::Failed })
        }
        Command::Inventory(args) => inventory(app, args).await,
        Command::Diff(args) => {
            let old = named(app, &args.old, args.store.as_deref()).await?;
            let new = named(app, &args.new, args.store.as_deref()).await?;
            let found = drift::between(&old, &new);
            let line = |one: &drift::Difference| {
                let members =
                    if one.members.is_empty() { String::new() } else { format!(": {}", one.members.join(", ")) };
                format!("{} {} {} ({}){members}\n", one.what, one.kind, one.name, one.id)
            };
            app.output.result(&found, || found.iter().map(line).collect())?;
            Ok(if found.is_empty() { Exit::Done } else { Exit::Failed })
        }
    }
}

async fn inventory(app: &App, args: &InventoryArgs) -> anyhow::Result<Exit> {
    let site = read::<Site>(&args.place.file, "a site")?;
    let name = args.name.as_deref().unwrap_or(&site.name);
    let shelf = args.store.as_deref().map(|url| Shelf::open(url, name)).transpose()?;
    if args.versions {
        let versions = match &shelf {
            Some(shelf) => shelf.versions().await?,
            None => inventories::versions(&*state(app).await?, name).await?,
        };
        app.output.result(&versions, || versions.iter().map(line).collect())?;
        return Ok(Exit::Done);
    }
    if let Some(which) = &args.at {
        let found = kept(app, name, which, shelf.as_ref()).await?;
        app.output.result(&found, || serde_json::to_string_pretty(&found).unwrap_or_default() + "\n")?;
        return Ok(Exit::Done);
    }
    let cloud = Cloud::new(site.clone(), app.setting.clock.clone());
    let mut found = reader::read(&cloud, &args.instances).await.map_err(|fault| refused(&fault))?;
    let now = app.setting.clock.wall();
    found.taken_at = Some(now);
    if args.keep {
        let store = app.own_state()?.hold_alone(&app.setting).await?;
        let outcome = inventories::keep(&*store.shared(), name, &found, now).await;
        store.close().await;
        let outcome = outcome?;
        let version = outcome.version();
        let said = if matches!(outcome, Outcome::New(_)) { "is new" } else { "is as it was" };
        app.output.note(format!("version {} of the inventory {name} {said}", version.version));
        if let Some(shelf) = &shelf {
            shelf.keep(version, &found).await?;
        }
    }
    app.output.result(&found, || serde_json::to_string_pretty(&found).unwrap_or_default() + "\n")?;
    Ok(Exit::Done)
}

/// The state, for reading.
async fn state(app: &App) -> anyhow::Result<Arc<dyn Store>> {
    let state = app.own_state()?;
    let store = state.read(&app.setting.clock).await?;
    store.ok_or_else(|| {
        Problem::failed(format!("nothing was ever stored in {state}"))
            .hint("keep a version with `windlass site inventory SITE --keep`, or name another state")
            .into()
    })
}

async fn kept(app: &App, name: &str, which: &str, shelf: Option<&Shelf>) -> anyhow::Result<Inventory> {
    let which = Which::parse(which).map_err(Problem::usage)?;
    match shelf {
        Some(shelf) => shelf.read(&which).await,
        None => inventories::read(&*state(app).await?, name, &which).await,
    }
}

/// An inventory by the file that it is in, or by its name and version.
async fn named(app: &App, text: &str, store: Option<&str>) -> anyhow::Result<Inventory> {
    match text.rsplit_once('@') {
        Some((name, which)) if !Path::new(text).exists() => {
            let shelf = store.map(|url| Shelf::open(url, name)).transpose()?;
            kept(app, name, which, shelf.as_ref()).await
        }
        _ => read(Path::new(text), "an inventory"),
    }
}

fn line(version: &Version) -> String {
    let Version { version, since, seen, about, digest, .. } = version;
    let seen = if seen == since { String::new() } else { format!(", last seen so {seen}") };
    let about = if about.is_empty() { String::new() } else { format!(": {about}") };
    format!("{version:>4}  {since}{seen}{about}  {digest}\n")
}

fn text(found: &access::Access) -> String {
    let roles = found.roles.join(", ");
    let mut text = format!("{}: user {} in project {} with the roles {roles}\n", found.site, found.user, found.project);
    for service in &found.services {
        let version = service.microversion.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let state = service.fault.clone().unwrap_or_else(|| "can be used".to_owned());
        text.push_str(&format!("  {}{version}: {state}\n", service.service));
    }
    if !found.is_admin {
        text.push_str("  recoveries need the role admin, which the credential does not have\n");
    }
    text
}
