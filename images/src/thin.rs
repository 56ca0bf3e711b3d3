//! The thin pool's own metadata: which of root's blocks lie where in the pool. Decides the mapping (each block at its own
//! place, and only those that are not all zeros); `thin_restore` makes the metadata's bytes of it.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::Error;
use crate::layout::CHUNK;
use crate::lvm::{ROOT_DEVICE, TRANSACTION};
use crate::tool::Tool;

/// Blocks of root that lie together, in units of [`CHUNK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Which blocks of a file system hold anything. Blocks of a thin volume that are not mapped read as zeros.
///
/// # Errors
/// When the file cannot be read.
pub fn runs(image: &Path) -> Result<Vec<Run>, Error> {
    let failed = |err| Error::file("read", image, err);
    let mut file = File::open(image).map_err(failed)?;
    let size = usize::try_from(CHUNK).expect("invariant: small");
    let (mut chunk, zeros) = (vec![0; size], vec![0; size]);
    let mut used = vec![];
    let mut at = 0;
    while file.read_exact(&mut chunk).map(|()| true).or_else(end_of_file).map_err(failed)? {
        if chunk != zeros {
            used.push(at);
        }
        at += 1;
    }
    Ok(joined(used))
}

fn end_of_file(err: std::io::Error) -> std::io::Result<bool> {
    if err.kind() == std::io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(err) }
}

/// Blocks in order, as runs.
fn joined(blocks: impl IntoIterator<Item = u64>) -> Vec<Run> {
    blocks.into_iter().fold(vec![], |mut runs: Vec<Run>, block| {
        match runs.last_mut() {
            Some(run) if run.first + run.count == block => run.count += 1,
            Some(_) | None => runs.push(Run { first: block, count: 1 }),
        }
        runs
    })
}

/// What `thin_restore` reads. `pool` is the pool's size in bytes.
#[must_use]
pub fn xml(runs: &[Run], pool: u64) -> String {
    let mapped: u64 = runs.iter().map(|run| run.count).sum();
    let sectors = CHUNK / crate::layout::SECTOR;
    let mut text = format!(
        "<superblock uuid=\"\" time=\"0\" transaction=\"{TRANSACTION}\" flags=\"0\" version=\"2\" \
         data_block_size=\"{sectors}\" nr_data_blocks=\"{}\">\n<device dev_id=\"{ROOT_DEVICE}\" \
         mapped_blocks=\"{mapped}\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n",
        pool / CHUNK
    );
    for Run { first, count } in runs {
        text.push_str(&format!(
            "<range_mapping origin_begin=\"{first}\" data_begin=\"{first}\" length=\"{count}\" time=\"0\"/>\n"
        ));
    }
    text.push_str("</device>\n</superblock>\n");
    text
}

/// Makes the pool's metadata, `size` bytes, as the file `out`.
///
/// # Errors
/// When `thin_restore` or `thin_check` refuses.
pub fn metadata(xml: &str, size: u64, out: &Path) -> Result<(), Error> {
    let input = out.with_extension("xml");
    fs::write(&input, xml).map_err(|err| Error::file("write", &input, err))?;
    let file = File::create(out).map_err(|err| Error::file("make", out, err))?;
    file.set_len(size).map_err(|err| Error::file("make", out, err))?;
    Tool::new("thin_restore").arg("-q").arg("-i").arg(&input).arg("-o").arg(out).run()?;
    Tool::new("thin_check").arg("-q").arg(out).run()?;
    fs::remove_file(&input).map_err(|err| Error::file("remove", &input, err))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_blocks_that_hold_something_are_mapped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0_u8; 5 * 65536];
        bytes[65536] = 1;
        bytes[2 * 65536 + 9] = 1;
        bytes[5 * 65536 - 1] = 1;
        fs::write(file.path(), bytes).unwrap();
        let found = runs(file.path()).unwrap();
        assert_eq!(found, [Run { first: 1, count: 2 }, Run { first: 4, count: 1 }]);
        let text = xml(&found, 10 * CHUNK);
        assert!(text.contains("nr_data_blocks=\"10\"") && text.contains("mapped_blocks=\"3\""), "{text}");
    }

    proptest! {
        #[test]
        fn runs_hold_exactly_the_blocks(blocks in proptest::collection::btree_set(0..200_u64, 0..80)) {
            let runs = joined(blocks.iter().copied());
            let back: Vec<u64> = runs.iter().flat_map(|run| run.first..run.first + run.count).collect();
            prop_assert_eq!(back, blocks.into_iter().collect::<Vec<_>>());
            prop_assert!(runs.iter().zip(runs.iter().skip(1)).all(|(a, b)| a.first + a.count < b.first));
        }
    }
}
