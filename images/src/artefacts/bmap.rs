//! The block map (format 2.0, as `bmaptool` reads it): what a writer of cards must write. Decides that these are all blocks that
//! hold something, and those of zeros that somebody reads: what a card held before is never taken for a journal.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::digest::hex;
use crate::layout::{Layout, Span};

const BLOCK: u64 = 4096;
/// Blocks that are looked at together: a map of single blocks would be long.
const PIECE: u64 = 64;

/// Blocks from the first to the last.
type Range = (u64, u64);

/// The map of a card's file.
pub(super) fn of(disk: &Path, layout: &Layout) -> Result<String, Error> {
    let failed = |err| Error::file("read", disk, err);
    let mut file = File::open(disk).map_err(failed)?;
    let ranges = ranges(&mut file, layout).map_err(failed)?;
    let mut digests = vec![];
    for range in &ranges {
        digests.push(digest(&mut file, *range).map_err(failed)?);
    }
    Ok(text(layout.disk, &ranges, &digests))
}

fn ranges(file: &mut File, layout: &Layout) -> std::io::Result<Vec<Range>> {
    let always = layout.always_written();
    let blocks = layout.disk.div_ceil(BLOCK);
    let zeros = vec![0; usize::try_from(PIECE * BLOCK).expect("invariant: small")];
    let mut piece = zeros.clone();
    let mut ranges: Vec<Range> = vec![];
    file.seek(SeekFrom::Start(0))?;
    for first in (0..blocks).step_by(usize::try_from(PIECE).expect("invariant: small")) {
        let count = PIECE.min(blocks - first);
        let bytes = &mut piece[..usize::try_from(count * BLOCK).expect("invariant: small")];
        file.read_exact(bytes)?;
        let span = Span { start: first * BLOCK, size: count * BLOCK };
        if *bytes != zeros[..bytes.len()] || always.iter().any(|a| a.start < span.end() && span.start < a.end()) {
            match ranges.last_mut() {
                Some(last) if last.1 + 1 == first => last.1 += count,
                Some(_) | None => ranges.push((first, first + count - 1)),
            }
        }
    }
    Ok(ranges)
}

fn digest(file: &mut File, (first, last): Range) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(first * BLOCK))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file.take((last - first + 1) * BLOCK), &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

fn text(size: u64, ranges: &[Range], digests: &[String]) -> String {
    let mapped: u64 = ranges.iter().map(|(first, last)| last - first + 1).sum();
    let mut map = String::new();
    for ((first, last), digest) in ranges.iter().zip(digests) {
        let which = if first == last { first.to_string() } else { format!("{first}-{last}") };
        map.push_str(&format!("        <Range chksum=\"{digest}\"> {which} </Range>\n"));
    }
    let whole = |own: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {size} </ImageSize>\n    <BlockSize> {BLOCK} \
             </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    \
             <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> {own} </BmapFileChecksum>\n    \
             <BlockMap>\n{map}    </BlockMap>\n</bmap>\n",
            size.div_ceil(BLOCK)
        )
    };
    // Its own checksum is that of the text with zeros in the place of it.
    let own = hex(&Sha256::digest(whole(&"0".repeat(64))));
    whole(&own)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::layout::{Content, MIB};
    use crate::recipe::Sizes;

    #[test]
    fn what_holds_something_and_what_is_read_is_mapped() {
        let sizes = Sizes {
            config: 32,
            boot: 64,
            root: 256,
            root_free: 0,
            pool_metadata: 4,
            state: 128,
            state_free: 0,
            apps: 128,
        };
        let layout = Layout::new(&sizes, Content { root: 0, state: 0, apps: 0 });
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(layout.disk).unwrap();
        let somewhere = layout.pool.start + 100 * MIB;
        file.seek(SeekFrom::Start(somewhere)).unwrap();
        file.write_all(b"x").unwrap();
        let ranges = ranges(&mut file, &layout).unwrap();
        let holds = |byte: u64| ranges.iter().any(|(first, last)| (first * BLOCK..(last + 1) * BLOCK).contains(&byte));
        for span in layout.always_written() {
            assert!(holds(span.start) && holds(span.end() - 1), "{span:?} in {ranges:?}");
        }
        assert!(holds(somewhere) && !holds(somewhere + MIB) && !holds(layout.boot[0].start + 32 * MIB), "{ranges:?}");
        assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0), "{ranges:?}");
    }

    #[test]
    fn the_map_checks_itself() {
        let text = text(3 * BLOCK, &[(0, 0), (2, 2)], &["a".repeat(64), "b".repeat(64)]);
        let own = text.split("<BmapFileChecksum> ").nth(1).unwrap().split(' ').next().unwrap();
        assert_eq!(hex(&Sha256::digest(text.replace(own, &"0".repeat(64)))), own);
        assert!(text.contains("<MappedBlocksCount> 2 <") && text.contains("> 2 </Range>"), "{text}");
    }
}
