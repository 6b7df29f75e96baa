//! Calls to the agent of a node, of either wire.

use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use reqwest::header::{AGE, AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, HeaderMap, IF_MATCH};
use reqwest::{Method, RequestBuilder, StatusCode};
use windlass_clock::{SharedClock, deadline};
use windlass_distribute::input::{ListingFault, Space};
use windlass_distribute::wire::agent::{
    CONTROLLER, Inventory, InventoryFault, Item, Name, NodeReport, PLAN, Refusal, TERM, TransferOrder, TransferPatch,
    TransferReport,
};
use windlass_model::Failure;

use crate::client::{self, tls_fault};
use crate::spec::{DistributeSpec, Tls, Wire};

/// Most bytes of an answer that are kept; a listing of 10^6 names has about 40 MB.
const LONGEST_ANSWER: usize = 256 << 20;
/// Most bytes of an answer that is no list.
const SHORT_ANSWER: usize = 4 << 20;
/// Files of an inventory that are asked for at once.
const PAGE: usize = 20_000;

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallFault {
    /// Nobody answered, or not in time.
    #[error("no answer in time")]
    NoAnswer,
    /// There was no connection: what was to be said never came there.
    #[error("{0}")]
    Unreached(String),
    /// The connection failed.
    #[error("{0}")]
    Broken(String),
    /// Who answered is not who should, or does not speak TLS.
    #[error("{0}")]
    Tls(String),
    /// The agent refused.
    #[error("it answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The word of the refusal, if it has one.
        code: String,
        /// The same for people.
        message: String,
    },
    /// The answer is none.
    #[error("its answer cannot be read: {0}")]
    Odd(String),
    /// The call could not even be made.
    #[error("{0}")]
    Here(String),
}

impl CallFault {
    /// Whether the agent said so itself.
    pub(crate) fn is_refusal(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

/// The agent of a node.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) address: String,
    pub(crate) wire: Wire,
    /// Where it answers, with the scheme.
    url: String,
    tls: Tls,
    token: Option<String>,
    controller: String,
    /// Without it agents may be asked and not ordered about.
    term: Option<u64>,
    patience: Duration,
    listing: Duration,
    clock: SharedClock,
}

/// What came for a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its declared end.
    pub(crate) complete: bool,
}

/// A file as its node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) version: String,
    pub(crate) size: u64,
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// The file is deleted.
    Now,
    /// There was none.
    Before,
    /// Another version is there.
    OtherVersion,
}

impl Agent {
    pub(crate) fn of(
        spec: &DistributeSpec,
        address: &str,
        term: Option<u64>,
        clock: &SharedClock,
    ) -> Result<Self, Failure> {
        let node = spec.node(address).ok_or_else(|| {
            Failure::permanent("unknown_node", format!("the node {address} is not among the nodes of the job"))
        })?;
        Ok(Self {
            address: address.to_owned(),
            wire: node.wire,
            url: node.url(),
            tls: spec.tls.clone(),
            token: node.token.as_ref().map(crate::spec::SecretFrom::read).transpose()?,
            controller: spec.controller().to_owned(),
            term: term.map(|term| term.saturating_add(spec.after_term)),
            patience: spec.patience(),
            listing: spec.listing_patience(),
            clock: clock.clone(),
        })
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, CallFault> {
        let client = client::of(&self.tls).map_err(CallFault::Here)?;
        let mut request = client.request(method, format!("{}{path}", self.url));
        if self.wire == Wire::V2 {
            if let Some(term) = self.term {
                request = request.header(CONTROLLER, &self.controller).header(TERM, term);
            }
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
        }
        Ok(request)
    }

    /// Sends a request; `wait` is how long the agent may take besides to answer.
    async fn send(&self, request: RequestBuilder, most: usize, wait: Duration) -> Result<Answer, CallFault> {
        let broken = |error: reqwest::Error| {
            if let Some(why) = tls_fault(&error) {
                return CallFault::Tls(why);
            }
            let mut text = error.to_string();
            let unreached = error.is_connect();
            let error = error.without_url();
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                text = error.to_string();
                cause = error.source();
            }
            if unreached { CallFault::Unreached(text) } else { CallFault::Broken(text) }
        };
        let sent = deadline(&*self.clock, self.patience + wait, request.send()).await;
        let mut response = sent.map_err(|_| CallFault::NoAnswer)?.map_err(broken)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let declared = headers.contains_key("content-length") || headers.contains_key("transfer-encoding");
        let mut body = BytesMut::new();
        let ended = loop {
            match deadline(&*self.clock, self.patience, response.chunk()).await {
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= most => body.extend_from_slice(&chunk),
                Ok(Ok(Some(_)) | Err(_)) | Err(_) => break false,
                Ok(Ok(None)) => break true,
            }
        };
        // Without a declared end a connection that breaks looks like one that is closed.
        Ok(Answer { status, headers, complete: ended && (declared || body.is_empty()), body: body.to_vec() })
    }

