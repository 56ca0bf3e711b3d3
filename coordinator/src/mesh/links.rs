//! Devices that connect and disconnect, told by the broker in the moment it happens.
//!
//! Decides: nothing; it tells. Deliberately does not: keep who is connected (`background::index` does), nor replace
//! heartbeats: events are lost while the coordinator is away.

use std::time::Duration;

use async_nats::Message;
use bramble_contracts::DeviceId;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::connect::{Connection, Link};
use crate::keys::jwt;

const CAPACITY: usize = 1024;
const RETRY: Duration = Duration::from_secs(1);

/// What happened to a device's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// It connected.
    Connected,
    /// It is gone; in the broker's words.
    Disconnected {
        /// Why.
        reason: String,
    },
}

/// One connection of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLink {
    /// Which device, as its JWT says.
    pub device: DeviceId,
    /// Its public nkey.
    pub public_key: String,
    /// The broker's number of this connection: a device has two for a moment when it changes its JWT.
    pub connection: u64,
    /// Our own connection over which it was told: with a new one, events in between are lost.
    pub told_over: u64,
    /// What happened.
    pub change: LinkChange,
}

fn parse(message: &Message, told_over: u64) -> Option<DeviceLink> {
    let event: Value = serde_json::from_slice(&message.payload).ok()?;
    let client = &event["client"];
    let change = if message.subject.ends_with(".CONNECT") {
        LinkChange::Connected
    } else {
        LinkChange::Disconnected { reason: event["reason"].as_str().unwrap_or_default().to_owned() }
    };
    Some(DeviceLink {
        device: device_of(client)?,
        public_key: client["user"].as_str()?.to_owned(),
        connection: client["id"].as_u64()?,
        told_over,
        change,
    })
}

/// The broker repeats the JWT it has accepted; its name is the device.
fn device_of(client: &Value) -> Option<DeviceId> {
    jwt::decode(client["jwt"].as_str()?).ok()?["name"].as_str()?.parse().ok()
}

pub(super) fn start(sys: Connection, account: String) -> mpsc::Receiver<DeviceLink> {
    let (to, links) = mpsc::channel(CAPACITY);
    tokio::spawn(async move {
        let _ = tokio::select! { ended = follow(&sys, &account, &to) => ended, () = to.closed() => None };
    });
    links
}

async fn follow(sys: &Connection, account: &str, to: &mpsc::Sender<DeviceLink>) -> Option<std::convert::Infallible> {
    loop {
        sys.up().await;
        if let Ok(mut events) = sys.client.subscribe(format!("$SYS.ACCOUNT.{account}.*")).await {
            while let Some(message) = events.next().await {
                let (Link::Up(told_over) | Link::Down(told_over)) = *sys.link.borrow();
                let ours = message.subject.ends_with(".CONNECT") || message.subject.ends_with(".DISCONNECT");
                if let Some(link) = ours.then(|| parse(&message, told_over)).flatten()
                    && to.try_send(link).is_err()
                {
                    tracing::debug!("a device's (dis)connection was not noted: too many at once");
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
