//! The configuration of connections to others.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::files::{TlsFiles, roots};
use crate::provider;

/// How others are verified: with the roots in `ca`, or those of the system; `identity` is shown to those who ask for a
/// certificate. Speaks HTTP/1.1. Reads the files each time, so that what has changed counts. Blocks.
///
/// # Errors
/// What cannot be used, naming the file.
pub fn client(ca: Option<&Path>, identity: Option<&TlsFiles>) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca {
        Some(path) => roots(path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "a root of the system cannot be read");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set TLS up: {error}"))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = files.identity()?;
            builder.with_client_auth_cert(chain, key).map_err(|error| files.unusable(&error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("roots.pem");
        std::fs::write(&ca, "nothing").unwrap();
        assert!(client(Some(&ca), None).unwrap_err().contains("no certificate is in"));
        let files = TlsFiles { certificate: ca, key: dir.path().join("key"), client_roots: None };
        assert!(client(None, Some(&files)).unwrap_err().contains("roots.pem"));
        assert!(client(None, None).is_ok(), "the roots of the system do, also where there are none");
    }
}