    async fn call(&self, request: RequestBuilder, wait: Duration) -> Result<Answer, CallFault> {
        let answer = self.send(request, SHORT_ANSWER, wait).await?;
        if !(200..300).contains(&answer.status) {
            return Err(refused(&answer));
        }
        if !answer.complete {
            return Err(CallFault::Odd("it breaks off".to_owned()));
        }
        Ok(answer)
    }

    async fn document<T: serde::de::DeserializeOwned>(
        &self,
        request: RequestBuilder,
        wait: Duration,
    ) -> Result<(T, Answer), CallFault> {
        let answer = self.call(request, wait).await?;
        let document = serde_json::from_slice(&answer.body).map_err(|error| CallFault::Odd(error.to_string()))?;
        Ok((document, answer))
    }

    /// How the node is, and its clock minus ours.
    pub(crate) async fn node(&self) -> Result<(NodeReport, Option<i64>), CallFault> {
        let (node, answer) =
            self.document::<NodeReport>(self.request(Method::GET, "/v2/node")?, Duration::ZERO).await?;
        let off = self.clock_off(&answer.headers);
        Ok((node, off))
    }

    fn clock_off(&self, headers: &HeaderMap) -> Option<i64> {
        Some(date(headers)? - self.clock.wall().as_second())
    }

    /// Everything that the node holds, page by page. `generation` is what the node itself said a moment before.
    pub(crate) async fn inventory(&self, generation: u64) -> Result<Inventory, ListingFault> {
        let whole = deadline(&*self.clock, self.listing, self.pages()).await.unwrap_or(Err(ListingFault::NoAnswer))?;
        if whole.end.generation < generation {
            return Err(ListingFault::Failed("it is older than what the node itself says".to_owned()));
        }
        Ok(whole)
    }

    async fn pages(&self) -> Result<Inventory, ListingFault> {
        let mut items: Vec<Item> = Vec::new();
        loop {
            let after = items.last().map_or_else(String::new, |item| format!("&after={}", item.name.to_url()));
            let request = self.request(Method::GET, &format!("/v2/inventory?limit={PAGE}{after}"));
            let request = request.map_err(|fault| ListingFault::Failed(fault.to_string()))?;
            let answer = match self.send(request, LONGEST_ANSWER, Duration::ZERO).await {
                Ok(answer) if answer.status == 200 => answer,
                Ok(answer) => return Err(ListingFault::Status(answer.status)),
                Err(CallFault::NoAnswer) => return Err(ListingFault::NoAnswer),
                Err(fault) => return Err(ListingFault::Failed(fault.to_string())),
            };
            let page = Inventory::read(&answer.body).map_err(|fault| match fault {
                InventoryFault::Cut(names) => ListingFault::Cut(items.len() + names),
                InventoryFault::Order(line) => ListingFault::Order(line),
                InventoryFault::Count { found, .. } => ListingFault::Cut(usize::try_from(found).unwrap_or(usize::MAX)),
                InventoryFault::Line(..) => ListingFault::Failed(format!("what came {fault}")),
            })?;
            if items.last().zip(page.items.first()).is_some_and(|(last, first)| last.name >= first.name) {
                return Err(ListingFault::Order(items.len() + 1));
            }
            let more = page.end.more && !page.items.is_empty();
            items.extend(page.items);
            if !more {
                return Ok(Inventory { items, end: page.end });
            }
        }
    }

