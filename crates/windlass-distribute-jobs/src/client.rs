//! The HTTP clients: one for each way in which agents are verified, so that connections to a node are used again.

use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Identity};
use windlass_tls::Stamp;

use crate::spec::Tls;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a connection is kept for the next call; old agents close theirs later.
const IDLE: Duration = Duration::from_secs(4);
/// Clients that are kept; the oldest goes first.
const MOST: usize = 16;

struct Kept {
    tls: Tls,
    /// What the files were when they were read.
    stamp: Stamp,
    client: Client,
}

static CLIENTS: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// The client of a job. Its files are read again when they have changed.
pub(crate) fn of(tls: &Tls) -> Result<Client, String> {
    let stamp = stamp(tls);
    let mut kept = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.iter().find(|known| known.tls == *tls && known.stamp == stamp) {
        return Ok(known.client.clone());
    }
    let client = make(tls)?;
    kept.retain(|known| known.tls != *tls);
    if kept.len() >= MOST {
        kept.remove(0);
    }
    kept.push(Kept { tls: tls.clone(), stamp, client: client.clone() });
    Ok(client)
}

fn stamp(tls: &Tls) -> Stamp {
    Stamp::of([&tls.ca, &tls.certificate, &tls.key].into_iter().flatten())
}

fn make(tls: &Tls) -> Result<Client, String> {
    windlass_blob::install_crypto_provider();
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()));
    let mut builder = Client::builder()
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(2)
        // An answer must not lead elsewhere: a delete that is led to a cleaned path reaches another file.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy();
    if let Some(path) = &tls.ca {
        let unusable = |error: reqwest::Error| format!("use the roots in {}: {error}", path.display());
        let roots = Certificate::from_pem_bundle(&read(path)?).map_err(unusable)?;
        if roots.is_empty() {
            return Err(format!("no certificate is in {}", path.display()));
        }
        builder = builder.tls_certs_only(roots);
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
        let identity = Identity::from_pem(&pem).map_err(|error| {
            format!("use the certificate {} with the key {}: {error}", certificate.display(), key.display())
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| format!("connections cannot be set up: {error}"))
}

/// What TLS says about a failed request, if it was TLS that failed.
pub(crate) fn tls_fault(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match of_tls(error) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return Some(format!("its certificate is not believed ({why})"));
            }
            Some(rustls::Error::InvalidMessage(_)) => return Some("it does not speak TLS".to_owned()),
            Some(rustls::Error::AlertReceived(alert)) => {
                let perhaps = "perhaps it wants another client certificate";
                return Some(format!("it refuses the connection ({alert:?}); {perhaps}"));
            }
            Some(_) | None => cause = error.source(),
        }
    }
    None
}

/// The error of TLS that an error is, or holds: what errors of input and output hold is not among their sources.
fn of_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    error.downcast_ref().or_else(|| of_tls(error.downcast_ref::<std::io::Error>()?.get_ref()?))
}
