//! Refusals, overload, wrong credentials, listings that break.

use std::time::Duration;

use bytes::Bytes;
use windlass_blob::{BlobStore, Environment, ErrorKind, Operation, PutMode, ReadOptions};
use windlass_sim::s3::{Fault, Options, S3Server, Script};

use crate::place::{Site, context, pattern, read_all};

fn open(site: &Site, environment: Environment) -> BlobStore {
    let url = format!("s3://bucket?endpoint={}", site.proxy.endpoint());
    BlobStore::open_text(&url, &context(site.clock.clone(), environment)).unwrap()
}

#[tokio::test]
async fn a_wrong_secret_is_refused_once_and_shown_nowhere() {
    let site = Site::start();
    let environment = Environment::from_pairs([
        ("AWS_ACCESS_KEY_ID", S3Server::ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2"),
        ("AWS_SESSION_TOKEN", "token-hunter3"),
    ]);
    let store = open(&site, environment);
    let read = async { read_all(store.get_stream("k", ReadOptions::default()).await?).await };
    for error in [
        read.await.unwrap_err(),
        store.put_bytes("k", Bytes::from_static(b"x"), PutMode::Overwrite).await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.tries()), (ErrorKind::AccessDenied, 1), "{error}");
        let all = format!("{error} {error:?} {store:?}");
        assert!(!all.contains("hunter"), "{all}");
        assert!(error.to_string().contains("s3://bucket"), "{error}");
    }
    let error = store.list("").await.unwrap_err();
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert!(error.to_string().contains("check access key"), "{error}");
}

#[tokio::test]
async fn a_session_token_is_sent() {
    let options = Options { session_token: Some("token-1".to_owned()), ..Options::default() };
    let site = Site::with(Duration::from_secs(30), options);
    let credentials = |token: &str| {
        let mut pairs = S3Server::credentials().to_vec();
        pairs.push(("AWS_SESSION_TOKEN", token));
        Environment::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())))
    };
    open(&site, credentials("token-1")).put_bytes("k", Bytes::new(), PutMode::Overwrite).await.unwrap();
    let error = open(&site, credentials("token-2")).list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
}

#[tokio::test]
async fn credentials_half_given_or_not_at_all_are_an_error_before_any_request() {
    let site = Site::start();
    let url = format!("s3://bucket?endpoint={}", site.proxy.endpoint());
    for (pairs, wanted) in [
        (vec![], "AWS_ACCESS_KEY_ID"),
        (vec![("AWS_ACCESS_KEY_ID", "x")], "AWS_SECRET_ACCESS_KEY is not"),
        (vec![("AWS_SECRET_ACCESS_KEY", "hunter2")], "AWS_ACCESS_KEY_ID is not"),
    ] {
        let environment = Environment::from_pairs(pairs);
        let error = BlobStore::open_text(&url, &context(site.clock.clone(), environment)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(wanted) && !error.to_string().contains("hunter2"), "{error}");
    }
    assert_eq!(site.proxy.seen(), []);
}

#[tokio::test]
async fn the_endpoint_may_come_from_the_environment() {
    let site = Site::start();
    let mut pairs = S3Server::credentials().to_vec();
    let endpoint = site.server.endpoint();
    pairs.push(("AWS_ENDPOINT_URL_S3", &endpoint));
    let environment = Environment::from_pairs(pairs.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())));
    let surroundings = context(site.clock.clone(), environment);
    BlobStore::open_text("s3://bucket", &surroundings).unwrap().list("").await.unwrap();
    let far = Environment::from_pairs([("AWS_ENDPOINT_URL", "http://store.example:9000")]);
    let error = BlobStore::open_text("s3://bucket", &context(site.clock.clone(), far)).unwrap_err();
    assert!(error.to_string().contains("AWS_ENDPOINT_URL") && error.to_string().contains("allow_http"), "{error}");
}

