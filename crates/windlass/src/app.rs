//! What every command is given.

use crate::output::Output;
use crate::state::{Setting, StateFolder};

/// The global options, resolved, and the world.
#[derive(Debug)]
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
    /// The state folder.
    pub(crate) fn state(&self) -> anyhow::Result<StateFolder> {
        StateFolder::find(self.state.as_deref())
    }
}
