//! The command line.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;
use crate::output::{ColorChoice, Format};
use crate::state::ServerOptions;

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
    /// Ask this server instead of working on a state here: HOST:PORT (https, on this machine http) or a URL
    #[arg(long, global = true, env = "WINDLASS_SERVER", value_name = "ADDRESS", hide_env_values = true)]
    #[arg(help_heading = "Server")]
    pub(crate) server: Option<String>,
    /// Holds the access token for the server [default: the token in WINDLASS_TOKEN, the file in WINDLASS_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    pub(crate) token_file: Option<PathBuf>,
    /// The only roots in PEM that the server's certificate may come from [default: those of the system]
    #[arg(long, global = true, env = "WINDLASS_SERVER_CA", value_name = "FILE", hide_env_values = true)]
    #[arg(help_heading = "Server")]
    pub(crate) server_ca: Option<PathBuf>,
    /// A client certificate and its key, in one PEM file, instead of a token
    #[arg(long, global = true, env = "WINDLASS_SERVER_IDENTITY", value_name = "FILE", hide_env_values = true)]
    #[arg(help_heading = "Server")]
    pub(crate) server_identity: Option<PathBuf>,
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

impl Options {
    /// Reads the command line, and says which server is meant.
    pub(crate) fn read() -> Result<(Self, ServerOptions), clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut options = Self::from_arg_matches(&matches)?;
        let global = &mut options.global;
        let typed = |name: &str| source(&matches, name) == Some(ValueSource::CommandLine);
        let (typed_server, typed_state) = (typed("server"), typed("state"));
        if typed_server && typed_state {
            let why = "--server and --state name two places; a server has a state of its own\n";
            return Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, why));
        }
        let server = ServerOptions {
            // What is typed is meant, whatever the environment says.
            server: global.server.take().filter(|server| !server.is_empty() && (typed_server || !typed_state)),
            typed: typed_server,
            token_file: global.token_file.take(),
            roots: global.server_ca.take(),
            identity: global.server_identity.take(),
        };
        Ok((options, server))
    }
}

/// Where the value of a global option is from, whether it stands before or after the command.
fn source(matches: &ArgMatches, name: &str) -> Option<ValueSource> {
    let own = matches.value_source(name);
    let below = matches.subcommand().and_then(|(_, matches)| source(matches, name));
    [own, below].into_iter().flatten().max_by_key(|source| *source == ValueSource::CommandLine)
}
