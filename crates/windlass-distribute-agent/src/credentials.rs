//! Whom this agent believes when it fetches, and what it shows there.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use windlass_tls::TlsFiles;

use crate::config::Token;

/// Whom this agent believes when it fetches, and what it shows there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// Shown to other agents.
    pub(crate) token: Option<Token>,
    /// The roots that others are verified with, instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Shown to those who ask for a certificate.
    pub(crate) identity: Option<TlsFiles>,
}

impl Credentials {
    /// How others are verified. Reads the files each time, so that what has changed counts. Blocks.
    ///
    /// # Errors
    /// What cannot be used, naming the file.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, String> {
        windlass_tls::client(self.ca.as_deref(), self.identity.as_ref())
    }
}