#[tokio::test]
async fn overload_is_waited_out_and_retry_after_obeyed() {
    let site = Site::start();
    site.proxy.run(Script::each([
        Fault::slow_down(Some("77")),
        Fault::Status { status: 429, code: "TooManyRequests", retry_after: Some("13") },
        Fault::status(500),
        Fault::Refuse,
    ]));
    site.store.put_bytes("k", pattern(10, 1), PutMode::Overwrite).await.unwrap();
    assert_eq!(site.proxy.seen().len(), 5);
    let waits = site.clock.waits();
    assert_eq!(waits[..2], [Duration::from_secs(77), Duration::from_secs(13)]);
    assert_eq!(waits.len(), 4);
    assert_eq!(site.store.get_bytes("k", 10).await.unwrap().0, pattern(10, 1));
}

#[tokio::test]
async fn statuses_become_kinds_and_only_passing_troubles_are_tried_again() {
    let site = Site::start();
    for (status, kind, requests) in [
        (403, ErrorKind::AccessDenied, 1),
        (404, ErrorKind::NotFound, 1),
        (429, ErrorKind::Unavailable, 6),
        (500, ErrorKind::Unavailable, 6),
        (503, ErrorKind::Unavailable, 6),
    ] {
        site.proxy.run(Script::by(move |_| Fault::status(status)));
        let error = site.store.get_bytes("k", 10).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(site.proxy.seen().len(), requests, "{status}");
        site.proxy.run(Script::by(move |_| Fault::status(status)));
        assert_eq!(site.store.head("k").await.unwrap_err().kind(), kind, "a look-up has no body to tell");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let site = Site::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = BlobStore::open_text(
        &format!("s3://bucket?endpoint=http://{port}"),
        &context(site.clock.clone(), Environment::from_pairs(S3Server::credentials())),
    )
    .unwrap();
    let error = store.head("k").await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, 6), "{error}");
    assert!(error.to_string().contains("no connection") && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_listing_that_breaks_midway_is_an_error_or_goes_on_and_is_never_short() {
    let site = Site::start();
    let direct = site.direct();
    for index in 0..25 {
        direct.put_bytes(&format!("k{index:02}"), Bytes::new(), PutMode::Overwrite).await.unwrap();
    }
    let mut whole = 0;
    for fault in [Fault::status(403), Fault::status(503), Fault::CutAfter(200), Fault::Refuse] {
        let shown = format!("{fault:?}");
        // The third page fails for good.
        let broken = fault.clone();
        site.proxy.run(Script::by(move |seen| if seen.number >= 2 { broken.clone() } else { Fault::Pass }));
        let mut pages = site.store.list_pages("");
        pages.page_size(10);
        assert_eq!(pages.next_page().await.unwrap().unwrap().len(), 10);
        assert_eq!(pages.next_page().await.unwrap().unwrap().len(), 10);
        let error = pages.next_page().await.unwrap_err();
        assert_eq!(error.operation(), Operation::List, "{shown}: {error}");
        assert!(pages.next_page().await.is_err(), "{shown}: it never ends well after that");

        // The second page fails once.
        let once = fault.clone();
        site.proxy.run(Script::each([Fault::Pass, once]));
        let mut pages = site.store.list_pages("");
        pages.page_size(10);
        let mut found = 0;
        let end = loop {
            match pages.next_page().await {
                Ok(Some(page)) => found += page.len(),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match end {
            Ok(()) => {
                assert_eq!(found, 25, "{shown}");
                whole += 1;
            }
            Err(error) => assert!(!error.is_transient(), "{shown}: {error}"),
        }
    }
    assert!(whole >= 3, "passing troubles are passed: {whole}");
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_known_as_done() {
    let site = Site::start();
    site.proxy.run(Script::each([Fault::LoseAnswer]));
    site.store.put_bytes("k", pattern(1000, 1), PutMode::Create).await.unwrap();
    assert_eq!(site.store.get_bytes("k", 1000).await.unwrap().0, pattern(1000, 1));
    // Somebody else's object is not taken for ours.
    let direct = site.direct();
    direct.put_bytes("other", pattern(1000, 2), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::status(500)]));
    let error = site.store.put_bytes("other", pattern(1000, 1), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
}
