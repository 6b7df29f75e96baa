//! TLS: agents believe whom they should and nobody else, and say why not.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::json;
use windlass_clock::deadline;
use windlass_distribute::wire::agent::{Reason, TransferState};
use windlass_distribute_agent::config::{TlsFiles, Token};
use windlass_distribute_agent::{Agent, AgentConfig, AgentError};

use crate::node::{Jumping, Node, PATIENCE, client, clock, data, raw};

const TOKEN: &str = "correct-horse-battery";

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name, good until the end of a year.
    fn issue(&self, name: &str, year: i32) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 12, 31));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{name}-{year}.{kind}"));
        let files = TlsFiles { certificate: path("pem"), key: path("key"), client_roots: None };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

fn token() -> Option<Token> {
    Some(Token::new(TOKEN).unwrap())
}

/// An agent behind a certificate, with one file.
async fn source(tls: TlsFiles, bytes: &[u8]) -> Node {
    let node = Node::with(|config| (config.tls, config.token) = (Some(tls), token())).await;
    node.put("A", bytes);
    node
}

/// An agent that listens to this machine, in the clear.
async fn puller(ca: Option<&Path>, identity: Option<TlsFiles>) -> Puller {
    let node = Node::with(|config| {
        config.ca = ca.map(Path::to_owned);
        config.token = token();
        config.transfers.stall = std::time::Duration::from_secs(20);
        if let Some(identity) = identity {
            config.tls = Some(identity);
        }
    })
    .await;
    Puller { node }
}

struct Puller {
    node: Node,
}

impl Puller {
    /// Orders the file from a source and waits for the end: how it ended, and what is said of it.
    async fn pull(&self, id: &str, url: &str, size: usize) -> (TransferState, Option<Reason>, String) {
        let order = json!({ "id": id, "name": id, "size": size, "source": { "url": url, "path_name": "A" } });
        let put = client().put(self.node.url(&format!("/v2/transfers/{id}"))).bearer_auth(TOKEN);
        let put = put.header("windlass-controller", "c").header("windlass-term", "1").body(order.to_string());
        assert_eq!(put.send().await.unwrap().status(), 202);
        let mut seen = 1;
        loop {
            let ask = client().get(self.node.url(&format!("/v2/transfers/{id}?wait=30&seen={seen}")));
            let answer = ask.bearer_auth(TOKEN).send().await.unwrap().bytes().await.unwrap();
            let report: windlass_distribute::wire::agent::TransferReport = serde_json::from_slice(&answer).unwrap();
            if report.state.ended() {
                return (report.state, report.reason, report.message.unwrap_or_default());
            }
            seen = report.revision;
        }
    }
}

#[tokio::test]
async fn a_file_comes_over_tls_from_whom_the_agent_believes_and_from_nobody_else() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let bytes = data(3_000_000, 1);
    let good = source(ours.issue("127.0.0.1", 2090), &bytes).await;
    let https = |node: &Node| format!("https://{}", node.address);
    let to = puller(Some(&ours.ca()), None).await;
    assert_eq!(to.pull("good", &https(&good), bytes.len()).await.0, TransferState::Done);
    assert!(std::fs::read(to.node.path("good")).unwrap() == bytes);
    let stranger = puller(Some(&other.ca()), None).await;
    let system = puller(None, None).await;
    let named = source(ours.issue("example.org", 2090), &bytes).await;
    let expired = source(ours.issue("127.0.0.1", 2021), &bytes).await;
    for (id, puller, node, part) in [
        ("stranger", &stranger, &good, "is not believed (UnknownIssuer)"),
        ("system", &system, &good, "is not believed"),
        ("name", &to, &named, "127.0.0.1"),
        ("expired", &to, &expired, "expired"),
    ] {
        let (state, reason, message) = puller.pull(id, &https(node), bytes.len()).await;
        assert_eq!((state, reason), (TransferState::Failed, Some(Reason::Refused)), "{id}: {message}");
        assert!(message.to_lowercase().contains(&part.to_lowercase()), "{id}: {message}");
        assert!(!message.contains(TOKEN) && !puller.node.path(id).exists(), "{id}");
    }
}

