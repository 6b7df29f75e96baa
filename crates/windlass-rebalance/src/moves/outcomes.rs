//! What a chunk came to: counts and examples for reports, and every id in a file.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass_model::Failure;

use crate::agent::Attempt;

use super::chunk::{Chunk, blocking, counts};
use super::entry::{Entry, Outcome, Why};
use super::id_list::{ListedId, hex};
use super::input::ChunkKind;
use super::notes;

/// Ids listed per outcome; the file has all.
const LISTED: usize = 100;

/// Characters of an id in a list.
const SHOWN: usize = 200;

/// An id with its outcome, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedOutcome {
    /// The id, escaped and, if long, cut.
    pub id: String,
    /// More than the outcome tells, if there is more.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub why: Why,
}

fn is_nothing(why: &Why) -> bool {
    *why == Why::Nothing
}

/// The output of a task `rebalance.move`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveOutput {
    /// Position of the chunk in the plan.
    pub chunk: u64,
    /// What was done.
    pub kind: ChunkKind,
    /// The source's name.
    pub source: Option<String>,
    /// The destination's name.
    pub destination: Option<String>,
    /// Ids of the chunk: the sum of all outcomes.
    pub planned: u64,
    /// Ids by outcome (`done`, `gone`, …); those that are 0 are left out.
    pub outcomes: BTreeMap<String, u64>,
    /// Ids of a move of which the source's copy was surplus and removed without a new one; among `done`.
    pub trimmed: u64,
    /// Vector bytes copied, repetitions included.
    pub bytes: u64,
    /// Inserts and updates sent, repetitions after a change included, requests repeated after a failure not.
    pub inserts: u64,
    /// Requests of this job on this machine that were repeated after a failure, while the chunk was under way.
    pub retries: u64,
    /// Seconds spent, all attempts together.
    pub seconds: f64,
    /// An agent tells no times, so versions were told apart by their vectors.
    pub times_unknown: bool,
    /// For each outcome but `done` up to 100 ids.
    pub listed: BTreeMap<String, Vec<ListedOutcome>>,
    /// Every id with its outcome, one JSON object a line; relative to the job's work directory.
    pub outcomes_file: String,
}

/// An id as it may be shown: nothing in it can break a line or a terminal.
#[must_use]
pub fn shown(id: &[u8]) -> String {
    let escaped = match std::str::from_utf8(id) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => id.escape_ascii().to_string(),
    };
    if escaped.chars().count() <= SHOWN {
        return escaped;
    }
    escaped.chars().take(SHOWN).chain(['…']).collect()
}

fn list(ids: &[ListedId], entries: &[Entry]) -> BTreeMap<String, Vec<ListedOutcome>> {
    let mut listed: BTreeMap<String, Vec<ListedOutcome>> = BTreeMap::new();
    for (id, entry) in ids.iter().zip(entries) {
        let Some(outcome) = entry.outcome().filter(|outcome| *outcome != Outcome::Done) else { continue };
        let of_outcome = listed.entry(outcome.name().to_owned()).or_default();
        if of_outcome.len() < LISTED {
            of_outcome.push(ListedOutcome { id: shown(&id.id), why: entry.why });
        }
    }
    listed
}

/// One JSON object a line: `id`, or `id_hex` for bytes that are no text, `outcome`, `why` and `time`.
fn lines(ids: &[ListedId], entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for (id, entry) in ids.iter().zip(entries) {
        let mut line = json!({"outcome": entry.outcome().map_or("to_do", Outcome::name), "time": entry.time});
        match std::str::from_utf8(&id.id) {
            Ok(id) => line["id"] = id.into(),
            Err(_) => line["id_hex"] = hex(&id.id).into(),
        }
        if entry.why != Why::Nothing {
            line["why"] = serde_json::to_value(entry.why)?;
        }
        serde_json::to_writer(&mut text, &line)?;
        text.write_all(b"\n")?;
    }
    Ok(text)
}

impl<A: Attempt> Chunk<'_, A> {
    /// Writes the file of outcomes and says what the chunk came to.
    pub(crate) async fn output(&self, part: &str) -> Result<MoveOutput, Failure> {
        use super::entry::Marks;
        let entries = self.entries();
        let figures = self.figures();
        let file = format!("{}.{part}.outcomes.jsonl", self.attempt.task());
        let folder = notes::folder(self.attempt.work_dir());
        let text = lines(&self.ids, &entries);
        let (to, name) = (folder.clone(), file.clone());
        blocking("writing the outcomes of a chunk", move || notes::write_durably(&to, &name, &text?)).await?;
        let trimmed = entries.iter().filter(|entry| {
            entry.marks.has(Marks::TRIM) && entry.outcome() == Some(Outcome::Done) && self.kind() == ChunkKind::Move
        });
        Ok(MoveOutput {
            chunk: self.input.chunk,
            kind: self.kind(),
            source: self.input.source.as_ref().map(|agent| agent.name.clone()),
            destination: self.input.destination.as_ref().map(|agent| agent.name.clone()),
            planned: entries.len() as u64,
            trimmed: trimmed.count() as u64,
            outcomes: counts(&entries).into_iter().map(|(outcome, count)| (outcome.to_owned(), count)).collect(),
            bytes: figures.bytes,
            inserts: figures.inserts,
            retries: figures.retries,
            seconds: figures.spent_ms as f64 / 1_000.0,
            times_unknown: figures.timeless,
            listed: list(&self.ids, &entries),
            outcomes_file: format!("moves/{file}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Step;
    use super::*;

    fn id(bytes: &[u8]) -> ListedId {
        ListedId { id: bytes.into(), time: 0, number: 0 }
    }

    #[test]
    fn ids_are_shown_without_anything_that_breaks_a_line() {
        assert_eq!(shown(b"plain-1"), "plain-1");
        assert_eq!(shown(b"a\nb\0\x1b[31m"), "a\\nb\\0\\u{1b}[31m");
        assert_eq!(shown(b"\xff\n"), "\\xff\\n");
        assert_eq!(shown(&[b'x'; 100_000]).chars().count(), SHOWN + 1);
    }

    #[test]
    fn lists_are_bounded_and_leave_out_what_is_done() {
        let ids: Vec<ListedId> = (0..300).map(|n| id(format!("{n}").as_bytes())).collect();
        let mut entries = vec![Entry { step: Step::Ended(Outcome::Gone), ..Entry::default() }; 300];
        entries[0].end(Outcome::Done);
        entries[1].fail(Why::PutBack);
        let listed = list(&ids, &entries);
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["failed", "gone"]);
        assert_eq!(listed["gone"].len(), LISTED);
        assert_eq!(listed["failed"], [ListedOutcome { id: "1".into(), why: Why::PutBack }]);
        assert_eq!(counts(&entries).values().sum::<u64>(), 300);
    }

    #[test]
    fn every_id_has_a_line_that_gives_it_back() {
        let ids = [id(b"a\n\"b"), id(b"\xff")];
        let entries = [Entry { step: Step::Ended(Outcome::Done), time: 5, ..Entry::default() }; 2];
        let text = String::from_utf8(lines(&ids, &entries).unwrap()).unwrap();
        let read: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read[0], json!({"id": "a\n\"b", "outcome": "done", "time": 5}));
        assert_eq!(read[1], json!({"id_hex": "ff", "outcome": "done", "time": 5}));
    }
}
