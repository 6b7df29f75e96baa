//! What is no JSON: the content of images.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method};

use crate::catalogue::Service;
use crate::cloud::{Answer, Cloud, Scope, TIMEOUT, broken, read_answer};
use crate::fault::{CallFault, Cause};
use crate::token::Token;

/// Content that a service is about to send.
#[derive(Debug)]
pub struct Download(reqwest::Response);

impl Download {
    /// How much it is, if the service has said so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// The content, as it comes, to be sent elsewhere.
    #[must_use]
    pub fn into_body(self) -> Body {
        Body::wrap_stream(self.0.bytes_stream())
    }
}

impl Cloud {
    /// Begins to read content. Is tried once: whoever needs it again asks again.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn download(&self, scope: &Scope, service: Service, path: &str) -> Result<Download, CallFault> {
        let method = Method::GET;
        let fault = |cause, message| self.fault(&method, service, path, cause, message);
        let token = self.token(scope).await?;
        let request = self.bare(&token, &method, service, path, &fault)?;
        match windlass_clock::deadline(&**self.clock(), TIMEOUT, request.send()).await {
            Err(_) => Err(fault(Cause::NoAnswer, format!("none within {} s", TIMEOUT.as_secs()))),
            Ok(Err(error)) => {
                let (cause, message) = broken(error);
                Err(fault(cause, message))
            }
            Ok(Ok(response)) if response.status().is_success() => Ok(Download(response)),
            Ok(Ok(response)) => {
                let status = response.status().as_u16();
                if status == 401 {
                    // The next try signs in anew.
                    self.forget(scope, &token);
                }
                Err(fault(Cause::Status(status), String::new()))
            }
        }
    }

    /// Sends content with `PUT`, within `limit`.
    ///
    /// # Errors
    ///
    /// A [`CallFault`].
    pub async fn upload(
        &self,
        scope: &Scope,
        service: Service,
        path: &str,
        content: Body,
        limit: Duration,
    ) -> Result<Answer, CallFault> {
        let method = Method::PUT;
        let fault = |cause, message| self.fault(&method, service, path, cause, message);
        let token = self.token(scope).await?;
        let request = self.bare(&token, &method, service, path, &fault)?;
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(content);
        let (_, answer) = read_answer(&**self.clock(), request, limit, &fault).await.inspect_err(|fault| {
            if fault.status() == Some(401) {
                self.forget(scope, &token);
            }
        })?;
        Ok(answer)
    }

    /// A request of a service that has no microversions.
    fn bare(
        &self,
        token: &Token,
        method: &Method,
        service: Service,
        path: &str,
        fault: &(dyn Fn(Cause, String) -> CallFault + Sync),
    ) -> Result<reqwest::RequestBuilder, CallFault> {
        let base = self.url(token, service).ok_or_else(|| {
            let text = format!("the catalogue has no {} address; give `endpoints`", service.as_str());
            fault(Cause::Setup, text)
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-auth-token"), HeaderValue::clone(&token.secret));
        let http = self.http().map_err(|why| fault(Cause::Setup, why.to_owned()))?;
        Ok(http.request(method.clone(), format!("{base}{path}")).headers(headers))
    }
}
