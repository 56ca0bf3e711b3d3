//! What agents ask their supervisor, over a socket: one line each way, `begin b` and `ok`.

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_contracts::v1::Instance;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::Site;
use super::keeper::Keeper;

/// Questions that are answered at once.
const ASKS_MAX: usize = 8;
/// The longest question.
const LINE_MAX: u64 = 64;
const LINE_TIME_MAX: Duration = Duration::from_secs(5);

/// Answers until it is dropped.
pub(super) async fn serve(listener: UnixListener, keepers: &BTreeMap<Instance, Keeper>, site: &Site) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < ASKS_MAX => match accepted {
                Ok((stream, _)) => open.push(answer(stream, keepers, site)),
                Err(err) => {
                    tracing::warn!(%err, "a question to the supervisor could not be taken");
                    tokio::time::sleep(LINE_TIME_MAX).await;
                }
            },
            Some(answered) = open.next() => if let Err(err) = answered {
                tracing::debug!(%err, "whoever asked the supervisor has left");
            },
        }
    }
}

async fn answer(mut stream: UnixStream, keepers: &BTreeMap<Instance, Keeper>, site: &Site) -> std::io::Result<()> {
    let mut line = String::new();
    let (from, mut to) = stream.split();
    tokio::time::timeout(LINE_TIME_MAX, BufReader::new(from.take(LINE_MAX)).read_line(&mut line)).await??;
    let said = match line.trim_end().split_once(' ') {
        Some((word, "a")) => act(word, Instance::A, keepers, site).await,
        Some((word, "b")) => act(word, Instance::B, keepers, site).await,
        Some(_) | None => Err("the question names no instance".into()),
    };
    let text = said.unwrap_or_else(|why| format!("failed {}", why.replace('\n', " ")));
    to.write_all(format!("{text}\n").as_bytes()).await
}

async fn act(
    word: &str,
    instance: Instance,
    keepers: &BTreeMap<Instance, Keeper>,
    site: &Site,
) -> Result<String, String> {
    let keeper = &keepers[&instance];
    tracing::info!(word, instance = instance.name(), "asked");
    match word {
        "begin" => {
            keeper.begin().await;
            Ok("ok".into())
        }
        "ready" => keeper.ready().await.map(|()| "ok".into()),
        "stop" => keeper.stop().await.map(|()| "ok".into()),
        "running" => keeper.is_running().await.map(|runs| if runs { "yes".into() } else { "no".into() }),
        "enable" => {
            let file = site.enabled();
            let stored = tokio::task::spawn_blocking(move || file.store_json(&instance)).await;
            stored.map_err(|err| err.to_string())?.map_err(|err| err.to_string())?;
            Ok("ok".into())
        }
        other => Err(format!("it is not known what {other:?} means")),
    }
}
