//! The program as `go` and a user meet it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod conversation;
mod damage;
mod end;
mod full;
mod killed;
mod limits;
mod program;
mod real_go;
mod replays;
mod seed;
