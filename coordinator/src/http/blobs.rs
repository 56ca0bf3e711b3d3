//! Binaries of releases: sent by their digest, and fetched by it, in parts where asked.
//!
//! Decides: what is kept. A binary goes to a nameless file of our own first, is compared with its digest there, and only
//! then into the store: what is cut off or wrong leaves nothing anywhere. Deliberately does not: say who may roll it out.

use std::{ops::Range, path::Path as FilePath, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bramble_contracts::{
    api::BinaryView,
    bytes::{Fixed, Sha256},
    problem::Code,
    release::ARTIFACT_MAX,
};
use futures::{StreamExt as _, stream};
use sha2::Digest as _;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};

use super::{
    App,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Path, is_octets},
};
use crate::{keys::random_text, store::blobs};

/// Binaries that come in at once.
pub(super) const UPLOADS_MAX: usize = 2;
/// Without a byte of the body.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/releases/blobs/{sha256}", get(fetch).put(take))
}

fn digest(text: &str) -> Result<Sha256, ApiError> {
    text.parse().map_err(|err| ApiError::bad(format!("a binary is named by its SHA-256: {err}")))
}

async fn take(
    State(app): State<App>,
    asked: Asked,
    Path(sha256): Path<String>,
    request: Request,
) -> Result<Json<BinaryView>, ApiError> {
    let sha256 = digest(&sha256)?;
    is_octets(request.headers())?;
    app.writable()?;
    let busy = || ApiError::new(Code::Unavailable, "other binaries are coming in: try again in a moment");
    let _place = app.uploads.try_acquire().map_err(|_| busy())?;
    let object = format!("release-binary/{sha256}");
    let deed = Deed { action: "release-binary.upload", object: &object, tenant: None, reason: "", before: None };
    let work = async {
        let view = tokio::select! {
            kept = keep(&app, sha256, request) => kept?,
            () = app.stopped() => return Err(ApiError::new(Code::Unavailable, "the coordinator stops: send it again")),
        };
        let after = serde_json::to_value(&view).ok();
        Ok((view, after))
    };
    audited(&app, &asked, deed, work).await.map(Json)
}

/// Writes it also where it is already: it is the same, and what was lost of it is there again.
async fn keep(app: &App, sha256: Sha256, request: Request) -> Result<BinaryView, ApiError> {
    let (mut file, size) = spool(&app.spool, sha256, request).await?;
    let failed = |err| no_file(&app.spool, &err);
    file.rewind().await.map_err(failed)?;
    let (mut n, mut left) = (0, size);
    while left > 0 {
        let mut part = vec![0; blobs::PART.min(usize::try_from(left).unwrap_or(blobs::PART))];
        file.read_exact(&mut part).await.map_err(failed)?;
        left -= part.len() as u64;
        app.core.store.put_blob_part(&sha256, n, part.into()).await?;
        n += 1;
    }
    app.core.store.seal_blob(&sha256, size).await?;
    Ok(BinaryView { sha256, size })
}

fn no_file(dir: &FilePath, err: &std::io::Error) -> ApiError {
    let detail = format!("the binary cannot be kept in {} while it comes in: {err}; nothing was kept", dir.display());
    ApiError::new(Code::Unavailable, detail)
}

/// Takes the body into a file that has no name any more, and compares it with its digest.
async fn spool(dir: &FilePath, sha256: Sha256, request: Request) -> Result<(File, u64), ApiError> {
    let failed = |err| no_file(dir, &err);
    let mut file = nameless(dir).await.map_err(failed)?;
    let mut body = request.into_body().into_data_stream();
    let (mut digest, mut size) = (sha2::Sha256::new(), 0u64);
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, body.next()).await;
        let next =
            next.map_err(|_| ApiError::new(Code::Timeout, "the binary stopped coming for 20 s: send it again"))?;
        let Some(piece) = next else { break };
        let piece = piece.map_err(|_| ApiError::bad("the binary broke off: send it again"))?;
        size += piece.len() as u64;
        if size > ARTIFACT_MAX {
            let detail = format!("a binary has at most {ARTIFACT_MAX} bytes: nothing was kept");
            return Err(ApiError::new(Code::TooLarge, detail));
        }
        digest.update(&piece);
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let got: Sha256 = Fixed(digest.finalize().into());
    if size == 0 {
        return Err(ApiError::field("", "an empty binary is none: nothing was kept"));
    }
    if got != sha256 {
        let detail =
            format!("what came ({size} bytes) has digest {got} and not {sha256}: nothing was kept, send it again");
        return Err(ApiError::field("", detail));
    }
    Ok((file, size))
}

