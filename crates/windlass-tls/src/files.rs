//! Certificates and keys in files.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The files of TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with those between it and a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Roots of client certificates.
    pub client_roots: Option<PathBuf>,
}

impl TlsFiles {
    /// What they are now, without reading them.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp::of([Some(&self.certificate), Some(&self.key), self.client_roots.as_ref()].into_iter().flatten())
    }

    /// Its certificate, with those between it and a root, and the key.
    pub(crate) fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        Ok((chain, key.map_err(|error| format!("read the key {}: {error}", self.key.display()))?))
    }

    /// Why the two do not do.
    pub(crate) fn unusable(&self, error: &rustls::Error) -> String {
        format!("use the certificate {} with the key {}: {error}", self.certificate.display(), self.key.display())
    }
}

/// What files are told by without reading them: another one, another file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(u64, i64, i64)>>);

impl Stamp {
    /// What these files are now.
    #[must_use]
    pub fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let one = |path: P| std::fs::metadata(path).ok().map(|meta| (meta.len(), meta.mtime(), meta.mtime_nsec()));
        Self(paths.into_iter().map(one).collect())
    }
}

/// The certificates in a file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("read the certificates in {shown}: {error}"));
    match found {
        Ok(found) if found.is_empty() => Err(format!("no certificate is in {shown}")),
        found => found,
    }
}

/// The roots in a file.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        roots.add(root).map_err(|error| format!("use a root in {}: {error}", path.display()))?;
    }
    Ok(roots)
}
