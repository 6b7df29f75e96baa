//! The commands, one file each.

mod agent;
mod allow;
mod approve;
mod backup;
mod cancel;
mod completions;
mod confirm;
mod delete;
mod demo;
mod extend;
pub(crate) mod gocache;
mod index;
mod jobs;
mod kinds;
mod log;
mod pause;
mod placement;
pub(crate) mod plan;
mod report;
mod resume;
mod retry;
mod run;
mod schedule;
mod schema;
mod show;
mod sim;
mod site;
mod steer;
mod submit;
mod table;
mod token;
mod undo;
mod up;
mod watch;
mod why;
mod worker;

use clap::Subcommand;

use crate::app::App;
use crate::exit::Exit;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one real job on parts that come with this program, and show what it does
    Demo(demo::Args),
    /// Show what a job would do; changes nothing
    Plan(plan::Args),
    /// Plan and run a job here, in the foreground; the same command resumes it
    Run(run::Args),
    /// Serve the API and the web pages, and run jobs, until stopped
    Up(Box<up::Args>),
    /// Run tasks of jobs that live in an etcd, until stopped
    Worker(worker::Args),
    /// Hand a job to whoever works on the state
    Submit(submit::Args),
    /// Show how far a job is until it rests
    Watch(watch::Args),
    /// List the jobs
    Jobs(jobs::Args),
    /// Show a job and its tasks
    Show(show::Args),
    /// Say what a job or a task waits for, or why it failed
    Why(why::Args),
    /// Print the log of a job
    Log(log::Args),
    /// Print what a job did, with receipts
    Report(report::Args),
    /// Pause a job at its next safe point
    Pause(pause::Args),
    /// Go on with a paused or interrupted job, in the foreground
    Resume(resume::Args),
    /// Give a job up
    Cancel(cancel::Args),
    /// Undo what an ended job did, in the foreground
    Undo(undo::Args),
    /// Say yes to the question of a task that waits for it
    Approve(approve::Args),
    /// Move the end of a pause, or the moment at which an ended job undoes itself, to later
    Extend(extend::Args),
    /// Remove every record of a job that is over; nothing outside is touched
    Delete(delete::Args),
    /// Make the outcome of an ended job permanent
    Confirm(confirm::Args),
    /// Run the tasks of an ended job again that did not succeed, in the foreground
    Retry(retry::Args),
    /// Jobs that run again by themselves
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Write everything of the state into a file, while others work on it
    Backup(backup::Backup),
    /// Fill an empty state from a backup
    Restore(backup::Restore),
    /// Print everything of the state, one JSON document to a line
    Export(backup::Export),
    /// Access tokens of the server
    #[command(subcommand)]
    Token(token::Command),
    /// List the kinds of jobs
    Kinds(kinds::Args),
    /// Print the JSON Schema of a kind's job files
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// List, serve, fetch and delete the files of a folder for a controller, until stopped
    Agent(Box<agent::Args>),
    /// Which file belongs on which server
    #[command(subcommand)]
    Placement(placement::Command),
    /// A build cache for go, on the local disk and in object storage
    Gocache(gocache::Args),
    /// Look into index backups
    #[command(subcommand)]
    Index(index::Command),
    /// Look at OpenStack sites
    #[command(subcommand)]
    Site(site::Command),
    /// Tables of events in day partitions, and the late rows that belong into them
    #[command(subcommand)]
    Table(Box<table::Command>),
    /// Stand-ins of remote systems, for tests and examples
    #[command(subcommand, hide = true)]
    Sim(sim::Command),
}

/// Runs a command.
pub(crate) async fn run(app: &App, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Demo(args) => demo::run(app, &args).await,
        Command::Plan(args) => plan::run(app, &args).await,
        Command::Run(args) => run::run(app, &args).await,
        Command::Up(args) => Box::pin(up::run(app, &args)).await,
        Command::Worker(args) => worker::run(app, &args).await,
        Command::Submit(args) => submit::run(app, &args).await,
        Command::Watch(args) => watch::run(app, &args).await,
        Command::Backup(args) => backup::backup(app, &args).await,
        Command::Restore(args) => backup::restore(app, &args).await,
        Command::Export(args) => backup::export(app, &args).await,
        Command::Token(token::Command::New(args)) => token::new(app, &args),
        Command::Jobs(args) => jobs::run(app, &args).await,
        Command::Show(args) => show::run(app, &args).await,
        Command::Why(args) => why::run(app, &args).await,
        Command::Log(args) => log::run(app, &args).await,
        Command::Report(args) => report::run(app, &args).await,
        Command::Pause(args) => pause::run(app, &args).await,
        Command::Resume(args) => resume::run(app, args).await,
        Command::Cancel(args) => cancel::run(app, args).await,
        Command::Undo(args) => undo::run(app, args).await,
        Command::Approve(args) => approve::run(app, args).await,
        Command::Extend(args) => extend::run(app, &args).await,
        Command::Delete(args) => delete::run(app, &args).await,
        Command::Confirm(args) => confirm::run(app, args).await,
        Command::Retry(args) => retry::run(app, args).await,
        Command::Schedule(command) => schedule::run(app, &command).await,
        Command::Kinds(args) => kinds::run(app, &args),
        Command::Schema(args) => schema::run(app, &args),
        Command::Site(command) => site::run(app, &command).await,
        Command::Completions(args) => completions::run(app, &args),
        Command::Agent(args) => Box::pin(agent::run(app, &args)).await,
        Command::Placement(placement::Command::Decide(args)) => placement::decide(app, &args),
        Command::Placement(placement::Command::Import(args)) => placement::import(app, &args),
        Command::Placement(placement::Command::Why(args)) => placement::why(app, &args).await,
        Command::Gocache(args) => Box::pin(gocache::run(app, args)).await,
        Command::Index(index::Command::Inspect(args)) => index::inspect(app, &args).await,
        Command::Table(command) => Box::pin(table::run(app, &command)).await,
        Command::Sim(sim::Command::Vald(args)) => sim::vald(app, &args).await,
        Command::Sim(sim::Command::Cloud(args)) => sim::cloud(app, &args).await,
    }
}
