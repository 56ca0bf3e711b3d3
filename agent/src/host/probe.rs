//! Asks a container whether it is healthy: HTTP, TCP or a command, within the probe's time.
//!
//! When to ask, and what an answer means for the app, is decided in `core`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bramble_contracts::Name;
use bramble_contracts::v1::Probe;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::leash::Leash;
use super::podman::Podman;
use crate::core::app::App;

/// One question. The error says what was asked and what came back.
pub(super) async fn ask(podman: &Podman, app: &App, name: &Name, id: &str) -> Result<(), String> {
    let Some(probe) = app.probe(name) else { return Ok(()) };
    let timeout = probe.timeout.duration();
    match tokio::time::timeout(timeout, one(podman, app, probe, id)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{} did not answer within {} ms", describe(probe), timeout.as_millis())),
    }
}

fn describe(probe: &Probe) -> String {
    match (&probe.http, &probe.tcp, &probe.exec) {
        (Some(http), _, _) => format!("HTTP GET :{}{}", http.port, http.path),
        (None, Some(tcp), _) => format!("TCP :{}", tcp.port),
        (None, None, Some(exec)) => format!("command {}", exec.command.join(" ")),
        (None, None, None) => "an empty probe".to_owned(),
    }
}

async fn one(podman: &Podman, app: &App, probe: &Probe, id: &str) -> Result<(), String> {
    let fail = |why: String| format!("{}: {why}", describe(probe));
    if let Some(http) = &probe.http {
        let at = SocketAddr::new(address(podman, app, id).await.map_err(fail)?, http.port);
        return get(at, &http.path).await.map_err(fail);
    }
    if let Some(tcp) = &probe.tcp {
        let at = SocketAddr::new(address(podman, app, id).await.map_err(fail)?, tcp.port);
        return TcpStream::connect(at).await.map(|_| ()).map_err(|err| fail(err.to_string()));
    }
    if let Some(exec) = &probe.exec {
        return command(podman, id, &exec.command).await.map_err(fail);
    }
    Ok(())
}

/// An address the host reaches the container by; members of a pod have their pod's.
async fn address(podman: &Podman, app: &App, id: &str) -> Result<IpAddr, String> {
    if app.host_network() {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let gone = || "the container is gone".to_owned();
    let detail = podman.inspect(id).await.map_err(|err| err.to_string())?.ok_or_else(gone)?;
    let detail = if detail.address().is_none() && !detail.pod.is_empty() {
        let pod = podman.pod_inspect(&detail.pod).await.map_err(|err| err.to_string())?.ok_or_else(gone)?;
        podman.inspect(&pod.infra_container_id).await.map_err(|err| err.to_string())?.ok_or_else(gone)?
    } else {
        detail
    };
    let address = detail.address().ok_or("the container has no address")?;
    address.parse().map_err(|_| format!("Podman gave {address:?} as its address"))
}

async fn get(at: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(at).await.map_err(|err| err.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|err| err.to_string())?;
    let talking = tokio::spawn(connection);
    let request = Request::get(path)
        .header("Host", at.to_string())
        .header("User-Agent", "bramble-probe")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|err| err.to_string())?;
    let answer = sender.send_request(request).await.map_err(|err| err.to_string());
    talking.abort();
    let status = answer?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("answered {status}")) }
}

/// Output of a probe is read, so that it never blocks, and only its end is kept.
async fn command(podman: &Podman, id: &str, argv: &[String]) -> Result<(), String> {
    let text = |err: super::podman::PodmanError| err.to_string();
    let command = Leash::prepare(podman, id, argv).await.map_err(text)?;
    let mut output = podman.exec_start(command.session()).await.map_err(text)?;
    let mut last = Vec::new();
    while let Some((_, piece)) = output.next().await.map_err(text)? {
        last.extend_from_slice(&piece);
        let extra = last.len().saturating_sub(200);
        last.drain(..extra);
    }
    match command.end().await.map_err(text)? {
        0 => Ok(()),
        code => Err(format!("ended with exit code {code} {}", String::from_utf8_lossy(&last).trim()).trim().to_owned()),
    }
}
