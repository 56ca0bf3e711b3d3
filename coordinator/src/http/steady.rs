//! A stream whose peer must take what it is sent: a write that gets nowhere for too long ends the connection.
//!
//! Decides: how long. Deliberately does not: bound silence where nothing is to be sent (a watched list may have nothing
//! to tell for hours), nor reads; heads and bodies have their own deadlines.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long a peer may take nothing while something is to be sent.
const STUCK_MAX: Duration = Duration::from_secs(30);

/// A stream, and the time since its peer takes nothing.
#[derive(Debug)]
pub(super) struct Steady<S> {
    inner: S,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Steady<S> {
    /// Around `inner`.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, stuck: None }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stuck = None;
            return done;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK_MAX)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Steady<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Steady<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.bounded(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.bounded(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_flush(cx);
        // A flush of what is already sent says nothing about a write that waits.
        if done.is_ready() { done } else { self.bounded(cx, done) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_left() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Steady::new(ours);
        ours.write_all(b"1234").await.unwrap();
        tokio::time::sleep(STUCK_MAX * 10).await;
        let reading = async {
            tokio::time::sleep(STUCK_MAX / 2).await;
            theirs.read_exact(&mut [0; 4]).await.unwrap();
        };
        let (wrote, ()) = tokio::join!(ours.write_all(b"5678"), reading);
        assert!(wrote.is_ok(), "slow, and not stuck");
        let stuck = ours.write_all(b"9").await.unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
    }
}
