//! What every request passes before anything is done for it: who asks, from where, how often; and what every answer
//! gets on its way out.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use windlass_api::{REQUEST_MARK, Role, Whoami};

use crate::access::Denied;
use crate::app::{App, Peer};
use crate::refusal::{self, Answer, Carried, Refusal};

/// The cookie that holds a token for people with a browser.
pub(crate) const COOKIE: &str = "windlass_token";
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// `None` where nobody has to be known.
    pub(crate) who: Option<Whoami>,
    pub(crate) from: IpAddr,
    pub(crate) request_id: String,
    /// Whether they came with a cookie.
    pub(crate) cookie: bool,
}

impl Actor {
    /// The name, for keys.
    pub(crate) fn name(&self) -> &str {
        self.who.as_ref().map_or("-", |who| &who.name)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // The guard has put it there.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Refusal::internal("nobody has looked who is asking"))
    }
}

/// Paths that need nobody to be known.
fn is_open(path: &str, app: &App) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/login" | "/api/v1/openapi.json" | "/favicon.ico")
        || path.starts_with("/assets/")
        || (path == "/metrics" && app.open_metrics)
}

/// The outermost layer.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = app.clock.monotonic();
    let address = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.address);
    let request_id = request_id(&app, request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let html = !path.starts_with(windlass_api::BASE) && accepts_html(request.headers());
    let mut actor = Actor { who: None, from: address, request_id, cookie: false };
    let (parts, body) = request.into_parts();
    let admitted = admit(&app, &mut actor, &parts).await;
    let mut response = match admitted {
        Err(refusal) if html && refusal.status() == http::StatusCode::UNAUTHORIZED && app.pages.is_some() => {
            crate::pages::to_login(&path, parts.uri.query())
        }
        Err(refusal) => refusal.into_response(),
        Ok(()) => {
            let mut request = Request::from_parts(parts, body);
            request.extensions_mut().insert(actor.clone());
            next.run(request).await
        }
    };
    if let Some(Carried(mut problem)) = response.extensions_mut().remove::<Carried>() {
        problem.request_id = Some(actor.request_id.clone());
        response = match &app.pages {
            Some(pages) if html => crate::pages::problem(&app, &**pages, &actor, response, *problem),
            _ => refusal::write(response, &problem),
        };
    }
    finish(&app, &mut response, &actor);
    let took = app.clock.monotonic().saturating_sub(begun);
    let status = response.status().as_u16();
    app.metrics.request(method.as_str(), &route, status, took);
    // The path only: a query or a header may hold what nobody should read.
    tracing::info!(
        %method, path = without_tokens(&path), status, ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        who = actor.name(), from = %actor.from, request = actor.request_id, "request"
    );
    response
}

fn request_id(app: &App, headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let ordinary = |text: &&str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    // A token in the wrong header must not end in the logs.
    let given = given.filter(ordinary).filter(|text| !text.contains(crate::token::PREFIX));
    given.map_or_else(|| app.request_id(), str::to_owned)
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/html"))
}

/// Lets a request in, or not.
async fn admit(app: &App, actor: &mut Actor, request: &Parts) -> Answer<()> {
    let path = request.uri.path();
    check_host(app, request)?;
    check_site(request)?;
    let now = app.clock.monotonic();
    let client = actor.from.to_string();
    if is_open(path, app) {
        return slowed(app.rate.take(&client, now));
    }
    match authenticate(app, actor, request) {
        Ok(who) => {
            slowed(app.rate.take(&format!("{} {client}", who.name), now))?;
            actor.who = Some(who);
            Ok(())
        }
        Err(refusal) => {
            app.metrics.denied(&refusal.problem().code);
            // Asking without a token is how a browser begins; trying tokens is something else.
            if refusal.problem().code != "no_token" {
                if let Err(wait) = app.denied_rate.take(&client, now) {
                    return slowed(Err(wait));
                }
                let what = format!("{} {path}", request.method);
                app.audit.denied(actor, &refusal.problem().code, &without_tokens(&what)).await;
            }
            Err(refusal)
        }
    }
}

/// Somebody may have put a token into the path.
fn without_tokens(text: &str) -> String {
    let shortened: String = text.chars().take(200).collect();
    match shortened.find(crate::token::PREFIX) {
        Some(at) => format!("{}…", &shortened[..at]),
        None => shortened,
    }
}

fn slowed(taken: Result<(), std::time::Duration>) -> Answer<()> {
    taken.map_err(|wait| {
        Refusal::new(
            http::StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "Too many requests",
            "this client asks more often than it may",
        )
        .retry_after(wait.as_secs() + 1)
    })
}

