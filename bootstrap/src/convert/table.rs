//! The MBR partition table: one sector, of which one entry is exchanged. Bytes in, bytes out.

use anyhow::{Context as _, ensure};

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
const LVM: u8 = 0x8e;

/// The first sector of a disk.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Mbr([u8; SECTOR as usize]);

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) [u8; ENTRY]);

impl Mbr {
    /// Reads a sector.
    ///
    /// # Errors
    /// Not an MBR, or the one that stands before a GPT.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let bytes: [u8; SECTOR as usize] = bytes.try_into().context("an MBR is one sector")?;
        ensure!(bytes[510..] == [0x55, 0xaa], "the disk's first sector is no MBR");
        let mbr = Self(bytes);
        let gpt = (1..=4).any(|number| mbr.entry(number).kind() == 0xee);
        ensure!(!gpt, "the disk has a GPT; Raspberry Pis start reliably from an MBR only, and only that is converted");
        Ok(mbr)
    }

    /// The sector.
    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Entry `number`, 1 to 4.
    pub(crate) fn entry(&self, number: usize) -> Entry {
        let at = ENTRIES + (number - 1) * ENTRY;
        let mut entry = [0; ENTRY];
        entry.copy_from_slice(&self.0[at..at + ENTRY]);
        Entry(entry)
    }

    /// The same sector with entry `number` exchanged.
    pub(crate) fn with(&self, number: usize, entry: Entry) -> Self {
        let mut bytes = self.0;
        let at = ENTRIES + (number - 1) * ENTRY;
        bytes[at..at + ENTRY].copy_from_slice(&entry.0);
        Self(bytes)
    }
}

impl Entry {
    /// A partition of volumes. In sectors; addresses in the old geometry say "too large for it".
    pub(crate) fn lvm(start: u64, sectors: u64) -> anyhow::Result<Self> {
        let (start, sectors) = (u32::try_from(start), u32::try_from(sectors));
        let (start, sectors) = (start.context("start beyond 2 TiB")?, sectors.context("larger than 2 TiB")?);
        let mut entry = [0, 0xfe, 0xff, 0xff, LVM, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        Ok(Self(entry))
    }

    /// Its type; 0 is none.
    pub(crate) const fn kind(self) -> u8 {
        self.0[4]
    }

    /// First sector.
    pub(crate) fn start(self) -> u64 {
        self.number(8)
    }

    /// Length in sectors.
    pub(crate) fn sectors(self) -> u64 {
        self.number(12)
    }

    fn number(self, at: usize) -> u64 {
        self.0[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// As the ledger keeps it.
    pub(crate) fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Out of a ledger.
    pub(crate) fn from_hex(text: &str) -> anyhow::Result<Self> {
        let bytes: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
        let bytes = bytes.and_then(|bytes| <[u8; ENTRY]>::try_from(bytes).ok());
        bytes.map(Self).with_context(|| format!("{text:?} is no partition entry"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector() -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[440..444].copy_from_slice(&[1, 2, 3, 4]);
        sector[ENTRIES + 4] = 0x0c;
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn one_entry_is_exchanged_and_nothing_else() {
        let old = Mbr::parse(&sector()).unwrap();
        let entry = Entry::lvm(0x0102_0304, 77).unwrap();
        let new = old.with(2, entry);
        assert_eq!((new.entry(2).start(), new.entry(2).sectors(), new.entry(2).kind()), (0x0102_0304, 77, 0x8e));
        let changed = (0..512).filter(|at| old.bytes()[*at] != new.bytes()[*at]).collect::<Vec<_>>();
        assert!(changed.iter().all(|at| (462..478).contains(at)), "{changed:?}");
        assert_eq!(new.entry(2), Entry::from_hex(&entry.hex()).unwrap());
        assert!(new.with(2, old.entry(2)) == old);
    }

    #[test]
    fn a_gpt_and_rubbish_are_refused() {
        let mut gpt = sector();
        gpt[ENTRIES + 4] = 0xee;
        assert!(Mbr::parse(&gpt).err().unwrap().to_string().contains("GPT"));
        assert!(Mbr::parse(&[0; 512]).is_err() && Mbr::parse(&[]).is_err());
        assert!(Entry::from_hex("00").is_err() && Entry::from_hex("ü").is_err());
        assert!(Entry::lvm(1 << 32, 1).is_err());
    }
}
