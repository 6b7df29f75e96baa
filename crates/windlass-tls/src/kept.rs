//! A listener's configuration that is kept up with its files.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use windlass_clock::SharedClock;

use crate::files::{Stamp, TlsFiles};
use crate::server::{Serving, server};

/// How often it is looked whether the files have changed.
const LOOK: Duration = Duration::from_secs(60);

/// How connections to a listener are encrypted. The files are read again when they change.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    serving: Serving,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl ServerTls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// What cannot be used, naming the file.
    pub fn load(files: TlsFiles, serving: Serving) -> Result<Self, String> {
        let current = Mutex::new((files.stamp(), server(&files, serving)?));
        Ok(Self { files, serving, current })
    }

    fn current(&self) -> MutexGuard<'_, (Stamp, Arc<ServerConfig>)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current().1.clone()
    }

    /// Reads the files again if they have changed. What cannot be used leaves what was there. Blocks.
    pub fn look(&self) {
        let found = self.files.stamp();
        if self.current().0 == found {
            return;
        }
        match server(&self.files, self.serving) {
            Ok(config) => {
                *self.current() = (found, config);
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
            }
            // Half of it is written, for one: the next look tells.
            Err(why) => tracing::warn!(why, "the changed certificate cannot be used; the last one stays"),
        }
    }

    /// Looks again and again, until told to stop.
    pub async fn keep(self: Arc<Self>, clock: SharedClock, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep(LOOK) => {}
            }
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &TlsFiles) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
        std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_changed_certificate_is_read_again_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { certificate: path("cert"), key: path("key"), client_roots: None };
        let serving = Serving::default();
        assert!(ServerTls::load(files.clone(), serving).unwrap_err().contains("cert"));
        write(&files);
        let server = ServerTls::load(files.clone(), serving).unwrap();
        let first = server.config();
        assert_eq!(first.alpn_protocols, [b"http/1.1".to_vec()]);
        server.look();
        assert!(Arc::ptr_eq(&first, &server.config()), "nothing has changed");
        std::fs::write(&files.key, "broken").unwrap();
        server.look();
        assert!(Arc::ptr_eq(&first, &server.config()), "what is broken is not used");
        write(&files);
        server.look();
        assert!(!Arc::ptr_eq(&first, &server.config()));
    }

    #[test]
    fn roots_of_clients_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut files = TlsFiles { certificate: path("cert"), key: path("key"), client_roots: None };
        write(&files);
        files.client_roots = Some(path("nowhere"));
        for certificate_optional in [false, true] {
            let serving = Serving { http2: true, certificate_optional };
            assert!(ServerTls::load(files.clone(), serving).unwrap_err().contains("nowhere"));
        }
    }
}
