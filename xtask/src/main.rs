//! Developer commands of Windlass: `cargo xtask test`, `cargo xtask ci`, `cargo xtask bench NAME`.
//!
//! * [`ci`] is the list of checks that every change passes; `.ci/run` prepares a bare machine and calls it.
//! * [`tidy`] checks what a reviewer would otherwise have to nag about.
//! * [`mod@bench`] runs the benchmarks, each against its floor or a peer, and keeps the figures under `target/bench`.
//! * [`parts`] finds the programs that all of these need, and says how to get one that is missing.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program talks to its terminal")]

mod bench;
mod chromium;
mod ci;
mod deny;
mod etcd;
mod go;
mod openstack;
mod parts;
mod readme;
mod run;
mod tests_run;
mod tidy;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Windlass", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the tests of the whole workspace, or with `--openstack` those that need a cloud
    Test {
        /// Starts the lab of real OpenStack services in lab/openstack, runs the tests that need it, and stops it
        #[arg(long)]
        openstack: bool,
        /// What is handed to `cargo test`: `-p CRATE`, a part of a name, `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs every check that a change has to pass, cheap ones first
    Ci {
        /// Also asks the advisory database; needs the network
        #[arg(long, env = "WINDLASS_ADVISORIES")]
        advisories: bool,
    },
    /// Checks names, sizes, forbidden words, crate arrows, links and documents
    Tidy,
    /// Checks licences, sources and doubled dependencies with cargo-deny
    Deny {
        /// Also asks the advisory database; needs the network
        #[arg(long, env = "WINDLASS_ADVISORIES")]
        advisories: bool,
    },
    /// Runs what README.md shows as far as it can be checked: every command and every option exists
    Readme,
    /// Measures, and writes the figures to target/bench
    Bench(bench::Arguments),
    /// Runs a program and prints its time and memory as JSON; part of `bench`
    #[command(hide = true)]
    Measure {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Runs a cache program for go and leaves its cost in a file; part of `bench`
    #[command(hide = true)]
    Meter {
        file: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// A cache program for go that answers from memory what `tap` kept; part of `bench`
    #[command(hide = true)]
    Recall { file: PathBuf },
    /// Runs a cache program for go and keeps what go says to it, and what it answers, in files; part of `bench`
    #[command(hide = true)]
    Tap {
        file: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test { openstack: true, arguments } => openstack::test(&arguments),
        Command::Test { openstack: false, arguments } => tests_run::run(&arguments),
        Command::Ci { advisories } => ci::run(advisories),
        Command::Tidy => tidy::run(),
        Command::Deny { advisories } => deny::run(advisories),
        Command::Readme => readme::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Measure { command } => bench::measure::run_here(&command),
        Command::Meter { file, command } => bench::gocache::meter_here(&file, &command),
        Command::Recall { file } => bench::gocache::recall_here(&file),
        Command::Tap { file, command } => bench::gocache::tap_here(&file, &command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
