//! Asks a container a smoke check: HTTP, TCP or a command, within the probe's time.
//!
//! When to ask, and what an answer means for the app, is decided in `core`; how it reads, in `contracts`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bramble_contracts::Name;
use bramble_contracts::smoke::{no_answer, no_connection};
use bramble_contracts::v1::Probe;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::leash::Leash;
use super::podman::Podman;
use crate::core::app::App;

/// One question. The error says what came back, so that it goes on where the check's name ends.
pub(super) async fn ask(podman: &Podman, app: &App, name: &Name, id: &str) -> Result<(), String> {
    let Some(probe) = app.probe(name) else { return Ok(()) };
    let timeout = probe.timeout.duration();
    let answer = tokio::time::timeout(timeout, one(podman, app, probe, id)).await;
    answer.unwrap_or_else(|_| Err(no_answer(timeout)))
}

async fn one(podman: &Podman, app: &App, probe: &Probe, id: &str) -> Result<(), String> {
    if let Some(http) = &probe.http {
        let at = SocketAddr::new(address(podman, app, id).await?, http.port);
        return get(at, &http.path).await;
    }
    if let Some(tcp) = &probe.tcp {
        let at = SocketAddr::new(address(podman, app, id).await?, tcp.port);
        return TcpStream::connect(at).await.map(|_| ()).map_err(|err| no_connection(&err));
    }
    if let Some(exec) = &probe.exec {
        return command(podman, id, &exec.command).await;
    }
    Ok(())
}

/// An address the host reaches the container by; members of a pod have their pod's.
async fn address(podman: &Podman, app: &App, id: &str) -> Result<IpAddr, String> {
    if app.host_network() {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let gone = || cannot_ask("the container is gone");
    let detail = podman.inspect(id).await.map_err(cannot_ask)?.ok_or_else(gone)?;
    let detail = if detail.address().is_none() && !detail.pod.is_empty() {
        let pod = podman.pod_inspect(&detail.pod).await.map_err(cannot_ask)?.ok_or_else(gone)?;
        podman.inspect(&pod.infra_container_id).await.map_err(cannot_ask)?.ok_or_else(gone)?
    } else {
        detail
    };
    let address = detail.address().ok_or_else(|| cannot_ask("the container has no address"))?;
    address.parse().map_err(|_| cannot_ask(format!("Podman gave {address:?} as its address")))
}

fn cannot_ask(why: impl std::fmt::Display) -> String {
    format!("could not be asked: {why}")
}

async fn get(at: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(at).await.map_err(|err| no_connection(&err))?;
    let broken = |err: hyper::Error| format!("gave no HTTP answer ({err})");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let talking = tokio::spawn(connection);
    let request = Request::get(path)
        .header("Host", at.to_string())
        .header("User-Agent", "bramble-probe")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(cannot_ask)?;
    let answer = sender.send_request(request).await.map_err(broken);
    talking.abort();
    let status = answer?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("answered {status}")) }
}

/// Output of a probe is read, so that it never blocks, and only its end is kept.
async fn command(podman: &Podman, id: &str, argv: &[String]) -> Result<(), String> {
    let command = Leash::prepare(podman, id, argv).await.map_err(cannot_ask)?;
    let mut output = podman.exec_start(command.session()).await.map_err(cannot_ask)?;
    let mut last = Vec::new();
    while let Some((_, piece)) = output.next().await.map_err(cannot_ask)? {
        last.extend_from_slice(&piece);
        let extra = last.len().saturating_sub(200);
        last.drain(..extra);
    }
    match command.end().await.map_err(cannot_ask)? {
        0 => Ok(()),
        code => Err(format!("ended with exit code {code} {}", String::from_utf8_lossy(&last).trim()).trim().to_owned()),
    }
}
