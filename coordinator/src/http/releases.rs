//! Releases of the agent and the keys that vouch for them: published and shown.
//!
//! Decides: statuses, and that every refusal leaves its event. What is refused, and why, `domain::publish` decides;
//! the binaries are in `blobs`.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequest, Request, State},
    routing::get,
};
use bramble_contracts::{
    api::{Outcome, Page, ReleaseKeysView, ReleaseView},
    problem::Code,
    release::{MANIFEST_SIGNED_MAX, ReleaseError, ReleaseKeysError, ReleaseManifest},
    subjects::Bucket,
    v1::AgentVersion,
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    App, RACES,
    audit::{Deed, audited, conclude},
    error::ApiError,
    extract::{Asked, Path, Query, limit, octets, page},
};
use crate::{
    background::now,
    domain::{
        publish::{self, KEYS_SIGNED_MAX, KeysRefused, Offered, ReleaseRefused},
        record,
        releases::{CATALOGUE, CatalogueRecord, HeldKeys, KEYS, KeysRecord, Published, Release, Releases},
        when::rfc3339,
    },
    store::{Expect, StoreError},
};

/// A value of the store has 1 MiB at most.
const RECORD_MAX: usize = 1000 * 1024;
const KEYS_ACTION: &str = "release-keys.publish";
const ACTION: &str = "release.publish";

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/releases", get(list).post(publish_release))
        .route("/api/v1/releases/keys", get(keys).put(publish_keys))
        .route("/api/v1/releases/{version}", get(describe))
}

/// A body of bytes, at most `MAX` of them: a manifest, or keys.
struct Octets<const MAX: usize>(Bytes);

impl<const MAX: usize> FromRequest<App> for Octets<MAX> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &App) -> Result<Self, ApiError> {
        let bytes = octets(request, state).await?;
        if bytes.len() > MAX {
            return Err(ApiError::new(Code::TooLarge, format!("{} bytes are more than the {MAX} of any", bytes.len())));
        }
        Ok(Self(bytes))
    }
}

impl From<KeysRefused> for ApiError {
    fn from(err: KeysRefused) -> Self {
        let text = err.to_string();
        match err {
            KeysRefused::TooLarge { .. } => Self::new(Code::TooLarge, text),
            KeysRefused::Keys(ReleaseKeysError::Version { .. })
            | KeysRefused::NotTheFirst { .. }
            | KeysRefused::Replayed { .. }
            | KeysRefused::Forked(_) => Self::new(Code::Conflict, text),
            KeysRefused::Keys(
                ReleaseKeysError::Layout
                | ReleaseKeysError::Contents(_)
                | ReleaseKeysError::Threshold { .. }
                | ReleaseKeysError::WeakKey { .. }
                | ReleaseKeysError::TwoPurposes(_)
                | ReleaseKeysError::Signatures { .. }
                | ReleaseKeysError::Pin { .. },
            ) => Self::field("", text),
        }
    }
}

impl From<ReleaseRefused> for ApiError {
    fn from(err: ReleaseRefused) -> Self {
        let text = err.to_string();
        match err {
            ReleaseRefused::Manifest(ReleaseError::TooLarge { .. }) => Self::new(Code::TooLarge, text),
            ReleaseRefused::NoKeys
            | ReleaseRefused::Replayed { .. }
            | ReleaseRefused::VersionTaken { .. }
            | ReleaseRefused::RolledBack { .. } => Self::new(Code::Conflict, text),
            ReleaseRefused::Manifest(_) => Self::field("", text),
            ReleaseRefused::NoBinary { .. } | ReleaseRefused::OtherSize { .. } => Self::field("artifacts", text),
        }
    }
}

/// One of the two records as the store itself has it, and what to expect when it is written.
async fn stored<T: DeserializeOwned + Default>(app: &App, key: &str) -> Result<(T, Expect), ApiError> {
    match app.core.store.get(Bucket::Releases, key).await? {
        None => Ok((T::default(), Expect::Absent)),
        Some(entry) => {
            let unreadable =
                |err: record::Unreadable| ApiError::new(Code::Unavailable, format!("releases/{key}: {err}"));
            Ok((record::decode(&entry.bytes).map_err(unreadable)?, Expect::Seq(entry.seq)))
        }
    }
}

