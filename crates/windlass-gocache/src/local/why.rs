//! What is known of one id.

use std::fs;
use std::io::{self, Read};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_gocache_remote::{ActionId, OutputId};

use super::find::last_use;
use super::{LocalStore, Unreadable};

/// What the folder knows of an id, which may be an action's or an output's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The id, in hexadecimal digits.
    pub id: String,
    /// The same as it stands in the protocol.
    pub base64: String,
    /// Taken as an action.
    pub action: ActionState,
    /// Taken as an output, or the output of the action.
    pub output: Option<OutputState>,
    /// The answer to a get of this action, and why, in one sentence.
    pub verdict: String,
}

/// What is known of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ActionState {
    /// There is no record.
    Unknown,
    /// The record cannot be used.
    Damaged {
        /// Its file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The record says:
    Known {
        /// Its file.
        path: String,
        /// The output, in hexadecimal digits.
        output: String,
        /// The size of the output.
        size: u64,
        /// When it was stored. `go clean -testcache` goes by it.
        stored: Option<Timestamp>,
        /// Whether the output has to be hashed before it is given out.
        hashed_first: bool,
    },
}

/// What is known of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputState {
    /// Its file.
    pub path: String,
    /// The length of the file, if there is one.
    pub size: Option<u64>,
    /// Whether its hash is its name.
    pub right: Option<bool>,
    /// When it was last used, give or take an hour.
    pub used: Option<Timestamp>,
    /// What it seems to be.
    pub looks_like: Option<String>,
}

impl LocalStore {
    /// Explains what a get of this id would find. Takes hexadecimal digits, base64, or the form in file names.
    ///
    /// # Errors
    ///
    /// When the text is no id, or the disk fails.
    pub fn why(&self, id: &str) -> io::Result<Why> {
        let action =
            ActionId::from_hex(id).or_else(|| ActionId::from_base64(id)).or_else(|| ActionId::from_escaped(id));
        let Some(action) = action else {
            let text = format!("{id:?} is no id: give 64 hexadecimal digits, or 44 characters of base64");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let path = self.action_path(&action);
        let (state, output) = match self.read_record(&action) {
            Ok(None) => (ActionState::Unknown, None),
            Err(Unreadable::Disk(error)) => return Err(error),
            Err(Unreadable::Fault(fault)) => (ActionState::Damaged { path, what: fault.to_string() }, None),
            Ok(Some((record, _))) => {
                let entry = record.entry;
                let file = fs::symlink_metadata(self.output_path(&entry.output));
                let sealed = file.is_ok_and(|file| self.inner.seals.holds(record.seal, &file));
                let known = ActionState::Known {
                    path,
                    output: entry.output.hex(),
                    size: entry.size,
                    stored: Timestamp::from_nanosecond(i128::from(entry.time_unix_nanos)).ok(),
                    hashed_first: self.inner.verify || !sealed,
                };
                (known, Some(entry.output))
            }
        };
        // An id that is no action's may be an output's.
        let output = self.output_state(&output.unwrap_or(OutputId::new(*action.bytes())))?;
        let output = Some(output).filter(|found| found.size.is_some() || matches!(state, ActionState::Known { .. }));
        let verdict = verdict(&state, output.as_ref());
        Ok(Why { id: action.hex(), base64: action.base64(), action: state, output, verdict })
    }

    fn output_state(&self, output: &OutputId) -> io::Result<OutputState> {
        let path = self.output_path(output);
        let file = fs::symlink_metadata(&path).ok();
        let used = file.as_ref().and_then(|file| Timestamp::try_from(last_use(file)).ok());
        let right = self.output_is_right(output)?;
        let looks_like = if right.is_some() { Some(looks_like(&path)?.to_owned()) } else { None };
        Ok(OutputState { path, size: file.map(|file| file.len()), right, used, looks_like })
    }
}

fn verdict(state: &ActionState, output: Option<&OutputState>) -> String {
    let size = match state {
        ActionState::Unknown if output.is_some() => return "an output; no action has this id".to_owned(),
        ActionState::Unknown => return "a miss: no record of this action is here".to_owned(),
        ActionState::Damaged { what, .. } => return format!("a miss: the record is damaged, {what}"),
        ActionState::Known { size, .. } => *size,
    };
    match output {
        Some(OutputState { size: None, .. }) | None => "a miss: the output is not here".to_owned(),
        Some(OutputState { right: Some(false), .. }) => "a miss: the output is damaged".to_owned(),
        Some(OutputState { size: Some(found), .. }) if *found != size => {
            format!("a miss: the output has {found} bytes, the record says {size}")
        }
        Some(_) => "a hit".to_owned(),
    }
}

/// What the first bytes tell.
fn looks_like(path: &str) -> io::Result<&'static str> {
    let mut head = [0; 64];
    let length = match fs::File::open(path).and_then(|mut file| file.read(&mut head)) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok("a folder, which should not be"),
        Err(error) => return Err(error),
    };
    let head = &head[..length];
    let starts = |with: &[u8]| head.starts_with(with);
    Ok(if head.is_empty() {
        "nothing: the output text of a compile step, or of vet"
    } else if starts(b"!<arch>\n") {
        "a compiled package"
    } else if starts(b"go index v") {
        "a package index, which other machines rarely share"
    } else if starts(b"# test log") {
        "the log of a test"
    } else if starts(b"ok  \t") {
        "the output of a test"
    } else if starts(b"./") {
        "a list of sources"
    } else if std::str::from_utf8(head).is_ok() {
        "text"
    } else {
        "binary data"
    })
}
