//! The broker's log file, told on as our own events.
//!
//! The broker writes to a file of bounded size, not to a pipe of ours: it must outlive a killed coordinator, and a
//! broken pipe would end it. Decides: which lines matter (warnings and errors). Deliberately does not: keep them.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};

const PAUSE: Duration = Duration::from_millis(500);
/// At most so much of the log is read at once; the rest of a flood is left out.
const CHUNK: u64 = 64 * 1024;

/// Follows the file from its present end, for ever.
pub(super) async fn follow(path: PathBuf) {
    let mut at = tokio::fs::metadata(&path).await.map(|m| m.len()).unwrap_or(0);
    loop {
        tokio::time::sleep(PAUSE).await;
        let Ok(len) = tokio::fs::metadata(&path).await.map(|m| m.len()) else { continue };
        if len < at {
            at = 0; // rotated
        }
        if len == at {
            continue;
        }
        let from = at.max(len.saturating_sub(CHUNK));
        at = len;
        if let Ok(text) = read(&path, from, len - from).await {
            text.lines().for_each(tell);
        }
    }
}

async fn read(path: &Path, from: u64, len: u64) -> std::io::Result<String> {
    let mut file = File::from_std(super::owner::open(path)?);
    file.seek(SeekFrom::Start(from)).await?;
    let mut bytes = vec![];
    file.take(len).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tell(line: &str) {
    if let Some((_, text)) = line.split_once("[ERR] ").or_else(|| line.split_once("[FTL] ")) {
        tracing::error!(target: "nats_server", "{text}");
    } else if let Some((_, text)) = line.split_once("[WRN] ") {
        tracing::warn!(target: "nats_server", "{text}");
    }
}
