//! The OpenStack sites that jobs of this process may name.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use windlass_dag::{Allow, DagConfig};
use windlass_recover::{RecoverConfig, Site};

use crate::job_file;

/// The environment variable that names the file with the sites: YAML or JSON, a site for each name.
pub(crate) const FILE: &str = "WINDLASS_SITES";

/// What `recover` jobs may do in a process whose runbooks may do this.
pub(crate) fn config(dag: &DagConfig) -> RecoverConfig {
    // Whoever may read every secret of the process and start every command may also describe sites.
    let inline_sites = dag.allow_secrets == Allow::Everything;
    let commands = dag.allow_exec == Allow::Everything;
    let (sites, sites_fault) = match std::env::var_os(FILE) {
        None => {
            (BTreeMap::new(), Some(format!("{FILE} is not set; let it name a YAML file with a site for each name")))
        }
        Some(path) => match read(Path::new(&path)) {
            Ok(sites) => (sites, None),
            Err(why) => (BTreeMap::new(), Some(why)),
        },
    };
    RecoverConfig { sites, sites_fault, inline_sites, commands }
}

/// Reads a file of sites. Their names need not be said twice.
fn read(path: &Path) -> Result<BTreeMap<String, Site>, String> {
    let wrong = |why: String| format!("the sites in {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(all) = job_file::read_plain(&text).map_err(wrong)? else {
        return Err(wrong("it is not a map of names to sites".to_owned()));
    };
    let site = |(name, mut value): (String, Value)| {
        if let Some(fields) = value.as_object_mut() {
            fields.entry("name").or_insert_with(|| name.clone().into());
        }
        let site = serde_json::from_value(value).map_err(|error| wrong(format!("{name}: {error}")))?;
        Ok((name, site))
    };
    all.into_iter().map(site).collect()
}
