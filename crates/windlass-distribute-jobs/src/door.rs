//! Where a job answers: over TLS, or in the clear to whom that does no harm.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use windlass_clock::{SharedClock, deadline};
use windlass_engine::kind::SpecFault;
use windlass_tls::{FIRST_BYTE, ServerTls, Serving, TlsFiles};

use crate::spec::DistributeSpec;

/// The certificate that a job shows where it answers: files in PEM where it runs. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// The certificate, with those between it and a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ListenTls {
    /// Reads the files. Blocks.
    pub(crate) fn load(&self) -> Result<Arc<ServerTls>, String> {
        let files = TlsFiles { certificate: self.certificate.clone(), key: self.key.clone(), client_roots: None };
        ServerTls::load(files, Serving::default()).map(Arc::new)
    }
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) peer: IpAddr,
    tls: bool,
}

impl Caller {
    /// The machine itself.
    pub(crate) fn is_here(self) -> bool {
        self.peer.to_canonical().is_loopback()
    }
}

/// A connection as it came.
pub(crate) enum Came {
    Plain(TcpStream, Caller),
    Safe(Box<TlsStream<TcpStream>>, Caller),
}

/// Finds out how somebody speaks. `None`: not at all, or not in time.
pub(crate) async fn shake(
    tls: Option<&ServerTls>,
    stream: TcpStream,
    address: SocketAddr,
    clock: &SharedClock,
    patience: Duration,
) -> Option<Came> {
    let peer = address.ip();
    let plain = Caller { peer, tls: false };
    let Some(tls) = tls else { return Some(Came::Plain(stream, plain)) };
    let mut first = [0; 1];
    let count = deadline(&**clock, patience, stream.peek(&mut first)).await.ok()?.ok()?;
    if count == 0 {
        return None;
    }
    if first[0] != FIRST_BYTE {
        return Some(Came::Plain(stream, plain));
    }
    match deadline(&**clock, patience, TlsAcceptor::from(tls.config()).accept(stream)).await {
        Ok(Ok(stream)) => Some(Came::Safe(Box::new(stream), Caller { peer, tls: true })),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS came about");
            None
        }
        Err(_) => None,
    }
}

impl DistributeSpec {
    /// What is wrong with where the job answers.
    pub(crate) fn listen_faults(&self, faults: &mut Vec<SpecFault>) {
        let mut fault = |at: &str, what: String| faults.push(SpecFault::new(at, what));
        let Some(listen) = &self.listen else {
            if self.listen_tls.is_some() || self.old_wire_plain {
                fault("/listen", "say with `listen` where this job answers".to_owned());
            }
            return;
        };
        match listen.parse::<SocketAddr>() {
            Err(_) => fault("/listen", format!("`{listen}` is no address: write it as IP:PORT")),
            Ok(address) if !address.ip().is_loopback() && self.listen_tls.is_none() && !self.old_wire_plain => {
                let text = format!(
                    "{address} is no loopback address: give `listen_tls`, a certificate and its key; `old_wire_plain: \
                     true` answers what old agents ask, and nothing else, in the clear"
                );
                fault("/listen", text);
            }
            Ok(_) => {}
        }
    }

    /// Whether a request may come as it came: over a network only what the old programs ask may come in the clear.
    pub(crate) fn may_come(&self, caller: Caller, path: &str) -> bool {
        let old = !path.starts_with("/v2/");
        match &self.listen_tls {
            _ if caller.tls => true,
            Some(_) => old && self.old_wire_plain,
            None => caller.is_here() || (old && self.old_wire_plain),
        }
    }
}

/// What is said to who came in the clear and may not.
pub(crate) fn in_the_clear(has_tls: bool) -> Response<Full<Bytes>> {
    if !has_tls {
        let text = "without TLS (`listen_tls` in the job's file) this is answered to the machine itself only\n";
        return crate::board::with(StatusCode::FORBIDDEN, "text/plain", text.to_owned());
    }
    let text = "this port speaks TLS: use https://\n".to_owned();
    let mut response = crate::board::with(StatusCode::UPGRADE_REQUIRED, "text/plain", text);
    response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("TLS/1.2, HTTP/1.1"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(more: &serde_json::Value) -> DistributeSpec {
        let mut spec = json!({
            "inputs": { "grades": "/g", "history": "/h", "origin": { "folders": ["/san"] } },
            "nodes": [{ "address": "10.0.0.1:1", "source": true }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        DistributeSpec::parse(&spec).unwrap()
    }

    #[test]
    fn in_the_clear_come_the_old_paths_and_this_machine() {
        let tls = json!({ "certificate": "/c.pem", "key": "/c.key" });
        let here = |tls| Caller { peer: "127.0.0.1".parse().unwrap(), tls };
        let there = |tls| Caller { peer: "10.0.0.7".parse().unwrap(), tls };
        for (with_tls, plain, caller, path, may) in [
            (true, false, there(true), "/v2/plan", true),
            (true, false, here(false), "/v2/plan", false),
            (true, false, here(false), "/tasks", false),
            (true, true, there(false), "/tasks", true),
            (true, true, there(false), "/v2/plan", false),
            (false, true, there(false), "/tasks", true),
            (false, true, there(false), "/dashboard/hb", true),
            (false, true, there(false), "/v2/plan", false),
            (false, false, there(false), "/tasks", false),
            (false, false, here(false), "/v2/plan", true),
        ] {
            let mut more = json!({ "listen": "10.0.0.9:8080", "old_wire_plain": plain });
            if with_tls {
                more["listen_tls"] = tls.clone();
            }
            assert_eq!(spec(&more).may_come(caller, path), may, "{with_tls} {plain} {caller:?} {path}");
        }
    }

    #[test]
    fn beyond_loopback_a_job_answers_over_tls_or_to_old_agents() {
        let faults = |more: serde_json::Value| {
            let mut faults = Vec::new();
            spec(&more).listen_faults(&mut faults);
            faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        let tls = json!({ "certificate": "/c.pem", "key": "/c.key" });
        assert_eq!(faults(json!({ "listen": "0.0.0.0:8080" })), ["/listen"]);
        assert_eq!(faults(json!({ "listen": "[::1]:8080" })), Vec::<String>::new());
        assert_eq!(faults(json!({ "listen": "0.0.0.0:8080", "listen_tls": tls })), Vec::<String>::new());
        assert_eq!(faults(json!({ "listen": "0.0.0.0:8080", "old_wire_plain": true })), Vec::<String>::new());
        assert_eq!(faults(json!({ "listen_tls": tls })), ["/listen"]);
    }
}
