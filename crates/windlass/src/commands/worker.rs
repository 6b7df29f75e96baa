//! `windlass worker`

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::problem::Problem;
use crate::state::{Part, State};

/// Said at the first signal.
const DRAINING: &str = "draining: what runs stops at its next safe point and is given back (again: stop at once)";

/// What the worker is and can do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it is called in lists [default: the name of this machine, and the process]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Something that it has and not every worker does, `name=value`; tasks that need it run only here. May be repeated
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Tasks that run at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    places: Option<u16>,
    /// Seconds of silence after which others take over what it runs; short ones cost more renewals
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = clap::value_parser!(u64).range(2..=600))]
    lease: Option<u64>,
    /// What tasks of `dag` jobs may do here
    #[command(flatten)]
    allow: super::allow::Allow,
}

impl Args {
    fn part(&self) -> Part {
        Part {
            places: self.places.map(usize::from),
            take_up: true,
            name: self.name.clone(),
            labels: labels(&self.label),
            lease: self.lease.map(Duration::from_secs),
        }
    }
}

/// `name=value`
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written name=value".to_owned()),
    }
}

/// The labels as a map; of two of one name the last counts.
pub(super) fn labels(given: &[(String, String)]) -> BTreeMap<String, String> {
    given.iter().cloned().collect()
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let app = &args.allow.apply(app);
    let state = app.own_state()?;
    if let State::Folder(folder) = &state {
        return Err(Problem::usage(format!(
            "a folder ({}) is worked on by one process at a time, so it has no place for a further worker",
            folder.dir().display()
        ))
        .hint("`windlass up` serves and works on a folder; workers share an etcd: --state etcd://HOST:PORT")
        .into());
    }
    let interrupt = Interrupt::listen(&app.output, DRAINING)?;
    let held = state.open(&app.setting, args.part()).await?;
    let worker = held.engine.worker().map(|worker| worker.to_string()).unwrap_or_default();
    app.output.note(format!("worker {worker} takes up jobs of {state}"));
    interrupt.came().await;
    held.close().await?;
    app.output.result(&json!({ "worker": worker, "drained": true }), || format!("worker {worker} has drained\n"))?;
    Ok(Exit::Done)
}
