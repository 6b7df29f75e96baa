//! Compares a value with its JSON Schema, and finds every fault at once, each with its place: what most of a kind's
//! [`check`](crate::Kind::check) is. Two formats are known besides the usual words: `span`, a length of time, and
//! `size`, a number of bytes. What a kind's schema says in words of its own is told by its [`Marks`].

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use windlass_model::Failure;
use windlass_model::quantity::{Size, Span};

use crate::kind::SpecFault;

/// What a schema says besides the usual words.
pub trait Marks {
    /// The walk comes to a value of this schema.
    fn enter(&mut self, _schema: &Value) {}

    /// It has been there, and below.
    fn leave(&mut self, _schema: &Value) {}

    /// Judges a value by the marks alone. `false`: it is judged by the usual words.
    fn judge(&mut self, _schema: &Value, _value: &Value, _pointer: &str, _faults: &mut Vec<SpecFault>) -> bool {
        false
    }
}

/// No marks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmarked;

impl Marks for Unmarked {}

/// The JSON Schema of a type (draft 2020-12), in one piece, so that editors and [`walk`] read it alike.
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    schema
}

/// Every fault of a spec that can be seen without looking at the world: what its schema finds, or, where that finds
/// nothing, what `further` finds in what the spec says.
pub fn check<T: DeserializeOwned>(
    schema: &Value,
    spec: &Value,
    further: impl FnOnce(&T, &mut Vec<SpecFault>),
) -> Vec<SpecFault> {
    let mut faults = Vec::new();
    walk(schema, spec, "", &mut Unmarked, &mut faults);
    if faults.is_empty() {
        match T::deserialize(spec) {
            Ok(spec) => further(&spec, &mut faults),
            Err(error) => faults.push(SpecFault::new("", error.to_string())),
        }
    }
    faults
}

/// Reads a spec that was checked.
///
/// # Errors
///
/// When it cannot be read, that is, when it was checked by another version.
pub fn read<T: DeserializeOwned>(kind: &str, spec: &Value) -> Result<T, Failure> {
    T::deserialize(spec).map_err(|error| {
        Failure::permanent("invalid_spec", format!("the spec of the {kind} job cannot be read: {error}"))
    })
}

