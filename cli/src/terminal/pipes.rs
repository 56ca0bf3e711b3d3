//! Standard input and output as queues. Both can wait for ever (a person, a pager), so each has a thread of its own, and
//! nothing else waits for them.

use std::{
    io::{self, Read as _, Write},
    thread,
};

use bramble_contracts::{api::OUTPUT_WINDOW, v1::INPUT_BYTES_MAX};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// What is typed or piped in, in pieces of one message at most; ends with it. Read ahead by one piece.
pub(crate) fn keyboard() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (to, typed) = mpsc::channel(1);
    // Not waited for: it may sit in a read for ever, and ends with the program.
    thread::spawn(move || {
        let mut buffer = vec![0; INPUT_BYTES_MAX];
        loop {
            let read = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(buffer[..count].to_vec()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => Err(err),
            };
            let failed = read.is_err();
            if to.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    typed
}

/// Bytes to be shown, and where.
#[derive(Debug)]
pub(crate) enum Printed {
    /// On standard output.
    Out(Bytes),
    /// On standard error.
    Err(Bytes),
}

/// How far the printer is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// So many messages are printed.
    pub messages: u64,
    /// What went wrong.
    pub failed: Option<io::ErrorKind>,
}

/// Prints, in order. What was given is printed before it ends.
pub(crate) struct Printer {
    to: mpsc::Sender<Printed>,
    progress: watch::Receiver<Progress>,
}

/// More was given than has room: the coordinator sends more than it was told to.
#[derive(Debug)]
pub(crate) struct Flooded;

impl Printer {
    /// One that has printed nothing.
    pub(crate) fn start() -> Self {
        let (to, mut waiting) = mpsc::channel(usize::try_from(OUTPUT_WINDOW).unwrap_or(usize::MAX));
        let (tell, progress) = watch::channel(Progress::default());
        thread::spawn(move || {
            while let Some(printed) = waiting.blocking_recv() {
                let done = match &printed {
                    Printed::Out(bytes) => put(&mut io::stdout(), bytes),
                    Printed::Err(bytes) => put(&mut io::stderr(), bytes),
                };
                tell.send_modify(|progress| {
                    progress.messages += 1;
                    progress.failed = done.as_ref().err().map(io::Error::kind);
                });
                if done.is_err() {
                    return;
                }
            }
        });
        Self { to, progress }
    }

    /// Takes it; does not wait.
    pub(crate) fn give(&self, printed: Printed) -> Result<(), Flooded> {
        // A printer that has failed has told so.
        match self.to.try_send(printed) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Flooded),
        }
    }

    /// How far it is, as it goes on.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until everything is printed.
    pub(crate) async fn end(self) -> io::Result<()> {
        let Self { to, mut progress } = self;
        drop(to);
        while progress.changed().await.is_ok() {}
        let failed = progress.borrow().failed;
        failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
