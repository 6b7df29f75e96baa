//! Opening remotes, and what their errors mean to a job.

use windlass_blob::{BlobError, BlobStore, BlobUrl, Context, Environment, ErrorKind};
use windlass_engine::TaskContext;
use windlass_gocache_remote::{Cause, RemotePlace, UpkeepError};
use windlass_model::{ErrorClass, Failure};

/// A URL of the spec.
pub(crate) fn url(named: Option<&String>, what: &str) -> Result<BlobUrl, Failure> {
    let text = named.ok_or_else(|| Failure::permanent("invalid_spec", format!("the job names no `{what}`")))?;
    text.parse().map_err(|error: windlass_blob::UrlError| Failure::permanent("invalid_url", error.to_string()))
}

/// The place as objects.
pub(crate) fn objects(cx: &TaskContext, url: &BlobUrl) -> Result<BlobStore, Failure> {
    let context = Context::process(cx.clock().clone(), cx.entropy().clone());
    let store = BlobStore::open(url, &context).map_err(|error| of_blob(&error))?;
    Ok(store.with_cancel(cx.cancelled().clone()))
}

/// The place as a remote of the cache.
pub(crate) fn remote(cx: &TaskContext, url: &BlobUrl) -> Result<RemotePlace, Failure> {
    RemotePlace::open(url, &Environment::process(), cx.clock().clone()).map_err(|error| of_remote(&error))
}

/// The failure that an error of the object store is.
pub(crate) fn of_blob(error: &BlobError) -> Failure {
    let class = match error.kind() {
        ErrorKind::Cancelled => return Failure::interrupted(),
        ErrorKind::Unavailable | ErrorKind::Changed | ErrorKind::Other => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    Failure::new(error.kind().name(), class, error.to_string())
}

/// The failure that an error of a remote is.
pub(crate) fn of_remote(error: &UpkeepError) -> Failure {
    let class = match error.cause() {
        Cause::Denied | Cause::Credentials | Cause::Place | Cause::Invalid | Cause::TooLarge | Cause::Clock => {
            ErrorClass::Permanent
        }
        _ => ErrorClass::Transient,
    };
    Failure::new("remote", class, error.to_string())
}
