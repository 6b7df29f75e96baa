//! Job files: YAML or JSON in, a job request or all faults at once out.
//!
//! ```yaml
//! kind: rebalance
//! name: nightly
//! spec: {…}             # what the kind wants; `windlass schema KIND`
//! priority: 10          # optional, larger goes first
//! labels: {team: search}
//! deadline: 6h          # given up this long after it was submitted
//! schedule: {cron: "30 2 * * *", time_zone: Europe/Berlin}   # runs again by itself, once it is submitted
//! undo_after: 1h        # a drill: undoes itself this long after it has ended
//! limits: {places: 8}   # tasks that run at a time
//! ```
//!
//! Secrets stay what they are in the file, `{env: NAME}` or `{file: PATH}`: they are looked up where they are used and
//! never stored.

mod document;
mod faults;
mod mask;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};
use windlass_api::{Schedule, SubmitRequest};
use windlass_engine::{JobRequest, Kinds, SpecFault};

use self::document::{Document, Place, token};
pub(crate) use self::faults::{Fault, Faults};
use crate::figures;
use crate::problem::Problem;

/// Largest job file in bytes.
const LARGEST: u64 = 4 << 20;
/// Longest name of a job, in characters.
const LONGEST_NAME: usize = 128;
/// Most places that one process may be given.
const MOST_PLACES: u64 = 1024;
/// The fields of a job file.
const FIELDS: [&str; 9] =
    ["kind", "name", "spec", "priority", "labels", "deadline", "undo_after", "limits", "schedule"];

/// The fields of a schedule.
const SCHEDULE: [&str; 7] = ["every", "cron", "time_zone", "overlap", "misfire", "catch_up", "jitter"];

/// A job file that is right.
#[derive(Clone, Debug)]
pub(crate) struct JobFile {
    /// The job.
    pub(crate) request: JobRequest,
    /// The same as it is sent to a server.
    pub(crate) submission: SubmitRequest,
    /// Tasks that run at a time, if the file says so.
    pub(crate) places: Option<usize>,
}

impl JobFile {
    /// Reads a job file; `-` is standard input.
    pub(crate) fn read(path: &Path, kinds: &Kinds) -> anyhow::Result<Self> {
        let (name, text) = read_text(path)?;
        Self::parse(&name, &text, kinds).map_err(anyhow::Error::new)
    }

    /// Parses the text of the file called `name`.
    ///
    /// # Errors
    ///
    /// Every fault of the file: those of its own fields and those that the kind finds in the spec.
    pub(crate) fn parse(name: &str, text: &str, kinds: &Kinds) -> Result<Self, Faults> {
        let text = &*join_surrogates(text.strip_prefix('\u{feff}').unwrap_or(text));
        let mut document = document::read(text).map_err(|fault| Faults::new(name, text, vec![fault]))?;
        let mut check = Check { faults: std::mem::take(&mut document.faults), document: &document };
        let file = check.file(kinds);
        match file {
            Some(file) if check.faults.is_empty() => Ok(file),
            _ => Err(Faults::new(name, text, check.faults)),
        }
    }
}

/// Reads YAML or JSON that is not a job file, without the places of its values.
///
/// # Errors
///
/// The first fault, with its line.
pub(crate) fn read_plain(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = document::read(text).map_err(|fault| fault.message)?;
    match document.faults.first() {
        Some(fault) => Err(fault.message.clone()),
        None => Ok(document.value),
    }
}

/// The job that a checked submission asks for.
pub(crate) fn request_of(submission: &SubmitRequest) -> JobRequest {
    JobRequest {
        kind: submission.kind.clone(),
        name: submission.name.clone(),
        spec: submission.spec.clone(),
        labels: submission.labels.clone(),
        priority: submission.priority,
        deadline: submission.deadline.as_deref().and_then(|text| figures::parse_span(text).ok()),
        undo_after: submission.undo_after.as_deref().and_then(|text| figures::parse_span(text).ok()),
    }
}

/// JSON writes characters beyond the first 65 536 as two escapes, which YAML does not know. In a file that is JSON
/// they are replaced by the character, so that both read the same; lines stay what they are.
fn join_surrogates(text: &str) -> Cow<'_, str> {
    let has_escape = text
        .as_bytes()
        .windows(4)
        .any(|bytes| matches!(bytes, [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B']));
    if !has_escape || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Cow::Borrowed(text);
    }
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        joined.push_str(&rest[..at]);
        let unit = |from: usize| {
            let digits = rest.get(from..from + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok()
        };
        let pair = unit(at).zip(unit(at + 6)).and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        match pair.filter(|c| u32::from(*c) > 0xffff) {
            Some(c) => {
                joined.push(c);
                rest = &rest[at + 12..];
            }
            // The escaped character goes along, so that `\\u` is not taken for an escape.
            None => {
                let after = rest[at + 1..].chars().next().map_or(at + 1, |c| at + 1 + c.len_utf8());
                joined.push_str(&rest[at..after]);
                rest = &rest[after..];
            }
        }
    }
    joined.push_str(rest);
    Cow::Owned(joined)
}

fn read_text(path: &Path) -> anyhow::Result<(String, String)> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .context("read the job file from standard input")?;
        "standard input".to_owned()
    } else {
        let name = path.display().to_string();
        let missing = || Problem::usage(format!("the job file {name} cannot be read"));
        let file = std::fs::File::open(path).with_context(missing)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(missing)?;
        name
    };
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::usage(format!("the job file {name} is larger than 4 MiB")).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::usage(format!("the job file {name} is not UTF-8: byte {at} belongs to no character"))
    })?;
    Ok((name, text))
}

