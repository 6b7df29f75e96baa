//! References: what a task's input takes from the outputs of tasks that it requires.
//!
//! A task carries its references beside its input. Only these are substituted; data that merely looks like a
//! reference arrives unchanged. Pointers are RFC 6901.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TaskId;

/// One substitution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Where in the input the value goes. Missing objects on the way are made.
    pub at: String,
    /// Whose output it comes from: a direct dependency.
    pub task: TaskId,
    /// Where in that output it is.
    pub pointer: String,
    /// Whether the value may be missing; the place in the input then stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A reference that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The output does not have what the pointer names.
    #[error("{pointer} is not in the output of task {task}; {found}")]
    Missing {
        /// The task whose output was looked at.
        task: TaskId,
        /// The pointer that does not resolve.
        pointer: String,
        /// What is there at the deepest level that exists.
        found: String,
    },
    /// The place in the input cannot be set.
    #[error("{at} is not a place in the input of the task")]
    NoPlace {
        /// The pointer into the input.
        at: String,
    },
}

/// Checks that `pointer` is a JSON pointer: empty, or beginning with `/`, with `~` only as `~0` or `~1`.
#[must_use]
pub fn is_pointer(pointer: &str) -> bool {
    (pointer.is_empty() || pointer.starts_with('/')) && !pointer.replace("~0", "").replace("~1", "").contains('~')
}

/// Puts what `reference` names in `output` into `input`.
///
/// # Errors
///
/// [`Unresolved`], saying what there was at the deepest level that exists.
pub fn resolve(input: &mut Value, reference: &Reference, output: &Value) -> Result<(), Unresolved> {
    let Some(value) = output.pointer(&reference.pointer) else {
        if reference.optional {
            return Ok(());
        }
        return Err(Unresolved::Missing {
            task: reference.task,
            pointer: reference.pointer.clone(),
            found: deepest(output, &reference.pointer),
        });
    };
    set(input, &reference.at, value.clone()).ok_or_else(|| Unresolved::NoPlace { at: reference.at.clone() })
}

fn tokens(pointer: &str) -> impl Iterator<Item = String> + '_ {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
}

fn set(root: &mut Value, at: &str, value: Value) -> Option<()> {
    if !is_pointer(at) {
        return None;
    }
    let mut place = root;
    for token in tokens(at) {
        if place.is_null() {
            *place = Value::Object(serde_json::Map::new());
        }
        place = match place {
            Value::Object(map) => map.entry(token).or_insert(Value::Null),
            Value::Array(list) => {
                let index: usize = token.parse().ok()?;
                list.get_mut(index)?
            }
            _ => return None,
        };
    }
    *place = value;
    Some(())
}

fn deepest(output: &Value, pointer: &str) -> String {
    let mut place = output;
    let mut path = String::new();
    for token in tokens(pointer) {
        let next = match place {
            Value::Object(map) => map.get(&token),
            Value::Array(list) => token.parse::<usize>().ok().and_then(|index| list.get(index)),
            _ => None,
        };
        let Some(next) = next else { break };
        path = format!("{path}/{token}");
        place = next;
    }
    let path = if path.is_empty() { "the output".to_owned() } else { path };
    match place {
        Value::Object(map) if map.is_empty() => format!("{path} is an empty object"),
        Value::Object(map) => {
            format!("{path} has {}", map.keys().take(12).cloned().collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("{path} is a list of {}", list.len()),
        _ => format!("{path} is a plain value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference(at: &str, pointer: &str) -> Reference {
        Reference { at: at.into(), task: TaskId::from_bits(1), pointer: pointer.into(), optional: false }
    }

    #[test]
    fn a_value_goes_where_the_reference_says_and_nothing_else_changes() {
        let output = json!({"network": {"id": "n1", "tags": [], "a/b": 0}});
        let mut input = json!({"description": {"$ref": "x#/y"}, "list": [1, 2]});
        resolve(&mut input, &reference("/net", "/network"), &output).unwrap();
        resolve(&mut input, &reference("/list/1", "/network/a~1b"), &output).unwrap();
        resolve(&mut input, &reference("/deep/er", "/network/tags"), &output).unwrap();
        assert_eq!(
            input,
            json!({"description": {"$ref": "x#/y"}, "list": [1, 0], "deep": {"er": []},
                   "net": {"id": "n1", "tags": [], "a/b": 0}})
        );
    }

    #[test]
    fn a_missing_value_is_named_with_what_is_there_instead() {
        let output = json!({"network": {"id": "n1", "name": "x"}});
        let error = resolve(&mut json!({}), &reference("/x", "/network/subnet/id"), &output).unwrap_err();
        assert!(error.to_string().ends_with("/network has id, name"), "{error}");
        let optional = Reference { optional: true, ..reference("/x", "/nope") };
        let mut input = json!({"x": 1});
        resolve(&mut input, &optional, &output).unwrap();
        assert_eq!(input, json!({"x": 1}));
    }

    #[test]
    fn an_impossible_place_is_refused() {
        for at in ["/list/9", "/text/x", "no-slash", "/~2"] {
            let mut input = json!({"list": [], "text": "t"});
            assert!(resolve(&mut input, &reference(at, ""), &json!(1)).is_err(), "{at}");
        }
    }
}
