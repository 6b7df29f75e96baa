//! The configuration of a listener.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use crate::files::{TlsFiles, roots};
use crate::provider;

/// What a listener speaks, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// It knows HTTP/2, too.
    pub http2: bool,
    /// With roots of clients it lets those in, too, who show no certificate: something else decides.
    pub certificate_optional: bool,
}

/// Reads the files. Blocks.
///
/// # Errors
/// What cannot be used, naming the file.
pub fn server(files: &TlsFiles, serving: Serving) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set TLS up: {error}"))?;
    let builder = match &files.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
            if serving.certificate_optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build();
            let verifier = verifier.map_err(|error| format!("use the roots in {}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = files.identity()?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| files.unusable(&error))?;
    config.alpn_protocols = if serving.http2 { vec![b"h2".to_vec()] } else { Vec::new() };
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Arc::new(config))
}
