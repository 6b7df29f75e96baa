//! TLS: certificates, read again when they change, and the names in client certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::TlsFiles;

/// The names that a client certificate was issued for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateNames {
    pub(crate) common_name: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) uri: Vec<String>,
}

impl CertificateNames {
    /// The names in a certificate that the handshake has verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        Some(Self {
            common_name: common_name(certificate.subject()),
            dns: certificate.valid_dns_names().map(str::to_owned).collect(),
            uri: certificate.valid_uri_names().map(str::to_owned).collect(),
        })
    }
}

/// The one common name in a distinguished name (X.501, DER). With two of them it is not clear who is meant: none.
fn common_name(mut name: &[u8]) -> Option<String> {
    const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
    let mut found = None;
    // The library gives the content of the outer sequence; be content with the whole of it too.
    if let Some((0x30, inner, [])) = element(name) {
        name = inner;
    }
    while !name.is_empty() {
        let (tag, mut set, rest) = element(name)?;
        name = rest;
        if tag != 0x31 {
            return None;
        }
        while !set.is_empty() {
            let (_, pair, rest) = element(set)?;
            set = rest;
            let (_, kind, value) = element(pair)?;
            let (tag, text, _) = element(value)?;
            // PrintableString, UTF8String, IA5String: all of them are UTF-8.
            if kind == COMMON_NAME && matches!(tag, 0x13 | 0x0c | 0x16) {
                let text = std::str::from_utf8(text).ok()?;
                if found.replace(text.to_owned()).is_some() {
                    return None;
                }
            }
        }
    }
    found
}

/// Takes one element off the front of DER: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Reads the files.
pub(crate) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let shown = files.key.display();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("read the key {shown}: {error}"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("set TLS up: {error}"))?;
    let builder = match &files.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| format!("use a root in {}: {error}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // Tokens do as well; what is shown decides.
                .allow_unauthenticated()
                .build()
                .map_err(|error| format!("use the roots in {}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificate = files.certificate.display();
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("use the certificate {certificate} with the key {shown}: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_and_damaged_names_give_none() {
        // SEQUENCE { SET { SEQUENCE { OID 2.5.4.10, UTF8 "Org" } } SET { SEQUENCE { OID 2.5.4.3, UTF8 "Alice" } } }
        let pair = |last: u8, text: &str| {
            let mut pair = vec![0x06, 3, 0x55, 0x04, last, 0x0c, text.len() as u8];
            pair.extend(text.as_bytes());
            let mut set = vec![0x31, pair.len() as u8 + 2, 0x30, pair.len() as u8];
            set.extend(pair);
            set
        };
        let content = [pair(10, "Org"), pair(3, "Alice")].concat();
        assert_eq!(common_name(&content).as_deref(), Some("Alice"));
        let whole = [vec![0x30, content.len() as u8], content.clone()].concat();
        assert_eq!(common_name(&whole).as_deref(), Some("Alice"));
        assert_eq!(common_name(&[content.clone(), pair(3, "Bob")].concat()), None);
        for end in 0..content.len() {
            // No panic, and never half a name.
            assert_ne!(common_name(&content[..end]).as_deref(), Some("Alice"), "{end}");
        }
    }
}
