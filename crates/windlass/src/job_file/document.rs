//! YAML, and therefore JSON, with the place of every value.
//!
//! Plain data only: one document, text keys, no merge keys, no tags but those of the core schema. Anchors and
//! aliases work within the bounds below, so that a few lines cannot stand for gigabytes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::faults::Fault;

/// Deepest nesting. Job files are a handful of levels deep.
const DEEPEST: usize = 64;
/// Largest weight of a whole document: [`NODE_WEIGHT`] for each value and the bytes of its text, aliases counted as
/// often as they are used.
const HEAVIEST: usize = 32 << 20;
const NODE_WEIGHT: usize = 64;

/// Where a value is in the text, in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The key before it, in a mapping.
    pub(super) key: Option<Range<usize>>,
    /// The value; of lists and mappings only their beginning.
    pub(super) value: Range<usize>,
}

/// A document and where everything is.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// The content.
    pub(super) value: Value,
    /// The places, by JSON pointer.
    pub(super) places: BTreeMap<String, Place>,
    /// What is wrong although it could be read: keys that occur twice.
    pub(super) faults: Vec<Fault>,
}

/// Escapes one token of a JSON pointer.
pub(super) fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads `text`.
///
/// # Errors
///
/// The first fault that makes the rest unreadable.
pub(super) fn read(text: &str) -> Result<Document, Fault> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => reader.take(event, span)?,
            Err(error) => {
                let at = error.marker().index();
                return Err(Fault::at(at..at + 1, format!("this is not YAML: {}", error.info())));
            }
        }
    }
    let Reader { root: Some(value), places, faults, .. } = reader else {
        return Err(Fault::at(0..0, "the file is empty"));
    };
    Ok(Document { value, places, faults })
}

enum Frame {
    List { items: Vec<Value>, anchor: usize },
    Map { members: Map<String, Value>, key: Option<(String, Range<usize>)>, anchor: usize },
}

#[derive(Default)]
struct Reader {
    frames: Vec<Frame>,
    root: Option<Value>,
    documents: usize,
    anchors: HashMap<usize, Value>,
    places: BTreeMap<String, Place>,
    faults: Vec<Fault>,
    weight: usize,
}

