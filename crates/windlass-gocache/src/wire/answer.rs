//! What `go` is told.

use std::io::Write;

use jiff::Timestamp;
use windlass_gocache_remote::{Entry, OutputId};

/// One answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get: not cached.
    Miss,
    /// To a get: cached, and here it is.
    Hit {
        /// What is stored.
        entry: Entry,
        /// The file that holds exactly these bytes, as an absolute path.
        path: String,
    },
    /// To a put: stored.
    Stored {
        /// What was stored.
        output: OutputId,
        /// Its size.
        size: u64,
        /// The file that holds exactly these bytes, as an absolute path.
        path: String,
    },
    /// To close: all is done.
    Closed,
    /// To anything: it failed, and why.
    Failed(String),
}

impl Answer {
    /// Appends the answer as one line of JSON.
    pub fn write(&self, id: i64, to: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(to, "{{\"ID\":{id}");
        match self {
            Self::Miss => to.extend_from_slice(b",\"Miss\":true"),
            Self::Hit { entry, path } => {
                output(&entry.output, entry.size, to);
                // `Time` decides whether `go clean -testcache` works, so it is what was stored, never now.
                let time = Timestamp::from_nanosecond(i128::from(entry.time_unix_nanos)).unwrap_or_default();
                let _ = write!(to, ",\"Time\":\"{time}\",\"DiskPath\":");
                string(path, to);
            }
            Self::Stored { output: id, size, path } => {
                output(id, *size, to);
                to.extend_from_slice(b",\"DiskPath\":");
                string(path, to);
            }
            Self::Closed => {}
            Self::Failed(why) => {
                to.extend_from_slice(b",\"Err\":");
                string(if why.is_empty() { "failed" } else { why }, to);
            }
        }
        to.extend_from_slice(b"}\n");
    }
}

fn output(id: &OutputId, size: u64, to: &mut Vec<u8>) {
    to.extend_from_slice(b",\"OutputID\":\"");
    let start = to.len();
    to.resize(start + 44, 0);
    let length = base64_simd::STANDARD.encode(id.bytes(), base64_simd::Out::from_slice(&mut to[start..])).len();
    to.truncate(start + length);
    let _ = write!(to, "\",\"Size\":{size}");
}

fn string(text: &str, to: &mut Vec<u8>) {
    let plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        to.push(b'"');
        to.extend_from_slice(text.as_bytes());
        to.push(b'"');
    } else {
        // A string always serialises, and a vector always takes it.
        let _ = serde_json::to_writer(to, text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(answer: &Answer) -> Value {
        let mut line = Vec::new();
        answer.write(9, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn answers_have_the_fields_that_go_reads() {
        let id = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(value(&Answer::Miss), json!({"ID": 9, "Miss": true}));
        assert_eq!(value(&Answer::Closed), json!({"ID": 9}));
        assert_eq!(value(&Answer::Failed("a \"b\"\n".into())), json!({"ID": 9, "Err": "a \"b\"\n"}));
        assert_eq!(value(&Answer::Failed(String::new())), json!({"ID": 9, "Err": "failed"}));
        let entry = Entry { output: OutputId::EMPTY, size: 0, time_unix_nanos: 1_700_000_000_123_456_789 };
        assert_eq!(
            value(&Answer::Hit { entry, path: "/a\\b/ü".into() }),
            json!({"ID": 9, "OutputID": id, "Size": 0, "Time": "2023-11-14T22:13:20.123456789Z", "DiskPath": "/a\\b/ü"})
        );
        assert_eq!(
            value(&Answer::Stored { output: OutputId::EMPTY, size: 12, path: "/x".into() }),
            json!({"ID": 9, "OutputID": id, "Size": 12, "DiskPath": "/x"})
        );
    }
}
