//! `windlass approve JOB TASK`

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::state::State;

/// Which task, and who says yes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// The task that asks
    task: String,
    /// Who says yes [default: the user who gives this command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// What there is to say about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    let user = || std::env::var("USER").ok().filter(|user| !user.is_empty());
    let by = args.by.clone().or_else(user).unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    if let (State::Server(server), Some(_)) = (app.state()?, &args.by) {
        return Err(Problem::usage(format!("--by: {server} knows itself who says yes")).hint("leave it out").into());
    }
    let command = Command::Approve { task: args.task, by, note: args.note };
    steer(app, &args.job, command, Stay::Briefly).await
}