/// Finds what is wrong, all of it.
struct Check<'a> {
    document: &'a Document,
    faults: Vec<Fault>,
}

impl Check<'_> {
    /// A fault of the value at `pointer`, or of the nearest thing around it that is in the file.
    fn fault(&mut self, pointer: &str, message: impl Into<String>) {
        let mut nearest = pointer;
        let place = loop {
            match self.document.places.get(nearest) {
                Some(place) => break place.clone(),
                None => match nearest.rfind('/') {
                    Some(slash) => nearest = &nearest[..slash],
                    None => break Place { key: None, value: 0..0 },
                },
            }
        };
        let at = match place.key {
            // A missing field is a fault of the mapping around it: its key alone stands for it.
            Some(key) if nearest != pointer => key,
            Some(key) => key.start..place.value.end.max(key.end),
            None => place.value,
        };
        self.faults.push(Fault::at(at, message).of(pointer));
    }

    fn file(&mut self, kinds: &Kinds) -> Option<JobFile> {
        let document = self.document;
        let Some(members) = document.value.as_object() else {
            self.fault("", "a job file is a mapping with the fields kind, name and spec");
            return None;
        };
        self.unknown_fields("", members, &FIELDS);
        let kind = self.text(members, "kind");
        let name = self.text(members, "name");
        if let Some(name) = &name {
            self.name(name);
        }
        let known = kind.as_deref().and_then(|kind| kinds.kind(kind));
        if let Some(kind) = &kind
            && known.is_none()
        {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let nearest = nearest(kind, &names).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            self.fault("/kind", format!("there is no kind {kind:?}{nearest} Known are: {}", names.join(", ")));
        }
        match members.get("spec") {
            None => self.fault("", "the field `spec` is missing: it says what the job shall do"),
            Some(spec) if !spec.is_object() => self.fault("/spec", "`spec` must be a mapping"),
            Some(spec) => {
                for SpecFault { pointer, message } in known.map(|kind| kind.check(spec)).unwrap_or_default() {
                    self.fault(&format!("/spec{pointer}"), message);
                }
            }
        }
        let (priority, labels) = (self.priority(members), self.labels(members));
        let (deadline, places) = (self.length(members, "deadline"), self.places(members));
        let undo_after = self.length(members, "undo_after");
        // The fields are the same by design; what does not fit has a fault by now.
        let mut value = document.value.clone();
        if let Some(schedule) = self.schedule(members) {
            value["schedule"] = json!(schedule);
        }
        let submission = serde_json::from_value(value).ok()?;
        Some(JobFile {
            submission,
            request: JobRequest {
                kind: kind?,
                name: name?,
                spec: members.get("spec")?.clone(),
                labels,
                priority,
                deadline,
                undo_after,
            },
            places,
        })
    }

    fn unknown_fields(&mut self, pointer: &str, members: &Map<String, Value>, known: &[&str]) {
        for field in members.keys().filter(|field| !known.contains(&field.as_str())) {
            let more = match nearest(field, known) {
                Some(name) => format!("; did you mean `{name}`?"),
                None => format!("; known are {}", known.join(", ")),
            };
            self.fault(&format!("{pointer}/{}", token(field)), format!("unknown field `{field}`{more}"));
        }
    }

    fn text(&mut self, members: &Map<String, Value>, field: &str) -> Option<String> {
        match members.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(_) => {
                self.fault(&format!("/{field}"), format!("`{field}` must be text that is not empty"));
                None
            }
            None => {
                self.fault("", format!("the field `{field}` is missing"));
                None
            }
        }
    }

    fn name(&mut self, name: &str) {
        if name.chars().count() > LONGEST_NAME {
            self.fault("/name", format!("a name has at most {LONGEST_NAME} characters"));
        }
        if name.chars().any(char::is_control) || name.trim() != name {
            self.fault("/name", "a name has no control characters and no space at its ends");
        }
    }

    fn priority(&mut self, members: &Map<String, Value>) -> i32 {
        let Some(value) = members.get("priority") else { return 0 };
        let priority = value.as_i64().and_then(|n| i32::try_from(n).ok());
        priority.unwrap_or_else(|| {
            self.fault("/priority", "`priority` must be a whole number; larger goes first, 0 is the usual one");
            0
        })
    }

    fn labels(&mut self, members: &Map<String, Value>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        match members.get("labels") {
            None => {}
            Some(Value::Object(given)) => {
                for (name, value) in given {
                    match value.as_str() {
                        Some(text) => drop(labels.insert(name.clone(), text.to_owned())),
                        None => self.fault(
                            &format!("/labels/{}", token(name)),
                            format!("the label `{name}` must be text; put it in quotes"),
                        ),
                    }
                }
            }
            Some(_) => self.fault("/labels", "`labels` must be a mapping from names to text"),
        }
        labels
    }

    fn length(&mut self, members: &Map<String, Value>, field: &str) -> Option<Duration> {
        let value = members.get(field)?;
        let parsed = match value.as_str() {
            Some(text) => figures::parse_span(text),
            None => Err(format!("`{field}` must be a length of time such as 6h or 1h30m")),
        };
        let pointer = format!("/{field}");
        match parsed {
            Ok(Duration::ZERO) if field == "deadline" => {
                self.fault(&pointer, "a deadline of nothing leaves no time to run");
            }
            Ok(length) => return Some(length),
            Err(why) => self.fault(&pointer, why),
        }
        None
    }

    fn schedule(&mut self, members: &Map<String, Value>) -> Option<Schedule> {
        let Some(given) = members.get("schedule")?.as_object() else {
            self.fault("/schedule", "`schedule` must be a mapping with `every` or `cron`");
            return None;
        };
        self.unknown_fields("/schedule", given, &SCHEDULE);
        let mut plain = Map::new();
        for (field, value) in given.iter().filter(|(field, _)| SCHEDULE.contains(&field.as_str())) {
            let length = matches!(field.as_str(), "every" | "jitter");
            if !length {
                plain.insert(field.clone(), value.clone());
                continue;
            }
            match value.as_str().map(figures::parse_span) {
                Some(Ok(length)) => {
                    let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                    plain.insert(format!("{field}_ms"), ms.into());
                }
                Some(Err(why)) => self.fault(&format!("/schedule/{field}"), why),
                None => self.fault(&format!("/schedule/{field}"), "a length of time such as 6h or 1h30m is expected"),
            }
        }
        let schedule: Schedule = match serde_json::from_value(Value::Object(plain)) {
            Ok(schedule) => schedule,
            Err(error) => {
                self.fault("/schedule", error.to_string());
                return None;
            }
        };
        if let Err(faults) = windlass_model::schedule::Schedule::from(schedule.clone()).timetable() {
            for fault in faults {
                let field = fault.field.trim_end_matches("_ms");
                self.fault(&format!("/schedule/{field}"), fault.why);
            }
        }
        Some(schedule)
    }

    fn places(&mut self, members: &Map<String, Value>) -> Option<usize> {
        let limits = members.get("limits")?;
        let Some(limits) = limits.as_object() else {
            self.fault("/limits", "`limits` must be a mapping; known is `places`");
            return None;
        };
        self.unknown_fields("/limits", limits, &["places"]);
        let places = limits.get("places")?;
        let number = places.as_u64().filter(|n| (1..=MOST_PLACES).contains(n));
        if number.is_none() {
            self.fault("/limits/places", format!("`places` must be a whole number from 1 to {MOST_PLACES}"));
        }
        number.and_then(|n| usize::try_from(n).ok())
    }
}