fn range(span: Span) -> Range<usize> {
    span.start.index()..span.end.index().max(span.start.index())
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = range(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Fault::at(at, "a second document begins here; a job file holds one job"));
                }
            }
            Event::Alias(anchor) => {
                if self.wants_key() {
                    return Err(Fault::at(at, "a key cannot be an alias"));
                }
                let Some(value) = self.anchors.get(&anchor) else {
                    return Err(Fault::at(at, "this alias stands for something that contains it"));
                };
                if self.frames.len() + depth(value) > DEEPEST {
                    return Err(too_deep(at));
                }
                self.weight += weight(value);
                self.check_weight(&at)?;
                let value = value.clone();
                self.place(&at);
                self.finish(value, 0);
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(&text, style, tag.as_deref(), at);
                }
                let value = scalar(&text, style, tag.as_deref()).map_err(|why| Fault::at(at.clone(), why))?;
                self.weight += NODE_WEIGHT + text.len();
                self.check_weight(&at)?;
                self.place(&at);
                self.finish(value, anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(&at, tag.as_deref(), "seq")?;
                self.frames.push(Frame::List { items: Vec::new(), anchor });
            }
            Event::MappingStart(anchor, tag) => {
                self.open(&at, tag.as_deref(), "map")?;
                self.frames.push(Frame::Map { members: Map::new(), key: None, anchor });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.frames.pop() {
                Some(Frame::List { items, anchor }) => self.finish(Value::Array(items), anchor),
                Some(Frame::Map { members, anchor, .. }) => self.finish(Value::Object(members), anchor),
                None => {}
            },
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Map { key: None, .. }))
    }

    fn open(&mut self, at: &Range<usize>, tag: Option<&Tag>, expected: &str) -> Result<(), Fault> {
        if self.wants_key() {
            return Err(Fault::at(at.clone(), "a key must be text"));
        }
        if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == expected)) {
            return Err(Fault::at(at.clone(), "tags have no meaning here; remove it"));
        }
        if self.frames.len() >= DEEPEST {
            return Err(too_deep(at.clone()));
        }
        self.weight += NODE_WEIGHT;
        self.check_weight(at)?;
        self.place(at);
        Ok(())
    }

    fn check_weight(&self, at: &Range<usize>) -> Result<(), Fault> {
        if self.weight > HEAVIEST {
            return Err(Fault::at(at.clone(), "the file stands for more data than a job file may hold (32 MiB)"));
        }
        Ok(())
    }

    fn key(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Range<usize>) -> Result<(), Fault> {
        if tag.is_some() {
            return Err(Fault::at(at, "a key cannot have a tag"));
        }
        if text == "<<" && style == ScalarStyle::Plain {
            return Err(Fault::at(at, "merge keys are not supported; write the fields out"));
        }
        let pointer = format!("{}/{}", self.pointer(), token(text));
        self.weight += text.len();
        self.check_weight(&at)?;
        if let Some(Frame::Map { members, key, .. }) = self.frames.last_mut() {
            if members.contains_key(text) {
                self.faults.push(Fault::at(at.clone(), format!("{text:?} is here for the second time")).of(pointer));
            }
            *key = Some((text.to_owned(), at));
        }
        Ok(())
    }

    /// The pointer to the innermost open list or mapping.
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        let inner = self.frames.len().saturating_sub(1);
        for frame in &self.frames[..inner] {
            pointer += &Self::step(frame);
        }
        pointer
    }

    fn step(frame: &Frame) -> String {
        match frame {
            Frame::List { items, .. } => format!("/{}", items.len()),
            Frame::Map { key: Some((key, _)), .. } => format!("/{}", token(key)),
            Frame::Map { key: None, .. } => String::new(),
        }
    }

    /// Notes where the value is that begins here.
    fn place(&mut self, at: &Range<usize>) {
        let mut pointer = self.pointer();
        let mut key_at = None;
        if let Some(frame) = self.frames.last() {
            pointer += &Self::step(frame);
            if let Frame::Map { key: Some((_, at)), .. } = frame {
                key_at = Some(at.clone());
            }
        }
        // Of keys that are there twice, the first is what other faults point at.
        self.places.entry(pointer).or_insert(Place { key: key_at, value: at.clone() });
    }

    fn finish(&mut self, value: Value, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.frames.last_mut() {
            None => self.root = Some(value),
            Some(Frame::List { items, .. }) => items.push(value),
            Some(Frame::Map { members, key, .. }) => {
                if let Some((key, _)) = key.take() {
                    members.entry(key).or_insert(value);
                }
            }
        }
    }
}

fn too_deep(at: Range<usize>) -> Fault {
    Fault::at(at, format!("this is nested more than {DEEPEST} levels deep"))
}

fn weight(value: &Value) -> usize {
    NODE_WEIGHT
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(members) => members.iter().map(|(key, value)| key.len() + weight(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// A scalar by the core schema of YAML 1.2: what JSON knows, and octal and hexadecimal numbers.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    if let Some(tag) = tag {
        // A lone `!` says: text.
        if (tag.is_yaml_core_schema() && tag.suffix == "str") || (tag.handle.is_empty() && tag.suffix == "!") {
            return Ok(Value::String(text.to_owned()));
        }
        if !tag.is_yaml_core_schema() {
            return Err(format!("the tag {}{} has no meaning here; remove it", tag.handle, tag.suffix));
        }
        let value = plain(text)?;
        let fits = match tag.suffix.as_str() {
            "null" => value.is_null(),
            "bool" => value.is_boolean(),
            "int" => value.is_i64() || value.is_u64(),
            "float" => value.is_number(),
            _ => false,
        };
        return if fits { Ok(value) } else { Err(format!("{text:?} is not a !!{}", tag.suffix)) };
    }
    if style == ScalarStyle::Plain { plain(text) } else { Ok(Value::String(text.to_owned())) }
}

fn plain(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match number(text)? {
            Some(number) => Value::Number(number),
            None => Value::String(text.to_owned()),
        },
    })
}

