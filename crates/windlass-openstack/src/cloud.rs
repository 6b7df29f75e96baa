//! Calls to one cloud.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use windlass_clock::SharedClock;

use crate::catalogue::Service;
use crate::fault::{self, CallFault, Cause};
use crate::site::Site;
use crate::token::Token;
use crate::version::{self, Microversion};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
/// The most pages of one list; with the services' usual page of 1000, a thousand times what a group has.
const MOST_PAGES: usize = 10_000;
/// How often a call that changes nothing is made.
const TRIES: u32 = 4;
/// The longest wait before it is made again.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// The longest that a service can ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// In which project a call works.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The project of the site's credential.
    Home,
    /// Another project, by id.
    Project(String),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body; `Null` when there is none.
    pub body: Value,
    /// What the service calls the request.
    pub request_id: Option<String>,
}

/// One cloud.
#[derive(Debug)]
pub struct Cloud {
    site: Site,
    clock: SharedClock,
    http: Result<reqwest::Client, String>,
    tokens: Mutex<HashMap<Scope, Arc<Token>>>,
    /// Held while somebody signs in, so that a hundred tasks do not all do.
    signing_in: tokio::sync::Mutex<()>,
    versions: Mutex<HashMap<Service, Microversion>>,
}

fn client(site: &Site) -> Result<reqwest::Client, String> {
    // Whoever was first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        // Tokens go where the site's description says, and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never());
    if let Some(path) = &site.ca_file {
        let pem = std::fs::read(path).map_err(|error| format!("the certificates in {path}: {error}"))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| format!("the certificates in {path}: {error}"))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| format!("connections cannot be set up: {error}"))
}

impl Cloud {
    /// The cloud at `site`. Nothing is called before something is asked.
    #[must_use]
    pub fn new(site: Site, clock: SharedClock) -> Self {
        let http = client(&site);
        Self {
            site,
            clock,
            http,
            tokens: Mutex::default(),
            signing_in: tokio::sync::Mutex::default(),
            versions: Mutex::default(),
        }
    }

    /// Its description.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// What makes connections, or why there are none.
    pub(crate) fn http(&self) -> Result<&reqwest::Client, &str> {
        self.http.as_ref().map_err(String::as_str)
    }

    fn what(&self, method: &Method, service: Service, path: &str) -> String {
        let path = path.split('?').next().unwrap_or(path);
        format!("{method} {}{path} at {}", service.as_str(), self.site.name)
    }

    pub(crate) fn fault(
        &self,
        method: &Method,
        service: Service,
        path: &str,
        cause: Cause,
        message: String,
    ) -> CallFault {
        let changes = *method != Method::GET && *method != Method::HEAD;
        let what = self.what(method, service, path);
        CallFault { what, changes, cause, message, request_id: None, retry_after: None }
    }

    /// Makes one call. What changes nothing is repeated a few times when that may help; everything is repeated once
    /// with a new token when the old one is refused.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn call(
        &self,
        scope: &Scope,
        service: Service,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallFault> {
        let repeatable = method == Method::GET || method == Method::HEAD;
        let (mut tries, mut renewed) = (1, false);
        loop {
            let token = self.token(scope).await?;
            let fault = match self.once(&token, service, &method, path, body).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if fault.status() == Some(401) && !renewed {
                // Refused before anything was done: any call may be made again.
                renewed = true;
                self.forget(scope, &token);
                continue;
            }
            let asked = fault.retry_after.unwrap_or_default();
            if !repeatable || !fault.may_pass() || tries >= TRIES || asked > LONGEST_WAIT {
                return Err(fault);
            }
            self.clock.sleep(asked.max(Duration::from_millis(100 << (2 * tries)))).await;
            tries += 1;
        }
    }

