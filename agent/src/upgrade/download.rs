//! A binary on its way in: into a file beside its place, from where the last try ended, checked as a whole, and only then
//! under its name.
//!
//! Decides what it may cost: no byte more than the manifest says, and room that stays free. A file whose digest is wrong is
//! removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramble_contracts::bytes::{Fixed, Sha256};
use bramble_contracts::release::{CHUNK_MAX, ReleaseAnswer, ReleaseAsk};
use bramble_contracts::v1::AgentVersion;
use sha2::Digest as _;

use crate::core::backoff::Backoff;
use crate::core::disk::Bytes;
use crate::host::facts;
use crate::host::instances::{Binaries, BinaryError, Link};
use crate::host::release::{Open, Source, SourceError};
use crate::mesh::{Releases, Unreachable};

/// So often in a row nothing may come before it is given up; what is there stays.
const TRIES_MAX: u32 = 8;
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Bytes that are there.
pub(crate) type Progress = Arc<AtomicU64>;

/// Why a binary is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    /// The file system refused.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The file system refused.
    #[error("cannot {doing} {}: {err}", path.display())]
    Io {
        /// Reading, writing, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        err: io::Error,
    },
    /// It would fill the disk.
    #[error("the binary needs {need} more, and {free} are free, of which {reserve} are to stay free: make room")]
    NoRoom {
        /// For what is missing.
        need: Bytes,
        /// Now.
        free: Bytes,
        /// Whatever comes in.
        reserve: Bytes,
    },
    /// The file is whole, and not what the manifest names.
    #[error("the binary has digest {got}, the manifest says {want}: it was damaged or exchanged on its way")]
    Digest {
        /// Of the file.
        got: Sha256,
        /// Of the manifest.
        want: Sha256,
    },
    /// Another binary has this version.
    #[error("version {0} is on this device with another digest: a version names one binary for ever")]
    OtherBinary(AgentVersion),
    /// Nobody gives it.
    #[error("the binary did not come in: {0}")]
    NothingComes(String),
}

/// What is to come in.
#[derive(Debug, Clone)]
pub(crate) struct Download {
    /// Where it goes.
    pub(crate) binaries: Binaries,
    /// As what.
    pub(crate) version: AgentVersion,
    /// Its digest.
    pub(crate) sha256: Sha256,
    /// Its bytes.
    pub(crate) size: u64,
    /// Bytes that stay free.
    pub(crate) reserve: u64,
    /// Told while it comes in.
    pub(crate) progress: Progress,
}

