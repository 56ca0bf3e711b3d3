//! What the store answers when it is asked whether it works: the broker, its streams, a key that is always there.
//!
//! Decides: what is asked, and for how long at most. Deliberately does not: decide what an answer means for anybody.

use std::time::Duration;

use bramble_contracts::{
    smoke::{Check, CheckResult, CheckState, no_answer, no_connection},
    subjects::Bucket,
};
use tokio::{net::TcpStream, time::timeout};

use super::{JetStream, jetstream::META_KEY, raw};
use crate::{clock, mesh::Link};

/// For each question. They are asked side by side, so this is how long all of them take at most.
const ANSWER_MAX: Duration = Duration::from_millis(700);

/// Asks all of it.
pub(super) async fn ask(store: &JetStream) -> Vec<CheckResult> {
    let (broker, key) = futures::join!(broker(&store.connection.urls), key(store));
    vec![broker, streams(store), key]
}

fn since(begun: Duration) -> Duration {
    clock::monotonic().saturating_sub(begun)
}

/// Any server of a cluster will do.
async fn broker(urls: &[String]) -> CheckResult {
    let begun = clock::monotonic();
    let mut last = None;
    for url in urls {
        let Ok(address) = url.parse::<async_nats::ServerAddr>() else { continue };
        let check = Check::TcpReachable { at: format!("{}:{}", address.host(), address.port()) };
        let dialled = timeout(ANSWER_MAX / u32::try_from(urls.len()).unwrap_or(u32::MAX), dial(&address)).await;
        match dialled {
            Ok(Ok(())) => return CheckResult::of(check, Ok("takes connections".into())).after(since(begun)),
            Ok(Err(words)) => last = Some(CheckResult::of(check, Err(words))),
            Err(_) => last = Some(CheckResult::of(check, Err(no_answer(since(begun))))),
        }
    }
    let nowhere = || CheckResult::of(Check::TcpReachable { at: urls.join(",") }, Err("is no address".into()));
    last.unwrap_or_else(nowhere).after(since(begun))
}

async fn dial(address: &async_nats::ServerAddr) -> Result<(), String> {
    TcpStream::connect((address.host(), address.port())).await.map(|_| ()).map_err(|err| no_connection(&err))
}

/// What the last comparison of the streams with our settings found; they are compared at every start and reconnect.
fn streams(store: &JetStream) -> CheckResult {
    let unfit = store.unfit.read().expect("invariant: nobody panics while holding it").clone();
    CheckResult::of(Check::holds("streams"), unfit.map_or_else(|| Ok("are as they must be".into()), Err))
}

async fn key(store: &JetStream) -> CheckResult {
    let check = Check::NatsKvKeyExists { bucket: Bucket::Meta.name().to_owned(), key: META_KEY.to_owned() };
    if let Link::Down(_) = *store.connection.link.borrow() {
        return CheckResult::new(check, CheckState::NotAsked, "was not asked: there is no connection to the broker");
    }
    let begun = clock::monotonic();
    let (stream, subject) = (Bucket::Meta.stream(), Bucket::Meta.subject(META_KEY));
    let answer = match timeout(ANSWER_MAX, raw::last(&store.connection.client, &stream, &subject)).await {
        Ok(Ok(Some(stored))) if !stored.deleted => Ok("is there".to_owned()),
        Ok(Ok(Some(_) | None)) => Err("is missing: restore a backup".to_owned()),
        Ok(Err(err)) => Err(format!("could not be read: {err}")),
        Err(_) => Err(no_answer(ANSWER_MAX)),
    };
    CheckResult::of(check, answer).after(since(begun))
}
