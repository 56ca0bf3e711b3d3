//! The few JetStream calls we make, as JSON: every field is ours, and fields a library does not know are not lost.
//!
//! Decides: how a request is asked and how an error answer is told from an answer. Deliberately does not: retry.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, client::RequestErrorKind};
use bytes::Bytes;
use serde_json::{Value, json};

/// Error numbers of the broker that we act on.
pub(super) mod code {
    pub(in super::super) const NO_STREAM: u64 = 10_059;
    pub(in super::super) const NO_MESSAGE: u64 = 10_037;
    pub(in super::super) const NAME_IN_USE: u64 = 10_058;
    pub(in super::super) const WRONG_SEQUENCE: u64 = 10_071;
    pub(in super::super) const WRONG_SEQUENCE_RACE: u64 = 10_164;
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one direct get.
const BATCH: u32 = 512;

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The broker said no.
    #[error("the broker refused: {description} (code {code})")]
    Refused {
        /// Its number.
        code: u64,
        /// In words.
        description: String,
    },
    /// No answer.
    #[error("no answer from the broker")]
    NoAnswer(#[source] async_nats::RequestError),
    /// Nobody serves this: no JetStream yet, or no such stream.
    #[error("the broker does not serve {subject}")]
    NobodyThere {
        /// What was asked.
        subject: String,
    },
    /// An answer that is none.
    #[error("the broker's answer cannot be read")]
    Strange,
}

impl CallError {
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

async fn ask(client: &Client, subject: String, body: Bytes, headers: Option<HeaderMap>) -> Result<Message, CallError> {
    let mut request = Request::new().payload(body).timeout(Some(TIMEOUT));
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    client.send_request(subject.clone(), request).await.map_err(|err| match err.kind() {
        RequestErrorKind::NoResponders => CallError::NobodyThere { subject },
        RequestErrorKind::TimedOut
        | RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => CallError::NoAnswer(err),
    })
}

fn checked(message: &Message) -> Result<Value, CallError> {
    let value: Value = serde_json::from_slice(&message.payload).map_err(|_| CallError::Strange)?;
    match value.get("error") {
        None => Ok(value),
        Some(error) => Err(CallError::Refused {
            code: error["err_code"].as_u64().unwrap_or(0),
            description: error["description"].as_str().unwrap_or("").to_owned(),
        }),
    }
}

/// Asks the JetStream API.
pub(super) async fn api(client: &Client, name: &str, body: &Value) -> Result<Value, CallError> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    checked(&ask(client, format!("$JS.API.{name}"), body, None).await?)
}

/// Publishes into a stream and waits for its acknowledgement; returns the sequence number.
pub(super) async fn publish(
    client: &Client,
    subject: String,
    body: Bytes,
    headers: HeaderMap,
) -> Result<u64, CallError> {
    let answer = checked(&ask(client, subject, body, Some(headers)).await?)?;
    answer["seq"].as_u64().ok_or(CallError::Strange)
}

/// A message as stored.
pub(super) struct Stored {
    pub(super) seq: u64,
    pub(super) deleted: bool,
    pub(super) bytes: Bytes,
}

/// The newest message of a subject, from the stream's leader (a direct get may be answered by a copy that lags).
pub(super) async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<Stored>, CallError> {
    let asked = api(client, &format!("STREAM.MSG.GET.{stream}"), &json!({ "last_by_subj": subject })).await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(err) if err.is(code::NO_MESSAGE) => return Ok(None),
        Err(err) => return Err(err),
    };
    let message = &answer["message"];
    let seq = message["seq"].as_u64().ok_or(CallError::Strange)?;
    let decode = |field: &str| match message[field].as_str() {
        None => Ok(vec![]),
        Some(text) => data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| CallError::Strange),
    };
    let bytes = Bytes::from(decode("data")?);
    Ok(Some(Stored { seq, deleted: bytes.is_empty(), bytes }))
}

/// The newest message of a subject, from any copy of the stream; none where that copy has none.
pub(super) async fn direct(client: &Client, stream: &str, subject: &str) -> Result<Option<Bytes>, CallError> {
    let to = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    let answer = ask(client, to.clone(), Bytes::new(), None).await?;
    match answer.status.map(|status| status.as_u16()) {
        None => Ok(Some(answer.payload)),
        Some(404) => Ok(None),
        Some(503) => Err(CallError::NobodyThere { subject: to }),
        Some(_) => Err(CallError::Strange),
    }
}

/// Messages of `subject` from number `from` up to, not with, `end`: by direct gets of [`BATCH`] messages.
pub(super) async fn range(
    client: &Client,
    stream: &str,
    subject: &str,
    mut from: u64,
    end: u64,
) -> Result<Vec<(u64, Message)>, CallError> {
    let mut found = vec![];
    while from < end {
        let batch = batch(client, stream, subject, from).await?;
        let Some((last, _)) = batch.last() else { break };
        from = last + 1;
        found.extend(batch.into_iter().filter(|(seq, _)| *seq < end));
    }
    Ok(found)
}

async fn batch(client: &Client, stream: &str, subject: &str, seq: u64) -> Result<Vec<(u64, Message)>, CallError> {
    use futures::StreamExt as _;

    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|_| CallError::Strange)?;
    let body = json!({ "seq": seq, "next_by_subj": subject, "batch": BATCH });
    let to = format!("$JS.API.DIRECT.GET.{stream}");
    let asked = client.publish_with_reply(to.clone(), inbox, body.to_string().into()).await;
    asked.map_err(|_| CallError::Strange)?;
    let mut found = vec![];
    loop {
        let next = tokio::time::timeout(TIMEOUT, answers.next()).await.map_err(|_| CallError::Strange)?;
        let message = next.ok_or(CallError::Strange)?;
        match message.status.map(|s| s.as_u16()) {
            None => {
                let number = message.headers.as_ref().and_then(|h| h.get("Nats-Sequence"));
                let seq = number.and_then(|n| n.as_str().parse().ok()).ok_or(CallError::Strange)?;
                found.push((seq, message));
            }
            Some(204 | 404) => return Ok(found),
            Some(503) => return Err(CallError::NobodyThere { subject: to }),
            Some(_) => return Err(CallError::Strange),
        }
    }
}
