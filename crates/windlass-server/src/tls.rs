//! TLS: what this server speaks, and the names in client certificates.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use windlass_tls::{Serving, TlsFiles};

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
    // Tokens do as well as certificates; what is shown decides.
    windlass_tls::server(files, Serving { http2: true, certificate_optional: true })
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
