//! `windlass`: one program that plans, runs, pauses, undoes and explains jobs that move data.
//!
//! * [`commands`] has one file per command. Each parses its own options and does one thing.
//! * [`job_file`] turns files that people write into jobs, or tells every fault with its line.
//! * [`state`] finds, reads and holds the state folder; [`control`] is how another process that holds it is asked.
//! * [`source`] is where commands read jobs from: a state store, or a server that is asked.
//! * [`foreground`] runs jobs here, with [`progress`] and [`interrupt`].
//! * [`kinds`] is the one place where kinds are listed, [`exit`] the one where exit codes are.
//!
//! Data goes to standard output, everything else to standard error ([`output`], [`problem`]).

mod app;
mod commands;
mod control;
mod crash;
mod exit;
mod expectation;
mod figures;
mod foreground;
mod interrupt;
mod inventories;
mod job_file;
mod kept;
mod kinds;
mod options;
mod output;
mod plans;
mod problem;
mod progress;
mod rows;
mod sites;
mod source;
mod state;
mod verdict;

use std::process::ExitCode;

use windlass_dag::DagConfig;

use crate::app::App;
use crate::exit::Exit;
use crate::options::{Global, Options};
use crate::output::{ColorChoice, Format, Output};
use crate::state::{ServerOptions, Setting};

/// Where `windlass up` listens unless told otherwise.
pub(crate) const DEFAULT_SERVER: &str = "127.0.0.1:7420";

fn main() -> ExitCode {
    if let Some(served) = commands::gocache::at_once() {
        return served;
    }
    windlass_blob::install_crypto_provider();
    let (options, server) = match Options::read() {
        Ok(read) => read,
        Err(error) => return usage(&error),
    };
    let output = Output::new(options.global.output, options.global.color);
    output::start_log(&output, options.global.verbose);
    let result = run(options, server, output.clone());
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Bars that are still there belong to what went wrong.
            let _ = output.bars.clear();
            output.note(problem::text(&error, output.notes));
            if output.is_json() {
                let _ = output.json(&problem::document(&error));
            }
            Exit::of(&error).into()
        }
    }
}

fn run(options: Options, server: ServerOptions, output: Output) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(async {
        let setting = Setting::real(kinds::all(DagConfig::foreground()), crash::probe()?);
        let Global { state, verbose, .. } = options.global;
        let app = App { output, setting, state, server, verbose };
        commands::run(&app, options.command).await
    });
    // A blocking read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    exit
}

/// Help and version are answers; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // A stream that is closed cannot be told about.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done.into();
    }
    let words: Vec<String> = std::env::args().collect();
    let json = words.iter().any(|word| word == "--output=json")
        || words.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if json {
        let message = error.to_string();
        let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let document =
            serde_json::json!({ "error": { "exit_code": Exit::Usage.code(), "code": "usage", "message": message } });
        let _ = Output::new(Format::Json, ColorChoice::Never).json(&document);
    }
    Exit::Usage.into()
}
