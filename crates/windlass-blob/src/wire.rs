//! The HTTP transport under the cloud stores: one reqwest client, and a layer that turns refusals into errors which
//! keep what the store layer would lose (status, S3 error code, `Retry-After`).

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http::{Method, StatusCode, header};
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

/// Error documents are a few hundred bytes; a proxy's page in their place may be any size.
const ERROR_DOCUMENT_LIMIT: usize = 64 * 1024;

/// Makes ring the process's one TLS provider. Harmless to call again, or after the program has chosen another.
///
/// [`crate::BlobStore::open`] calls it; a program with TLS of its own calls it first thing in `main`.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A refusal by a store, as far as it is safe to show: some stores quote signed headers in their error documents,
/// the session token among them, so nothing else of the document is kept.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// The store's own code, such as `SlowDown` or `SignatureDoesNotMatch`.
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    /// The `Retry-After` header as it came.
    pub(crate) retry_after: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store answered {}", self.status.as_u16())?;
        match &self.code {
            Some(code) => write!(f, " {code}")?,
            None => write!(f, " {}", self.status.canonical_reason().unwrap_or("(unknown status)"))?,
        }
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

impl StdError for Refusal {}

/// Builds the clients.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) connect_timeout: Duration,
    /// A machine-wide proxy must not swallow requests to this machine.
    pub(crate) loopback: bool,
    /// PEM certificates trusted besides the system's.
    pub(crate) extra_roots: Vec<reqwest::Certificate>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain_allowed = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        // No total timeout: a transfer may take hours. Silence is noticed by the caller, on its own clock.
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .https_only(!plain_allowed);
        if self.loopback {
            builder = builder.no_proxy();
        }
        if !self.extra_roots.is_empty() {
            builder = builder.tls_certs_merge(self.extra_roots.iter().cloned());
        }
        let client = builder.build().map_err(|source| object_store::Error::Generic {
            store: "HTTP",
            source: format!("cannot set up TLS: {source}").into(),
        })?;
        Ok(HttpClient::new(Wire(HttpClient::new(client))))
    }
}

#[derive(Debug)]
struct Wire(HttpClient);

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let may_fail_with_200 = may_fail_with_200(&request);
        let is_head = request.method() == Method::HEAD;
        let response = self.0.execute(request).await?;
        let status = response.status();
        if status.is_success() {
            return if may_fail_with_200 { checked(response).await } else { Ok(response) };
        }
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (parts, body) = response.into_parts();
        // An answer to HEAD has no body, only its length.
        let document = if is_head { String::new() } else { read_document(body).await.unwrap_or_default() };
        let code = element(&document, "Code");
        let mapped_above = match status {
            // Not the object is missing but what it should be in, which the store layer does not tell apart.
            StatusCode::NOT_FOUND => {
                !matches!(code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound" | "NoSuchUpload"))
            }
            // The store layer needs these for conditional writes.
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => true,
            _ => false,
        };
        if mapped_above {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(document)));
        }
        Err(refused(Refusal { status, code, message: element(&document, "Message"), retry_after }))
    }
}

/// `Unknown` keeps the store layer from trying again by itself.
fn refused(refusal: Refusal) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, refusal)
}

/// S3 begins the answer to these before it knows the outcome, and may put an error document behind status 200.
fn may_fail_with_200(request: &HttpRequest) -> bool {
    let completes = request.method() == Method::POST
        && request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uploadId=")));
    completes || request.headers().contains_key("x-amz-copy-source")
}

async fn checked(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let document = read_document(body).await?;
    if document.contains("<Error>") {
        // 500 stands for what the status line would have said, had it been written later.
        return Err(refused(Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: element(&document, "Code"),
            message: element(&document, "Message"),
            retry_after: None,
        }));
    }
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(document)))
}

async fn read_document(body: HttpResponseBody) -> Result<String, HttpError> {
    let mut stream = body.bytes_stream();
    let mut document = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let room = ERROR_DOCUMENT_LIMIT - document.len();
        document.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if document.len() == ERROR_DOCUMENT_LIMIT {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&document).into_owned())
}

/// The text of the first `<name>` of an error document, shortened to a line.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    (!line.trim().is_empty()).then(|| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_document_gives_code_and_message_and_nothing_else() {
        let document = "<?xml?><Error><Code>SignatureDoesNotMatch</Code><Message>no\nmatch</Message>\
                        <CanonicalRequest>x-amz-security-token:hunter2</CanonicalRequest></Error>";
        let refusal = Refusal {
            status: StatusCode::FORBIDDEN,
            code: element(document, "Code"),
            message: element(document, "Message"),
            retry_after: None,
        };
        assert_eq!(refusal.to_string(), "the store answered 403 SignatureDoesNotMatch (no match)");
        assert_eq!(element("<Code>", "Code"), None);
        assert_eq!(element("<html>", "Code"), None);
    }
}
