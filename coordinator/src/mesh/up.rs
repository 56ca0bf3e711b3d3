//! Answers to devices that ask on `up.<id>.<verb>`.
//!
//! Decides: what is answered at all. The broker has checked that the device may publish on its own subject; the answer
//! goes to the reply subject that the broker made (`_R_…`), never to a subject a device could have named, and a message
//! that does not decode is dropped. Deliberately does not: decide the answer; the `Answerer` does.

use std::{sync::Arc, time::Duration};

use async_nats::Message;
use bramble_contracts::{
    DeviceId, envelope,
    subjects::{UP_ALL, Up},
    v1::{RenewReply, RenewRequest},
};
use futures::{StreamExt as _, future::BoxFuture};
use tokio::sync::Semaphore;

use super::connect::Connection;

/// Decides the answer to one question of one device.
pub type Answerer = Arc<dyn Fn(DeviceId, Up, RenewRequest) -> BoxFuture<'static, RenewReply> + Send + Sync>;

const AT_ONCE: usize = 32;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
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
    let verb = [Up::Renew, Up::Trust].into_iter().find(|v| v.name() == verb)?;
    Some((device.parse().ok()?, verb))
}

pub(super) async fn serve(connection: Connection, answerer: Answerer) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        connection.up().await;
        match connection.client.queue_subscribe(UP_ALL, QUEUE.to_owned()).await {
            Ok(mut questions) => {
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

async fn answer(client: &async_nats::Client, message: Message, answerer: &Answerer) {
    let Some(reply) = message.reply.filter(|r| r.starts_with(BROKER_REPLY)) else { return };
    let Some((device, verb)) = parse(&message.subject) else { return };
    let request = match envelope::decode::<RenewRequest>(&message.payload) {
        Ok(request) => request,
        Err(err) => {
            tracing::warn!(%device, %err, "a device asked something that cannot be read");
            return;
        }
    };
    let answer = answerer(device.clone(), verb, request).await;
    match envelope::encode(&answer) {
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
    }
}
