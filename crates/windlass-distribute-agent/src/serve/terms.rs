//! Controllers whose time is over: each has a term, and one that comes with a lower term than before is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::refusal::Refused;
use crate::folder::write_whole;

/// Controllers that are remembered.
const MOST: usize = 1024;

/// The highest term of each controller, kept on disk.
#[derive(Debug)]
pub(crate) struct Terms {
    path: PathBuf,
    highest: Mutex<BTreeMap<String, u64>>,
}

/// What a request says of its controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) controller: Option<String>,
    pub(crate) term: Option<String>,
}

impl Terms {
    /// Reads what is remembered.
    ///
    /// # Errors
    /// When it cannot be read: an agent that has forgotten would obey a controller that is not one any more.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("terms.json");
        let highest = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let why = format!("read the terms of controllers in {}: {error}", path.display());
                io::Error::other(format!("{why}; if no old controller can be left, remove the file"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, highest: Mutex::new(highest) })
    }

    /// Whether a request may be done; what would change something has to say a term. Blocks when the term is new.
    pub(crate) fn check(&self, said: &Said, needed: bool) -> Result<(), Refused> {
        let (controller, term) = match (&said.controller, &said.term) {
            (Some(controller), Some(term)) => (controller, term),
            (None, None) if !needed => return Ok(()),
            _ => {
                let why = "a change needs the headers Windlass-Controller and Windlass-Term";
                return Err(Refused::new(400, "no_term", why));
            }
        };
        let term: u64 = term.parse().map_err(|_| Refused::bad("the header Windlass-Term is no number"))?;
        if controller.is_empty() || controller.len() > 128 || !controller.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refused::bad("the header Windlass-Controller is no id"));
        }
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        match highest.get(controller) {
            Some(seen) if term < *seen => {
                let why = format!("{controller} is in term {seen} already; term {term} is over");
                return Err(Refused::new(409, "stale_term", why));
            }
            Some(seen) if term == *seen => return Ok(()),
            Some(_) => {}
            None if highest.len() >= MOST => {
                return Err(Refused::new(503, "busy", format!("{MOST} controllers are known already")));
            }
            None => {}
        }
        let mut next = highest.clone();
        next.insert(controller.clone(), term);
        let bytes = serde_json::to_vec(&next).map_err(|error| Refused::new(500, "encoding", error.to_string()))?;
        write_whole(&self.path, &bytes).map_err(|error| Refused::disk("remember the controller's term", &error))?;
        *highest = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(controller: &str, term: &str) -> Said {
        Said { controller: Some(controller.to_owned()), term: Some(term.to_owned()) }
    }

    #[test]
    fn a_lower_term_is_refused_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let terms = Terms::open(folder.path()).unwrap();
        terms.check(&said("c", "7"), true).unwrap();
        terms.check(&said("other", "1"), true).unwrap();
        let terms = Terms::open(folder.path()).unwrap();
        assert_eq!(terms.check(&said("c", "6"), false).unwrap_err().status, 409);
        terms.check(&said("c", "7"), true).unwrap();
        terms.check(&said("c", "8"), true).unwrap();
        assert_eq!(terms.check(&said("c", "7"), true).unwrap_err().status, 409);
        assert!(terms.check(&Said::default(), false).is_ok() && terms.check(&Said::default(), true).is_err());
        assert!(terms.check(&said("c", "-1"), true).is_err() && terms.check(&said("", "9"), true).is_err());
        std::fs::write(folder.path().join("terms.json"), "{").unwrap();
        assert!(Terms::open(folder.path()).unwrap_err().to_string().contains("terms.json"));
    }
}
