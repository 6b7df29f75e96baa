//! Recorded conversations, and conversations made up for a test.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64_simd::STANDARD;
use serde_json::Value;
use windlass_gocache_remote::{ActionId, OutputId};

/// What was asked under one ID.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Get { action: String },
    Put { action: String, output: String, body: Vec<u8> },
    Close,
}

/// A conversation: what `go` says, and what it is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) input: Vec<u8>,
    pub(crate) asked: BTreeMap<i64, Asked>,
    /// The recorded hits: output by ID.
    pub(crate) hits: BTreeMap<i64, String>,
}

impl Conversation {
    /// Reads a recording.
    pub(crate) fn recorded(name: &str) -> Self {
        let path = format!("{}/tests/data/cache/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut conversation = Self::default();
        let mut put = None;
        for line in text.lines() {
            let (_, rest) = line.split_once(' ').unwrap();
            let (mark, said) = rest.split_at(1);
            let said = said.strip_prefix(' ').unwrap_or(said);
            if mark == "<" {
                let answer: Value = serde_json::from_str(said).unwrap();
                if let Some(output) = answer["OutputID"].as_str() {
                    conversation.hits.insert(answer["ID"].as_i64().unwrap(), output.to_owned());
                }
                continue;
            }
            conversation.input.extend_from_slice(said.as_bytes());
            conversation.input.push(b'\n');
            if said.starts_with('"') {
                let body = STANDARD.decode_to_vec(said.trim_matches('"')).unwrap();
                let Some(Asked::Put { body: empty, .. }) = put.and_then(|id| conversation.asked.get_mut(&id)) else {
                    panic!("{path}: a body without a put");
                };
                *empty = body;
            } else if said.starts_with('{') {
                let request: Value = serde_json::from_str(said).unwrap();
                let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
                let id = request["ID"].as_i64().unwrap();
                let asked = match request["Command"].as_str().unwrap() {
                    "get" => Asked::Get { action: text("ActionID") },
                    "put" => {
                        put = Some(id);
                        Asked::Put { action: text("ActionID"), output: text("OutputID"), body: Vec::new() }
                    }
                    _ => Asked::Close,
                };
                conversation.asked.insert(id, asked);
            }
        }
        // Only gets are hits; a put may name its output too.
        conversation.hits.retain(|id, _| matches!(conversation.asked[id], Asked::Get { .. }));
        conversation
    }

    /// Adds a get.
    pub(crate) fn get(&mut self, action: ActionId) -> i64 {
        let (id, action) = (self.next(), action.base64());
        let request = format!("{{\"ID\":{id},\"Command\":\"get\",\"ActionID\":\"{action}\"}}\n\n");
        self.input.extend_from_slice(request.as_bytes());
        self.asked.insert(id, Asked::Get { action });
        id
    }

    /// Adds a put.
    pub(crate) fn put(&mut self, action: ActionId, body: &[u8]) -> i64 {
        let (id, action, output) = (self.next(), action.base64(), OutputId::of(body).base64());
        let mut request =
            format!("{{\"ID\":{id},\"Command\":\"put\",\"ActionID\":\"{action}\",\"OutputID\":\"{output}\"");
        if body.is_empty() {
            request.push_str("}\n\n");
        } else {
            write!(request, ",\"BodySize\":{}}}\n\n\"{}\"\n", body.len(), STANDARD.encode_to_string(body)).unwrap();
        }
        self.input.extend_from_slice(request.as_bytes());
        self.asked.insert(id, Asked::Put { action, output, body: body.to_vec() });
        id
    }

    /// Adds close.
    pub(crate) fn close(&mut self) -> i64 {
        let id = self.next();
        self.input.extend_from_slice(format!("{{\"ID\":{id},\"Command\":\"close\"}}\n\n").as_bytes());
        self.asked.insert(id, Asked::Close);
        id
    }

    fn next(&self) -> i64 {
        self.asked.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// The bodies put, by action. The last one counts.
    pub(crate) fn bodies(&self) -> BTreeMap<String, Vec<u8>> {
        let puts = self.asked.values().filter_map(|asked| match asked {
            Asked::Put { action, body, .. } => Some((action.clone(), body.clone())),
            _ => None,
        });
        puts.collect()
    }
}

/// An action for tests.
pub(crate) fn action(number: u8) -> ActionId {
    ActionId::new([number; 32])
}

/// Bytes that look like nothing, of any length.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| (next() >> 32) as u8).collect()
}
