//! TLS, client certificates, and certificates that change.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::StatusCode;
use serde_json::json;
use windlass_clock::SystemClock;
use windlass_server::TlsFiles;
use windlass_store::memory::MemoryStore;

use crate::stand::{Stand, answer, config};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, in PEM.
fn issued(authority: &Issuer, common_name: &str, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn write(dir: &Path, authority: &Issuer) -> TlsFiles {
    let (certificate, key) = issued(authority, "server", &["localhost", "127.0.0.1"]);
    let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem"), client_roots: None };
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    files
}

fn client(root: &Issuer, identity: Option<&(String, String)>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(root.pem().as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only([root]);
    if let Some((certificate, key)) = identity {
        let pem = format!("{certificate}{key}");
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

#[tokio::test]
async fn client_certificates_are_mapped_to_names_and_roles() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs, other) = (authority("ours"), authority("clients"), authority("other"));
    let mut files = write(dir.path(), &ours);
    let roots = dir.path().join("clients.pem");
    std::fs::write(&roots, theirs.pem()).unwrap();
    files.client_roots = Some(roots);
    let access = dir.path().join("access");
    std::fs::write(&access, "board viewer cert:dns:board.example.org\nalice operator cert:cn:Alice Example\n").unwrap();
    let mut config = config();
    (config.tls, config.access_file) = (Some(files), Some(access));
    let mut stand = Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await;
    stand.client = client(&ours, Some(&issued(&theirs, "Alice Example", &[])));
    let (status, whoami) = stand.get("/api/v1/whoami").await;
    assert_eq!(status, StatusCode::OK, "{whoami}");
    assert_eq!(whoami, json!({ "name": "alice", "role": "operator", "by": "certificate" }));
    stand.submit("a", json!({ "steps": 1 })).await;
    stand.client = client(&ours, Some(&issued(&theirs, "x", &["board.example.org"])));
    assert_eq!(stand.get("/api/v1/whoami").await.1["name"], "board");
    let (status, _) = stand.post("/jobs", &json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    stand.client = client(&ours, Some(&issued(&theirs, "Mallory", &[])));
    assert_eq!(stand.get("/api/v1/whoami").await.0, StatusCode::UNAUTHORIZED);
    stand.client = client(&ours, None);
    assert_eq!(stand.get("/api/v1/whoami").await.1["code"], "no_token");
    // A certificate that some other authority has signed does not pass the handshake.
    stand.client = client(&ours, Some(&issued(&other, "Alice Example", &[])));
    assert!(stand.client.get(stand.url("/api/v1/whoami")).send().await.is_err());
    // Neither does plain HTTP, nor a server that we do not trust.
    assert!(reqwest::get(format!("http://{}/healthz", stand.address)).await.is_err());
    assert!(client(&other, None).get(stand.url("/healthz")).send().await.is_err());
}

#[tokio::test]
async fn a_changed_certificate_is_read_again_and_a_broken_one_is_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (authority("first"), authority("second"));
    let mut config = config();
    config.tls = Some(write(dir.path(), &first));
    let stand = Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await;
    let ask = async |root: &Issuer| client(root, None).get(stand.url("/healthz")).send().await;
    let response = ask(&first).await.unwrap();
    assert!(response.headers().contains_key("strict-transport-security"));
    assert!(ask(&second).await.is_err());
    write(dir.path(), &second);
    stand.reload.now();
    let changed = async { while ask(&second).await.is_err() {} };
    windlass_clock::deadline(&*stand.clock, crate::stand::PATIENCE, changed).await.expect("the new one is served");
    assert!(ask(&first).await.is_err());
    std::fs::write(dir.path().join("key.pem"), "broken").unwrap();
    stand.reload.now();
    for _ in 0..10 {
        assert!(ask(&second).await.is_ok());
    }
    let request = client(&second, None).get(stand.url("/nowhere"));
    assert_eq!(answer(request).await.0, StatusCode::NOT_FOUND);
}
