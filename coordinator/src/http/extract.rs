//! Parsing what is asked: JSON bodies with the field that is wrong, queries, tenants, conditions, pages.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use bramble_contracts::{
    Labels,
    api::Page,
    id::{Name, Tenant},
    problem::{Code, FieldError},
};
use serde::de::DeserializeOwned;

use super::{App, auth::Caller, error::ApiError, layers::Ids};

/// Largest body of a request.
pub(super) const BODY_MAX: usize = 1024 * 1024;
/// For the whole body: also of a client whom nobody waits for any more.
const BODY_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// Who asks, with which ids and headers.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Who.
    pub caller: Arc<Caller>,
    /// The ids.
    pub ids: Ids,
    headers: HeaderMap,
}

impl FromRequestParts<App> for Asked {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        let ids = parts.extensions.get::<Ids>().cloned();
        match (caller, ids) {
            (Some(caller), Some(ids)) => Ok(Self { caller, ids, headers: parts.headers.clone() }),
            (None, Some(_) | None) | (Some(_), None) => {
                Err(ApiError::new(Code::Unauthenticated, "this route needs a bearer token"))
            }
        }
    }
}

impl Asked {
    /// For which tenant.
    pub(super) fn tenant(&self) -> Result<Tenant, ApiError> {
        let missing = || ApiError::bad("the header x-tenant-id is missing: send the tenant's name, such as `default`");
        let text = self.headers.get("x-tenant-id").ok_or_else(missing)?;
        let text = text.to_str().map_err(|_| ApiError::bad("the header x-tenant-id is not a tenant's name"))?;
        text.parse()
            .map_err(|err: bramble_contracts::id::Invalid| ApiError::bad(format!("the header x-tenant-id: {err}")))
    }

    /// Does `If-Match` fit what is there? Without the header everything fits.
    pub(super) fn check(&self, there: Option<u64>) -> Result<(), ApiError> {
        let Some(wanted) = self.headers.get(header::IF_MATCH) else { return Ok(()) };
        let malformed = || ApiError::bad("the header If-Match is an ETag such as \"7\", several of them, or *");
        let tags: Vec<&str> = wanted.to_str().map_err(|_| malformed())?.split(',').map(str::trim).collect();
        if !tags.iter().all(|tag| *tag == "*" || (tag.len() > 1 && tag.starts_with('"') && tag.ends_with('"'))) {
            return Err(malformed());
        }
        let fits = there.is_some_and(|seq| tags.iter().any(|tag| *tag == "*" || *tag == format!("\"{seq}\"")));
        let detail = "it is not what If-Match names any more: read it again, then try again";
        if fits { Ok(()) } else { Err(ApiError::new(Code::PreconditionFailed, detail)) }
    }

    /// Does the caller insist on what is there?
    pub(super) fn is_conditional(&self) -> bool {
        self.headers.contains_key(header::IF_MATCH)
    }
}

/// The `ETag` of a version.
pub(super) fn etag(version: u64) -> [(header::HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{version}\"")).expect("invariant: digits fit a header");
    [(header::ETAG, value)]
}

/// A JSON body.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &App) -> Result<Self, ApiError> {
        let is_json = media_type(request.headers()).is_some_and(|t| t == "application/json");
        if !is_json {
            let detail = "the body is not JSON: send `content-type: application/json`";
            return Err(ApiError::new(Code::UnsupportedMediaType, detail));
        }
        parse(&bytes(request, state).await?).map(Self)
    }
}

/// Refuses a body that says it is something else than plain bytes.
pub(super) fn is_octets(headers: &HeaderMap) -> Result<(), ApiError> {
    let detail = "the body is not plain bytes: send `content-type: application/octet-stream`";
    let is = media_type(headers).is_some_and(|t| t == "application/octet-stream");
    is.then_some(()).ok_or_else(|| ApiError::new(Code::UnsupportedMediaType, detail))
}

/// A body of plain bytes, at most [`BODY_MAX`].
pub(super) async fn octets(request: Request, state: &App) -> Result<Bytes, ApiError> {
    is_octets(request.headers())?;
    bytes(request, state).await
}

/// A JSON body that may be left out.
pub(super) struct Maybe<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<App> for Maybe<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &App) -> Result<Self, ApiError> {
        let is_json = media_type(request.headers()).is_none_or(|t| t == "application/json");
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            let detail = "the body is not JSON: send `content-type: application/json`";
            return Err(ApiError::new(Code::UnsupportedMediaType, detail));
        }
        parse(&bytes).map(Self)
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

