//! `windlass site …`

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde::de::DeserializeOwned;
use windlass_recover::inventory::Inventory;
use windlass_recover::{CallFault, Cloud, Site, access, drift, reader};

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::job_file;
use crate::problem::Problem;

/// Look at OpenStack sites; nothing is changed there.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign in at a site and say whether recoveries can use it
    Check(Place),
    /// Print what instances of a site need, as the inventory of a `recover` job
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
}

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The older inventory
    old: PathBuf,
    /// The newer inventory
    new: PathBuf,
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
        Command::Inventory(args) => {
            let mut found =
                reader::read(&open(&args.place)?, &args.instances).await.map_err(|fault| refused(&fault))?;
            found.taken_at = Some(app.setting.clock.wall());
            app.output.result(&found, || serde_json::to_string_pretty(&found).unwrap_or_default() + "\n")?;
            Ok(Exit::Done)
        }
        Command::Diff(args) => {
            let (old, new): (Inventory, Inventory) =
                (read(&args.old, "an inventory")?, read(&args.new, "an inventory")?);
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
