//! What goes wrong, as people and programs see it: one map from our errors to HTTP, and nothing secret in it.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bramble_contracts::{
    id::Name,
    problem::{Code, FieldError, Problem},
};

use crate::{
    background::{port::MeshError, quarantine::KeeperError},
    domain::{enrollment::TokenRefused, lifecycle::NotNow},
    store::StoreError,
};

/// An error answer. The layer that knows the request's id writes it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// Which of the closed list.
    pub code: Code,
    /// What happened, where, and what to do next.
    pub detail: String,
    /// Places in the document that was sent.
    pub errors: Vec<FieldError>,
}

/// The HTTP status of a code.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Conflict => StatusCode::CONFLICT,
        Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Invalid | Code::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Recovering | Code::Unavailable | Code::DeviceUnreachable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code that fits a bare status of the framework.
pub(super) fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        405 => Code::MethodNotAllowed,
        413 => Code::TooLarge,
        416 => Code::RangeNotSatisfiable,
        415 => Code::UnsupportedMediaType,
        500.. => Code::Internal,
        _ => Code::BadRequest,
    }
}

impl ApiError {
    /// An error with a text.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: vec![] }
    }
    /// There is no such thing.
    pub(super) fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what} {name:.80} here: look at the list, and at x-tenant-id"))
    }
    /// A document that is readable and not acceptable.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map_or_else(|| "not acceptable".to_owned(), ToString::to_string);
        Self { code: Code::Invalid, detail, errors }
    }
    /// One field that is not acceptable.
    pub(super) fn field(path: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { path: path.to_owned(), message: message.into() }])
    }
    /// A query parameter or header that cannot be read.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }
    /// The answer's body.
    pub(super) fn problem(&self, request_id: &str) -> Problem {
        let status = status(self.code);
        Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            code: self.code,
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status(self.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes an error out, with what its status asks for.
pub(super) fn write(error: &ApiError, request_id: &str) -> Response {
    let body = serde_json::to_vec(&error.problem(request_id)).expect("invariant: a problem always fits JSON");
    let mut response = (status(error.code), body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match error.code {
        Code::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bramble\""));
        }
        Code::Recovering | Code::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        Code::BadRequest
        | Code::Forbidden
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::PreconditionFailed
        | Code::TooLarge
        | Code::RangeNotSatisfiable
        | Code::UnsupportedMediaType
        | Code::Invalid
        | Code::Unsupported
        | Code::DeviceUnreachable
        | Code::Timeout
        | Code::Internal => {}
    }
    response
}

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        match err {
            StoreError::Conflict { .. } => {
                Self::new(Code::Conflict, "somebody else changed it at the same time: read it again, then try again")
            }
            StoreError::Unavailable { .. } => {
                Self::new(Code::Unavailable, format!("{err}; it may or may not have been done: look, then try again"))
            }
        }
    }
}

impl From<NotNow> for ApiError {
    fn from(err: NotNow) -> Self {
        Self::new(Code::Conflict, err.to_string())
    }
}

impl From<TokenRefused> for ApiError {
    fn from(err: TokenRefused) -> Self {
        Self::new(Code::Forbidden, err.to_string())
    }
}

impl From<KeeperError> for ApiError {
    fn from(err: KeeperError) -> Self {
        Self::new(Code::Unavailable, format!("{err}; it is tried again until it is done: look again in a moment"))
    }
}

impl ApiError {
    /// What went wrong with a device that people call so.
    pub(super) fn of_device(name: &Name, err: &MeshError) -> Self {
        let code = match err {
            MeshError::Unreachable { .. } => Code::DeviceUnreachable,
            MeshError::Timeout { .. } => Code::Timeout,
            MeshError::Broker { .. } => Code::Unavailable,
        };
        Self::new(code, format!("device {name}: {err}"))
    }
}