/// The known name that somebody may have meant.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len().min(given.len()) / 4)
        .min()
        .map(|(_, name)| name)
}

/// The JSON Schema of the job files of a kind whose specs have the schema `spec`.
pub(crate) fn schema(kind: &str, spec: &Value) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("{kind} job"),
        "type": "object",
        "required": ["kind", "name", "spec"],
        "additionalProperties": false,
        "properties": {
            "kind": { "const": kind, "description": "What sort of job it is." },
            "name": {
                "type": "string", "minLength": 1, "maxLength": LONGEST_NAME,
                "description": "What people call it. An unfinished job of this name is resumed, not started again.",
            },
            "spec": spec,
            "priority": { "type": "integer", "default": 0, "description": "Larger goes first." },
            "labels": {
                "type": "object", "additionalProperties": { "type": "string" },
                "description": "For people and filters.",
            },
            "deadline": {
                "type": "string", "examples": ["6h", "1h30m"],
                "description": "Length of time after submission at which the job is given up.",
            },
            "undo_after": {
                "type": "string", "examples": ["1h"],
                "description": "Length of time after its end at which the job undoes itself: for drills.",
            },
            "schedule": {
                "type": "object", "additionalProperties": false,
                "description": "Runs again by itself: `every` or `cron`. For `windlass submit`.",
                "properties": {
                    "every": { "type": "string", "examples": ["6h"], "description": "Time between due times." },
                    "cron": { "type": "string", "examples": ["30 2 * * *"], "description": "Five or six fields." },
                    "time_zone": { "type": "string", "default": "UTC", "examples": ["Europe/Berlin"] },
                    "overlap": { "enum": ["skip", "queue", "cancel-running", "allow"], "default": "skip" },
                    "misfire": { "enum": ["skip", "run-once", "run-all"], "default": "run-once" },
                    "catch_up": { "type": "integer", "minimum": 1, "default": 10 },
                    "jitter": { "type": "string", "examples": ["5m"] },
                },
            },
            "limits": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "places": {
                        "type": "integer", "minimum": 1, "maximum": MOST_PLACES, "default": 16,
                        "description": "Tasks that run at a time.",
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests;
