//! Logins, tokens that expire, certificates.

use std::time::Duration;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_clock::SystemClock;
use windlass_sim::etcd::{EtcdOptions, EtcdServer};
use windlass_store::{Revision, Store, StoreError};
use windlass_store_etcd::{EtcdConfig, EtcdStore, Identity, Login, Password, Tls};

use crate::pool::{config, connect};
use crate::writer::{create, created, key};

const PASSWORD: &str = "correct horse";

/// Asks etcd's administrator interface, in its JSON form.
async fn administer(endpoint: &str, token: &str, path: &str, body: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(endpoint).await.expect("a connection");
    let login = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
    let request = format!("POST /v3/auth/{path} HTTP/1.0\r\n{login}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

/// Turns authentication on, with a user who may use the prefix of `config` only.
async fn lock(endpoint: &str, config: &EtcdConfig) {
    let base64 = |text: &[u8]| base64::engine::general_purpose::STANDARD.encode(text);
    let prefix = config.prefix.as_bytes();
    let end = [&prefix[..prefix.len() - 1], b"0"].concat();
    let permission = format!(
        r#"{{"name":"jobs","perm":{{"permType":"READWRITE","key":"{}","range_end":"{}"}}}}"#,
        base64(prefix),
        base64(&end)
    );
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"root"}"#.to_owned()),
        ("user/grant", r#"{"user":"root","role":"root"}"#.to_owned()),
        ("role/add", r#"{"name":"jobs"}"#.to_owned()),
        ("role/grant", permission),
        ("user/add", format!(r#"{{"name":"windlass","password":"{PASSWORD}"}}"#)),
        ("user/grant", r#"{"user":"windlass","role":"jobs"}"#.to_owned()),
        ("enable", "{}".to_owned()),
    ] {
        administer(endpoint, "", path, &body).await;
    }
}

fn login(password: &str) -> Option<Login> {
    Some(Login { user: "windlass".to_owned(), password: Password::Given(password.to_owned()) })
}

#[tokio::test]
async fn a_login_outlives_its_tokens_and_changes_of_users() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "only this test signs tokens with it").expect("a file");
    let tokens = format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=1s", secret.display());
    let server = EtcdServer::with(EtcdOptions::members(1).with(&tokens)).await.expect("a member");
    let endpoint = server.endpoints().remove(0);
    let mut config = config(server.endpoints());
    lock(&endpoint, &config).await;
    config.login = login(PASSWORD);
    let store = connect(config.clone()).await;
    let mut watch = store.watch("k/", Revision(store.revision().await.expect("a revision").0)).await.expect("a watch");
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    create(&*store, &key(0)).await;
    // A token lives for a second.
    let clock = SystemClock::real();
    clock.sleep(Duration::from_millis(2100)).await;
    assert!(store.get(&key(0)).await.expect("a read").is_some());
    clock.sleep(Duration::from_millis(2100)).await;
    store.keep_alive(lease).await.expect("a kept lease");
    create(&*store, &key(1)).await;
    clock.sleep(Duration::from_millis(2100)).await;
    let mut second = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    // Users and roles change: tokens from before are refused although they have not expired.
    let answer = administer(&endpoint, "", "authenticate", r#"{"name":"root","password":"root"}"#).await;
    let token = answer.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    administer(&endpoint, token, "user/add", r#"{"name":"other","password":"other"}"#).await;
    for n in 2..6 {
        store.commit(windlass_store::Txn::new().put(key(n), "1")).await.expect("a fresh login within the call");
    }
    assert_eq!(created(&mut *watch, 6).await, (0..6).map(key).collect::<Vec<_>>());
    assert_eq!(created(&mut *second, 4).await, (2..6).map(key).collect::<Vec<_>>());

    let refused = |config: EtcdConfig| async {
        EtcdStore::connect(config, SystemClock::real()).await.expect_err("not to be let in").to_string()
    };
    let nobody = refused(EtcdConfig { login: None, ..config.clone() }).await;
    assert!(nobody.contains("etcd asks for a user"), "{nobody}");
    let wrong = refused(EtcdConfig { login: login("not it"), ..config.clone() }).await;
    assert!(wrong.contains("does not let the user windlass in") && !wrong.contains("not it"), "{wrong}");
    let elsewhere = refused(EtcdConfig { prefix: "elsewhere/".to_owned(), ..config.clone() }).await;
    assert!(elsewhere.contains("role grant-permission"), "{elsewhere}");
    assert!(!format!("{store:?} {config:?}").contains(PASSWORD));
}

#[tokio::test]
async fn a_restarted_member_that_forgot_all_tokens_is_logged_in_to_again() {
    let mut server = EtcdServer::start(1).await.expect("a member");
    let endpoint = server.endpoints().remove(0);
    let mut config = config(server.endpoints());
    lock(&endpoint, &config).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("a file");
    config.login = Some(Login { user: "windlass".to_owned(), password: Password::File(file) });
    let store = connect(config).await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    create(&*store, &key(0)).await;
    server.kill(0);
    server.restart(0).await.expect("it comes back");
    create(&*store, &key(1)).await;
    assert_eq!(created(&mut *watch, 2).await, [key(0), key(1)]);
}

#[tokio::test]
async fn client_certificates_open_the_door_and_nothing_else_does() {
    let options = EtcdOptions { tls: true, ..EtcdOptions::members(1) };
    let server = EtcdServer::with(options).await.expect("a member");
    let certificates = server.certificates().expect("certificates");
    let identity =
        Identity { cert_file: certificates.client_cert_file.clone(), key_file: certificates.client_key_file.clone() };
    let with =
        |tls: Option<Tls>| EtcdConfig { tls, request_timeout: Duration::from_secs(2), ..config(server.endpoints()) };
    let tls = Tls { ca_file: Some(certificates.ca_file.clone()), identity: Some(identity), server_name: None };
    let store = connect(with(Some(tls.clone()))).await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    create(&*store, &key(0)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(0)]);
    // By name, as the URL of a job's state says it.
    let named = server.endpoints()[0].replace("127.0.0.1", "localhost");
    connect(EtcdConfig { endpoints: vec![named], ..with(Some(tls.clone())) }).await;
    let nobody = Tls { identity: None, ..tls.clone() };
    let stranger = Tls { ca_file: None, ..tls.clone() };
    let misnamed = Tls { server_name: Some("elsewhere".to_owned()), ..tls.clone() };
    for refused in [None, Some(nobody), Some(stranger), Some(misnamed)] {
        let answer = EtcdStore::connect(with(refused.clone()), SystemClock::real()).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{refused:?}: {answer:?}");
    }
    let missing = Tls { ca_file: Some("/no/such.pem".into()), ..tls };
    let answer = EtcdStore::connect(with(Some(missing)), SystemClock::real()).await;
    assert!(matches!(&answer, Err(StoreError::Unusable(why)) if why.contains("/no/such.pem")), "{answer:?}");
}