/// Where pieces come from now.
enum Way<'a> {
    Mesh(&'a Releases),
    Source(&'a Source, Option<Open>),
}

impl Download {
    /// Brings it in; it lies in its place, whole and durable, when this returns. Where it is there already nothing comes.
    pub(crate) async fn run(self, source: Option<&Source>, releases: &Releases) -> Result<(), DownloadError> {
        if self.is_there().await? {
            self.progress.store(self.size, Ordering::Relaxed);
            return Ok(());
        }
        self.binaries.dir()?;
        let part = self.binaries.part(self.version, &self.sha256);
        let mut file = self.resume(&part)?;
        let mut way = match source {
            Some(source) => Way::Source(source, None),
            None => Way::Mesh(releases),
        };
        let mut failures = 0;
        while self.at() < self.size {
            match self.piece(&mut way).await {
                Ok(piece) => {
                    failures = 0;
                    file = self.write(file, piece, &part).await?;
                }
                Err(SourceError::Absent(what)) if matches!(way, Way::Source(..)) => {
                    tracing::info!(what, "a binary is not at the place that agent.toml names: it comes over the mesh");
                    way = Way::Mesh(releases);
                }
                Err(err) => {
                    failures += 1;
                    if failures >= TRIES_MAX {
                        return Err(DownloadError::NothingComes(err.to_string()));
                    }
                    tokio::time::sleep(PAUSES.delay(failures)).await;
                }
            }
        }
        drop(file);
        self.finish(part).await
    }

    /// Another one of this version that nothing leads to is left from a release that failed: it gives way.
    async fn is_there(&self) -> Result<bool, DownloadError> {
        let place = self.binaries.path(self.version);
        if !place.exists() {
            return Ok(false);
        }
        let whole = digest(place.clone()).await? == self.sha256;
        let linked =
            [Link::Current, Link::Confirmed].map(|link| self.binaries.target(link)).contains(&Some(self.version));
        match (whole, linked) {
            (true, _) => Ok(true),
            (false, true) => Err(DownloadError::OtherBinary(self.version)),
            (false, false) => {
                let removed = fs::remove_file(&place);
                removed.map_err(|err| DownloadError::Io { doing: "remove", path: place, err })?;
                Ok(false)
            }
        }
    }

    fn at(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Opens what came in before; checks that the rest fits.
    fn resume(&self, part: &Path) -> Result<File, DownloadError> {
        let fail = |doing| move |err| DownloadError::Io { doing, path: part.to_owned(), err };
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(part).map_err(fail("create"))?;
        let mut len = file.metadata().map_err(fail("read"))?.len();
        if len > self.size {
            file.set_len(0).map_err(fail("empty"))?;
            len = 0;
        }
        self.progress.store(len, Ordering::Relaxed);
        let (need, free) = (self.size - len, facts::space(part).free);
        if need.saturating_add(self.reserve) > free {
            let (need, free, reserve) = (Bytes(need), Bytes(free), Bytes(self.reserve));
            return Err(DownloadError::NoRoom { need, free, reserve });
        }
        Ok(file)
    }

    /// The next piece: something, and never more than is missing.
    async fn piece(&self, way: &mut Way<'_>) -> Result<Vec<u8>, SourceError> {
        let (offset, missing) = (self.at(), self.size - self.at());
        let len = u32::try_from(missing).unwrap_or(u32::MAX).min(CHUNK_MAX);
        let piece = match way {
            Way::Mesh(releases) => over_mesh(releases, self.sha256, offset, len).await?,
            Way::Source(source, open) => {
                let reading = match open.take() {
                    Some(reading) => reading,
                    None => source.open(&self.sha256, offset).await?,
                };
                let (reading, piece) = reading.next(len as usize).await?;
                *open = (!piece.is_empty()).then_some(reading);
                piece
            }
        };
        let fits = !piece.is_empty() && piece.len() <= len as usize;
        let short = || SourceError::Read { from: self.sha256.to_string(), why: "it ends too early".into() };
        fits.then_some(piece).ok_or_else(short)
    }

    async fn write(&self, mut file: File, piece: Vec<u8>, part: &Path) -> Result<File, DownloadError> {
        let len = piece.len() as u64;
        let written = blocking(move || file.write_all(&piece).map(|()| file)).await;
        let file = written.map_err(|err| DownloadError::Io { doing: "write", path: part.to_owned(), err })?;
        self.progress.fetch_add(len, Ordering::Relaxed);
        Ok(file)
    }

    /// Checks the whole, then gives it its name.
    async fn finish(&self, part: PathBuf) -> Result<(), DownloadError> {
        let got = digest(part.clone()).await?;
        let fail = |doing| {
            let path = part.clone();
            move |err| DownloadError::Io { doing, path, err }
        };
        if got != self.sha256 {
            fs::remove_file(&part).map_err(fail("remove"))?;
            self.progress.store(0, Ordering::Relaxed);
            return Err(DownloadError::Digest { got, want: self.sha256 });
        }
        let (from, to) = (part.clone(), self.binaries.path(self.version));
        let placed = blocking(move || {
            let file = File::open(&from)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            file.sync_all()?;
            fs::rename(&from, &to)
        });
        placed.await.map_err(fail("place"))?;
        Ok(self.binaries.sync()?)
    }
}

async fn over_mesh(releases: &Releases, sha256: Sha256, offset: u64, len: u32) -> Result<Vec<u8>, SourceError> {
    let fail = |why: String| SourceError::Read { from: "the mesh".into(), why };
    match releases.ask(&ReleaseAsk::Chunk { sha256, offset, len }).await {
        Ok(ReleaseAnswer::Chunk(piece)) => Ok(piece),
        Ok(ReleaseAnswer::Absent(why) | ReleaseAnswer::Later(why)) => Err(fail(why)),
        Ok(ReleaseAnswer::Keys(_) | ReleaseAnswer::Manifest(_) | ReleaseAnswer::Timestamp(_)) => {
            Err(fail("the answer is of another question".into()))
        }
        Err(Unreachable(why)) => Err(fail(why)),
    }
}

async fn digest(path: PathBuf) -> Result<Sha256, DownloadError> {
    let read = path.clone();
    let done = blocking(move || {
        let (mut file, mut hash, mut piece) = (File::open(&read)?, sha2::Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(Fixed(hash.finalize().into())),
                n => hash.update(&piece[..n]),
            }
        }
    });
    done.await.map_err(|err| DownloadError::Io { doing: "read", path, err })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|err| Err(io::Error::other(err)))
}
