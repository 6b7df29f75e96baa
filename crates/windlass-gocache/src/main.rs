//! The program that `GOCACHEPROG` names: small, so that it is there at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    ExitCode::from(windlass_gocache::program::run(arguments, Box::new(|_| None)))
}
