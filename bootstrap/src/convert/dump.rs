//! What `dumpe2fs` says of an ext4 file system, as far as a conversion needs it. Reads text; decides nothing.

use std::ops::Range;

use anyhow::{Context as _, ensure};

/// The only block size that is converted: every file system larger than 512 MiB has it.
pub(crate) const BLOCK: u64 = 4096;

/// An ext4 file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    /// In blocks.
    pub(crate) blocks: u64,
    /// Free blocks, ascending.
    pub(crate) free: Vec<Range<u64>>,
    /// Its features, by name.
    pub(crate) features: Vec<String>,
    /// As it says: `clean`, `clean with errors`, `not clean`.
    pub(crate) state: String,
}

/// The same of a file system that nobody has mounted: then its count of free blocks is true, and must be that of its list.
/// While it is mounted the count lags.
pub(crate) fn parse_unmounted(text: &str) -> anyhow::Result<Dump> {
    let dump = parse(text)?;
    let said: u64 = field(text, "Free blocks")?.parse().context("free blocks")?;
    let counted: u64 = dump.free.iter().map(|range| range.end - range.start).sum();
    ensure!(
        said == counted,
        "dumpe2fs counts {said} free blocks and lists {counted}: check the file system (e2fsck -f)"
    );
    Ok(dump)
}

fn field<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim).with_context(|| format!("dumpe2fs does not say {name:?}"))
}

/// Reads all of `dumpe2fs DEVICE`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Dump> {
    let size: u64 = field(text, "Block size")?.parse().context("block size")?;
    ensure!(size == BLOCK, "the root file system has blocks of {size} bytes; only {BLOCK} are converted");
    let blocks = field(text, "Block count")?.parse().context("block count")?;
    let mut free = vec![];
    for line in text.lines().filter_map(|line| line.strip_prefix("  Free blocks:")) {
        for part in line.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u64 = first.parse().with_context(|| format!("free blocks {part:?}"))?;
            let last: u64 = last.parse().with_context(|| format!("free blocks {part:?}"))?;
            ensure!(first <= last && last < blocks, "free blocks {part:?} lie outside the file system");
            ensure!(free.last().is_none_or(|held: &Range<u64>| held.end <= first), "free blocks {part:?} out of order");
            free.push(first..last + 1);
        }
    }
    Ok(Dump {
        blocks,
        free,
        features: field(text, "Filesystem features")?.split_whitespace().map(str::to_owned).collect(),
        state: field(text, "Filesystem state")?.to_owned(),
    })
}

/// Reads the answer of `resize2fs -P`: the least size in bytes.
pub(crate) fn least(text: &str) -> anyhow::Result<u64> {
    let blocks: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Estimated minimum size of the filesystem:"))
        .with_context(|| format!("resize2fs -P says {:?}", text.trim()))?
        .trim()
        .parse()
        .context("resize2fs -P")?;
    Ok(blocks * BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURED: &str = include_str!("captured/dumpe2fs.txt");

    #[test]
    fn reads_what_dumpe2fs_printed() {
        let dump = parse(CAPTURED).unwrap();
        assert_eq!(dump.blocks, 153_600);
        assert_eq!(dump.state, "clean");
        assert!(dump.features.contains(&"metadata_csum".to_owned()));
        assert_eq!(dump.free[0], 14477..32768);
        assert_eq!(dump.free[1], 32844..65536);
    }

    #[test]
    fn a_list_that_does_not_add_up_is_refused_where_it_has_to() {
        let cut = CAPTURED.replace("  Free blocks: 14477-32767", "  Free blocks: 14477-32766");
        assert!(parse_unmounted(&cut).unwrap_err().to_string().contains("134875"));
        let small = CAPTURED.replace("Block size:               4096", "Block size:               1024");
        assert!(parse(&small).unwrap_err().to_string().contains("1024"));
        assert!(parse("").is_err());
    }

    #[test]
    fn reads_the_least_size() {
        assert_eq!(least("Estimated minimum size of the filesystem: 18994\n").unwrap(), 18994 * 4096);
        assert!(least("resize2fs: bad magic").is_err());
    }
}