/// A page of another site may have let its name point here: then the browser sends that name.
fn check_host(app: &App, request: &Parts) -> Answer<()> {
    let given = request.uri.host().map(str::to_owned).or_else(|| {
        let host = request.headers.get(header::HOST)?.to_str().ok()?;
        host.parse::<http::uri::Authority>().ok().map(|authority| authority.host().to_owned())
    });
    let Some(host) = given else {
        return Err(Refusal::bad_request("no_host", "the request does not say which host it is for"));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let known = app.hosts.iter().any(|known| known.eq_ignore_ascii_case(bare));
    if known || (!app.local.ip().is_loopback() && app.hosts.is_empty()) {
        // Beyond loopback there are TLS and tokens: another name has no certificate and no cookie.
        return Ok(());
    }
    let ours = bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| {
            ip.is_loopback()
                || (!app.local.ip().is_loopback() && (ip == app.local.ip() || app.local.ip().is_unspecified()))
        });
    if ours {
        return Ok(());
    }
    Err(Refusal::new(
        http::StatusCode::MISDIRECTED_REQUEST,
        "unknown_host",
        "This is not that host",
        "this server does not go by the name that the request is for",
    )
    .hint("add the name to the server's hosts"))
}

/// Changes come from our own pages or from programs, never from a page of another site.
fn check_site(request: &Parts) -> Answer<()> {
    let headers = &request.headers;
    if matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let foreign = || Refusal::forbidden("cross_site", "a page of another site may not change anything here");
    if let Some(origin) = headers.get(header::ORIGIN) {
        let host = request.uri.authority().map(|authority| authority.as_str().to_owned());
        let host = host.or_else(|| Some(headers.get(header::HOST)?.to_str().ok()?.to_owned()));
        let same = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .zip(host)
            .is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(&host));
        if !same {
            return Err(foreign());
        }
    }
    if let Some(site) = headers.get("sec-fetch-site")
        && !matches!(site.to_str(), Ok("same-origin" | "none"))
    {
        return Err(foreign());
    }
    let browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    let api = request.uri.path().starts_with(windlass_api::BASE);
    let bearer = headers.contains_key(header::AUTHORIZATION);
    // A browser that is too old to say where it comes from is recognised by its cookie.
    let unclear = !browser && !bearer && headers.contains_key(header::COOKIE);
    if ((api && browser && !bearer) || unclear) && !headers.contains_key(REQUEST_MARK) {
        return Err(Refusal::forbidden(
            "unmarked",
            format!("a change that a page asks for carries the header {REQUEST_MARK}"),
        ));
    }
    Ok(())
}

fn authenticate(app: &App, actor: &mut Actor, request: &Parts) -> Answer<Whoami> {
    let Some(grants) = app.grants() else {
        // Without an access file the server listens on loopback only.
        return Ok(Whoami { name: "local".to_owned(), role: Role::Admin, by: "loopback".to_owned() });
    };
    let now = app.clock.wall();
    let headers = &request.headers;
    let denied = |denied: Denied| match denied {
        Denied::Weak => Refusal::unauthorized("weak_token", "this is not a token of windlass")
            .hint("`windlass token new` makes one"),
        Denied::Unknown => Refusal::unauthorized("unknown_token", "nobody has this token or certificate"),
        Denied::Expired(name) => {
            Refusal::unauthorized("expired_token", format!("what {name} shows is no longer valid"))
        }
    };
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let token = token.ok_or_else(|| denied(Denied::Weak))?;
        return grants.by_token(token, "token", now).map_err(denied);
    }
    if let Some(token) = cookie(headers) {
        let who = grants.by_token(token, "cookie", now).map_err(denied)?;
        actor.cookie = true;
        return Ok(who);
    }
    if let Some(names) = request.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref()) {
        return grants.by_certificate(names, now).map_err(denied);
    }
    Err(Refusal::unauthorized("no_token", "a token is needed")
        .hint("send `Authorization: Bearer TOKEN`; `windlass token new` makes a token and its line of the access file"))
}

/// The token in the cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE && !value.is_empty()).then_some(value))
}

/// Lets in whoever has at least `role`.
pub(crate) async fn allow(app: &App, actor: &Actor, role: Role, what: &str) -> Answer<()> {
    if actor.who.as_ref().is_some_and(|who| who.role >= role) {
        return Ok(());
    }
    app.metrics.denied("role");
    app.audit.denied(actor, "role", &without_tokens(what)).await;
    let own = actor.who.as_ref().map_or("nobody", |who| who.role.as_str());
    let needed = role.as_str();
    Err(Refusal::forbidden("role", format!("{needed} is needed, {} is {own}", actor.name())))
}

/// What every answer gets.
fn finish(app: &App, response: &mut Response, actor: &Actor) {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "same-origin");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(header::CACHE_CONTROL, "no-store");
    if app.tls {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    if let Ok(value) = HeaderValue::from_str(&actor.request_id) {
        headers.insert(REQUEST_ID, value);
    }
}
