//! Watched lists and things: server-sent events, told by the index, at most a few times a second, each carrying a whole item.
//!
//! Decides: what is worth an event (an item that differs from what was sent). Bounded: a slow reader gets the newest
//! state later, never a queue. Deliberately does not: replay; whoever reconnects gets everything again.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use bramble_contracts::{Name, problem::Code};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{App, error::ApiError};
use crate::domain::view::Lens;

/// Between two looks at the index.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections and time change what is shown without any change in the store.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// A sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Is it watched? `?watch=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Watch {
    /// Yes.
    #[serde(rename = "1", alias = "true")]
    On,
    /// No.
    #[serde(rename = "0", alias = "false")]
    Off,
}

impl Watch {
    /// Is it?
    pub(super) fn is_on(self) -> bool {
        self == Self::On
    }
}

/// The query of one thing that can be watched.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Watched {
    watch: Option<Watch>,
}

impl Watched {
    /// Is it?
    pub(super) fn is_on(self) -> bool {
        self.watch.is_some_and(Watch::is_on)
    }
}

/// Items by their key, as JSON.
pub(super) fn items<T: Serialize>(all: &[T], key: impl Fn(&T) -> String) -> BTreeMap<String, Value> {
    let json = |item: &T| serde_json::to_value(item).expect("invariant: our views always fit JSON");
    all.iter().map(|item| (key(item), json(item))).collect()
}

/// What is said of one record.
pub(super) enum Record<T> {
    /// How it is.
    Now(T),
    /// How it is, and every change of it.
    Followed(Response),
}

/// One record of a bucket, called `name`, as it is or as it changes. One that was damaged since is not a deleted one.
pub(super) fn record<T, F>(
    app: &App,
    asked: Watched,
    what: &str,
    name: &Name,
    one: F,
    key: fn(&T) -> String,
) -> Result<Record<T>, ApiError>
where
    T: Serialize + 'static,
    F: Fn(&Lens<'_>) -> Option<Result<T, String>> + Send + Sync + 'static,
{
    match app.core.index.look(&one) {
        None => Err(ApiError::not_found(what, name)),
        Some(Err(why)) => {
            Err(ApiError::new(Code::Unavailable, format!("the record of {what} {name} is damaged: {why}")))
        }
        Some(Ok(_)) if asked.is_on() => {
            let items = move |lens: &Lens<'_>| one(lens).transpose().ok().map(|v| items(v.as_slice(), key));
            Ok(Record::Followed(stream(app, items)))
        }
        Some(Ok(view)) => Ok(Record::Now(view)),
    }
}

struct Following<F> {
    app: App,
    ticks: tokio::sync::watch::Receiver<u64>,
    look: F,
    sent: BTreeMap<String, Value>,
    first: bool,
}

/// Events of a list: `put` with the whole item, `deleted` with the last that was known of it. Where nothing can be said
/// now, `look` gives nothing and nothing is told.
pub(super) fn stream<F>(app: &App, look: F) -> Response
where
    F: Fn(&Lens<'_>) -> Option<BTreeMap<String, Value>> + Send + Sync + 'static,
{
    let following =
        Following { app: app.clone(), ticks: app.core.index.ticks(), look, sent: BTreeMap::new(), first: true };
    let batches = stream::unfold(following, |mut f| async move {
        loop {
            if !f.first {
                tokio::time::sleep(PAUSE).await;
                match tokio::time::timeout(LOOK_ANYWAY, f.ticks.changed()).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(_)) => return None,
                }
            }
            f.first = false;
            f.ticks.mark_unchanged();
            let Some(now) = f.app.core.index.look(&f.look) else { continue };
            let events = difference(&f.sent, &now);
            f.sent = now;
            if !events.is_empty() {
                return Some((stream::iter(events.into_iter().map(Ok::<_, Infallible>)), f));
            }
        }
    });
    let events = batches.flatten().take_until(Box::pin(app.stopped()));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn difference(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<Event> {
    let event = |kind: &str, value: &Value| Event::default().event(kind).data(value.to_string());
    let put = now.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(_, v)| event("put", v));
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, v)| event("deleted", v));
    put.chain(gone).collect()
}
