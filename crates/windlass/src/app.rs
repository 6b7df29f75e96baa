//! What every command is given.

use crate::output::Output;
use crate::state::{Setting, State};

/// The global options, resolved, and the world.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The streams.
    pub(crate) output: Output,
    /// Clock, randomness, kinds.
    pub(crate) setting: Setting,
    /// `--state` as given. Commands that need no state do not care whether it can be used.
    pub(crate) state: Option<String>,
    /// How much people want to know.
    pub(crate) verbose: u8,
}

impl App {
    /// Where jobs live.
    pub(crate) fn state(&self) -> anyhow::Result<State> {
        State::find(self.state.as_deref())
    }
}
