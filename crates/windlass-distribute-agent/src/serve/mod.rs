//! Answering: connections, and what each request gets.
//!
//! | module | |
//! |---|---|
//! | [`connection`] | who may connect, and the way of a request |
//! | [`old`] | the paths of the old agents |
//! | [`new`] | everything below `/v2/` |
//! | [`file`] | a file or a range of it, for both ways of sending |
//! | [`digest`] | the checksum of what went out |
//! | [`patient`] | connections whose other side takes nothing |
//! | [`send`] | files straight from the disk's cache into the socket |
//! | [`terms`] | controllers whose time is over |

pub(crate) mod connection;
pub(crate) mod digest;
mod file;
mod new;
mod old;
mod patient;
pub(crate) mod refusal;
mod send;
pub(crate) mod terms;