fn number(text: &str) -> Result<Option<Number>, String> {
    let too_large = || format!("the number {text} is too large");
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return u64::from_str_radix(digits, radix).map(|n| Some(n.into())).map_err(|_| too_large());
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), ".inf" | ".nan") {
        return Err(format!("{text} is not a number that a job can use"));
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.contains(|c: char| c.is_ascii_digit())
    {
        return Ok(None);
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.starts_with('-') {
            return text.parse::<i64>().map(|n| Some(n.into())).map_err(|_| too_large());
        }
        return unsigned.parse::<u64>().map(|n| Some(n.into())).map_err(|_| too_large());
    }
    let is_float = unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let Some(float) = text.parse::<f64>().ok().filter(|_| is_float) else { return Ok(None) };
    Number::from_f64(float).map(Some).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        let document = read(text).unwrap();
        assert_eq!(document.faults, []);
        document.value
    }

    fn fault(text: &str) -> String {
        read(text).unwrap_err().message
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let text = "a: 1\nb: -2\nc: 0x1f\nd: 1.5e3\ne: yes\nf: ~\ng: 'true'\nh: true\ni: 12:30\nj: 1.2.3\nk: !!str 5\nl: 1e\nn: .5\n";
        assert_eq!(
            value(text),
            json!({"a": 1, "b": -2, "c": 31, "d": 1500.0, "e": "yes", "f": null, "g": "true", "h": true,
                   "i": "12:30", "j": "1.2.3", "k": "5", "l": "1e", "n": 0.5})
        );
    }

    #[test]
    fn json_is_read_with_tabs_and_escapes() {
        let text = "{\n\t\"a\": [1, {\"b\": \"x\\n\\u00e9\\/\"}],\n\t\"c\": {}\n}\n";
        assert_eq!(value(text), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value("[]"), json!([]));
    }

    #[test]
    fn every_value_has_a_place() {
        let text = "kind: x\nspec:\n  agents:\n    - name: a/b\n      weight: 2\n";
        let document = read(text).unwrap();
        let place = &document.places["/spec/agents/0/weight"];
        let key = place.key.clone().unwrap();
        assert_eq!(&text[key], "weight");
        assert_eq!(&text[place.value.clone()], "2");
        assert!(document.places.contains_key(""));
        assert_eq!(&text[document.places["/spec/agents/0/name"].value.clone()], "a/b");
        let odd = read("'a/b~c': 1\n").unwrap();
        assert!(odd.places.contains_key("/a~1b~0c"));
    }

    #[test]
    fn anchors_and_aliases_work() {
        assert_eq!(value("a: &x {p: 1}\nb: *x\n"), json!({"a": {"p": 1}, "b": {"p": 1}}));
    }

    #[test]
    fn a_key_that_is_there_twice_is_a_fault_with_its_place() {
        let document = read("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(document.faults.len(), 1);
        assert_eq!(document.faults[0].pointer, "/a");
        assert_eq!(document.faults[0].at, 10..11);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert!(fault("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(fault("a: !secret x\n").contains("tag"));
        assert!(fault("a: &x {b: 1}\nc:\n  <<: *x\n").contains("merge keys"));
        assert!(fault("? [a]\n: 1\n").contains("key must be text"));
        assert!(fault("a: [1, 2\n").contains("not YAML"));
        assert!(fault("a: 99999999999999999999\n").contains("too large"));
        assert!(fault("a: .inf\n").contains("not a number"));
        assert!(fault("").contains("empty"));
        assert!(fault("# only a comment\n").contains("empty"));
        assert!(!fault("a: &x [*x]\n").is_empty());
    }

    #[test]
    fn nesting_and_aliases_are_bounded() {
        assert!(fault(&"[".repeat(100)).contains("64 levels"));
        let deep: String = (0..80).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(fault(&deep).contains("64 levels"));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let last = format!("*a{}", n - 1);
            laughs += &format!("a{n}: &a{n} [{}]\n", vec![last; 10].join(", "));
        }
        assert!(fault(&laughs).contains("32 MiB"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(", "));
        assert!(fault(&long).contains("32 MiB"));
    }
}
