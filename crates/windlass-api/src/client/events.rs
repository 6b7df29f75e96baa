//! Reading an event stream, over broken connections.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use url::Url;
use windlass_clock::deadline;

use super::{Client, ClientError};
use crate::event::{Event, EventKind};

/// Longest event; anything longer is not from a server of ours.
const LONGEST: usize = 16 << 20;
/// The server says something at least every 15 s: after this the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(45);
/// Longest wait between two attempts to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// The events of a job, or of all jobs. Connects when it is first asked, and again whenever the connection breaks or
/// the server restarts, after the last event that was seen: none is lost and none comes twice.
pub struct Events {
    client: Client,
    url: Url,
    last: Option<String>,
    body: Option<Body>,
    text: BytesMut,
    failures: u32,
    patience: u32,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("url", &self.url.as_str()).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(client: Client, url: Url, last: Option<String>) -> Self {
        Self { client, url, last, body: None, text: BytesMut::new(), failures: 0, patience: 10 }
    }

    /// Gives up after so many failures in a row to connect; 10 when not said, which is about a minute.
    #[must_use]
    pub fn patience(mut self, attempts: u32) -> Self {
        self.patience = attempts;
        self
    }

    /// The id of the last event that was seen: a later reader may go on after it.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    ///
    /// A problem that connecting again does not solve, or a server that stays away for longer than the patience.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.take()? {
                match event.kind {
                    // Said by the server that ends; the next one goes on.
                    EventKind::Bye => self.body = None,
                    _ => return Ok(event),
                }
            }
            let Some(body) = &mut self.body else {
                self.connect().await?;
                continue;
            };
            match deadline(&*self.client.clock, SILENCE, body.next()).await {
                Ok(Some(Ok(chunk))) => {
                    self.failures = 0;
                    self.text.extend_from_slice(&chunk);
                    if self.text.len() > LONGEST {
                        return Err(self.client.odd("an event has no end".to_owned()));
                    }
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "an event stream broke off");
                    self.body = None;
                }
                Ok(None) | Err(_) => self.body = None,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        // Half an event came before the connection broke; it comes again as a whole.
        self.text.clear();
        if self.failures > 0 {
            let wait = Duration::from_millis(100) * 2u32.saturating_pow(self.failures.min(10));
            self.client.clock.sleep(wait.min(LONGEST_WAIT)).await;
        }
        self.failures += 1;
        let mut request = self.client.http.get(self.url.clone()).header("accept", "text/event-stream");
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        let sent = deadline(&*self.client.clock, Duration::from_secs(30), request.send()).await;
        let error = match sent {
            Ok(Ok(response)) if response.status().is_success() => {
                self.body = Some(Box::pin(response.bytes_stream()));
                return Ok(());
            }
            Ok(Ok(response)) => {
                let status = response.status();
                let bytes = response.bytes().await.unwrap_or_default();
                let error = self.client.refused(status, &bytes);
                if !matches!(status.as_u16(), 429 | 502..=504) {
                    return Err(error);
                }
                error
            }
            Ok(Err(error)) => self.client.unreachable(&error),
            Err(_) => ClientError::Unreachable {
                server: self.client.base.to_string(),
                why: "no answer within 30 s".to_owned(),
            },
        };
        if self.failures >= self.patience {
            return Err(error);
        }
        tracing::debug!(%error, failures = self.failures, "an event stream is opened again");
        Ok(())
    }

    /// Takes one event off what has come; skips comments.
    fn take(&mut self) -> Result<Option<Event>, ClientError> {
        while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let block = self.text.split_to(end + 2);
            let block = std::str::from_utf8(&block).map_err(|error| self.client.odd(error.to_string()))?.to_owned();
            let mut data = String::new();
            let mut id = None;
            for line in block.lines() {
                match line.split_once(':') {
                    Some(("id", text)) => id = Some(text.trim().to_owned()),
                    Some(("data", text)) => data += text.trim_start(),
                    _ => {}
                }
            }
            if let Some(id) = id {
                self.last = Some(id);
            }
            if !data.is_empty() {
                return serde_json::from_str(&data).map(Some).map_err(|error| self.client.odd(error.to_string()));
            }
        }
        Ok(None)
    }
}