/// The pointer of a member.
#[must_use]
pub fn member(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The alternatives of a schema, if it is made of alternatives.
#[must_use]
pub fn branches(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

/// Compares `value` with `schema`; faults are told below `pointer`.
pub fn walk(schema: &Value, value: &Value, pointer: &str, marks: &mut dyn Marks, faults: &mut Vec<SpecFault>) {
    Walk { faults, marks }.value(schema, value, pointer);
}

struct Walk<'f> {
    faults: &'f mut Vec<SpecFault>,
    marks: &'f mut dyn Marks,
}

impl Walk<'_> {
    fn fault(&mut self, pointer: &str, message: impl Into<String>) {
        self.faults.push(SpecFault::new(pointer, message));
    }

    fn value(&mut self, schema: &Value, value: &Value, pointer: &str) {
        self.marks.enter(schema);
        self.inner(schema, value, pointer);
        self.marks.leave(schema);
    }

    fn inner(&mut self, schema: &Value, value: &Value, pointer: &str) {
        if schema.is_boolean() || self.marks.judge(schema, value, pointer, self.faults) {
            return;
        }
        let words = listed(schema);
        if !words.is_empty() {
            self.one_of(&words, schema, value, pointer);
            return;
        }
        if let Some(branches) = branches(schema) {
            self.alternatives(branches, value, pointer);
            return;
        }
        let types = types_of(schema);
        if !accepts(&types, value) {
            self.fault(pointer, expected(&types, schema, value));
            return;
        }
        match value {
            Value::Object(fields) => self.object(schema, fields, pointer),
            Value::Array(items) => self.array(schema, items, pointer),
            Value::String(text) => self.string(schema, text, pointer),
            Value::Number(number) => self.range(schema, number.as_f64().unwrap_or(f64::NAN), value, pointer),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn one_of(&mut self, words: &[&str], schema: &Value, value: &Value, pointer: &str) {
        let nullable =
            types_of(schema).contains(&"null") || branches(schema).is_some_and(|all| all.iter().any(is_null));
        if (value.is_null() && nullable) || value.as_str().is_some_and(|text| words.contains(&text)) {
            return;
        }
        let found = value.as_str().map_or_else(|| in_words(type_of(value)).to_owned(), |text| format!("{text:?}"));
        let hint = value.as_str().and_then(|text| nearest(text, words.iter().copied()));
        let hint = hint.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
        self.fault(pointer, format!("{found} is not one of {}{hint}", words.join(", ")));
    }

    fn alternatives(&mut self, branches: &[Value], value: &Value, pointer: &str) {
        let fitting = branches.iter().filter(|branch| accepts(&types_of(branch), value));
        let mut fewest: Option<Vec<SpecFault>> = None;
        for branch in fitting {
            let mut found = Vec::new();
            Walk { faults: &mut found, marks: self.marks }.value(branch, value, pointer);
            if fewest.as_ref().is_none_or(|least| found.len() < least.len()) {
                fewest = Some(found);
            }
        }
        match fewest {
            Some(found) => self.faults.extend(found),
            None => {
                let types: Vec<&str> = branches.iter().flat_map(types_of).collect();
                self.fault(pointer, expected(&types, &Value::Null, value));
            }
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, pointer: &str) {
        let nothing = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        let extra = schema.get("additionalProperties");
        for (name, value) in fields {
            match (known.get(name), extra) {
                (Some(schema), _) => self.value(schema, value, &member(pointer, name)),
                (None, Some(schema)) if schema.is_object() => self.value(schema, value, &member(pointer, name)),
                (None, Some(Value::Bool(false))) => {
                    let hint = match nearest(name, known.keys().map(String::as_str)) {
                        Some(name) => format!("; did you mean {name:?}?"),
                        None => format!("; known fields: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
                    };
                    self.fault(&member(pointer, name), format!("unknown field {name:?}{hint}"));
                }
                (None, _) => {}
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                let what = known.get(name).and_then(|schema| schema.get("description")).and_then(Value::as_str);
                let what = what.and_then(|text| text.split(". ").next()).map(|text| text.trim_end_matches('.'));
                let what = what.map(|text| format!(" ({text})")).unwrap_or_default();
                self.fault(pointer, format!("the field {name:?} is missing{what}"));
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], pointer: &str) {
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            self.fault(pointer, "the list must not be empty");
        }
        let Some(schema) = schema.get("items") else { return };
        for (n, item) in items.iter().enumerate() {
            self.value(schema, item, &format!("{pointer}/{n}"));
        }
    }

    fn string(&mut self, schema: &Value, text: &str, pointer: &str) {
        match schema.get("format").and_then(Value::as_str) {
            Some("span") => match text.parse::<Span>() {
                Ok(span) => self.range(schema, span.0.as_secs_f64(), &Value::from(text), pointer),
                Err(error) => self.fault(pointer, error.to_string()),
            },
            Some("size") => match text.parse::<Size>() {
                Ok(size) => self.range(schema, size.0 as f64, &Value::from(text), pointer),
                Err(error) => self.fault(pointer, error.to_string()),
            },
            _ => {
                let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
                if bound("minLength").is_some_and(|least| (text.trim().len() as u64) < least) {
                    self.fault(pointer, "must not be empty");
                }
                if let Some(most) = bound("maxLength").filter(|most| text.chars().count() as u64 > *most) {
                    self.fault(pointer, format!("must have at most {most} characters"));
                }
            }
        }
    }

    fn range(&mut self, schema: &Value, number: f64, shown: &Value, pointer: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let in_size = schema.get("format").and_then(Value::as_str) == Some("size");
        let show = |bound: f64| if in_size { Size(bound as u64).to_string() } else { bound.to_string() };
        let (above, least, most) = (bound("exclusiveMinimum"), bound("minimum"), bound("maximum"));
        let fits = above.is_none_or(|above| number > above)
            && least.is_none_or(|least| number >= least)
            && most.is_none_or(|most| number <= most);
        if fits {
            return;
        }
        let mut wishes: Vec<String> = above.map(|above| format!("above {}", show(above))).into_iter().collect();
        // A schema may say both; the stronger one is worth reading.
        wishes.extend(least.filter(|_| above.is_none()).map(|least| format!("at least {}", show(least))));
        // Limits of a width are no limits that people set.
        wishes.extend(most.filter(|most| *most < 4e9 || in_size).map(|most| format!("at most {}", show(most))));
        self.fault(pointer, format!("must be {}, but is {shown}", wishes.join(" and ")));
    }
}

/// Whether a schema lets nothing stand there.
#[must_use]
pub fn is_null(schema: &Value) -> bool {
    types_of(schema).contains(&"null")
}

/// What JSON calls the type of a value.
#[must_use]
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The same for people.
#[must_use]
pub fn in_words(name: &str) -> &'static str {
    match name {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        _ => "an object",
    }
}

fn types_of(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn accepts(types: &[&str], value: &Value) -> bool {
    let found = type_of(value);
    types.is_empty() || types.contains(&found) || (found == "integer" && types.contains(&"number"))
}

/// The values that a schema lists.
fn listed(schema: &Value) -> Vec<&str> {
    let constant = schema.get("const").and_then(Value::as_str).into_iter();
    let named = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut words: Vec<&str> = constant.chain(named).collect();
    for branch in branches(schema).into_iter().flatten() {
        words.extend(listed(branch));
    }
    words
}

fn expected(types: &[&str], schema: &Value, value: &Value) -> String {
    let wanted: Vec<&str> = match schema.get("format").and_then(Value::as_str) {
        Some("span") => vec!["a duration such as \"5m\""],
        Some("size") => vec!["a size such as \"256 MiB\""],
        _ => types.iter().filter(|name| **name != "null").map(|name| in_words(name)).collect(),
    };
    format!("expected {}, found {}", wanted.join(" or "), in_words(type_of(value)))
}

/// The known name most like `name`, if one is near enough to have been meant.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
    let (best, away) = known.map(|known| (known, distance(known))).min_by_key(|(_, away)| *away)?;
    (away <= (name.len() / 3).clamp(1, 3)).then_some(best)
}
