//! Asks a controller, from another process.

use std::path::Path;

use serde_json::Value;
use windlass_clock::SystemClock;
use windlass_distribute::wire::agent::Name;
use windlass_model::Failure;

use crate::agent::fetch;
use crate::spec::{SecretFrom, Tls};

/// Why a file is, or is not, where it is. `controller` is the `listen` address of its job, with `https://` before it where
/// the job has `listen_tls`; `ca` are the roots that its certificate is verified with, instead of the system's.
///
/// # Errors
///
/// When nobody answers there, or refuses.
pub async fn why(
    controller: &str,
    name: &Name,
    token: Option<&SecretFrom>,
    ca: Option<&Path>,
) -> Result<Value, Failure> {
    let token = token.map(SecretFrom::read).transpose()?;
    let far = ["http://", "https://"].iter().any(|scheme| controller.starts_with(scheme));
    let at = if far { controller.trim_end_matches('/').to_owned() } else { format!("http://{controller}") };
    let url = format!("{at}/v2/why/{}", name.to_url());
    let tls = Tls { ca: ca.map(Path::to_owned), ..Tls::default() };
    fetch(&url, token.as_deref(), &tls, &SystemClock::real()).await.map_err(|fault| {
        Failure::transient("no_controller", format!("asking the controller at {controller} about {name}: {fault}"))
            .hint("the address is `listen` in the job's file; the job has to be running")
    })
}
