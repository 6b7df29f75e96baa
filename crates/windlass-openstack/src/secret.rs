//! Secrets, which are named and never written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest file that holds a secret.
const LARGEST: u64 = 64 * 1024;

/// Where a secret is. The secret itself is read when it is needed and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// An environment variable of the process that needs it.
    Env(String),
    /// A file of the machine that needs it; white space at its end is dropped.
    File(String),
}

impl Secret {
    /// Reads the secret.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, naming where it should be.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|_| format!("the environment variable {name} is not set, or not UTF-8; set it and try again")),
            Self::File(path) => {
                let size = std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
                if size > LARGEST {
                    return Err(format!("{path} has {size} bytes, a secret has at most {LARGEST}"));
                }
                let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
                Ok(text.trim_end().to_owned())
            }
        }
    }
}
