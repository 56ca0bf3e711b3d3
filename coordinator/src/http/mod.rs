//! The HTTP API: parse, ask `domain`, write through `store`, answer.
//!
//! Decides: routes, statuses and limits. Deliberately does not: decide what is right; `domain` does.

mod audit;
pub mod auth;
mod blobs;
mod deployments;
mod desk;
mod devices;
mod enroll;
mod error;
mod exec;
mod extract;
mod layers;
mod logs;
pub mod openapi;
mod os;
mod ready;
mod releases;
mod resume;
mod rollouts;
pub mod routes;
pub mod serve;
mod steady;
mod streams;
mod system;
mod terminal;
mod tokens;
mod under_way;
mod watched;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, OriginalUri},
    http::Method,
    middleware,
};
use bramble_contracts::{problem::Code, subjects::Bucket};
use tokio::sync::{Semaphore, watch};

use self::{error::ApiError, extract::BODY_MAX};
use crate::background::Core;

/// How long an answer waits for the index to see what was just written.
const READ_OWN_WRITE: Duration = Duration::from_secs(2);
/// Tries to win a race against others who change the same object.
const RACES: u32 = 8;

/// What handlers share.
#[derive(Clone)]
pub struct App {
    /// The coordinator.
    pub core: Arc<Core>,
    /// The tokens that count.
    pub auth: Arc<auth::Auth>,
    nonces: Arc<enroll::Nonces>,
    door: Arc<enroll::Door>,
    desk: Arc<desk::Desk>,
    under_way: under_way::UnderWay,
    ready: Arc<ready::Answers>,
    readers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    /// Where binaries are while they come in.
    spool: Arc<Path>,
    stop: watch::Receiver<bool>,
}

impl App {
    /// A new API over the coordinator; what comes in lies in folder `spool` for a moment. When `stop` turns true, answers that stream for ever end.
    pub fn new(core: Arc<Core>, auth: auth::Auth, spool: PathBuf, stop: watch::Receiver<bool>) -> Self {
        let (nonces, door, desk, ready) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let readers = Arc::new(Semaphore::new(logs::READERS_MAX));
        let uploads = Arc::new(Semaphore::new(blobs::UPLOADS_MAX));
        let under_way = under_way::UnderWay::default();
        let (auth, spool) = (Arc::new(auth), spool.into());
        Self { core, auth, nonces, door, desk, under_way, ready, readers, uploads, spool, stop }
    }

    /// Resolves when no mutation is under way, also none whose client has gone.
    pub fn settled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.under_way.settled()
    }

    /// Resolves when the coordinator is asked to stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move {
            if stop.wait_for(|stopped| *stopped).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Refuses what reads while nothing is known yet.
    fn known(&self) -> Result<(), ApiError> {
        if self.core.index.look(|lens| lens.fleet.known()) {
            return Ok(());
        }
        Err(ApiError::new(Code::Recovering, "the coordinator is reading its store: ask again in a moment"))
    }

    /// Refuses what writes while recovering, or into the store of a newer coordinator.
    fn writable(&self) -> Result<(), ApiError> {
        let (waits, foreign) = self.core.index.look(|lens| (lens.fleet.waits_for(), lens.fleet.foreign_format()));
        if let Some(why) = foreign {
            return Err(ApiError::new(Code::Unavailable, why));
        }
        match waits.first() {
            None => Ok(()),
            Some(what) => {
                let detail = format!(
                    "the coordinator is recovering and waits for {what}; nothing is written now: try again in a moment"
                );
                Err(ApiError::new(Code::Recovering, detail))
            }
        }
    }

    /// Waits until what was written is seen.
    async fn seen(&self, bucket: Bucket, seq: u64) {
        if !self.core.index.has_seen(bucket, seq, READ_OWN_WRITE).await {
            tracing::warn!(bucket = bucket.name(), seq, "the index has not seen a write of ours yet");
        }
    }
}

/// The whole API.
pub fn router(app: App) -> Router {
    Router::new()
        .merge(system::router())
        .merge(devices::router())
        .merge(deployments::router())
        .merge(exec::router())
        .merge(terminal::router())
        .merge(logs::router())
        .merge(tokens::router())
        .merge(audit::router())
        .merge(resume::router())
        .merge(rollouts::router())
        .merge(os::router())
        .merge(releases::router())
        .merge(blobs::router())
        .merge(enroll::router())
        .method_not_allowed_fallback(wrong_method)
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), layers::rights))
        .layer(middleware::from_fn_with_state(app.clone(), layers::outer))
        .with_state(app)
}

async fn nowhere(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is nothing at {:.200}: see /api/v1/openapi.json", uri.path()))
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(Code::MethodNotAllowed, format!("{method:.20} does not exist at {:.200}", uri.path()))
}
