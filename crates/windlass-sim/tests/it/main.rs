//! The simulation, the crash matrix, and the stand-ins.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print their tables")]

mod matrix;
mod sharing;
mod simulation;
mod standing;
