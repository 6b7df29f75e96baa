//! Inventory, files, deletions, terms, tokens.

use serde_json::json;
use windlass_distribute::wire::agent::{Inventory, NodeReport};
use windlass_distribute_agent::config::Token;
use windlass_distribute_agent::{Agent, AgentConfig, AgentError};

use crate::node::{Node, client, clock, data, raw};

#[tokio::test]
async fn files_come_whole_and_in_ranges_on_both_ways() {
    let node = Node::start().await;
    let bytes = data(3_000_000, 1);
    node.put("A b#?%.mpg", &bytes);
    let path = "/v2/files/A%20b%23%3F%25.mpg";
    let whole = client().get(node.url(path)).send().await.unwrap();
    let tag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!((whole.status().as_u16(), whole.content_length()), (200, Some(3_000_000)));
    assert!(whole.bytes().await.unwrap() == bytes);
    // The first request decides which way a connection goes: one client asks for the node first, the other does not.
    let (straight, ordinary) = (client(), client());
    for (round, (client, first)) in [(&straight, false), (&ordinary, true)].into_iter().enumerate() {
        if first {
            let node = client.get(node.url("/v2/node")).send().await.unwrap();
            assert!(node.bytes().await.unwrap().ends_with(b"}\n"));
        }
        for (range, status, expected) in [
            ("bytes=0-0", 206, &bytes[..1]),
            ("bytes=1000000-2499999", 206, &bytes[1_000_000..2_500_000]),
            ("bytes=-5", 206, &bytes[2_999_995..]),
            ("bytes=0-1,5-6", 200, &bytes[..]),
        ] {
            let answer = client.get(node.url(path)).header("range", range).header("if-match", &tag);
            let answer = answer.send().await.unwrap();
            assert_eq!(answer.status(), status, "{range} {round}");
            assert!(answer.bytes().await.unwrap() == expected, "{range} {round}");
        }
        for (header, value, status) in
            [("range", "bytes=3000000-", 416), ("if-match", "\"1-1\"", 412), ("windlass-term", "3", 400)]
        {
            let answer = client.get(node.url(path)).header(header, value).send().await.unwrap();
            assert_eq!(answer.status(), status, "{header}");
            assert!(answer.bytes().await.unwrap().starts_with(b"{\"code\""));
        }
    }
    let head = client().head(node.url(path)).send().await.unwrap();
    assert_eq!(head.headers()["content-length"].to_str().unwrap(), "3000000");
    assert_eq!(head.headers()["etag"], *tag);
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_reached() {
    let node = Node::start().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), node.path("link")).unwrap();
    std::fs::create_dir(node.path("folder")).unwrap();
    node.put("temp.downloaded/grows", b"half");
    for method in ["GET", "HEAD"] {
        for name in
            ["link", "folder", "..", "%2e%2e", "..%2Fsecret", "%2Fetc%2Fpasswd", "temp.downloaded", "a%00", "%zz"]
        {
            let request = format!("{method} /v2/files/{name} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
            let (status, _, _) = raw(&node.address, &request).await;
            assert!(status == 404 || status == 400, "{method} {name}: {status}");
        }
    }
    for path in
        ["/v2/files/temp.downloaded/grows", "/v2/files/../../etc/passwd", "/v2/", "/v2/files/", "/v2/transfers/.."]
    {
        let (status, _, _) =
            raw(&node.address, &format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")).await;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    let answer = client().get(node.url("/v2/inventory")).send().await.unwrap();
    let inventory = Inventory::read(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(inventory.items, [], "neither links nor folders nor what grows");
}

#[tokio::test]
async fn an_inventory_says_when_it_ends() {
    let node = Node::start().await;
    for number in 0..25 {
        node.put(&format!("F{number:02}"), b"x");
    }
    let page = async |query: &str| {
        let answer = client().get(node.url(&format!("/v2/inventory{query}"))).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        Inventory::read(&answer.bytes().await.unwrap()).unwrap()
    };
    let all = page("").await;
    assert_eq!((all.items.len(), all.end.more), (25, false));
    let first = page("?limit=10").await;
    assert_eq!((first.items.len(), first.end.more, first.end.generation), (10, true, all.end.generation));
    let rest = page("?after=F09&limit=100").await;
    assert_eq!((rest.items[0].name.to_string(), rest.items.len(), rest.end.more), ("F10".to_owned(), 15, false));
    std::fs::remove_file(node.path("F01")).unwrap();
    assert_ne!(page("").await.end.generation, all.end.generation, "changes by others are seen");
    let bad = client().get(node.url("/v2/inventory?after=%2F")).send().await.unwrap();
    assert_eq!(bad.status(), 400);
}

#[tokio::test]
async fn deletions_need_the_very_version_a_plan_and_a_term() {
    let node = Node::start().await;
    node.put("A", b"x");
    std::fs::create_dir(node.path("F")).unwrap();
    let head = client().head(node.url("/v2/files/A")).send().await.unwrap();
    let tag = head.headers()["etag"].to_str().unwrap().to_owned();
    let delete = async |name: &str, headers: &[(&str, &str)]| {
        let mut request = client().delete(node.url(&format!("/v2/files/{name}")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let (who, term, plan) = (("windlass-controller", "c"), ("windlass-term", "7"), ("windlass-plan", "p"));
    assert_eq!(delete("A", &[plan, ("if-match", &tag)]).await, 400, "no term");
    assert_eq!(delete("A", &[who, term, ("if-match", &tag)]).await, 400, "no plan");
    assert_eq!(delete("A", &[who, term, plan]).await, 428);
    assert_eq!(delete("A", &[who, term, plan, ("if-match", "*")]).await, 428, "not just any version");
    assert_eq!(delete("A", &[who, term, plan, ("if-match", "\"1-1\"")]).await, 412);
    assert_eq!(delete("F", &[who, term, plan, ("if-match", &tag)]).await, 406);
    assert_eq!(delete("A", &[who, ("windlass-term", "6"), plan, ("if-match", &tag)]).await, 409, "its time is over");
    assert!(node.path("A").exists());
    assert_eq!(delete("A", &[who, term, plan, ("if-match", &tag)]).await, 204);
    assert_eq!(delete("A", &[who, term, plan, ("if-match", &tag)]).await, 404);
    let folder = node.stop().await;
    let node = Node::over(folder, |_| {}).await;
    let stale = client().get(node.url("/v2/node")).header(who.0, who.1).header("windlass-term", "6");
    assert_eq!(stale.send().await.unwrap().status(), 409, "terms survive a restart");
}

#[tokio::test]
async fn the_node_says_how_it_is_and_takes_a_limit() {
    let node = Node::start().await;
    let report: NodeReport = serde_json::from_value(node.get("/v2/node").await).unwrap();
    assert_eq!((report.id.as_str(), report.limits.bits_per_second), (node.address.as_str(), None));
    assert!(report.total >= report.used && report.used_percent <= 100);
    let (status, report) = node.change("PATCH", "/v2/node", Some(json!({ "bits_per_second": 1_000_000 }))).await;
    assert_eq!((status, &report["limits"]["bits_per_second"]), (200, &json!(1_000_000)));
    let (status, report) = node.change("PATCH", "/v2/node", Some(json!({ "serve_bits_per_second": 5_000 }))).await;
    let limits = &report["limits"];
    assert_eq!(
        (status, &limits["bits_per_second"], &limits["serve_bits_per_second"]),
        (200, &json!(1_000_000), &json!(5_000))
    );
    for bad in [
        json!({}),
        json!({ "bits_per_second": 0 }),
        json!({ "serve_bits_per_second": 0 }),
        json!({ "bits_per_second": null, "x": 1 }),
        json!("x"),
    ] {
        assert_eq!(node.change("PATCH", "/v2/node", Some(bad)).await.0, 400);
    }
    let (status, report) = node.change("PATCH", "/v2/node", Some(json!({ "bits_per_second": null }))).await;
    assert_eq!((status, &report["limits"]["bits_per_second"]), (200, &json!(null)));
    assert_eq!(node.change("POST", "/v2/node", None).await.0, 405);
}

#[tokio::test]
async fn without_the_token_nothing_is_said_and_beyond_loopback_there_is_no_agent_without_one() {
    let token = "correct-horse-battery";
    let node = Node::with(|config| config.token = Some(Token::new(token).unwrap())).await;
    node.put("A", b"x");
    for path in ["/v2/node", "/v2/inventory", "/v2/files/A"] {
        for (header, status) in [(None, 401), (Some("Bearer wrong-horse-battery"), 401), (Some(token), 401)] {
            let mut request = client().get(node.url(path));
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert!(!String::from_utf8_lossy(&answer.bytes().await.unwrap()).contains(token));
        }
        let answer = client().get(node.url(path)).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let folder = tempfile::tempdir().unwrap();
    let open = AgentConfig::new("0.0.0.0:0".parse().unwrap(), folder.path().to_owned());
    let refused = Agent::bind(open, clock()).await.unwrap_err();
    assert!(matches!(refused, AgentError::Exposed { .. }) && refused.hint().contains("token"));
    // A token is handed on to other agents, so that they let each other read.
    let other = Node::with(|config| config.token = Some(Token::new(token).unwrap())).await;
    let order = json!({ "id": "t", "name": "A", "size": 1, "source": { "url": node.url(""), "path_name": "A" } });
    let put = client().put(other.url("/v2/transfers/t")).bearer_auth(token).body(order.to_string());
    let put = put.header("windlass-controller", "c").header("windlass-term", "1").send().await.unwrap();
    assert_eq!(put.status(), 202);
    let wait = client().get(other.url("/v2/transfers/t?wait=30&seen=1")).bearer_auth(token);
    let mut report = serde_json::Value::Null;
    while report["state"] != "done" {
        assert_ne!(report["state"], "failed", "{report}");
        let answer = wait.try_clone().unwrap().send().await.unwrap();
        report = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    }
}