async fn store<T: Serialize>(app: &App, key: &str, value: &T, expect: Expect) -> Result<(), StoreError> {
    let bytes = record::encode(value);
    if bytes.len() > RECORD_MAX {
        let what =
            format!("releases/{key} would have {} bytes, {RECORD_MAX} is the most there is room for", bytes.len());
        return Err(StoreError::Unavailable { what, source: None });
    }
    let seq = app.core.store.put(Bucket::Releases, key, bytes, expect).await?;
    app.seen(Bucket::Releases, seq).await;
    Ok(())
}

/// What is refused before anything is intended leaves its event, too.
async fn refused(app: &App, asked: &Asked, action: &str, object: &str, err: ApiError) -> ApiError {
    let deed = Deed { action, object, tenant: None, reason: "", before: None };
    conclude(app, asked, &deed, Outcome::Refused, &err.detail, None).await;
    err
}

fn unusable(why: &str) -> ApiError {
    ApiError::new(
        Code::Unavailable,
        format!("what the store holds of releases cannot be used ({why}): restore a backup"),
    )
}

// --- Keys ---------------------------------------------------------------------------------------------------------

fn keys_view(held: &HeldKeys) -> ReleaseKeysView {
    let last = held.chain.last().expect("invariant: keys that are held have a first version");
    ReleaseKeysView {
        version: held.newest.version,
        pin: held.pin,
        root: held.newest.root.clone(),
        release: held.newest.release.clone(),
        published: rfc3339(last.at_ms),
        published_by: last.by.clone(),
        chain: held.chain.iter().map(|kept| BASE64.encode(&kept.signed)).collect(),
    }
}

async fn keys(State(app): State<App>) -> Result<Json<ReleaseKeysView>, ApiError> {
    app.known()?;
    let view = app.core.index.look(|lens| lens.fleet.releases.now().keys.as_ref().map(keys_view));
    let none =
        "no release keys are published here: make them by `bramble keys init`, publish them by `bramble keys publish`";
    view.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, none))
}

async fn publish_keys(
    State(app): State<App>,
    asked: Asked,
    Octets(bytes): Octets<KEYS_SIGNED_MAX>,
) -> Result<Json<ReleaseKeysView>, ApiError> {
    app.writable()?;
    let (record, _): (KeysRecord, _) = stored(&app, KEYS).await?;
    let held = HeldKeys::follow(&record).map_err(|why| unusable(&why))?;
    let next = match publish::keys(held.as_ref(), &bytes) {
        Ok(Offered::New(next)) => next,
        Ok(Offered::Same) => return Ok(Json(keys_view(&held.expect("invariant: only what is held can be the same")))),
        Err(err) => return Err(refused(&app, &asked, KEYS_ACTION, "release-keys", err.into()).await),
    };
    let object = format!("release-keys/{}", next.version);
    let before = held.as_ref().and_then(|held| serde_json::to_value(&held.newest).ok());
    let deed = Deed { action: KEYS_ACTION, object: &object, tenant: None, reason: "", before };
    let by = asked.caller.subject.clone();
    audited(&app, &asked, deed, add_keys(&app, &bytes, by)).await.map(Json)
}

async fn add_keys(app: &App, bytes: &Bytes, by: String) -> Result<(ReleaseKeysView, Option<Value>), ApiError> {
    for _ in 0..RACES {
        let (mut record, expect): (KeysRecord, _) = stored(app, KEYS).await?;
        let held = HeldKeys::follow(&record).map_err(|why| unusable(&why))?;
        if publish::keys(held.as_ref(), bytes)? != Offered::Same {
            record.chain.push(Published { signed: bytes.to_vec(), at_ms: now().wall_ms, by: by.clone() });
            match store(app, KEYS, &record, expect).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(err) => return Err(err.into()),
            }
        }
        let held = HeldKeys::follow(&record).map_err(|why| unusable(&why))?;
        let held = held.expect("invariant: a chain that was added to has keys");
        return Ok((keys_view(&held), serde_json::to_value(&held.newest).ok()));
    }
    Err(StoreError::Conflict { bucket: Bucket::Releases, key: KEYS.to_owned() }.into())
}

