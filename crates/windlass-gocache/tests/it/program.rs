//! Running the program.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::conversation::{Asked, Conversation};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_windlass-gocache");

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) answers: BTreeMap<i64, Value>,
    /// The order of the answers.
    pub(crate) order: Vec<i64>,
    pub(crate) stderr: String,
    pub(crate) status: Option<i32>,
}

/// A folder, and how the program is run over it.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) arguments: Vec<String>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), arguments: Vec::new() }
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { arguments, ..Self::new() }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.folder.path().join("spare")
    }

    /// The command, with nothing of this process's environment that could change what it does.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WINDLASS_") || name.starts_with("S3_")) {
            command.env_remove(name);
        }
        command.arg("--dir").arg(self.dir()).arg("--spare-dir").arg(self.spare()).args(&self.arguments);
        command
    }

    pub(crate) fn run(&self, conversation: &Conversation) -> Said {
        run(self.command(), std::slice::from_ref(&conversation.input))
    }

    /// Runs another command of the program, and returns what it printed as JSON, and its exit status.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.command().args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error}: {text} {}", String::from_utf8_lossy(&output.stderr))
        });
        (value, output.status.code().unwrap())
    }

    /// Everything in the folder is what it should be.
    pub(crate) fn verify(&self) {
        let (found, status) = self.ask(&["verify"]);
        assert_eq!((found["damaged"].as_u64(), status), (Some(0), 0), "{found}");
    }
}

/// Starts the program and feeds it the pieces, each with a write of its own, then the end of the input.
pub(crate) fn run(mut command: Command, pieces: &[Vec<u8>]) -> Said {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish(child, pieces)
}

pub(crate) fn finish(mut child: Child, pieces: &[Vec<u8>]) -> Said {
    let (mut stdin, mut stderr) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    let mut stdout = Vec::new();
    let errors = thread::scope(|scope| {
        scope.spawn(move || {
            for piece in pieces {
                // It may have ended for good reasons; what it said tells.
                if stdin.write_all(piece).is_err() {
                    break;
                }
            }
        });
        let errors = scope.spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        errors.join().unwrap()
    });
    let status = child.wait().unwrap().code();
    let text = String::from_utf8(stdout).unwrap();
    let mut lines = text.lines();
    let handshake: Value = serde_json::from_str(lines.next().expect("a handshake")).unwrap();
    assert_eq!(handshake, serde_json::json!({"ID": 0, "KnownCommands": ["get", "put", "close"]}));
    let (mut answers, mut order) = (BTreeMap::new(), Vec::new());
    for line in lines {
        let answer: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let id = answer["ID"].as_i64().unwrap();
        order.push(id);
        assert!(answers.insert(id, answer).is_none(), "{id} was answered twice");
    }
    Said { answers, order, stderr: errors, status }
}

impl Said {
    pub(crate) fn is_miss(&self, id: i64) -> bool {
        self.answers[&id]["Miss"] == true
    }

    pub(crate) fn failure(&self, id: i64) -> Option<&str> {
        self.answers[&id]["Err"].as_str()
    }

    /// The bytes at the path of an answer.
    pub(crate) fn bytes(&self, id: i64) -> Vec<u8> {
        let answer = &self.answers[&id];
        let path = Path::new(answer["DiskPath"].as_str().unwrap_or_else(|| panic!("no path: {answer}")));
        assert!(path.is_absolute() && path.extension().is_none(), "{answer}");
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{answer}: {error}"));
        assert_eq!(answer["Size"].as_u64(), Some(bytes.len() as u64));
        bytes
    }

    /// Checks what holds for every conversation: each request answered once, close last, bytes right. `known` are the
    /// bodies that were put before, by action; what was put in this conversation may be found or not.
    pub(crate) fn check(&self, conversation: &Conversation, known: &BTreeMap<String, Vec<u8>>) {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        let own = conversation.bodies();
        for (id, asked) in &conversation.asked {
            let answer = self.answers.get(id).unwrap_or_else(|| panic!("{id} was not answered: {asked:?}"));
            match asked {
                Asked::Get { action } if self.is_miss(*id) => {
                    assert!(!known.contains_key(action), "{action} is known, and was not found");
                    assert_eq!(answer.as_object().unwrap().len(), 2);
                }
                Asked::Get { action } => {
                    let bytes = self.bytes(*id);
                    assert!(known.get(action) == Some(&bytes) || own.get(action) == Some(&bytes), "{answer}");
                    let time = answer["Time"].as_str().unwrap();
                    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
                    assert!(answer.get("TimeNanos").is_none());
                }
                Asked::Put { body, output, .. } => {
                    assert!(self.bytes(*id) == *body, "{answer}");
                    assert_eq!(answer["OutputID"].as_str(), Some(output.as_str()));
                }
                Asked::Close => {
                    assert_eq!(*answer, serde_json::json!({ "ID": id }));
                    assert_eq!(self.order.last(), Some(id), "close is answered last");
                }
            }
        }
        assert_eq!(self.answers.len(), conversation.asked.len());
    }
}
