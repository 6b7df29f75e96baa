//! Asks a controller, from another process.

use serde_json::Value;
use windlass_clock::SystemClock;
use windlass_distribute::wire::agent::Name;
use windlass_model::Failure;

use crate::agent::fetch;
use crate::spec::SecretFrom;

/// Why a file is, or is not, where it is. `controller` is the `listen` address of its job.
///
/// # Errors
///
/// When nobody answers there, or refuses.
pub async fn why(controller: &str, name: &Name, token: Option<&SecretFrom>) -> Result<Value, Failure> {
    let token = token.map(SecretFrom::read).transpose()?;
    let url = format!("http://{controller}/v2/why/{}", name.to_url());
    fetch(&url, token.as_deref(), &SystemClock::real()).await.map_err(|fault| {
        Failure::transient("no_controller", format!("asking the controller at {controller} about {name}: {fault}"))
            .hint("the address is `listen` in the job's file; the job has to be running")
    })
}
