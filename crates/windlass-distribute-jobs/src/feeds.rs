//! Where what is to be decided comes from.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_engine::kind::SpecFault;
use windlass_model::quantity::Span;

use crate::spec::span;

/// The origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OriginFolders {
    /// Folders that are tried in this order. The controller must see them.
    pub folders: Vec<PathBuf>,
    /// A file that is in each of them while it is mounted. Without it a folder counts while it is not empty and has
    /// half of a hundred files that it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// How often they are listed. Default: a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

/// Where what is to be decided comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// `.grade.info`: which files there are, best first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grades: Option<PathBuf>,
    /// `.hitcount.history`: how large they are and where viewers are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<PathBuf>,
    /// Instead of these two: a file with a JSON document per line, `name`, `size`, `rank`, `copies`, `checksum` and
    /// `places`, of which only `name` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
    /// The folder of `EventLog[YYYYMMDD].log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<PathBuf>,
    /// Where every file is.
    pub origin: OriginFolders,
    /// The files of the catalogue must be quiet for so long before they are read. Default: 2 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Span>,
    /// How often inputs are looked at, beside the times when the file system tells of a change. Default: 5 s; where it
    /// does not tell, as on network mounts, 1 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

impl Inputs {
    /// The files of the catalogue: one, or the load balancer's two.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match &self.catalogue {
            Some(catalogue) => vec![catalogue.clone()],
            None => self.grades.iter().chain(&self.history).cloned().collect(),
        }
    }

    pub(crate) fn faults(&self, faults: &mut Vec<SpecFault>) {
        let both = self.grades.is_some() && self.history.is_some();
        let none = self.grades.is_none() && self.history.is_none();
        if !(if self.catalogue.is_some() { none } else { both }) {
            let text = "name either `catalogue`, or both `grades` and `history`".to_owned();
            faults.push(SpecFault::new("/inputs", text));
        }
        if self.origin.folders.is_empty() {
            let text = "without a folder of the origin there is nothing to copy".to_owned();
            faults.push(SpecFault::new("/inputs/origin/folders", text));
        }
    }

    pub(crate) fn settle(&self) -> Duration {
        span(self.settle, Duration::from_secs(2))
    }

    /// How often inputs are looked at, where the file system tells of changes and where it does not.
    pub(crate) fn every(&self, told: bool) -> Duration {
        let usual = Duration::from_secs(if told { 5 } else { 1 });
        span(self.every, usual).max(Duration::from_millis(20))
    }

    pub(crate) fn origin_every(&self) -> Duration {
        span(self.origin.every, Duration::from_secs(60)).max(Duration::from_millis(20))
    }
}
