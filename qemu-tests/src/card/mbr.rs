//! The partition table in the first sector of a card: the four primary entries of an MBR. Pure.

use anyhow::ensure;

/// As many bytes as it has.
pub(super) const BYTES: usize = 512;
const ENTRIES: usize = 446;
const SECTOR: u64 = 512;

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// From 1.
    pub number: u32,
    /// The type byte.
    pub kind: u8,
    /// Its first byte on the card.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Partition {
    /// Is it marked as a FAT?
    #[must_use]
    pub fn is_fat(&self) -> bool {
        [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e].contains(&self.kind)
    }
}

pub(super) fn parse(sector: &[u8]) -> anyhow::Result<Vec<Partition>> {
    ensure!(sector.len() >= BYTES && sector[510..512] == [0x55, 0xaa], "the first sector is no MBR");
    let number = |entry: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]))
    };
    let entries = sector[ENTRIES..510].chunks_exact(16).zip(1_u32..);
    Ok(entries
        .map(|(entry, n)| Partition {
            number: n,
            kind: entry[4],
            start: number(entry, 8) * SECTOR,
            length: number(entry, 12) * SECTOR,
        })
        .filter(|partition| partition.kind != 0 && partition.length > 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_empty_ones_left_out() {
        let mut sector = vec![0; 512];
        sector[510] = 0x55;
        sector[511] = 0xaa;
        sector[446 + 4] = 0x0e;
        sector[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 0, 2, 0]);
        sector[446 + 48 + 4] = 0x8e;
        sector[446 + 48 + 8..446 + 48 + 16].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        let first = Partition { number: 1, kind: 0x0e, start: 2048 * 512, length: 131_072 * 512 };
        let fourth = Partition { number: 4, kind: 0x8e, start: 512, length: 1024 };
        assert_eq!(parse(&sector).unwrap(), [first, fourth]);
        assert!(first.is_fat() && !fourth.is_fat());
        sector[511] = 0;
        assert!(parse(&sector).is_err());
    }
}
