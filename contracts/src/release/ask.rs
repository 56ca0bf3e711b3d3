//! How a device asks for releases on `up.<id>.release`: small questions, one answer each, so that a download goes on where
//! it was cut off and takes no more memory than one chunk.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::Sha256,
    envelope::{Kind, Message},
};

/// Bytes of one chunk, at most.
pub const CHUNK_MAX: u32 = 64 * 1024;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseAsk {
    /// The signed release keys after this version, in order; a few at a time.
    Keys {
        /// The version held; 0 for none.
        after: u64,
    },
    /// The signed manifest with this digest.
    Manifest {
        /// The digest of the signed bytes.
        manifest: Sha256,
    },
    /// A timestamp for the manifest with this digest.
    Timestamp {
        /// The digest of the signed bytes.
        manifest: Sha256,
    },
    /// A part of a binary.
    Chunk {
        /// The whole binary's digest.
        sha256: Sha256,
        /// From here.
        offset: u64,
        /// So many bytes, at most [`CHUNK_MAX`]; fewer only at its end.
        len: u32,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseAnswer {
    /// Signed release keys, in order.
    Keys(Vec<Vec<u8>>),
    /// A signed manifest.
    Manifest(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// A signed timestamp.
    Timestamp(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// A part of a binary.
    Chunk(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// There is no such thing here, in words. It may be withdrawn: asking again later can help.
    Absent(String),
    /// It cannot be told now, in words: ask again later.
    Later(String),
}

impl Message for ReleaseAsk {
    const KIND: Kind = Kind::ReleaseAsk;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 128;
}

impl Message for ReleaseAnswer {
    const KIND: Kind = Kind::ReleaseAnswer;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 96 * 1024;
}
