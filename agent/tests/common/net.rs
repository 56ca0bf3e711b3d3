//! Ports, questions to them, and waiting for what nobody tells.

use std::time::Duration;

use super::PATIENCE;

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) async fn http_get(port: u16) -> String {
    try_get(port).await.unwrap()
}

pub(crate) async fn try_get(port: u16) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Asks until the answer ends like this.
pub(crate) async fn http_until(port: u16, end: &str) {
    let asking = async {
        loop {
            // A connection that began while nobody was there may hang for seconds; a new one is asked instead.
            let answer = tokio::time::timeout(Duration::from_millis(250), try_get(port)).await;
            if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.ends_with(end))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "port {port} never answered {end:?}");
}

/// Waits for something that nobody tells.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Something that speaks HTTP and is no registry. Gives its port.
pub(crate) async fn serve_rubbish() -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = [0u8; 4096];
            if client.read(&mut asked).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
                client.write_all(answer).await.ok();
            }
        }
    });
    port
}
