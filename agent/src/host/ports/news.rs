//! Tells when somebody removes a table of ours, as a `flush ruleset` does: the app's ports are put right at once.

use std::io;

use nix::sys::socket::SockProtocol;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::netlink::{Netlink, attribute};
use super::nft;
use crate::core::app::AppKey;
use crate::supervise::HostEvent;

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// Subsystem `nftables`, message `deltable`.
const TABLE_DELETED: u16 = 0xa02;

/// Runs until nobody listens, or the kernel tells no news: then the periodic look is what finds a missing table.
pub async fn forward(mark: String, out: mpsc::Sender<HostEvent>) {
    if let Err(err) = listen(&mark, &out).await {
        tracing::warn!(%err, "changes of nftables cannot be heard; they are found by looking now and then");
    }
}

async fn listen(mark: &str, out: &mpsc::Sender<HostEvent>) -> io::Result<()> {
    let socket = Netlink::listen(SockProtocol::NetlinkNetFilter, GROUP)?;
    #[allow(
        deprecated,
        reason = "its successor is unsafe; this socket owns its one descriptor for as long as it lives"
    )]
    let socket = AsyncFd::new(socket)?;
    loop {
        let mut ready = tokio::select! {
            ready = socket.readable() => ready?,
            () = out.closed() => return Ok(()),
        };
        let events: Vec<HostEvent> = match ready.try_io(|socket| socket.get_ref().news()) {
            Err(_) => continue,
            Ok(Ok(news)) => {
                news.iter().filter_map(|(kind, body)| deleted(*kind, body, mark)).map(HostEvent::App).collect()
            }
            // More happened than fits: anything may be gone.
            Ok(Err(err)) if err.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                vec![HostEvent::Everything]
            }
            Ok(Err(err)) => return Err(err),
        };
        for event in events {
            if out.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn deleted(kind: u16, body: &[u8], mark: &str) -> Option<AppKey> {
    let name = attribute(body.get(4..)?, 1).filter(|_| kind == TABLE_DELETED)?;
    nft::key_of(mark, std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).ok()?)
}