    /// The old agent's heartbeat; its clock minus ours.
    pub(crate) async fn beat(&self) -> Result<Option<i64>, CallFault> {
        let answer = self.call(self.request(Method::HEAD, "/hb")?, Duration::ZERO).await?;
        Ok(self.clock_off(&answer.headers))
    }

    /// The old agent's listing as it came, and the age of the answer by the clock of the node.
    pub(crate) async fn files(&self, clock_off: Option<i64>) -> Result<(Answer, i64), CallFault> {
        let request = self.request(Method::GET, "/files")?;
        let answer = deadline(&*self.clock, self.listing, self.send(request, LONGEST_ANSWER, Duration::ZERO)).await;
        let answer = answer.map_err(|_| CallFault::NoAnswer)??;
        let said = answer.headers.get(AGE).and_then(|age| age.to_str().ok()?.parse::<i64>().ok()).unwrap_or(0);
        let there = self.clock.wall().as_second() + clock_off.unwrap_or(0);
        let age = date(&answer.headers).map_or(said, |date| (there - date).max(said));
        Ok((answer, age))
    }

    /// How full the old agent's disk is.
    pub(crate) async fn disk(&self) -> Result<Option<Space>, CallFault> {
        let answer = self.call(self.request(Method::GET, "/df")?, Duration::ZERO).await?;
        Ok(Space::read(&answer.body))
    }

    /// A file as the node has it; `None` when it has none of that name.
    pub(crate) async fn held(&self, name: &Name) -> Result<Option<Held>, CallFault> {
        let request = self.request(Method::HEAD, &format!("/v2/files/{}", name.to_url()))?;
        let answer = self.send(request, SHORT_ANSWER, Duration::ZERO).await?;
        match answer.status {
            404 => return Ok(None),
            200 => {}
            _ => return Err(refused(&answer)),
        }
        let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let version = text(ETAG.as_str()).map(|tag| tag.trim_matches('"').to_owned());
        let size = text("content-length").and_then(|size| size.parse().ok());
        match (version, size) {
            (Some(version), Some(size)) => Ok(Some(Held { version, size })),
            _ => Err(CallFault::Odd("it says neither version nor size".to_owned())),
        }
    }

    /// Deletes one version of a file; old agents know no versions.
    pub(crate) async fn delete(&self, name: &Name, version: &str, plan: &str) -> Result<Deleted, CallFault> {
        let path = match self.wire {
            Wire::V2 => format!("/v2/files/{}", name.to_url()),
            Wire::Legacy => format!("/files/{}", name.to_url()),
        };
        let mut request = self.request(Method::DELETE, &path)?;
        if self.wire == Wire::V2 {
            request = request.header(IF_MATCH, format!("\"{version}\"")).header(PLAN, plan);
        }
        let answer = self.send(request, SHORT_ANSWER, Duration::ZERO).await?;
        match answer.status {
            200 | 204 => Ok(Deleted::Now),
            404 => Ok(Deleted::Before),
            412 => Ok(Deleted::OtherVersion),
            _ => Err(refused(&answer)),
        }
    }

    /// Gives the order of a transfer. The same order again changes nothing.
    pub(crate) async fn order(&self, order: &TransferOrder) -> Result<TransferReport, CallFault> {
        let body = serde_json::to_vec(order).map_err(|error| CallFault::Here(error.to_string()))?;
        let request = self.request(Method::PUT, &format!("/v2/transfers/{}", order.id))?;
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        Ok(self.document(request, Duration::ZERO).await?.0)
    }

