//! What went wrong, for people and for programs.
//!
//! People read, on standard error:
//!
//! ```text
//! error: read the job file examples/rebalance.yaml
//!   caused by: No such file or directory (os error 2)
//! hint: name a file that exists
//! ```
//!
//! Programs that asked for JSON get `{"error": {…}}` as the one document on standard output.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use windlass_api::ClientError;
use windlass_blob::BlobError;
use windlass_engine::EngineError;
use windlass_index_backup::BackupError;
use windlass_model::Failure;

use crate::exit::Exit;
use crate::job_file::Faults;
use crate::output::Palette;

/// An error of this program itself, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Problem {
    /// How the program ends.
    pub(crate) exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Problem {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// Wrong usage or an invalid file.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What was asked for could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Something that is needed cannot be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// Stopped on request.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, message)
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error as text: what was attempted, the causes, a hint.
pub(crate) fn text(error: &anyhow::Error, palette: Palette) -> String {
    let mut text = String::new();
    if let Some(faults) = error.downcast_ref::<Faults>() {
        text += &faults.render(palette);
    }
    let (message, causes) = chain(error);
    let _ = writeln!(text, "{} {message}", palette.error("error:"));
    for cause in causes {
        let _ = writeln!(text, "  caused by: {cause}");
    }
    if let Some(hint) = hint(error) {
        let _ = writeln!(text, "{} {hint}", palette.hint("hint:"));
    }
    text
}

/// An error as the one JSON document.
pub(crate) fn document(error: &anyhow::Error) -> Value {
    let (message, causes) = chain(error);
    let mut inner = Map::new();
    inner.insert("exit_code".into(), Exit::of(error).code().into());
    if let Some(code) = error.chain().find_map(code) {
        inner.insert("code".into(), code.into());
    }
    inner.insert("message".into(), message.into());
    if !causes.is_empty() {
        inner.insert("causes".into(), causes.into());
    }
    if let Some(hint) = hint(error) {
        inner.insert("hint".into(), hint.into());
    }
    if let Some(faults) = error.downcast_ref::<Faults>() {
        inner.insert("file".into(), faults.file.clone().into());
        inner.insert("faults".into(), json!(faults.list));
    }
    json!({ "error": inner })
}

/// The message and the causes below it. A cause that its parent repeats is left out.
fn chain(error: &anyhow::Error) -> (String, Vec<String>) {
    let mut texts: Vec<String> = Vec::new();
    for link in error.chain() {
        let own = link.to_string();
        if !texts.last().is_some_and(|last| *last == own || last.ends_with(&format!(": {own}"))) {
            texts.push(own);
        }
        if let Some(EngineError::Plan(failure)) = link.downcast_ref::<EngineError>() {
            if let Some(last) = texts.last_mut() {
                last.clone_from(&failure.message);
            }
            texts.extend(failure.causes.iter().cloned());
        }
    }
    let message = if texts.is_empty() { String::new() } else { texts.remove(0) };
    (message, texts)
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(hint) = error.downcast_ref::<Problem>().and_then(|problem| problem.hint.clone()) {
        return Some(hint);
    }
    if let Some(error) = error.chain().find_map(|link| link.downcast_ref::<ClientError>()) {
        return of_server(error);
    }
    error.chain().find_map(|link| match link.downcast_ref::<EngineError>() {
        Some(EngineError::Plan(failure)) => failure.hint.clone(),
        Some(EngineError::NoSuchJob(_)) => Some("`windlass jobs` lists what there is".to_owned()),
        Some(EngineError::NoSuchStanding(_)) => Some("`windlass schedule list` lists what there is".to_owned()),
        _ => link.downcast_ref::<Failure>().and_then(|failure| failure.hint.clone()),
    })
}

/// What to do about what a server said, in the words of the command line.
fn of_server(error: &ClientError) -> Option<String> {
    let hint = match error.problem().map(|problem| (problem.status, problem.code.as_str())) {
        Some((401, _)) => {
            "give the server a token: WINDLASS_TOKEN, or --token-file; `windlass token new` makes one for its access file"
        }
        Some((403, _)) => "ask whoever runs the server for a token with that role",
        Some((_, "no_such_job")) => "`windlass jobs` lists what there is",
        Some((_, "no_such_schedule")) => "`windlass schedule list` lists what there is",
        _ => return error.hint(),
    };
    Some(hint.to_owned())
}

/// A stable name for programs.
fn code(link: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = link.downcast_ref::<BackupError>() {
        return Some(error.code.as_str().to_owned());
    }
    if let Some(error) = link.downcast_ref::<BlobError>() {
        return Some(error.kind().name().to_owned());
    }
    if let Some(error) = link.downcast_ref::<ClientError>() {
        return Some(error.problem().map_or("server_unreachable", |problem| &problem.code).to_owned());
    }
    match link.downcast_ref::<EngineError>()? {
        EngineError::Plan(failure) => Some(failure.code.clone()),
        EngineError::NoSuchJob(_) => Some("no_such_job".to_owned()),
        EngineError::NoSuchStanding(_) => Some("no_such_schedule".to_owned()),
        EngineError::Ambiguous { .. } => Some("ambiguous".to_owned()),
        EngineError::Command(_) => Some("refused".to_owned()),
        EngineError::Store(_) => Some("state_store".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_attempt_causes_and_hint() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error =
            anyhow::Error::new(io).context(Problem::usage("read the job file x.yaml").hint("name a file that exists"));
        assert_eq!(
            text(&error, Palette::plain()),
            "error: read the job file x.yaml\n  caused by: no such file\nhint: name a file that exists\n"
        );
        let document = document(&error);
        assert_eq!(document["error"]["exit_code"], 2);
        assert_eq!(document["error"]["causes"][0], "no such file");
    }

    #[test]
    fn the_failure_of_a_plan_brings_its_causes_code_and_hint() {
        let mut failure = Failure::permanent("agent_unreachable", "ask agent-0").hint("start it");
        failure.causes = vec!["connection refused".into()];
        let error = anyhow::Error::new(EngineError::Plan(Box::new(failure)));
        assert_eq!(
            text(&error, Palette::plain()),
            "error: ask agent-0\n  caused by: connection refused\nhint: start it\n"
        );
        assert_eq!(document(&error)["error"]["code"], "agent_unreachable");
    }
}
