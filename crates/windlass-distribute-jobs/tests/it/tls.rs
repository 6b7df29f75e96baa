//! Agents behind TLS: the right authority is believed, another one is told.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::rig::Rig;

/// Doors with certificates of one authority, in front of nodes that know nothing of it.
struct Doors {
    authority: CertifiedIssuer<'static, KeyPair>,
    open: JoinSet<()>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Doors {
    fn new() -> Self {
        Self { authority: authority("ours"), open: JoinSet::new() }
    }

    /// A door to a node, with a certificate for a name; gives the address.
    async fn to(&mut self, node: &str, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.authority).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = node.to_owned();
        self.open.spawn(async move {
            let mut through = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, node) = (acceptor.clone(), node.clone());
                through.spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let mut inside = TcpStream::connect(&node).await.unwrap();
                    // The node closes after each answer.
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        address
    }
}

/// A server that takes TLS for a bad request.
async fn without_tls(open: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    open.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 1];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    address
}

/// A source and an empty node behind doors, one file, and the spec.
async fn behind_doors(doors: &mut Doors, name: &str) -> (Rig, Value) {
    let rig = Rig::new(&[("A.mpg", 100)]);
    std::fs::write(rig.path("ca.pem"), doors.authority.pem()).unwrap();
    let (source, node) = (rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await);
    let (source, node) = (doors.to(&source, name).await, doors.to(&node, name).await);
    let mut spec = rig.spec(&source, &[&node]);
    for place in 0..2 {
        spec["nodes"][place]["tls"] = json!(true);
    }
    spec["tls"] = json!({ "ca": rig.path("ca.pem") });
    // Each request shakes hands anew, which takes its time on a busy machine.
    spec["watch"]["patience"] = json!("5s");
    (rig, spec)
}

#[tokio::test]
async fn agents_behind_tls_are_believed_by_their_authority_and_ordered_about() {
    let mut doors = Doors::new();
    let (rig, spec) = behind_doors(&mut doors, "127.0.0.1").await;
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.settled(job).await;
    assert_eq!(rig.nodes.copies(), ["A.mpg"]);
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

/// Waits until each node is told of with these words, and looks that nobody was ordered about.
async fn told(rig: &Rig, spec: Value, part: &str) {
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.until(part, async || {
        let status = rig.status(job).await;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        !nodes.is_empty() && nodes.iter().all(|node| node["fault"].as_str().is_some_and(|fault| fault.contains(part)))
    })
    .await;
    assert_eq!(rig.status(job).await["trusted"], 0);
    assert_eq!(rig.nodes.copies(), Vec::<String>::new());
}

#[tokio::test]
async fn another_authority_another_name_and_no_tls_at_all_are_told() {
    let mut doors = Doors::new();
    let (rig, spec) = behind_doors(&mut doors, "127.0.0.1").await;
    std::fs::write(rig.path("ca.pem"), authority("another").pem()).unwrap();
    told(&rig, spec, "its certificate is not believed (UnknownIssuer)").await;
    let (rig, spec) = behind_doors(&mut doors, "example.org").await;
    told(&rig, spec, "its certificate is not believed").await;
    let rig = Rig::new(&[("A.mpg", 100)]);
    let (source, node) = (rig.nodes.start(1_000, &[]).await, without_tls(&mut doors.open).await);
    let mut spec = rig.spec(&source, &[&node]);
    spec["nodes"][1]["tls"] = json!(true);
    told(&rig, spec, "it does not speak TLS").await;
    let rig = Rig::new(&[("A.mpg", 100)]);
    let (source, node) = (rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await);
    let mut spec = rig.spec(&source, &[&node]);
    spec["tls"] = json!({ "ca": rig.path("nowhere.pem") });
    told(&rig, spec, "nowhere.pem").await;
}

#[tokio::test]
async fn a_job_answers_over_tls_with_a_certificate_that_may_change() {
    windlass_blob::install_crypto_provider();
    let ours = authority("ours");
    let rig = Rig::new(&[("A.mpg", 100)]);
    std::fs::write(rig.path("ca.pem"), ours.pem()).unwrap();
    let issue = || {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
        std::fs::write(rig.path("key"), key.serialize_pem()).unwrap();
        std::fs::write(rig.path("certificate"), certificate.pem()).unwrap();
    };
    let (source, node) = (rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await);
    let mut spec = rig.spec(&source, &[&node]);
    let listen = crate::old_agents::free().await;
    spec["listen"] = json!(listen);
    spec["listen_tls"] = json!({ "certificate": rig.path("certificate"), "key": rig.path("key") });
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    // Nobody can ask before there is one.
    let told = rig.alarm(job, "nobody can ask at").await;
    assert!(told[0].contains("certificate"), "{told:?}");
    issue();
    let name = windlass_distribute::wire::agent::Name::new(*b"A.mpg").unwrap();
    let (at, ca) = (format!("https://{listen}"), rig.path("ca.pem"));
    let why = async || windlass_distribute_jobs::ask::why(&at, &name, None, Some(&ca)).await;
    rig.until("it answers", async || why().await.is_ok()).await;
    assert_eq!(why().await.unwrap()["rank"], 1);
    let stranger = windlass_distribute_jobs::ask::why(&at, &name, None, None).await.unwrap_err();
    assert!(stranger.to_string().contains("is not believed"), "{stranger}");
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/v2/plan", "/tasks", "/dashboard"] {
        let answer = plain.get(format!("http://{listen}{path}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 426, "{path}");
    }
}