    /// How far a transfer is, once it is further than `seen` or after `wait`; `None` when the agent does not know it.
    pub(crate) async fn transfer(
        &self,
        id: &str,
        wait: Duration,
        seen: u64,
    ) -> Result<Option<TransferReport>, CallFault> {
        let path = format!("/v2/transfers/{id}?wait={}&seen={seen}", wait.as_secs());
        match self.document(self.request(Method::GET, &path)?, wait).await {
            Ok((report, _)) => Ok(Some(report)),
            Err(fault) if fault.is_refusal(404) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Changes how fast a transfer may go, also while it runs. Agents that do not know how leave it as it is.
    pub(crate) async fn pace(&self, id: &str, bits_per_second: Option<u64>) -> Result<(), CallFault> {
        let patch = TransferPatch { bits_per_second };
        let body = serde_json::to_vec(&patch).map_err(|error| CallFault::Here(error.to_string()))?;
        let request = self.request(Method::PATCH, &format!("/v2/transfers/{id}"))?;
        match self.call(request.header(CONTENT_TYPE, "application/json").body(body), Duration::ZERO).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_refusal(404) || fault.is_refusal(405) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Cancels a transfer; it is never started again.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), CallFault> {
        match self.call(self.request(Method::DELETE, &format!("/v2/transfers/{id}"))?, Duration::ZERO).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_refusal(404) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// A document at an address.
pub(crate) async fn fetch(
    url: &str,
    token: Option<&str>,
    tls: &Tls,
    clock: &SharedClock,
) -> Result<serde_json::Value, CallFault> {
    let client = client::of(tls).map_err(CallFault::Here)?;
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let patience = Duration::from_secs(10);
    let answer = async {
        let response = request.send().await.map_err(|error| match tls_fault(&error) {
            Some(why) => CallFault::Tls(why),
            None => CallFault::Broken(error.without_url().to_string()),
        })?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|error| CallFault::Odd(error.without_url().to_string()))?;
        if status != 200 {
            let message = String::from_utf8_lossy(&body).trim().chars().take(300).collect();
            return Err(CallFault::Refused { status, code: String::new(), message });
        }
        serde_json::from_slice(&body).map_err(|error| CallFault::Odd(error.to_string()))
    };
    deadline(&**clock, patience, answer).await.unwrap_or(Err(CallFault::NoAnswer))
}

fn refused(answer: &Answer) -> CallFault {
    let refusal = serde_json::from_slice::<Refusal>(&answer.body).ok();
    let reason = StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let (code, message) = match refusal {
        Some(refusal) => (refusal.code, refusal.message.chars().take(300).collect()),
        None => (String::new(), reason.unwrap_or("no reason").to_owned()),
    };
    CallFault::Refused { status: answer.status, code, message }
}

fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp::from(&time).as_second())
}

/// A failed call as the failure of a task.
pub(crate) fn failure(what: &str, address: &str, fault: &CallFault) -> Failure {
    let text = format!("{what} on node {address}: {fault}");
    match fault {
        CallFault::NoAnswer | CallFault::Unreached(_) | CallFault::Broken(_) | CallFault::Odd(_) => {
            Failure::transient("no_answer", text)
        }
        CallFault::Here(_) => Failure::permanent("no_tls", text),
        CallFault::Tls(_) => Failure::permanent("tls", text).hint(
            "the agent's certificate has to be for its address, and its authority one of the system's or `tls.ca`",
        ),
        CallFault::Refused { status: 401 | 403, .. } => Failure::permanent("unauthorized", text)
            .hint("the token of the node in the job and that of its agent differ"),
        // Another coordinator of this job acts by now, or one whose term came to this worker too late.
        CallFault::Refused { code, .. } if code == "stale_term" => Failure::transient("stale_term", text),
        CallFault::Refused { status, .. } if *status >= 500 || *status == 429 => Failure::transient("refused", text),
        CallFault::Refused { .. } => Failure::permanent("refused", text),
    }
}
