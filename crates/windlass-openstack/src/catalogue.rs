//! Which address serves what.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A service that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Keystone.
    Identity,
    /// Neutron.
    Network,
    /// Nova.
    Compute,
    /// Cinder.
    Volume,
    /// Glance.
    Image,
}

impl Service {
    /// The types under which catalogues list it, the usual one first.
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Identity => &["identity"],
            Self::Network => &["network"],
            Self::Compute => &["compute"],
            Self::Volume => &["volumev3", "block-storage", "block-store", "volume"],
            Self::Image => &["image"],
        }
    }

    /// The name in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Network => "network",
            Self::Compute => "compute",
            Self::Volume => "volume",
            Self::Image => "image",
        }
    }

    /// An address from a catalogue with the version that the calls are written for.
    pub(crate) fn versioned(self, url: &str) -> String {
        let url = url.trim_end_matches('/');
        let has = |version: &str| url.split('/').any(|part| part.starts_with(version));
        match self {
            Self::Identity if !has("v3") => format!("{url}/v3"),
            Self::Network if !has("v2") => format!("{url}/v2.0"),
            Self::Image if !has("v2") => format!("{url}/v2"),
            _ => url.to_owned(),
        }
    }
}

/// The addresses that a token came with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue(BTreeMap<Service, String>);

impl Catalogue {
    /// Takes what is called from the catalogue of a token.
    pub(crate) fn of(token: &Value, interface: &str, region: Option<&str>) -> Self {
        let empty = Vec::new();
        let entries = token.get("catalog").and_then(Value::as_array).unwrap_or(&empty);
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut found = BTreeMap::new();
        for service in [Service::Identity, Service::Network, Service::Compute, Service::Volume, Service::Image] {
            let url = service.types().iter().find_map(|wanted| {
                let entry = entries.iter().find(|entry| text(entry, "type").as_deref() == Some(wanted))?;
                let mut endpoints = entry.get("endpoints")?.as_array()?.iter();
                let fits = |endpoint: &&Value| {
                    let at = text(endpoint, "region_id").or_else(|| text(endpoint, "region"));
                    text(endpoint, "interface").as_deref() == Some(interface)
                        && (region.is_none() || at.as_deref() == region)
                };
                text(endpoints.find(fits)?, "url")
            });
            if let Some(url) = url {
                found.insert(service, service.versioned(&url));
            }
        }
        Self(found)
    }

    pub(crate) fn url(&self, service: Service) -> Option<&str> {
        self.0.get(&service).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn interface_and_region_choose_the_address_and_versions_are_added_where_they_lack() {
        let endpoint =
            |interface: &str, region: &str, url: &str| json!({"interface": interface, "region_id": region, "url": url});
        let token = json!({"catalog": [
            {"type": "network", "endpoints": [endpoint("admin", "r1", "http://x:1"), endpoint("public", "r2", "http://x:2"), endpoint("public", "r1", "http://x:3/")]},
            {"type": "compute", "endpoints": [endpoint("public", "r1", "http://x:4/v2.1")]},
            {"type": "block-storage", "endpoints": [endpoint("public", "r1", "http://x:5/v3/p")]},
        ]});
        let catalogue = Catalogue::of(&token, "public", Some("r1"));
        assert_eq!(catalogue.url(Service::Network), Some("http://x:3/v2.0"));
        assert_eq!(catalogue.url(Service::Compute), Some("http://x:4/v2.1"));
        assert_eq!(catalogue.url(Service::Volume), Some("http://x:5/v3/p"));
        assert_eq!(catalogue.url(Service::Image), None);
        assert_eq!(Catalogue::of(&token, "public", None).url(Service::Network), Some("http://x:2/v2.0"));
    }
}
