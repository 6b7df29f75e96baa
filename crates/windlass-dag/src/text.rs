//! Texts in `with`: literal, taken from an output, joined of several, or a secret that is named and never written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use windlass_model::Failure;

use crate::config::DagConfig;

/// A text, as written. References are gone from it by the time a task runs: the engine has filled them in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// The text itself.
    Plain(String),
    /// A number, which stands for its digits.
    Number(serde_json::Number),
    /// `true` or `false`, for the words.
    Bool(bool),
    /// Several, one after the other.
    Join(Join),
    /// A secret in an environment variable.
    Env(FromEnv),
    /// A secret in a file.
    File(FromFile),
    /// A place that a reference is to fill.
    Missing(()),
}

/// Several texts, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    join: Vec<Text>,
}

/// A secret in an environment variable of the process that runs the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromEnv {
    env: String,
}

/// A secret in a file of the machine that runs the task; white space at its end is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromFile {
    file: String,
}

/// Largest file that holds a secret.
const LARGEST_SECRET: u64 = 64 * 1024;

impl Default for Text {
    fn default() -> Self {
        Self::Plain(String::new())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The checks of this crate go by `x-text`; the rest is for editors.
        json_schema!({
            "x-text": true,
            "x-referable": true,
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                { "type": "object", "required": ["ref"], "additionalProperties": false, "properties": {
                    "ref": { "type": "string", "description": "Task and JSON pointer into its output: `dump#/stdout`." },
                } },
                { "type": "object", "required": ["join"], "additionalProperties": false, "properties": {
                    "join": { "type": "array", "description": "Texts and references, put together." },
                } },
                { "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false, "properties": {
                    "env": { "type": "string", "description": "The environment variable that holds the secret." },
                    "file": { "type": "string", "description": "The file that holds the secret." },
                } },
            ],
        })
    }
}

/// Looks texts up, and remembers which of them are secrets.
#[derive(Debug)]
pub(crate) struct Reader<'c> {
    config: &'c DagConfig,
    secrets: Vec<String>,
}

impl<'c> Reader<'c> {
    pub(crate) fn new(config: &'c DagConfig) -> Self {
        Self { config, secrets: Vec::new() }
    }

    /// The text itself. `what` names it in failures.
    pub(crate) fn read(&mut self, what: &str, text: &Text) -> Result<String, Failure> {
        match text {
            Text::Plain(text) => Ok(text.clone()),
            Text::Number(number) => Ok(number.to_string()),
            Text::Bool(yes) => Ok(yes.to_string()),
            Text::Join(Join { join }) => join.iter().map(|part| self.read(what, part)).collect(),
            Text::Env(FromEnv { env }) => self.secret(what, env, self.lookup(env)),
            Text::File(FromFile { file }) => self.secret(what, file, read_secret(file)),
            Text::Missing(()) => Err(Failure::permanent("no_value", format!("{what} has no value"))),
        }
    }

    #[expect(clippy::unused_self, reason = "looked up where the rules are")]
    fn lookup(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|_| "it is not set, or not UTF-8".to_owned())
    }

    fn secret(&mut self, what: &str, name: &str, found: Result<String, String>) -> Result<String, Failure> {
        self.config.secret(name).map_err(|why| Failure::permanent("not_allowed", why))?;
        let secret = found.map_err(|why| {
            Failure::permanent("secret_missing", format!("{what} comes from {name}: {why}"))
                .hint("set it where the task runs, then retry the job")
        })?;
        // What is shorter hides nothing and would blacken everything.
        if secret.len() >= 4 {
            self.secrets.push(secret.clone());
        }
        Ok(secret)
    }

    /// What blackens the secrets that were read.
    pub(crate) fn into_redaction(mut self) -> Redaction {
        // Longer first: one secret may hold another.
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Redaction(self.secrets)
    }
}

fn read_secret(path: &str) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST_SECRET {
        return Err(format!("it has {size} bytes, a secret has at most {LARGEST_SECRET}"));
    }
    Ok(std::fs::read_to_string(path).map_err(|error| error.to_string())?.trim_end().to_owned())
}

/// Blackens secrets in what is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redaction(Vec<String>);

impl Redaction {
    pub(crate) fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }

    /// Every text in a value, at any depth, names of members too.
    pub(crate) fn clean_value(&self, value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.clean(&text)),
            Value::Array(list) => list.into_iter().map(|item| self.clean_value(item)).collect(),
            Value::Object(map) => {
                map.into_iter().map(|(name, value)| (self.clean(&name), self.clean_value(value))).collect()
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_put_together_and_secrets_blackened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter22\n").unwrap();
        let text: Text = serde_json::from_value(json!({"join": ["Bearer ", {"file": path}, 7, true]})).unwrap();
        let open = DagConfig::foreground();
        let mut reader = Reader::new(&open);
        assert_eq!(reader.read("the header", &text).unwrap(), "Bearer hunter227true");
        let redaction = reader.into_redaction();
        assert_eq!(redaction.clean("a hunter22 b"), "a *** b");
        assert_eq!(redaction.clean_value(json!({"hunter22": ["xhunter22"]})), json!({"***": ["x***"]}));
        let closed = DagConfig::default();
        assert_eq!(Reader::new(&closed).read("the header", &text).unwrap_err().code, "not_allowed");
        let missing = Text::Env(FromEnv { env: "WINDLASS_SURELY_NOT_SET".into() });
        assert_eq!(Reader::new(&open).read("the header", &missing).unwrap_err().code, "secret_missing");
    }
}
