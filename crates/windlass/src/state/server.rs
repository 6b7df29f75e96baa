//! A server that is asked instead of a state store.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use windlass_api::{Client, ClientConfig};

use super::Setting;
use crate::problem::Problem;

/// Where a server is and how to get in, as given. Nothing is read or asked before it is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerOptions {
    /// `--server`
    pub(crate) server: Option<String>,
    /// Whether it is from the command line, not from the environment.
    pub(crate) typed: bool,
    /// `--token-file`
    pub(crate) token_file: Option<PathBuf>,
    /// `--server-ca`
    pub(crate) roots: Option<PathBuf>,
    /// `--server-identity`
    pub(crate) identity: Option<PathBuf>,
}

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct StateServer {
    server: String,
    options: ServerOptions,
}

impl StateServer {
    /// The server at `server`.
    pub(super) fn new(server: &str, options: &ServerOptions) -> Self {
        Self { server: server.to_owned(), options: options.clone() }
    }

    /// A client of it; nothing is sent yet.
    pub(crate) fn client(&self, setting: &Setting) -> anyhow::Result<Client> {
        let config = ClientConfig {
            server: self.server.clone(),
            token: token(self.options.token_file.as_deref())?,
            roots: self.options.roots.clone(),
            identity: self.options.identity.clone(),
        };
        Ok(Client::new(&config, setting.clock.clone(), setting.entropy.clone())?)
    }
}

impl fmt::Display for StateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server at {}", self.server)
    }
}

/// The token: a file that was named on the command line, else `WINDLASS_TOKEN`, else what `WINDLASS_TOKEN_FILE` names.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let file = match file {
        Some(file) => Some(file.to_owned()),
        None => match set("WINDLASS_TOKEN") {
            Some(token) => return Ok(Some(token.trim().to_owned())),
            None => set("WINDLASS_TOKEN_FILE").map(PathBuf::from),
        },
    };
    let Some(file) = file else { return Ok(None) };
    let wrong = || Problem::usage(format!("the file of the token, {}, cannot be used", file.display()));
    let text = std::fs::read_to_string(&file).with_context(wrong)?;
    match text.trim() {
        "" => Err(wrong().hint("it is empty; `windlass token new` makes a token").into()),
        token => Ok(Some(token.to_owned())),
    }
}
