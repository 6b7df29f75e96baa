//! `windlass placement …`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::{document, scenario};

use serde_json::{Value, json};
use windlass_distribute::wire::agent::Name;
use windlass_distribute_jobs::{SecretFrom, ask, import as old};

use crate::app::App;
use crate::exit::Exit;
use crate::job_file;
use crate::problem::Problem;

/// Which file belongs on which server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what would be copied and deleted in a captured world, and why; changes nothing
    Decide(DecideArgs),
    /// Write a job file that does what the file of the old controller, cfm.yml, says
    Import(ImportArgs),
    /// Say why a file is, or is not, where it is; asks the controller at the `listen` address of its job
    Why(WhyArgs),
}

/// Which file.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The old controller's file
    file: PathBuf,
    /// The name of the job
    #[arg(long, default_value = "distribute")]
    name: String,
}

/// Which file, and whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// The name of the file, as it is on the nodes
    file: String,
    /// The `listen` address of the job; with https:// before it where the job has `listen_tls`
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    controller: String,
    /// The authority, in PEM, that its certificate is verified with, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The environment variable that holds the token of `listen_token`
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
}

/// Which world, by which rules.
#[derive(Debug, clap::Args)]
pub(crate) struct DecideArgs {
    /// The folder with scenario.json, .grade.info, .hitcount.history and the event logs
    folder: PathBuf,
    /// Whose rules
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Name at most so many of the files that are passed over, with the reason
    #[arg(long, default_value_t = 100, value_name = "FILES")]
    passed_over: usize,
}

/// Whose rules decide.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Profile {
    /// Ours
    #[default]
    Product,
    /// Those of the program that this one replaces, mistakes included: for comparing
    Legacy,
}

pub(super) fn decide(app: &App, args: &DecideArgs) -> anyhow::Result<Exit> {
    let reading = match args.profile {
        Profile::Product => Reading::Product,
        Profile::Legacy => Reading::Legacy,
    };
    let decided =
        scenario::decide(&args.folder, reading, args.passed_over).map_err(|error| Problem::usage(error.to_string()))?;
    app.output.result(&decided, || document::text(&decided))?;
    Ok(Exit::Done)
}

pub(super) fn import(app: &App, args: &ImportArgs) -> anyhow::Result<Exit> {
    let shown = args.file.display();
    let usage = |why: String| Problem::usage(format!("{shown} cannot be taken over: {why}"));
    let text = std::fs::read_to_string(&args.file).map_err(|error| usage(error.to_string()))?;
    let document = job_file::read_plain(&text).map_err(usage)?;
    let imported = old::import(&document).map_err(usage)?;
    for note in &imported.notes {
        app.output.note(note);
    }
    let file = json!({ "kind": "distribute", "name": args.name, "spec": imported.spec });
    let text = || serde_json::to_string_pretty(&file).unwrap_or_default() + "\n";
    app.output.result(&file, text)?;
    Ok(Exit::Done)
}

pub(super) async fn why(app: &App, args: &WhyArgs) -> anyhow::Result<Exit> {
    let name = Name::new(args.file.as_bytes())
        .map_err(|why| Problem::usage(format!("{:?} is no name of a file: it {why}", args.file)))?;
    let token = args.token_env.clone().map(SecretFrom::Env);
    let answer = ask::why(&args.controller, &name, token.as_ref(), args.ca.as_deref()).await?;
    let text = || {
        let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
        let words = |values: Vec<Value>| values.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let on = words(list("on"));
        let place = if on.is_empty() { "is on no node".to_owned() } else { format!("is on {}", on.join(", ")) };
        if answer["known"] == false {
            return format!("{name} is not known: {}\n", answer["because"].as_str().unwrap_or_default());
        }
        let rank = match answer["rank"].as_u64() {
            Some(rank) if rank > 0 => format!("rank {rank}"),
            _ => "not in the catalogue".to_owned(),
        };
        let mut text = format!("{name} ({rank}, {} bytes) {place}\n", answer["size"]);
        for line in words(list("because")) {
            text.push_str(&format!("  {line}\n"));
        }
        text
    };
    app.output.result(&answer, text)?;
    Ok(Exit::Done)
}
