//! The program that `GOCACHEPROG` names: small, so that it is there at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(windlass_gocache::program::run(std::env::args_os().skip(1).collect()))
}
