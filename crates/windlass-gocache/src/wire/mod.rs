//! The protocol between `go` and its cache program: requests in, answers out.
//!
//! Reading never needs more memory than its buffer, whatever comes: a request is one line of bounded length, and the
//! body of a put is decoded as it arrives, in blocks.

mod answer;
mod answers;
mod input;
mod request;

pub use answer::Answer;
pub use answers::{Answers, FlushFirst, HANDSHAKE};
pub use input::{BLOCK, Block, BodyFault, Broken, Input, Step};
pub use request::{Command, Request};