async fn bytes(request: Request, state: &App) -> Result<Bytes, ApiError> {
    let whole = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
    let whole = whole.map_err(|_| ApiError::new(Code::Timeout, "the body did not come within 20 s: send it again"))?;
    whole.map_err(|rejection| {
        if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::new(Code::TooLarge, "the body is larger than this route takes")
        } else {
            ApiError::bad("the body broke off")
        }
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // An array could pass for an object, field by field: nobody means that.
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first.is_some_and(|b| *b != b'{') {
        return Err(ApiError::bad("the body is not a JSON object: it begins with something else than `{`"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|err| {
        let path = err.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let inner = err.into_inner();
        if inner.is_data() {
            ApiError::invalid(vec![FieldError { path, message: inner.to_string() }])
        } else {
            ApiError::bad(format!("the body is not JSON: {inner}"))
        }
    })?;
    reader.end().map_err(|err| ApiError::bad(format!("the body is not JSON: {err}")))?;
    Ok(value)
}

/// The query of a request.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|q| Self(q.0)).map_err(|err| ApiError::bad(format!("the query cannot be read: {}", err.body_text())))
    }
}

/// A part of the path.
pub(super) struct Path<T>(pub T);

impl FromRequestParts<App> for Path<String> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        path.map(|p| Self(p.0)).map_err(|_| ApiError::bad("the path cannot be read"))
    }
}

impl FromRequestParts<App> for Path<Name> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        text.parse().map(Self).map_err(|_| ApiError::not_found("object", text))
    }
}

/// How many items a page has.
pub(super) fn limit(text: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(PAGE_DEFAULT) };
    let number = text.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n));
    number.ok_or_else(|| ApiError::bad(format!("`limit` is a number from 1 to {PAGE_MAX}")))
}

/// Reads `a=1,b=2`.
pub(super) fn labels(text: Option<&str>) -> Result<Labels, ApiError> {
    let bad = |part: &str| ApiError::bad(format!("`label` is written name=value,…; {part:.80} is not"));
    let mut labels = Labels::new();
    for part in text.unwrap_or_default().split(',').filter(|p| !p.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| bad(part))?;
        let key = key.parse().map_err(|_| bad(part))?;
        labels.insert(key, value.parse().map_err(|_| bad(part))?);
    }
    Ok(labels)
}

/// Reads `state=active,…` against the fields a list knows.
pub(super) fn fields<'a>(text: Option<&'a str>, known: &[&str]) -> Result<Vec<(&'a str, &'a str)>, ApiError> {
    let parts = text.unwrap_or_default().split(',').filter(|p| !p.is_empty());
    parts
        .map(|part| {
            let pair = part.split_once('=').filter(|(field, _)| known.contains(field));
            pair.ok_or_else(|| {
                ApiError::bad(format!("`field` is written field=value,… with one of {}", known.join(", ")))
            })
        })
        .collect()
}

/// A page of `all`, sorted by `key`, beginning after the cursor.
pub(super) fn page<T>(all: Vec<T>, key: impl Fn(&T) -> String, cursor: Option<&str>, limit: usize) -> Page<T> {
    let after = |item: &T| cursor.is_none_or(|c| key(item).as_str() > c);
    let mut items: Vec<T> = all.into_iter().filter(after).collect();
    items.sort_by_cached_key(&key);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = if more { items.last().map(key) } else { None };
    Page { items, next_cursor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap() {
        let all: Vec<u8> = (b'a'..=b'g').collect();
        let key = |b: &u8| char::from(*b).to_string();
        let (mut seen, mut cursor) = (vec![], None);
        loop {
            let p = page(all.clone(), key, cursor.as_deref(), 3);
            seen.extend(p.items);
            cursor = p.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn filters_are_read_or_refused() {
        assert_eq!(labels(Some("a=1,b=")).unwrap().len(), 2);
        assert!(labels(Some("a")).is_err() && labels(Some("=x")).is_err());
        assert_eq!(fields(Some("state=active"), &["state"]).unwrap(), vec![("state", "active")]);
        assert!(fields(Some("x=1"), &["state"]).is_err());
        assert!(limit(Some("0")).is_err() && limit(Some("1001")).is_err() && limit(None).is_ok());
    }
}
