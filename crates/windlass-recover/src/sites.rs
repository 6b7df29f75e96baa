//! The clouds that this process works with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use windlass_clock::SharedClock;
use windlass_model::Failure;
use windlass_openstack::{Cloud, Site};

use crate::spec::SiteRef;

/// What jobs may do in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverConfig {
    /// The sites that jobs may name.
    pub sites: BTreeMap<String, Site>,
    /// Why the sites of this process could not be read.
    pub sites_fault: Option<String>,
    /// Whether jobs may describe sites themselves, with secrets of this process.
    pub inline_sites: bool,
    /// Whether a diagnosis may start commands.
    pub commands: bool,
}

impl RecoverConfig {
    /// Everything is allowed: for jobs that run in the foreground, by the person who wrote them.
    #[must_use]
    pub fn foreground(sites: BTreeMap<String, Site>) -> Self {
        Self { sites, sites_fault: None, inline_sites: true, commands: true }
    }
}

/// Clouds by their description: tokens are kept from task to task.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    pub(crate) config: RecoverConfig,
    open: Mutex<HashMap<String, Arc<Cloud>>>,
}

impl Sites {
    pub(crate) fn new(config: RecoverConfig) -> Self {
        Self { config, open: Mutex::default() }
    }

    /// Why a site cannot be used here.
    pub(crate) fn describe<'s>(&'s self, site: &'s SiteRef) -> Result<&'s Site, String> {
        match site {
            SiteRef::Named(name) => self.config.sites.get(name).ok_or_else(|| {
                let known: Vec<&str> = self.config.sites.keys().map(String::as_str).collect();
                if let Some(why) = &self.config.sites_fault {
                    return format!("no site is named {name:?}: {why}");
                }
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                format!("no site is named {name:?} in this process (known: {known}); add it to its sites file")
            }),
            SiteRef::Inline(_) if !self.config.inline_sites => Err(
                "sites are not described in jobs for this process, because they name its secrets; name one of its sites file".to_owned(),
            ),
            SiteRef::Inline(site) => Ok(site),
        }
    }

    /// The cloud at a site.
    pub(crate) fn cloud(&self, site: &SiteRef, clock: &SharedClock) -> Result<Arc<Cloud>, Failure> {
        let site = self.describe(site).map_err(|why| Failure::permanent("unknown_site", why))?;
        let key = serde_json::to_string(site).unwrap_or_default();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(open.entry(key).or_insert_with(|| Arc::new(Cloud::new(site.clone(), clock.clone()))).clone())
    }
}