#[tokio::test]
async fn who_speaks_in_the_clear_to_a_port_with_tls_is_told_and_the_other_way_round() {
    let ours = Authority::new("ours");
    let node = source(ours.issue("127.0.0.1", 2090), b"x").await;
    let (status, headers, body) =
        raw(&node.address, "GET /v2/files/A HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 426);
    assert!(headers.iter().any(|(name, _)| name == "upgrade"));
    assert!(String::from_utf8(body).unwrap().contains("https://"));
    let (status, _, _) = raw(&node.address, "GET /files HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 426, "the old paths need it, too");
    let to = puller(Some(&ours.ca()), None).await;
    let (_, reason, message) = to.pull("clear", &node.url(""), 1).await;
    assert!(reason == Some(Reason::Refused) && message.contains("wants TLS"), "{message}");
    let plain = Node::with(|config| config.token = token()).await;
    let (_, reason, message) = to.pull("safe", &format!("https://{}", plain.address), 1).await;
    assert!(reason == Some(Reason::Refused) && message.contains("does not speak TLS"), "{message}");
    // The old programs have no TLS; who serves them beside it says so.
    let both = Node::with(|config| {
        (config.tls, config.token) = (Some(ours.issue("127.0.0.1", 2090)), token());
        config.old_wire_plain = true;
    })
    .await;
    let (status, _, _) = raw(&both.address, "GET /files HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 200);
    let (status, _, _) = raw(&both.address, "GET /v2/node HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 426);
}

#[tokio::test]
async fn with_roots_of_clients_only_those_who_show_a_certificate_come_in() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let mut files = ours.issue("127.0.0.1", 2090);
    files.client_roots = Some(clients.ca());
    let node = source(files, b"x").await;
    let url = format!("https://{}", node.address);
    let without = puller(Some(&ours.ca()), None).await;
    let (_, reason, message) = without.pull("without", &url, 1).await;
    assert!(reason == Some(Reason::Refused) && message.contains("refuses this agent"), "{message}");
    // An agent shows the certificate that it has.
    let shown = clients.issue("127.0.0.1", 2090);
    let pem = |path: &Path| std::fs::read(path).unwrap();
    let identity = [pem(&shown.certificate), pem(&shown.key)].concat();
    let with = puller(Some(&ours.ca()), Some(shown)).await;
    let ask = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem(&clients.ca())).unwrap()])
        .build()
        .unwrap();
    let order = json!({ "id": "t", "name": "A", "size": 1, "source": { "url": url, "path_name": "A" } });
    let address = format!("https://{}/v2/transfers/t", with.node.address);
    let put = ask.put(&address).bearer_auth(TOKEN).body(order.to_string());
    let put = put.header("windlass-controller", "c").header("windlass-term", "1").send().await.unwrap();
    assert_eq!(put.status(), 202);
    let mut report = serde_json::Value::Null;
    while report["state"] != "done" {
        assert_ne!(report["state"], "failed", "{report}");
        let wait = format!("{address}?wait=30&seen={}", report["revision"].as_u64().unwrap_or(0));
        let answer = ask.get(wait).bearer_auth(TOKEN).send().await.unwrap();
        report = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    }
    // So do people.
    let person = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem(&ours.ca())).unwrap()])
        .identity(reqwest::Identity::from_pem(&identity).unwrap())
        .build()
        .unwrap();
    let answer = person.get(format!("{url}/v2/files/A")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().as_ref()), (200, &b"x"[..]));
    let answer = person.get(format!("{url}/v2/files/A")).send().await.unwrap();
    assert_eq!(answer.status(), 401, "the token is wanted besides");
}

#[tokio::test]
async fn beyond_loopback_there_is_no_agent_without_tls_and_a_secret() {
    let ours = Authority::new("ours");
    let bind = async |change: &dyn Fn(&mut AgentConfig)| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = AgentConfig::new("0.0.0.0:0".parse().unwrap(), folder.path().to_owned());
        change(&mut config);
        Agent::bind(config, clock()).await.map(drop)
    };
    let tls = || Some(ours.issue("127.0.0.1", 2090));
    let missing = |bound: Result<(), AgentError>| match bound {
        Err(AgentError::Exposed { missing, .. }) => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(bind(&|_| {}).await), "TLS and a token");
    assert_eq!(missing(bind(&|config| config.token = token()).await), "TLS");
    assert_eq!(missing(bind(&|config| config.tls = tls()).await), "a token");
    let open = |config: &mut AgentConfig| (config.tls, config.old_wire_plain) = (tls(), true);
    assert_eq!(missing(bind(&open).await), "a token", "what comes over TLS is ours");
    bind(&|config| (config.tls, config.token) = (tls(), token())).await.unwrap();
    bind(&|config| config.old_wire_plain = true).await.unwrap();
    let roots = |config: &mut AgentConfig| {
        let mut files = ours.issue("127.0.0.1", 2090);
        files.client_roots = Some(ours.ca());
        config.tls = Some(files);
    };
    bind(&roots).await.unwrap();
    let gone = |config: &mut AgentConfig| {
        (config.listen, config.ca) = ("127.0.0.1:0".parse().unwrap(), Some("/nowhere/ca.pem".into()));
    };
    let gone = bind(&gone).await;
    assert!(matches!(gone, Err(AgentError::Tls(_))));
}

#[tokio::test]
async fn who_takes_nothing_over_tls_is_cut_off_after_a_while() {
    let ours = Authority::new("ours");
    let (time, folder) = (Jumping::new(), std::sync::Arc::new(tempfile::tempdir().unwrap()));
    let node = Node::on(time.clone(), folder, |config| {
        (config.tls, config.token) = (Some(ours.issue("127.0.0.1", 2090)), token());
        // While one takes nothing there is no place for another one.
        config.connections = 1;
    })
    .await;
    // More than what lies in the sockets' buffers.
    std::fs::File::create(node.path("A")).unwrap().set_len(256 << 20).unwrap();
    let root = reqwest::Certificate::from_pem(&std::fs::read(ours.ca()).unwrap()).unwrap();
    let ask = async |path: &str| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root.clone()]).build().unwrap();
        client.get(format!("https://{}{path}", node.address)).bearer_auth(TOKEN).send().await
    };
    let mut slow = ask("/v2/files/A").await.unwrap();
    assert_eq!(slow.status(), 200);
    assert!(slow.chunk().await.unwrap().is_some());
    let soon = std::time::Duration::from_secs(2);
    assert!(deadline(&*clock(), soon / 4, ask("/v2/node")).await.is_err(), "the only place is taken");
    let cut = async {
        loop {
            // The buffers may not have been full before.
            time.jump(std::time::Duration::from_secs(61));
            if matches!(deadline(&*clock(), soon, ask("/v2/node")).await, Ok(Ok(answer)) if answer.status() == 200) {
                return;
            }
        }
    };
    deadline(&*clock(), PATIENCE, cut).await.unwrap();
    let rest = async {
        while slow.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    assert!(deadline(&*clock(), PATIENCE, rest).await.unwrap().is_err(), "and does not get the rest");
}