    /// `GET`.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn get(&self, scope: &Scope, service: Service, path: &str) -> Result<Value, CallFault> {
        Ok(self.call(scope, service, Method::GET, path, None).await?.body)
    }

    /// `GET` of something that may not be there.
    ///
    /// # Errors
    ///
    /// A [`CallFault`] other than that it is not there.
    pub async fn find(&self, scope: &Scope, service: Service, path: &str) -> Result<Option<Value>, CallFault> {
        match self.get(scope, service, path).await {
            Ok(value) => Ok(Some(value)),
            Err(fault) if fault.is_not_found() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// All items of a list, over all its pages: the member `name` of each page.
    ///
    /// # Errors
    ///
    /// A [`CallFault`]. A list that breaks off is none.
    pub async fn list(&self, scope: &Scope, service: Service, path: &str, name: &str) -> Result<Vec<Value>, CallFault> {
        let mut items = Vec::new();
        let mut next = path.to_owned();
        for _ in 0..MOST_PAGES {
            let malformed = |message| self.fault(&Method::GET, service, path, Cause::Malformed, message);
            let mut page = self.get(scope, service, &next).await?;
            let Some(Value::Array(found)) = page.get_mut(name).map(Value::take) else {
                return Err(malformed(format!("it has no list {name:?}")));
            };
            let was_empty = found.is_empty();
            items.extend(found);
            match following(&page, name) {
                Some(query) if !was_empty => {
                    let base = path.split('?').next().unwrap_or(path);
                    next = format!("{base}?{query}");
                }
                _ => return Ok(items),
            }
        }
        Err(self.fault(&Method::GET, service, path, Cause::Malformed, "its pages have no end".to_owned()))
    }

    /// The user that the token of `scope` is for, and the project.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn identity(&self, scope: &Scope) -> Result<(String, String), CallFault> {
        let token = self.token(scope).await?;
        Ok((token.user.clone(), token.project.clone()))
    }

    /// The roles that the token of `scope` carries.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn roles(&self, scope: &Scope) -> Result<Vec<String>, CallFault> {
        Ok(self.token(scope).await?.roles.clone())
    }

    /// The microversion that calls to `service` are made in; `None` where there are none.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn microversion(&self, service: Service) -> Result<Option<Microversion>, CallFault> {
        let token = self.token(&Scope::Home).await?;
        self.negotiated(&token, service).await
    }

    pub(crate) async fn token(&self, scope: &Scope) -> Result<Arc<Token>, CallFault> {
        if let Some(token) = self.kept(scope) {
            return Ok(token);
        }
        let _turn = self.signing_in.lock().await;
        if let Some(token) = self.kept(scope) {
            return Ok(token);
        }
        let mut tries = 1;
        let token = loop {
            match self.sign_in(scope).await {
                Ok(token) => break Arc::new(token),
                Err(fault) if fault.may_pass() && tries < TRIES => {
                    let asked = fault.retry_after.unwrap_or_default().min(LONGEST_WAIT);
                    self.clock.sleep(asked.max(Duration::from_millis(100 << (2 * tries)))).await;
                    tries += 1;
                }
                Err(fault) => return Err(fault),
            }
        };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), token.clone());
        Ok(token)
    }

    fn kept(&self, scope: &Scope) -> Option<Arc<Token>> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).filter(|token| token.is_fresh(self.clock.wall())).cloned()
    }

    pub(crate) fn forget(&self, scope: &Scope, old: &Arc<Token>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have signed in anew meanwhile.
        if tokens.get(scope).is_some_and(|token| Arc::ptr_eq(token, old)) {
            tokens.remove(scope);
        }
    }

    async fn sign_in(&self, scope: &Scope) -> Result<Token, CallFault> {
        let (method, path) = (Method::POST, "/auth/tokens");
        // Signing in changes nothing that anybody has to undo.
        let fault = |cause, message| CallFault {
            changes: false,
            ..self.fault(&method, Service::Identity, path, cause, message)
        };
        let project = match scope {
            Scope::Home => None,
            Scope::Project(id) => Some(id.as_str()),
        };
        let body = self.site.sign_in(project).map_err(|why| fault(Cause::Setup, why))?;
        let url = format!("{}{path}", self.site.identity());
        let sent = self.send(&method, &url, HeaderMap::new(), Some(&body), &fault).await;
        // The body holds the secret; no message may quote it.
        let (headers, answer) = sent.map_err(|fault| CallFault { changes: false, ..fault })?;
        let malformed = || fault(Cause::Malformed, "it holds no token".to_owned());
        let secret = headers.get("x-subject-token").cloned().ok_or_else(malformed)?;
        Token::read(&self.site, secret, &answer.body, self.clock.wall()).ok_or_else(malformed)
    }

    pub(crate) fn url(&self, token: &Token, service: Service) -> Option<String> {
        if let Some(url) = self.site.endpoints.get(&service) {
            // Cinder's addresses name the project of the token.
            return Some(url.replace("%(project_id)s", &token.project).trim_end_matches('/').to_owned());
        }
        if service == Service::Identity {
            return Some(self.site.identity());
        }
        token.catalogue.url(service).map(str::to_owned)
    }

    async fn once(
        &self,
        token: &Token,
        service: Service,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallFault> {
        let fault = |cause, message| self.fault(method, service, path, cause, message);
        let base = self.url(token, service).ok_or_else(|| {
            let region = self.site.region.as_deref().map(|region| format!(" in region {region}")).unwrap_or_default();
            let message = format!(
                "the catalogue has no {} address for interface {}{region}; correct `region` or `interface`, or give `endpoints`",
                service.as_str(),
                self.site.interface
            );
            fault(Cause::Setup, message)
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-auth-token"), token.secret.clone());
        if let Some(version) = self.negotiated(token, service).await? {
            let value = format!("{} {version}", version::header_name(service));
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static("openstack-api-version"), value);
            }
        }
        Ok(self.send(method, &format!("{base}{path}"), headers, body, &fault).await?.1)
    }

    async fn negotiated(&self, token: &Token, service: Service) -> Result<Option<Microversion>, CallFault> {
        let Some(wanted) = version::wanted(service) else { return Ok(None) };
        let known = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&service).copied();
        if let Some(version) = known {
            return Ok(Some(version.min(wanted)));
        }
        let Some(base) = self.url(token, service) else { return Ok(None) };
        // The document is at the root of the version: what comes after it is the project.
        let root = match base.rfind("/v") {
            Some(at) => &base[..at + 1 + base[at + 1..].find('/').unwrap_or(base.len() - at - 1)],
            None => base.as_str(),
        };
        let fault = |cause, message| self.fault(&Method::GET, service, "/", cause, message);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-auth-token"), token.secret.clone());
        let (_, answer) = self.send(&Method::GET, &format!("{root}/"), headers, None, &fault).await?;
        let newest = version::newest(&answer.body)
            .ok_or_else(|| fault(Cause::Malformed, "it names no microversion".to_owned()))?;
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(service, newest);
        Ok(Some(newest.min(wanted)))
    }

    async fn send(
        &self,
        method: &Method,
        url: &str,
        headers: HeaderMap,
        body: Option<&Value>,
        fault: &(dyn Fn(Cause, String) -> CallFault + Sync),
    ) -> Result<(HeaderMap, Answer), CallFault> {
        let http = self.http().map_err(|why| fault(Cause::Setup, why.to_owned()))?;
        let mut request = http.request(method.clone(), url).headers(headers);
        if let Some(body) = body {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        read_answer(&*self.clock, request, TIMEOUT, fault).await
    }
}

