//! `windlass completions SHELL`

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::options::Options;

/// Which shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Options::command(), "windlass", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    app.output.result(&json!({ "shell": args.shell.to_string(), "script": script }), || script.clone())?;
    Ok(Exit::Done)
}
