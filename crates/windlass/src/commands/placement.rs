//! `windlass placement …`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::{document, scenario};

use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;

/// Which file belongs on which server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what would be copied and deleted in a captured world, and why; changes nothing
    Decide(DecideArgs),
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
