//! Logs of a deployment's devices as NDJSON. The last line is `end`.
//!
//! Decides: whose logs, which lines, how many readers. A reader that is slow keeps nothing waiting and nothing queued: its
//! devices are asked for the next window once it has taken this one.

mod merge;
mod reader;

use std::{collections::BTreeMap, convert::Infallible, str::FromStr, time::Duration};

use axum::{
    Router,
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use bramble_contracts::{
    api::StreamLine,
    id::{DeviceId, Name, Tenant},
    problem::Code,
    quantity::BadQuantity,
    v1::{LogLives, LogPlace, LogWish},
};
use futures::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use self::reader::{After, Reader, Wanted};
use super::{
    App,
    devices::find,
    error::ApiError,
    extract::{Asked, Path, Query},
};
use crate::domain::view::{Detail, Lens};

const TAIL: u32 = 100;
const TAIL_MAX: u32 = 10_000;
/// Devices whose logs are read at once.
const DEVICES_MAX: usize = 16;
/// Logs that are read through this coordinator at once.
pub(super) const READERS_MAX: usize = 256;
/// Lines in one piece of an answer.
const TOGETHER: usize = 128;
/// A stream that has nothing to say gives a sign of life this often.
const ALIVE: Duration = Duration::from_secs(15);

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/deployments/{name}/logs", get(logs))
}

#[derive(Deserialize)]
struct Asks {
    device: Option<String>,
    container: Option<String>,
    tail: Option<String>,
    since: Option<String>,
    until: Option<String>,
    previous: Option<String>,
    follow: Option<String>,
    from: Option<String>,
}

fn flag(name: &str, text: Option<&str>) -> Result<bool, ApiError> {
    match text {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => Err(ApiError::bad(format!("`{name}` is true or false"))),
    }
}

fn moment<T: FromStr<Err = BadQuantity>>(name: &str, text: Option<&str>) -> Result<Option<T>, ApiError> {
    text.map(|text| text.parse().map_err(|err| ApiError::bad(format!("`{name}`: {err}")))).transpose()
}

impl Asks {
    fn wanted(&self, tenant: Tenant, deployment: Name) -> Result<Wanted, ApiError> {
        let container = match self.container.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| ApiError::not_found("container", text))?),
        };
        let (since, until) = (moment("since", self.since.as_deref())?, moment("until", self.until.as_deref())?);
        let previous = flag("previous", self.previous.as_deref())?;
        let follow = flag("follow", self.follow.as_deref())?;
        if follow && (previous || until.is_some()) {
            return Err(ApiError::bad("what comes cannot be followed with `previous` or `until`"));
        }
        let tail = match self.tail.as_deref() {
            // Whoever names a time or a container that has ended wants all of it.
            None if since.is_some() || until.is_some() || previous => None,
            None => Some(TAIL),
            Some("all") => None,
            Some(text) => Some(
                text.parse()
                    .ok()
                    .filter(|n| *n <= TAIL_MAX)
                    .ok_or_else(|| ApiError::bad(format!("`tail` is a number up to {TAIL_MAX}, or `all`")))?,
            ),
        };
        let lives = if previous { LogLives::Previous } else { LogLives::All };
        let after = if follow { After::Follow } else { After::End };
        Ok(Wanted { tenant, deployment, container, wish: LogWish { tail, since, until, lives }, after })
    }

    /// `DEVICE/CONTAINER:PLACE,…`: where readers were before, by device.
    fn places(&self) -> Result<BTreeMap<String, BTreeMap<Name, LogPlace>>, ApiError> {
        let mut places: BTreeMap<String, BTreeMap<Name, LogPlace>> = BTreeMap::new();
        for text in self.from.iter().flat_map(|all| all.split(',')).filter(|text| !text.is_empty()) {
            let read = || {
                let (device, rest) = text.split_once('/')?;
                let (container, place) = rest.split_once(':')?;
                Some((device.to_owned(), container.parse().ok()?, place.parse().ok()?))
            };
            let Some((device, container, place)) = read() else {
                let text: String = text.chars().take(80).collect();
                return Err(ApiError::bad(format!(
                    "`from`: {text:?} is not DEVICE/CONTAINER:PLACE with a `next` of before"
                )));
            };
            places.entry(device).or_default().insert(container, place);
        }
        Ok(places)
    }
}