/// Sends within `limit`, and takes the answer apart.
pub(crate) async fn read_answer(
    clock: &dyn windlass_clock::Clock,
    request: reqwest::RequestBuilder,
    limit: Duration,
    fault: &(dyn Fn(Cause, String) -> CallFault + Sync),
) -> Result<(HeaderMap, Answer), CallFault> {
    match windlass_clock::deadline(clock, limit, exchange(request)).await {
        Err(_) => Err(fault(Cause::NoAnswer, format!("none within {} s", limit.as_secs()))),
        Ok(Err((cause, message))) => Err(fault(cause, message)),
        Ok(Ok((status, headers, bytes))) => {
            let request_id = ["x-openstack-request-id", "x-compute-request-id"]
                .iter()
                .find_map(|name| headers.get(*name)?.to_str().ok().map(str::to_owned));
            // 300 is how a version document with a choice comes.
            if status.is_success() || status == StatusCode::MULTIPLE_CHOICES {
                let body = match bytes.is_empty() {
                    true => Value::Null,
                    false => serde_json::from_slice(&bytes).map_err(|error| CallFault {
                        request_id: request_id.clone(),
                        ..fault(Cause::Malformed, error.to_string())
                    })?,
                };
                return Ok((headers, Answer { status: status.as_u16(), body, request_id }));
            }
            let retry_after = retry_after(&headers, clock.wall());
            let message = fault::message(&bytes);
            Err(CallFault { request_id, retry_after, ..fault(Cause::Status(status.as_u16()), message) })
        }
    }
}

/// What went wrong with a connection.
pub(crate) fn broken(error: reqwest::Error) -> (Cause, String) {
    let cause = if error.is_connect() || error.is_builder() { Cause::Unsent } else { Cause::NoAnswer };
    let mut text = error.without_url().to_string();
    text.truncate(text.floor_char_boundary(300));
    (cause, text)
}

/// Sends, and reads the whole answer.
async fn exchange(request: reqwest::RequestBuilder) -> Result<(StatusCode, HeaderMap, bytes::Bytes), (Cause, String)> {
    let mut response = request.send().await.map_err(broken)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err((Cause::Malformed, format!("it has more than {LARGEST_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, headers, body.freeze()))
}

/// The query of the page that follows.
fn following(page: &Value, name: &str) -> Option<String> {
    let links = page.get(format!("{name}_links")).and_then(Value::as_array);
    let of_list = links.and_then(|links| links.iter().find(|link| link.get("rel").is_some_and(|rel| rel == "next")));
    let href = of_list
        .and_then(|link| link.get("href"))
        .or_else(|| page.pointer("/links/next"))
        .or_else(|| page.get("next"))
        .and_then(Value::as_str)?;
    href.split_once('?').map(|(_, query)| query.to_owned())
}

/// How long a service asks to be left alone: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            let left = at.as_millisecond().saturating_sub(now.as_millisecond());
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        }
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}
