//! Tests of whole worlds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print what they found")]

mod faults;
mod fleet;
mod parse;
mod placing;
mod properties;
mod rest;
mod scenarios;
mod wire;
mod worlds;
