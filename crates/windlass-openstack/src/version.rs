//! Microversions.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::catalogue::Service;

/// A microversion: `2.79`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Microversion {
    /// Before the point.
    pub major: u16,
    /// After the point.
    pub minor: u16,
}

impl Microversion {
    /// `major.minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Microversion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no microversion");
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { major: major.parse().map_err(|_| wrong())?, minor: minor.parse().map_err(|_| wrong())? })
    }
}

/// The newest microversion that the calls here are written for.
pub(crate) const fn wanted(service: Service) -> Option<Microversion> {
    match service {
        // 2.74: placing on a hypervisor; 2.79: delete_on_termination of attachments. Beyond 2.90 keys and names change.
        Service::Compute => Some(Microversion::new(2, 79)),
        Service::Volume => Some(Microversion::new(3, 59)),
        Service::Identity | Service::Network | Service::Image => None,
    }
}

/// The name in the header `OpenStack-API-Version`.
pub(crate) const fn header_name(service: Service) -> &'static str {
    match service {
        Service::Volume => "volume",
        Service::Compute | Service::Identity | Service::Network | Service::Image => "compute",
    }
}

/// The newest microversion in a version document, of one version or of several.
pub(crate) fn newest(document: &Value) -> Option<Microversion> {
    let one = |version: &Value| version.get("version").and_then(Value::as_str).and_then(|text| text.parse().ok());
    match document.get("versions").and_then(Value::as_array) {
        Some(all) => all.iter().filter_map(one).max(),
        None => document.get("version").and_then(one),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_of_a_document_is_found_and_order_is_by_number() {
        assert!(Microversion::new(2, 79) > Microversion::new(2, 8));
        assert_eq!(
            newest(&json!({"version": {"version": "2.93", "min_version": "2.1"}})),
            Some(Microversion::new(2, 93))
        );
        let both = json!({"versions": [{"version": ""}, {"version": "3.70"}]});
        assert_eq!(newest(&both), Some(Microversion::new(3, 70)));
        assert_eq!(newest(&json!({})), None);
    }
}
