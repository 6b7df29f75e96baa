//! What every command is given.

use crate::output::Output;
use crate::state::{ServerOptions, Setting, State};

/// The global options, resolved, and the world.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The streams.
    pub(crate) output: Output,
    /// Clock, randomness, kinds.
    pub(crate) setting: Setting,
    /// `--state` as given. Commands that need no state do not care whether it can be used.
    pub(crate) state: Option<String>,
    /// `--server` and what belongs to it.
    pub(crate) server: ServerOptions,
    /// How much people want to know.
    pub(crate) verbose: u8,
}

impl App {
    /// Where jobs live that this process works on itself. A server that only the environment names is not meant.
    pub(crate) fn own_state(&self) -> anyhow::Result<State> {
        if self.server.typed {
            return Err(State::find(None, &self.server)?.needs_store());
        }
        State::find(self.state.as_deref(), &ServerOptions::default())
    }

    /// Where jobs live.
    pub(crate) fn state(&self) -> anyhow::Result<State> {
        State::find(self.state.as_deref(), &self.server)
    }
}
