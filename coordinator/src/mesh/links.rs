//! Devices that connect and disconnect, told by the broker in the moment it happens.
//!
//! Decides: when to ask who is connected: events are lost while the coordinator is away, so that with every
//! (re)connection the broker is asked for all connections, and events count from there on. Deliberately does not: keep
//! who is connected (`background::links` does), nor replace heartbeats.

use std::time::Duration;

use async_nats::Message;
use bramble_contracts::DeviceId;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::connect::Connection;
use crate::keys::jwt;

const CAPACITY: usize = 1024;
/// Connections in one part of the broker's answer.
const PART: usize = 512;
/// Servers of a cluster answer each for itself: nobody more is waited for after this much silence.
const QUIET: Duration = Duration::from_millis(500);
/// Parts asked for at most: more connections than a broker of ours takes.
const PARTS: usize = 256;
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

/// What the broker tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkNews {
    /// These connections there are, and no others.
    All(Vec<DeviceLink>),
    /// One has changed.
    One(DeviceLink),
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

/// One connection as the broker lists it.
fn listed(connection: &Value, told_over: u64) -> Option<DeviceLink> {
    Some(DeviceLink {
        device: device_of(connection)?,
        public_key: connection["authorized_user"].as_str()?.to_owned(),
        connection: connection["cid"].as_u64()?,
        told_over,
        change: LinkChange::Connected,
    })
}

/// All connections of the account, or nothing when no server answers.
async fn all(sys: &Connection, account: &str, told_over: u64) -> Option<Vec<DeviceLink>> {
    let mut links = vec![];
    for part in 0..PARTS {
        let mut largest = 0;
        let mut servers = 0;
        let inbox = sys.client.new_inbox();
        let mut answers = sys.client.subscribe(inbox.clone()).await.ok()?;
        let ask = serde_json::json!({ "auth": true, "limit": PART, "offset": part * PART }).to_string();
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CONNZ");
        sys.client.publish_with_reply(subject, inbox, ask.into()).await.ok()?;
        while let Ok(Some(answer)) = tokio::time::timeout(QUIET, answers.next()).await {
            let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
            let connections = answer["data"]["connections"].as_array()?;
            links.extend(connections.iter().filter_map(|c| listed(c, told_over)));
            largest = largest.max(connections.len());
            servers += 1;
        }
        if servers == 0 {
            return None;
        }
        if largest < PART {
            break;
        }
    }
    Some(links)
}

pub(super) fn start(sys: Connection, account: String) -> mpsc::Receiver<LinkNews> {
    let (to, links) = mpsc::channel(CAPACITY);
    tokio::spawn(async move {
        let _ = tokio::select! { ended = follow(&sys, &account, &to) => ended, () = to.closed() => None };
    });
    links
}

async fn follow(sys: &Connection, account: &str, to: &mpsc::Sender<LinkNews>) -> Option<std::convert::Infallible> {
    loop {
        let up = sys.up().await;
        // First the subscription, then the question: nothing falls between them.
        if let Ok(mut events) = sys.client.subscribe(format!("$SYS.ACCOUNT.{account}.*")).await {
            match all(sys, account, up).await {
                Some(links) => to.send(LinkNews::All(links)).await.ok()?,
                None => tracing::warn!("the broker does not say which devices are connected: waiting for its events"),
            }
            tokio::select! {
                () = sys.left(up) => {}
                () = tell(&mut events, up, to) => {}
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn tell(events: &mut async_nats::Subscriber, told_over: u64, to: &mpsc::Sender<LinkNews>) {
    while let Some(message) = events.next().await {
        let ours = message.subject.ends_with(".CONNECT") || message.subject.ends_with(".DISCONNECT");
        if let Some(link) = ours.then(|| parse(&message, told_over)).flatten()
            && to.try_send(LinkNews::One(link)).is_err()
        {
            tracing::debug!("a device's (dis)connection was not noted: too many at once");
        }
    }
}
