//! Every recorded exchange with an old agent, replayed over a socket.

use serde_json::Value;

use crate::node::{Node, raw};

#[tokio::test]
async fn an_agent_answers_as_the_old_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../windlass-distribute/tests/data/fixtures/api/agent_cases.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let node = Node::start().await;
    for file in ["F03.mpg", "F06.mpg"] {
        node.put(file, b"x");
    }
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        if case["setup"].is_string() {
            node.put("a b#1.mpg", b"x");
        }
        let files = || {
            let entries = std::fs::read_dir(node.folder.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let before = files();
        let (method, path) = (case["method"].as_str().unwrap(), case["path"].as_str().unwrap());
        let request = format!("{method} {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
        let (status, headers, body) = raw(&node.address, &request).await;
        let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let expected = case["product"].get("code").unwrap_or(&case["code"]);
        let fits = match expected.as_str() {
            None => *expected == status,
            Some(words) => words.split([' ', ',']).any(|word| word == status.to_string()),
        };
        assert!(fits, "{case}: {status}");
        if case["code"] == status {
            for (key, name) in [("content_type", "content-type"), ("location", "location")] {
                if let Some(expected) = case[key].as_str() {
                    assert_eq!(header(name), Some(expected), "{case}");
                }
            }
            if let Some(expected) = case["body"].as_str() {
                assert_eq!(String::from_utf8_lossy(&body), expected, "{case}");
            }
        }
        if let Some(expected) = case["body_json"].as_object() {
            assert!(body.ends_with(b"}\n"));
            let found: Value = serde_json::from_slice(&body).unwrap();
            assert!(expected.keys().all(|key| found.get(key).is_some()), "{found}");
        }
        let after = files();
        let gone: Vec<&String> = before.iter().filter(|name| !after.contains(name)).collect();
        match case["effect"].as_str() {
            Some("F03.mpg is gone") => assert_eq!(gone, ["F03.mpg"]),
            Some("that file is gone") => assert_eq!(gone, ["a b#1.mpg"]),
            _ => assert!(gone.is_empty(), "{case}: {gone:?}"),
        }
    }
}

#[tokio::test]
async fn the_old_paths_are_open_to_this_machine_and_named_networks_only() {
    // Another address of this machine stands for a stranger: from 127.0.0.1 they are always open.
    let token = || windlass_distribute_agent::config::Token::new("0123456789abcdef").unwrap();
    let node = Node::with(|config| config.token = Some(token())).await;
    let (status, _, _) = raw(&node.address, "HEAD /hb HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 200, "the old paths know no token");
    let network: windlass_distribute_agent::config::Network = "10.1.0.0/16".parse().unwrap();
    assert!(network.has("10.1.2.3".parse().unwrap()) && !network.has("127.0.0.1".parse().unwrap()));
}
