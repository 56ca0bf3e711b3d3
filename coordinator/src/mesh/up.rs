//! Answers to devices that ask on `up.<id>.<verb>`.
//!
//! Decides: what is answered at all. The broker has checked that the device may publish on its own subject; the answer
//! goes to the reply subject that the broker made (`_R_…`), never to a subject a device could have named, and a message
//! that does not decode is dropped. Deliberately does not: decide the answer; the `Answerer` does.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, RequestErrorKind};
use bramble_contracts::{
    DeviceId,
    envelope::{self, DecodeError, EncodeError},
    release::ReleaseAsk,
    subjects::{UP_ALL, Up},
    v1::{RenewRequest, TimeRequest},
};
use futures::{StreamExt as _, future::BoxFuture};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

use super::connect::Connection;

/// What a device asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// For a new JWT, and the trust documents after the one it holds.
    Renew(RenewRequest),
    /// For those trust documents alone.
    Trust(RenewRequest),
    /// What time it is.
    Time(TimeRequest),
    /// What is published of the agent.
    Release(ReleaseAsk),
}

/// Decides the answer to one question of one device: the bytes to send.
pub type Answerer = Arc<dyn Fn(DeviceId, Question) -> BoxFuture<'static, Result<Vec<u8>, EncodeError>> + Send + Sync>;

const AT_ONCE: usize = 32;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// How long the start waits to be sure that it listens; a broker that is away by then is waited for in the background.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// Reply subjects the broker makes for requests from another account.
const BROKER_REPLY: &str = "_R_.";
/// Several coordinators share the questions.
const QUEUE: &str = "coordinators";

/// Device and verb of a subject.
fn parse(subject: &str) -> Option<(DeviceId, Up)> {
    let mut tokens = subject.split('.');
    let ("up", device, verb, None) = (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()) else {
        return None;
    };
    let verb = Up::ALL.into_iter().find(|v| v.name() == verb)?;
    Some((device.parse().ok()?, verb))
}

fn read(verb: Up, payload: &[u8]) -> Result<Question, DecodeError> {
    Ok(match verb {
        Up::Renew => Question::Renew(envelope::decode(payload)?),
        Up::Trust => Question::Trust(envelope::decode(payload)?),
        Up::Time => Question::Time(envelope::decode(payload)?),
        Up::Release => Question::Release(envelope::decode(payload)?),
    })
}

/// Answers from now on; returns when the broker has the subscription, so that nobody who asks afterwards hears that
/// nobody is there. After a break of the connection async-nats subscribes again by itself.
pub(super) async fn start(connection: Connection, answerer: Answerer) -> JoinHandle<()> {
    let (tell, listens) = oneshot::channel();
    let task = tokio::spawn(serve(connection, answerer, tell));
    if tokio::time::timeout(LISTENS_WITHIN, listens).await.is_err() {
        tracing::warn!("the broker has not confirmed yet that devices are listened to; trying on");
    }
    task
}

/// Waits until the broker has worked through everything that was sent before. (A flush only empties our own buffer.)
async fn confirmed(connection: &Connection) {
    loop {
        connection.up().await;
        // Nobody listens there: the broker itself answers, in the order in which it was told things.
        match connection.client.request(connection.client.new_inbox(), bytes::Bytes::new()).await {
            Ok(_) => return,
            Err(err) if err.kind() == RequestErrorKind::NoResponders => return,
            Err(err) => tracing::warn!(%err, "the broker does not confirm a subscription; asking again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve(connection: Connection, answerer: Answerer, tell: oneshot::Sender<()>) {
    let mut tell = Some(tell);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        connection.up().await;
        match connection.client.queue_subscribe(UP_ALL, QUEUE.to_owned()).await {
            Ok(mut questions) => {
                confirmed(&connection).await;
                if let Some(tell) = tell.take() {
                    // Whoever waited may have given up.
                    let _ = tell.send(());
                }
                while let Some(message) = questions.next().await {
                    let place = places.clone().acquire_owned().await.expect("invariant: never closed");
                    let (client, answerer) = (connection.client.clone(), answerer.clone());
                    tokio::spawn(async move {
                        let answered = answer(&client, message, &answerer);
                        if tokio::time::timeout(ANSWER_WITHIN, answered).await.is_err() {
                            tracing::warn!("an answer to a device took too long and was given up");
                        }
                        drop(place);
                    });
                }
            }
            Err(err) => tracing::warn!(%err, "cannot listen to devices; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn answer(client: &Client, message: Message, answerer: &Answerer) {
    let Some(reply) = message.reply.filter(|r| r.starts_with(BROKER_REPLY)) else { return };
    let Some((device, verb)) = parse(&message.subject) else { return };
    let question = match read(verb, &message.payload) {
        Ok(question) => question,
        Err(err) => {
            tracing::warn!(%device, %err, "a device asked something that cannot be read");
            return;
        }
    };
    match answerer(device.clone(), question).await {
        Ok(bytes) => {
            if let Err(err) = client.publish(reply, bytes.into()).await {
                tracing::warn!(%device, %err, "an answer to a device was not sent");
            }
        }
        Err(err) => tracing::error!(%device, %err, "an answer to a device is too large"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_questions_of_devices_are_read() {
        let id = DeviceId::from_entropy([1; 13]);
        assert_eq!(parse(&Up::Renew.subject(&id)), Some((id.clone(), Up::Renew)));
        for bad in ["up", "up.x.renew", &format!("up.{id}"), &format!("up.{id}.other"), &format!("up.{id}.renew.x")] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let request = RenewRequest { trust_version: 3 };
        let bytes = envelope::encode(&request).unwrap();
        assert_eq!(read(Up::Trust, &bytes), Ok(Question::Trust(request)));
        assert!(read(Up::Time, &bytes).is_err(), "a question of another kind");
    }
}
