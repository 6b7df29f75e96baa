//! TLS: who this agent is, whom it lets in, and whom it believes when it fetches.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use windlass_clock::Clock;

use crate::config::{TlsFiles, Token};

/// The first byte of a connection that speaks TLS.
pub(crate) const FIRST_BYTE: u8 = 0x16;
/// How often it is looked whether the files have changed.
const LOOK: Duration = Duration::from_secs(60);

/// What a file is told by without reading it.
type Stamp = Vec<Option<(u64, i64, i64)>>;

/// How connections to this agent are encrypted. The files are read again when they change.
#[derive(Debug)]
pub(crate) struct Server {
    files: TlsFiles,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// What cannot be used, naming the file.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, String> {
        let current = (stamp(&files), server(&files)?);
        Ok(Self { files, current: Mutex::new(current) })
    }

    /// As it is now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Reads the files again if they have changed. Blocks.
    pub(crate) fn look(&self) {
        let found = stamp(&self.files);
        if self.current.lock().unwrap_or_else(PoisonError::into_inner).0 == found {
            return;
        }
        match server(&self.files) {
            Ok(config) => {
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = (found, config);
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
            }
            // Half of it is written, for one: the next look tells.
            Err(why) => tracing::warn!(why, "the changed certificate cannot be used; the last one stays"),
        }
    }

    /// Looks again and again, until told to stop.
    pub(crate) async fn keep(self: Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep(LOOK) => {}
            }
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }
}

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
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => add(&mut roots, path)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::debug!(%error, "a root of the system cannot be read");
                }
                roots.add_parsable_certificates(found.certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("set TLS up: {error}"))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = (certificates(&files.certificate)?, key(&files.key)?);
                builder.with_client_auth_cert(chain, key).map_err(|error| unusable(files, &error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set TLS up: {error}"))?;
    let builder = match &files.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            add(&mut roots, path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| format!("use the roots in {}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = (certificates(&files.certificate)?, key(&files.key)?);
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(files, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn unusable(files: &TlsFiles, error: &rustls::Error) -> String {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    format!("use the certificate {certificate} with the key {key}: {error}")
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("read the key {}: {error}", path.display()))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    for root in certificates(path)? {
        roots.add(root).map_err(|error| format!("use a root in {}: {error}", path.display()))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("read the certificates in {shown}: {error}"));
    match found {
        Ok(found) if found.is_empty() => Err(format!("no certificate is in {shown}")),
        found => found,
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let one = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.len(), meta.mtime(), meta.mtime_nsec()));
    let paths = [Some(&files.certificate), Some(&files.key), files.client_roots.as_ref()];
    paths.into_iter().flatten().map(|path| one(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &TlsFiles) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
        std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_changed_certificate_is_read_again_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { certificate: path("cert"), key: path("key"), client_roots: None };
        assert!(Server::load(files.clone()).unwrap_err().contains("cert"));
        write(&files);
        let server = Server::load(files.clone()).unwrap();
        let first = server.config();
        server.look();
        assert!(Arc::ptr_eq(&first, &server.config()), "nothing has changed");
        std::fs::write(&files.key, "broken").unwrap();
        server.look();
        assert!(Arc::ptr_eq(&first, &server.config()), "what is broken is not used");
        write(&files);
        server.look();
        assert!(!Arc::ptr_eq(&first, &server.config()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("roots.pem");
        std::fs::write(&ca, "nothing").unwrap();
        let who = Credentials { ca: Some(ca), ..Credentials::default() };
        assert!(who.client().unwrap_err().contains("roots.pem"));
        assert!(Credentials::default().client().is_ok(), "the roots of the system do, also where there are none");
    }
}