/// A file that goes when it is closed, also when we die.
async fn nameless(dir: &FilePath) -> std::io::Result<File> {
    let path = dir.join(format!("upload-{}", random_text()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).await?;
    tokio::fs::remove_file(&path).await?;
    Ok(file)
}

/// What of a binary is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// A part that is not there.
    Nowhere,
}

/// Reads `Range` (RFC 9110, section 14): one range of bytes; what is no such thing asks for all.
fn wanted(headers: &HeaderMap, size: u64, tag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|only| only != tag) {
        return Wanted::All;
    }
    let range = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let Some((first, last)) = range else { return Wanted::All };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        (Some(_) | None, Some(_) | None) => return Wanted::All,
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::Nowhere }
}

async fn fetch(State(app): State<App>, Path(sha256): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let sha256 = digest(&sha256)?;
    let missing = || ApiError::new(Code::NotFound, format!("there is no binary {sha256} here: look at the releases"));
    let size = app.core.store.blob_size(&sha256).await?.ok_or_else(missing)?;
    let tag = format!("\"{sha256}\"");
    let (status, part) = match wanted(&headers, size, &tag) {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Nowhere => {
            let err =
                ApiError::new(Code::RangeNotSatisfiable, format!("the binary has {size} bytes, none of them there"));
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], err).into_response());
        }
    };
    let mut response = Response::new(body(&app, sha256, size, part.clone()));
    *response.status_mut() = status;
    let mut set = |name, text: &str| {
        response.headers_mut().insert(name, HeaderValue::from_str(text).expect("invariant: digits and digests"));
    };
    set(header::CONTENT_TYPE, "application/octet-stream");
    set(header::CONTENT_LENGTH, &(part.end - part.start).to_string());
    set(header::ACCEPT_RANGES, "bytes");
    set(header::ETAG, &tag);
    if status == StatusCode::PARTIAL_CONTENT {
        set(header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    Ok(response)
}

/// A part of a binary, read as it is taken; a part that cannot be read breaks the answer off, and is asked for again.
fn body(app: &App, sha256: Sha256, size: u64, part: Range<u64>) -> Body {
    let store = Arc::clone(&app.core.store);
    Body::from_stream(stream::try_unfold(part, move |left| {
        let store = Arc::clone(&store);
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            // Up to the next boundary, so that each read is one part of the store.
            let step = (blobs::PART as u64 - left.start % blobs::PART as u64).min(left.end - left.start);
            let len = usize::try_from(step).unwrap_or(blobs::PART);
            let read = blobs::read(&*store, &sha256, size, left.start, len).await;
            match read.map_err(std::io::Error::other)? {
                Some(bytes) => Ok(Some((bytes, left.start + step..left.end))),
                None => Err(std::io::Error::other("a part of the binary is missing in the store")),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_what_is_none_asks_for_all() {
        let of = |range: &str| wanted(&HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]), 100, "\"t\"");
        assert_eq!(wanted(&HeaderMap::new(), 100, "\"t\""), Wanted::All);
        assert_eq!(of("bytes=0-0"), Wanted::Part(0..1));
        assert_eq!(of("bytes=10-"), Wanted::Part(10..100));
        assert_eq!(of("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(of("bytes=-1000"), Wanted::Part(0..100));
        assert_eq!(of("bytes=90-18446744073709551615"), Wanted::Part(90..100));
        for nowhere in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(of(nowhere), Wanted::Nowhere, "{nowhere}");
        }
        for all in ["bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2", "bytes=a-"] {
            assert_eq!(of(all), Wanted::All, "{all}");
        }
        let with = |tag: &str| {
            let range = (header::RANGE, HeaderValue::from_static("bytes=1-"));
            wanted(&HeaderMap::from_iter([range, (header::IF_RANGE, tag.parse().unwrap())]), 100, "\"t\"")
        };
        assert_eq!((with("\"t\""), with("\"u\"")), (Wanted::Part(1..100), Wanted::All));
    }
}
