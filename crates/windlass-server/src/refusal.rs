//! Problems as answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use windlass_api::{Fault, Problem, problem};
use windlass_engine::EngineError;
use windlass_store::StoreError;

/// Why a request is not carried out; becomes a problem document on the way out.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    problem: Box<Problem>,
    retry_after_s: Option<u64>,
    authenticate: bool,
}

/// What handlers answer.
pub(crate) type Answer<T> = Result<T, Refusal>;

/// A problem in a response, until the outermost layer writes it.
#[derive(Clone, Debug)]
pub(crate) struct Carried(pub(crate) Box<Problem>);

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        let problem = Problem {
            kind: format!("/problems/{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into(),
            ..Problem::default()
        };
        Self { problem: Box::new(problem), retry_after_s: None, authenticate: false }
    }

    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "The request cannot be understood", detail)
    }

    pub(crate) fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, "There is no such thing", detail)
    }

    pub(crate) fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "It does not fit as things are", detail)
    }

    pub(crate) fn invalid(code: &str, detail: impl Into<String>, faults: Vec<Fault>) -> Self {
        let title = "What was sent has faults";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, detail).faults(faults)
    }

    pub(crate) fn forbidden(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, "That is not allowed", detail)
    }

    pub(crate) fn unauthorized(code: &str, detail: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, code, "Nobody knows who is asking", detail);
        refusal.authenticate = true;
        refusal
    }

    pub(crate) fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "Not at the moment", detail).retry_after(1)
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed", detail)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    pub(crate) fn faults(mut self, faults: Vec<Fault>) -> Self {
        self.problem.faults = faults;
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }

    pub(crate) fn into_problem(self) -> Problem {
        *self.problem
    }

    /// A refusal that says what a stored one said.
    pub(crate) fn of_problem(problem: Problem) -> Self {
        Self { problem: Box::new(problem), retry_after_s: None, authenticate: false }
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.authenticate {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"windlass\""));
        }
        response.extensions_mut().insert(Carried(self.problem));
        response
    }
}

/// Writes a problem as the body of `response`.
pub(crate) fn write(response: Response, problem: &Problem) -> Response {
    let (mut parts, _) = response.into_parts();
    // A problem is text, numbers and lists of those.
    let body = serde_json::to_vec(problem).unwrap_or_default();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    Response::from_parts(parts, body.into())
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unknown(_) => Self::unavailable("outcome_unknown", error.to_string())
                .hint("it may have been done or not: ask again with the same Idempotency-Key, or look"),
            StoreError::Budget(_) | StoreError::Unusable(_) => Self::internal(error.to_string()),
            _ => Self::unavailable("store_unavailable", error.to_string()),
        }
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::Store(error) => error.into(),
            EngineError::InvalidSpec { faults, .. } => {
                let faults =
                    faults.into_iter().map(|fault| Fault::new(format!("/spec{}", fault.pointer), fault.message));
                Self::invalid("invalid_spec", text, faults.collect())
            }
            EngineError::UnknownKind { .. } => {
                Self::invalid("unknown_kind", text.clone(), vec![Fault::new("/kind", text)])
            }
            EngineError::Plan(failure) => {
                let faults = failure.causes.iter().map(|cause| Fault::new("", cause)).collect();
                let refusal = Self::invalid(&failure.code, failure.message, faults);
                match failure.hint {
                    Some(hint) => refusal.hint(hint),
                    None => refusal,
                }
            }
            EngineError::NoSuchJob(_) => {
                Self::not_found("no_such_job", text).hint("`GET /api/v1/jobs` lists what there is")
            }
            EngineError::NoSuchStanding(_) => {
                Self::not_found("no_such_schedule", text).hint("`GET /api/v1/schedules` lists what there is")
            }
            EngineError::Schedule(faults) => Self::invalid("invalid_schedule", text, crate::schedules::faults(faults)),
            EngineError::StandingName(_) => Self::conflict("name_taken", text),
            EngineError::StandingChanged(_) => Self::conflict("changed_meanwhile", text),
            EngineError::Ambiguous { .. } => Self::conflict("ambiguous", text),
            EngineError::Command(_) => Self::conflict("refused", text),
            EngineError::NameTaken => Self::conflict("name_taken", text),
            EngineError::JobBroken { .. } => Self::conflict("job_broken", text),
            EngineError::HeldElsewhere | EngineError::ClaimLost => Self::unavailable("held_elsewhere", text),
            EngineError::ShuttingDown => Self::unavailable("shutting_down", text),
            EngineError::ValueTooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "value_too_large", "That is too large", text)
            }
            other => {
                tracing::error!(error = %other, "a request failed");
                Self::internal(text)
            }
        }
    }
}
