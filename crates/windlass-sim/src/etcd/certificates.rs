//! Certificates for a cluster on loopback and one client.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// The PEM files of an authority that signs for both sides.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca_file: PathBuf,
    /// The client's certificate.
    pub client_cert_file: PathBuf,
    /// The client's key.
    pub client_key_file: PathBuf,
    pub(super) server_cert_file: PathBuf,
    pub(super) server_key_file: PathBuf,
}

impl Certificates {
    /// The common name in the client's certificate, which etcd takes for the user's name when authentication is on.
    pub const CLIENT: &str = "windlass";

    /// Makes an authority, a certificate for 127.0.0.1 and one for a client, as files in `dir`.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        let made = Self {
            ca_file: dir.join("ca.pem"),
            client_cert_file: dir.join("client.pem"),
            client_key_file: dir.join("client.key"),
            server_cert_file: dir.join("server.pem"),
            server_key_file: dir.join("server.key"),
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority for one test");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let authority = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        std::fs::write(&made.ca_file, authority.pem())?;
        let sign = |common_name: &str, names: &[&str], cert_file: &Path, key_file: &Path| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
            params.distinguished_name.push(DnType::CommonName, common_name);
            // etcd calls itself through its gateway, as a client with the server's certificate.
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().map_err(io::Error::other)?;
            let certificate = params.signed_by(&key, &authority).map_err(io::Error::other)?;
            std::fs::write(cert_file, certificate.pem())?;
            std::fs::write(key_file, key.serialize_pem())
        };
        sign("etcd", &["127.0.0.1", "localhost"], &made.server_cert_file, &made.server_key_file)?;
        sign(Self::CLIENT, &[], &made.client_cert_file, &made.client_key_file)?;
        Ok(made)
    }
}
