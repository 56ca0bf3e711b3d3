//! Podman's framing of two output streams in one connection: 8 bytes of head (stream, 0, 0, 0, length), then the bytes.
//!
//! Decides where a frame begins and ends. A stream that is not framed is an error value, never a panic.

use bytes::{Buf, Bytes, BytesMut};

/// A frame longer than this is handed on in pieces, so one huge frame never needs one huge buffer.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Which output a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output (or a terminal).
    Out,
    /// Standard error.
    Err,
}

/// The stream is not framed as it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("output of the container is not framed as expected (first byte {0})")]
pub struct BadFrame(u8);

/// Takes bytes as they come, gives pieces as they are known.
#[derive(Debug, Default)]
pub struct Demux {
    pending: BytesMut,
    open: Option<(Stream, usize)>,
}

impl Demux {
    /// Adds what arrived.
    pub fn push(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// The next piece, `None` when more bytes are needed.
    pub fn next_piece(&mut self) -> Result<Option<(Stream, Bytes)>, BadFrame> {
        loop {
            let Some((stream, left)) = self.open else {
                if self.pending.len() < 8 {
                    return Ok(None);
                }
                let head = self.pending.split_to(8);
                let stream = match head[0] {
                    0 | 1 => Stream::Out,
                    2 => Stream::Err,
                    other => return Err(BadFrame(other)),
                };
                let mut length = &head[4..8];
                self.open = Some((stream, length.get_u32() as usize));
                continue;
            };
            if left == 0 {
                self.open = None;
                continue;
            }
            if self.pending.is_empty() {
                return Ok(None);
            }
            let take = left.min(self.pending.len()).min(PIECE_BYTES_MAX);
            self.open = Some((stream, left - take));
            return Ok(Some((stream, self.pending.split_to(take).freeze())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURED: &[u8] = b"\x01\0\0\0\0\0\0\x03hi\n\x02\0\0\0\0\0\0\x02e\n";

    fn all(chunks: &[&[u8]]) -> Vec<(Stream, Vec<u8>)> {
        let mut demux = Demux::default();
        let mut out: Vec<(Stream, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            demux.push(chunk);
            while let Some((stream, piece)) = demux.next_piece().unwrap() {
                match out.last_mut() {
                    Some((last, bytes)) if *last == stream => bytes.extend_from_slice(&piece),
                    Some(_) | None => out.push((stream, piece.to_vec())),
                }
            }
        }
        out
    }

    #[test]
    fn captured_output_is_split_wherever_it_is_cut() {
        let want = vec![(Stream::Out, b"hi\n".to_vec()), (Stream::Err, b"e\n".to_vec())];
        for cut in 0..CAPTURED.len() {
            assert_eq!(all(&[&CAPTURED[..cut], &CAPTURED[cut..]]), want, "cut at {cut}");
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        let mut demux = Demux::default();
        demux.push(b"HTTP/1.1 200");
        assert_eq!(demux.next_piece(), Err(BadFrame(b'H')));
    }

    #[test]
    fn a_huge_frame_comes_in_pieces() {
        let mut demux = Demux::default();
        demux.push(b"\x01\0\0\0\0\x01\0\0");
        demux.push(&[7; 65_536]);
        let mut sizes = Vec::new();
        while let Some((_, piece)) = demux.next_piece().unwrap() {
            sizes.push(piece.len());
        }
        assert_eq!(sizes, [PIECE_BYTES_MAX; 4]);
    }
}
