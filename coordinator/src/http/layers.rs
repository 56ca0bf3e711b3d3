//! What happens around every request: ids, authentication, rights, deadlines, panics, problems, numbers.
//!
//! Decides: deny by default; a route that is not in `routes` answers nobody. Deliberately does not: know resources.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bramble_contracts::{api::Outcome, problem::Code};
use futures::FutureExt as _;
use tracing::Instrument as _;

use super::{
    App,
    audit::{Deed, event},
    auth::{Caller, bearer},
    error::{self, ApiError},
    routes::{self, DEADLINE, Guard, Route},
};
use crate::{background::now, keys::entropy};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The ids of a request.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    /// Of this request.
    pub request: String,
    /// Of the caller's larger work.
    pub correlation: String,
    /// W3C trace context, with a span of ours.
    pub traceparent: String,
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

impl Ids {
    fn of(headers: &HeaderMap) -> Self {
        let kept = |name: &HeaderName| {
            let text = headers.get(name)?.to_str().ok()?;
            let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
        };
        let request = kept(&REQUEST_ID).unwrap_or_else(|| hex(&entropy::<16>()));
        let correlation = kept(&CORRELATION_ID).unwrap_or_else(|| request.clone());
        let trace =
            kept(&TRACEPARENT).and_then(|t| trace_of(&t)).unwrap_or_else(|| (hex(&entropy::<16>()), "01".into()));
        let traceparent = format!("00-{}-{}-{}", trace.0, hex(&entropy::<8>()), trace.1);
        Self { request, correlation, traceparent }
    }

    fn put(&self, headers: &mut HeaderMap) {
        for (name, text) in
            [(REQUEST_ID, &self.request), (CORRELATION_ID, &self.correlation), (TRACEPARENT, &self.traceparent)]
        {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
}

/// Trace id and flags of a `traceparent` that can be continued.
fn trace_of(text: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { return None };
    let is_hex = |t: &str, len: usize| t.len() == len && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let good = is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    (good && trace.bytes().any(|b| b != b'0') && span.bytes().any(|b| b != b'0'))
        .then(|| (trace.to_owned(), flags.to_owned()))
}

/// Around everything: ids, the deadline, panics, problems and numbers.
pub(super) async fn outer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let ids = Ids::of(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|m| m.as_str().to_owned());
    request.extensions_mut().insert(ids.clone());
    let span = tracing::info_span!("http", method = %format_args!("{method:.20}"), route, request_id = ids.request, correlation_id = ids.correlation, traceparent = ids.traceparent);
    let begun = now().mono_ms;
    let deadline = route.as_deref().and_then(|path| routes::find(&method, path)).map_or(DEADLINE, Route::deadline);
    let response = match tokio::time::timeout(deadline, handled(&app, request, next, &span)).await {
        Ok(Ok(response)) => response,
        Err(_) => {
            ApiError::new(Code::Timeout, format!("no answer within {} s: look, then try again", deadline.as_secs()))
                .into_response()
        }
        Ok(Err(Defect)) => {
            ApiError::new(Code::Internal, "a defect of ours; please report it with the request id").into_response()
        }
    };
    let mut response = as_problem(response, &ids);
    ids.put(response.headers_mut());
    let status = response.status().as_u16();
    let micros = now().mono_ms.saturating_sub(begun) * 1000;
    app.core.metrics.http(method.as_str(), route.as_deref(), status, micros);
    span.in_scope(|| tracing::debug!(status, micros, "answered"));
    response
}

/// The handler panicked.
struct Defect;

/// Runs the handler. One that may change something runs in a task of its own: a client that goes away, and the
/// deadline, stop the waiting for it and never the work between its intent and its outcome.
async fn handled(app: &App, request: Request, next: Next, span: &tracing::Span) -> Result<Response, Defect> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        let run = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
        return run.await.map_err(|_| Defect);
    }
    let place = app.under_way.enter();
    let work = async move {
        let response = next.run(request).await;
        drop(place);
        response
    };
    tokio::spawn(work.instrument(span.clone())).await.map_err(|_| Defect)
}

/// Every error is a problem, also those of the framework.
fn as_problem(mut response: Response, ids: &Ids) -> Response {
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut written = error::write(&error, &ids.request);
        for (name, value) in response.headers() {
            if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                written.headers_mut().insert(name, value.clone());
            }
        }
        return written;
    }
    if status.is_client_error() || status.is_server_error() {
        let is_ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
        if !is_ours {
            let why = status.canonical_reason().unwrap_or("the request cannot be answered");
            return error::write(&ApiError::new(error::code_of(status), why), &ids.request);
        }
    }
    response
}

/// Lets in who may: the route's right, held by the bearer of a known token.
pub(super) async fn rights(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().map(|m| m.as_str().to_owned()) else {
        // No such path: the fallback says so.
        return next.run(request).await;
    };
    let Some(route) = routes::find(request.method(), &path) else {
        return closed(&path, request.method());
    };
    if route.guard == Guard::Open {
        return next.run(request).await;
    }
    let token = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(bearer);
    let Some(caller) = token.and_then(|t| app.auth.caller(t)).cloned() else {
        let detail = "no or a wrong bearer token: send `Authorization: Bearer …`, see <state>/admin.token";
        return ApiError::new(Code::Unauthenticated, detail).into_response();
    };
    if let Guard::Right(right) = route.guard
        && !caller.rights.contains(&right)
    {
        let detail = format!("{} lacks the right {}", caller.subject, right.as_str());
        if route.acts() {
            let (parts, _) = request.into_parts();
            refused(&app, &parts, &caller, &detail).await;
        }
        return ApiError::new(Code::Forbidden, detail).into_response();
    }
    request.extensions_mut().insert(Arc::new(caller));
    next.run(request).await
}

/// A method or a path that is not in the table answers nobody, whatever the router knows.
fn closed(path: &str, method: &Method) -> Response {
    let methods = routes::methods(path);
    if methods.is_empty() {
        return ApiError::new(Code::Forbidden, "this route is not open").into_response();
    }
    let mut response =
        ApiError::new(Code::MethodNotAllowed, format!("{method:.20} does not exist at {path}")).into_response();
    if let Ok(value) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// What was not allowed leaves its event, too.
async fn refused(app: &App, request: &Parts, caller: &Caller, detail: &str) {
    let Some(ids) = request.extensions.get::<Ids>() else { return };
    let tenant = request.headers.get("x-tenant-id").and_then(|v| v.to_str().ok()).and_then(|t| t.parse().ok());
    let action = format!("http.{}", request.method.as_str().to_ascii_lowercase());
    let deed = Deed { action: &action, object: request.uri.path(), tenant, reason: "", before: None };
    let event = event(&deed, &caller.subject, ids, Outcome::Refused, detail, None);
    if let Err(err) = app.core.store.audit(&event).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_or_made_and_traces_continued() {
        let mut headers = HeaderMap::new();
        let made = Ids::of(&headers);
        assert_eq!((made.request.len(), made.traceparent.len()), (32, 55));
        headers.insert(REQUEST_ID, HeaderValue::from_static("r-1"));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        headers.insert(TRACEPARENT, HeaderValue::from_static(trace));
        let kept = Ids::of(&headers);
        assert_eq!((kept.request.as_str(), kept.correlation.as_str()), ("r-1", "r-1"));
        assert!(kept.traceparent.starts_with(&trace[..36]) && !kept.traceparent.contains("00f067aa0ba902b7"));
        for bad in ["", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            assert_eq!(trace_of(bad), None, "{bad}");
        }
    }
}
