//! Binaries in the store, by their digest: parts of one size, each a message on a subject of its own.
//!
//! Decides: the layout, and how bytes from anywhere within a binary are found: one direct get for each part they touch.
//! The client's own object store is not used: it puts all parts of an object on one subject, so that reading from the
//! middle takes a consumer, and its entries need roll-up headers, which no stream of ours allows. A binary is whole when
//! its seal is there, which comes last; parts before that are overwritten by whoever sends the same binary again, and by
//! nobody else, because what is written was compared with its digest before.
//! Deliberately does not: compute digests; whoever writes has.

use bramble_contracts::{bytes::Sha256, release::CHUNK_MAX};
use bytes::{Bytes, BytesMut};

use super::{Store, StoreError};

/// Bytes of a part: what a device asks for at once.
pub const PART: usize = CHUNK_MAX as usize;

/// The subject that says a binary is whole.
pub(super) fn seal(sha256: &Sha256) -> String {
    format!("$O.releases.M.{sha256}")
}

/// The subject of a part.
pub(super) fn part(sha256: &Sha256, n: u64) -> String {
    format!("$O.releases.C.{sha256}.{n}")
}

/// At most `len` bytes of a binary of `size` bytes, from `offset`; none when a part of it is missing.
pub async fn read(
    store: &dyn Store,
    sha256: &Sha256,
    size: u64,
    offset: u64,
    len: usize,
) -> Result<Option<Bytes>, StoreError> {
    let end = offset.saturating_add(len as u64).min(size);
    let (mut at, mut read) = (offset, BytesMut::new());
    while at < end {
        let (n, skip) = (at / PART as u64, usize::try_from(at % PART as u64).unwrap_or(usize::MAX));
        let Some(part) = store.blob_part(sha256, n).await? else { return Ok(None) };
        let take = part.len().min(skip.saturating_add(usize::try_from(end - at).unwrap_or(usize::MAX)));
        // A part that is shorter than the binary's size says is a damaged one.
        let Some(bytes) = part.get(skip..take).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        if read.is_empty() && at + bytes.len() as u64 == end {
            return Ok(Some(part.slice(skip..take)));
        }
        read.extend_from_slice(bytes);
        at += bytes.len() as u64;
    }
    Ok(Some(read.freeze()))
}
