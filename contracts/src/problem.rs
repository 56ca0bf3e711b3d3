//! What an HTTP error looks like: RFC 9457 `application/problem+json` with a closed `code`.

use serde::{Deserialize, Serialize};

/// One thing wrong with a document, at a place in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Where: `spec.containers[1].ports[0].host`; empty for the whole document.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// The closed list of codes. Programs decide by these, never by texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request cannot be read.
    BadRequest,
    /// No or a wrong bearer token.
    Unauthenticated,
    /// The token lacks a right.
    Forbidden,
    /// No such thing.
    NotFound,
    /// That method does not exist here.
    MethodNotAllowed,
    /// Somebody else changed it meanwhile, or the name is taken.
    Conflict,
    /// `If-Match` does not fit.
    PreconditionFailed,
    /// The body is too large.
    TooLarge,
    /// The part that was asked for is not there; `content-range` has the size.
    RangeNotSatisfiable,
    /// The body is of another media type.
    UnsupportedMediaType,
    /// The document is readable and not acceptable; `errors` says where.
    Invalid,
    /// Asked for something that does not exist yet in this version; `errors` says which.
    Unsupported,
    /// The coordinator is catching up with its store: ask again.
    Recovering,
    /// The store cannot be reached or refuses: ask again.
    Unavailable,
    /// The device cannot be reached.
    DeviceUnreachable,
    /// The device did not answer in time.
    Timeout,
    /// A defect of ours.
    Internal,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Always `about:blank`: `code` says which.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, where, and what to do next.
    pub detail: String,
    /// Which of the closed list.
    pub code: Code,
    /// For the logs.
    pub request_id: String,
    /// Places in the document that was sent.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}
