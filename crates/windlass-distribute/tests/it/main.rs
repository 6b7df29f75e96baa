//! Tests of whole worlds.

mod faults;
mod fleet;
mod parse;
mod properties;
mod rest;
mod scenarios;
mod worlds;