// --- Releases -----------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Listed {
    limit: Option<String>,
    cursor: Option<String>,
}

async fn list(State(app): State<App>, Query(q): Query<Listed>) -> Result<Json<Page<ReleaseView>>, ApiError> {
    app.known()?;
    let limit = limit(q.limit.as_deref())?;
    let views: Vec<ReleaseView> = app.core.index.look(|lens| {
        let now_ms = lens.now.wall_ms;
        lens.fleet.releases.now().iter().map(|release| release.view(now_ms)).collect()
    });
    Ok(Json(page(views, |v| format!("{:020}", v.release_seq), q.cursor.as_deref(), limit)))
}

async fn describe(State(app): State<App>, Path(version): Path<String>) -> Result<Json<ReleaseView>, ApiError> {
    app.known()?;
    let missing = || ApiError::new(Code::NotFound, format!("there is no release {version:.40} here: look at the list"));
    let version: AgentVersion = version.parse().map_err(|_| missing())?;
    let view = app
        .core
        .index
        .look(|lens| lens.fleet.releases.now().get(&version).map(|release| release.view(lens.now.wall_ms)));
    view.map(Json).ok_or_else(missing)
}

/// What the store has, judged; the catalogue to add to, and what to expect when it is written.
async fn there(app: &App) -> Result<(Releases, CatalogueRecord, Expect), ApiError> {
    let (catalogue, expect): (CatalogueRecord, _) = stored(app, CATALOGUE).await?;
    let (keys, _): (KeysRecord, _) = stored(app, KEYS).await?;
    let judged = app.core.index.look(|lens| Releases::of(&keys, &catalogue, lens.fleet.releases.now()));
    Ok((judged.map_err(|why| unusable(&why))?, catalogue, expect))
}

async fn publish_release(
    State(app): State<App>,
    asked: Asked,
    Octets(bytes): Octets<MANIFEST_SIGNED_MAX>,
) -> Result<Json<ReleaseView>, ApiError> {
    app.writable()?;
    let (there, ..) = there(&app).await?;
    let at_ms = now().wall_ms;
    let manifest = match publish::release(&there, &bytes, at_ms) {
        Ok(Offered::New(manifest)) => manifest,
        Ok(Offered::Same) => {
            let kept = there.newest().expect("invariant: only the newest can be sent again");
            return Ok(Json(kept.view(at_ms)));
        }
        Err(err) => return Err(refused(&app, &asked, ACTION, "release", err.into()).await),
    };
    let object = format!("release/{}", manifest.version);
    let deed = Deed { action: ACTION, object: &object, tenant: None, reason: "", before: None };
    let published = Published { signed: bytes.to_vec(), at_ms, by: asked.caller.subject.clone() };
    audited(&app, &asked, deed, add_release(&app, manifest, published)).await.map(Json)
}

async fn add_release(
    app: &App,
    manifest: ReleaseManifest,
    published: Published,
) -> Result<(ReleaseView, Option<Value>), ApiError> {
    for artifact in &manifest.artifacts {
        let size = app.core.store.blob_size(&artifact.sha256).await?;
        publish::binary(manifest.version, artifact, size)?;
    }
    for _ in 0..RACES {
        let (there, mut catalogue, expect) = there(app).await?;
        let keys = there.keys.as_ref().ok_or(ReleaseRefused::NoKeys)?;
        if publish::release(&there, &published.signed, published.at_ms)? != Offered::Same {
            catalogue.releases.push(published.clone());
            match store(app, CATALOGUE, &catalogue, expect).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(err) => return Err(err.into()),
            }
        }
        let view = Release::of(&published, keys).map_err(|why| unusable(&why))?.view(published.at_ms);
        return Ok((view, serde_json::to_value(&manifest).ok()));
    }
    Err(StoreError::Conflict { bucket: Bucket::Releases, key: CATALOGUE.to_owned() }.into())
}
