//! From the quarantine command to the moment in which a device's connection is closed, seen at the device's end.

use std::sync::mpsc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::Reps;
use super::table::{Goal, Row, Samples};
use crate::api::runtime;
use crate::manifest::LABEL;
use crate::simulated::{SimDevice, start_all};
use crate::{Fleet, Watch, soon};

const SOON: Duration = Duration::from_secs(30);

/// A second connection with a device's own credentials, that tells at once when it is closed.
struct Inside {
    _client: Client,
    closed: mpsc::Receiver<()>,
}

fn connect(fleet: &Fleet, device: &SimDevice) -> Result<Inside, String> {
    let (identity, seed) = device.credentials();
    let jwt = identity["jwt"].as_str().ok_or("no JWT")?.to_owned();
    let pair = std::sync::Arc::new(KeyPair::from_seed(&seed).map_err(|err| err.to_string())?);
    let (tell, closed) = mpsc::channel();
    let options = ConnectOptions::with_jwt(jwt, move |nonce| {
        let pair = std::sync::Arc::clone(&pair);
        async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
    .custom_inbox_prefix(format!("_INBOX_{}", device.id()))
    .connection_timeout(Duration::from_secs(5))
    .max_reconnects(Some(1))
    .event_callback(move |event: Event| {
        if matches!(event, Event::Disconnected | Event::Closed) {
            // Nobody listens any more after the first.
            let _ = tell.send(());
        }
        async {}
    });
    let broker = format!("nats://{}", fleet.coordinator().broker());
    let client = runtime().block_on(options.connect(broker)).map_err(|err| err.to_string())?;
    Ok(Inside { _client: client, closed })
}

/// Who asks.
#[derive(Clone, Copy)]
enum By {
    Api,
    Command,
}

/// One cut, and the device let back in.
fn once(fleet: &Fleet, device: &SimDevice, by: By) -> Duration {
    let inside = soon("the device to be let in", || connect(fleet, device));
    let name = device.name().to_owned();
    let (api, bramble) = (fleet.api(), fleet.bramble());
    let watch = Watch::start();
    let asked = std::thread::spawn(move || match by {
        By::Api => {
            let because = json!({ "reason": "a benchmark" });
            drop(api.must::<Value>("POST", &format!("/api/v1/devices/{name}/quarantine"), &because));
        }
        By::Command => drop(bramble.ok(&["device", "quarantine", &name, "--yes", "--reason", "a benchmark"])),
    });
    inside.closed.recv_timeout(SOON).expect("the connection is closed");
    let took = watch.elapsed();
    asked.join().expect("the quarantine succeeds");
    fleet.bramble().ok(&["device", "unquarantine", device.name(), "--reason", "measured"]);
    took
}

pub(super) fn cut(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-quarantine");
    let (label, value) = LABEL;
    let token = fleet.token_with(&json!({ "autoApprove": true, "uses": 1, "labels": { (label): value } })).token;
    let mut device = [SimDevice::new(fleet.case(), "sim-1", &fleet.coordinator().url(), &token)];
    start_all(&mut device, 1, SOON);
    let measure = |by| Samples::times((0..reps.0).map(|_| once(&fleet, &device[0], by)));
    let (api, command) = (measure(By::Api), measure(By::Command));
    vec![
        Row::new("quarantine over the HTTP API → connection closed", api).goal(Goal::Every(100.0)),
        Row::new("`bramble device quarantine` typed → connection closed", command).goal(Goal::Every(100.0)),
    ]
}