async fn logs(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(q): Query<Asks>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let wanted = q.wanted(tenant.clone(), name.clone())?;
    let mut places = q.places()?;
    let named = q.device.as_deref().map(|d| find(&app, &tenant, d)).transpose()?;
    let devices = app.core.index.look(|lens| of_deployment(lens, &tenant, &name, named))?;
    let Ok(slot) = app.readers.clone().try_acquire_owned() else {
        let detail =
            format!("{READERS_MAX} logs are read through this coordinator already, which is the most: end one");
        return Err(ApiError::new(Code::Unavailable, detail));
    };
    let reader = |(id, device): (DeviceId, Name)| {
        let from = places.remove(device.as_str()).unwrap_or_default();
        Reader::new(app.core.clone(), id, device, wanted.clone(), from)
    };
    let mut readers: Vec<Reader> = devices.into_iter().map(reader).collect();
    if let [one] = &mut readers[..]
        && !one.goes_on()
    {
        // A device that is not there is a status, not a line.
        one.begin().await.map_err(|err| ApiError::of_device(one.device(), &err))?;
    }
    let lines = merge::all(readers).chain(stream::iter([StreamLine::End { exit_code: None }])).map(move |line| {
        let _held = &slot;
        line
    });
    Ok(ndjson(&app, lines))
}

/// Whose logs are read, and what people call them.
fn of_deployment(
    lens: &Lens<'_>,
    tenant: &Tenant,
    name: &Name,
    named: Option<DeviceId>,
) -> Result<Vec<(DeviceId, Name)>, ApiError> {
    // A device may still run what is no longer wanted on it, or hold the logs of it.
    if let Some(id) = named {
        let called = lens.device(&id, Detail::Brief).name;
        return Ok(vec![(id, called)]);
    }
    let slot = lens.fleet.deployment(tenant, name).ok_or_else(|| ApiError::not_found("deployment", name))?;
    let record = slot.ok().ok_or_else(|| {
        ApiError::new(Code::Conflict, format!("the record of deployment {name} is damaged: restore it from a backup"))
    })?;
    let selected = lens.selected(record);
    match selected.len() {
        0 => {
            let detail = format!(
                "deployment {name} selects no device, so nobody prints anything: change its selector, or label a device"
            );
            Err(ApiError::new(Code::Conflict, detail))
        }
        1..=DEVICES_MAX => Ok(selected.into_iter().map(|d| (d.id.clone(), d.name.clone())).collect()),
        all => Err(ApiError::bad(format!(
            "deployment {name} has {all} devices, and logs are read from {DEVICES_MAX} at once at most: \
             name one with `--device` (`device=` in the query)"
        ))),
    }
}

/// Lines as bytes; empty ones now and then while there is nothing to say.
pub(super) fn ndjson<T: Serialize>(app: &App, lines: impl Stream<Item = T> + Send + 'static) -> Response {
    // Lines that are there together travel together.
    let said = lines.take_until(Box::pin(app.stopped())).ready_chunks(TOGETHER).map(|lines| {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).expect("invariant: our lines always fit JSON");
            text.push(b'\n');
        }
        Some(Bytes::from(text))
    });
    let alive = stream::unfold((), |()| async {
        tokio::time::sleep(ALIVE).await;
        Some((Some(Bytes::from_static(b"\n")), ()))
    });
    let both = stream::select(said.chain(stream::iter([None])).boxed(), alive.boxed());
    let bytes = both.take_while(|part| std::future::ready(part.is_some())).filter_map(std::future::ready);
    let body = HttpBody::from_stream(bytes.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
