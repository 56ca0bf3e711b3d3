//! Where binaries come from besides the mesh: a directory or an HTTP address, where each lies under its digest in
//! hexadecimal. Where one comes from gives it no trust.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use bramble_contracts::bytes::Sha256;

use super::http::{Http, HttpBody};

/// A place that `agent.toml` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Of this machine.
    Directory(PathBuf),
    /// Of another one.
    Http(Http),
}

/// Why nothing comes from there.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `agent.toml` names no place.
    #[error("{0:?} is neither an absolute path nor an address such as http://files.example/bramble")]
    Address(String),
    /// It is not there.
    #[error("{0} is not there")]
    Absent(String),
    /// It cannot be read.
    #[error("cannot read {from}: {why}")]
    Read {
        /// What.
        from: String,
        /// In words.
        why: String,
    },
}

/// A binary that is being read, from some point on.
#[derive(Debug)]
pub struct Open(Reading);

#[derive(Debug)]
enum Reading {
    File(File, PathBuf),
    Http(Box<HttpBody>),
}

impl Source {
    /// As it stands in `agent.toml`.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.starts_with('/') {
            return Ok(Self::Directory(text.into()));
        }
        Http::parse(text).map(Self::Http).ok_or_else(|| SourceError::Address(text.to_owned()))
    }

    /// Opens the binary with this digest at that byte.
    pub async fn open(&self, sha256: &Sha256, from: u64) -> Result<Open, SourceError> {
        match self {
            Self::Http(http) => Ok(Open(Reading::Http(Box::new(http.open(&sha256.to_string(), from).await?)))),
            Self::Directory(dir) => {
                let path = dir.join(sha256.to_string());
                let opened = tokio::task::spawn_blocking(move || {
                    let opened = File::open(&path).and_then(|mut file| file.seek(SeekFrom::Start(from)).map(|_| file));
                    (opened, path)
                });
                match opened.await {
                    Ok((Ok(file), path)) => Ok(Open(Reading::File(file, path))),
                    Ok((Err(err), path)) if err.kind() == io::ErrorKind::NotFound => {
                        Err(SourceError::Absent(path.display().to_string()))
                    }
                    Ok((Err(err), path)) => Err(read(&path.display(), &err)),
                    Err(err) => Err(read(&dir.display(), &err)),
                }
            }
        }
    }
}

impl Open {
    /// The next piece, at most so long; none at its end.
    pub async fn next(self, max: usize) -> Result<(Self, Vec<u8>), SourceError> {
        match self.0 {
            Reading::Http(mut body) => {
                let piece = body.next(max).await?;
                Ok((Self(Reading::Http(body)), piece))
            }
            Reading::File(mut file, path) => {
                let name = path.display().to_string();
                let piece = tokio::task::spawn_blocking(move || {
                    let mut piece = Vec::with_capacity(max);
                    let read = (&mut file).take(max as u64).read_to_end(&mut piece);
                    read.map(|_| (Self(Reading::File(file, path)), piece))
                });
                piece.await.map_err(|err| read(&name, &err))?.map_err(|err| read(&name, &err))
            }
        }
    }
}

fn read(from: &dyn Display, why: &dyn Display) -> SourceError {
    SourceError::Read { from: from.to_string(), why: why.to_string() }
}
