//! The command line.

use clap::{Args, Parser};

use crate::commands::Command;
use crate::output::{ColorChoice, Format};

/// Windlass hauls data to where it belongs and never lets it slip back.
///
/// A person says where data should be; Windlass plans the moves, shows the plan, carries it out, survives any crash,
/// can undo it, and can prove what it did.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 the job failed, 2 wrong usage or an invalid file, 3 cannot reach what \
                        is needed, 130 interrupted (and resumable).")]
pub(crate) struct Options {
    /// Options of all commands.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where jobs are kept: a folder, or etcd://HOST:PORT [default: windlass under $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, global = true, env = "WINDLASS_STATE", value_name = "WHERE", hide_env_values = true)]
    pub(crate) state: Option<String>,
    /// Form of the result on standard output
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Format,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Say more on standard error; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}
