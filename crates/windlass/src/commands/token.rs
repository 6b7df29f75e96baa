//! `windlass token new`

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::json;
use windlass_server::token;

use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an access token, and the line of the access file that lets it in
    New(New),
}

/// Whose token, and what it may do.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// Whose it is, for the audit log; no spaces
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it may do
    #[arg(long, value_enum, default_value_t = Role::Operator, value_name = "ROLE")]
    role: Role,
    /// When it stops to work, as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Reads
    Viewer,
    /// Submits jobs and gives them commands
    Operator,
    /// Deletes jobs and reads the audit log as well
    Admin,
}

pub(super) fn new(app: &App, args: &New) -> anyhow::Result<Exit> {
    if args.name.is_empty() || args.name.contains(char::is_whitespace) || args.name.starts_with('#') {
        return Err(Problem::usage(format!("{:?} is no name for an access file: one word", args.name)).into());
    }
    let token =
        token::generate().map_err(|error| anyhow::anyhow!("ask the operating system for randomness: {error}"))?;
    let role = match args.role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    };
    let expires = args.expires.map(|at| format!(" expires={at}")).unwrap_or_default();
    let line = format!("{} {role} {}{expires}", args.name, token::digest_text(&token));
    app.output.result(&json!({ "token": token, "access_line": line }), || {
        format!("{token}\n\nthe line for the access file; the token itself is shown this once:\n{line}\n")
    })?;
    Ok(Exit::Done)
}
