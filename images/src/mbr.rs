//! The partition table: bytes out of a layout. MBR, because the Raspberry Pi's firmware is at its surest with it.

use crate::layout::{Layout, SECTOR, Span};

/// Kinds of partitions.
pub(crate) const FAT16_LBA: u8 = 0x0e;
pub(crate) const FAT32_LBA: u8 = 0x0c;
pub(crate) const LINUX: u8 = 0x83;
const LVM: u8 = 0x8e;

/// The first sector of a card of ours. `serial` tells it from other cards' (it is what `PARTUUID=` begins with).
#[must_use]
pub fn sector(layout: &Layout, serial: u32) -> [u8; 512] {
    let [a, b] = layout.boot;
    table(&[(layout.config, FAT16_LBA), (a, FAT32_LBA), (b, FAT32_LBA), (layout.pv, LVM)], serial)
}

/// The first sector of a card of these parts, four at most.
pub(crate) fn table(parts: &[(Span, u8)], serial: u32) -> [u8; 512] {
    let mut bytes = [0; 512];
    bytes[440..444].copy_from_slice(&serial.to_le_bytes());
    for (entry, (span, kind)) in bytes[446..510].chunks_exact_mut(16).zip(parts) {
        entry.copy_from_slice(&self::entry(*span, *kind));
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn entry(span: Span, kind: u8) -> [u8; 16] {
    // Nobody reads cylinders, heads and sectors of large disks; this is what says so.
    const BEYOND: [u8; 3] = [0xfe, 0xff, 0xff];
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).expect("invariant: an image is smaller than 2 TiB");
    let mut entry = [0; 16];
    entry[1..4].copy_from_slice(&BEYOND);
    entry[4] = kind;
    entry[5..8].copy_from_slice(&BEYOND);
    entry[8..12].copy_from_slice(&sectors(span.start).to_le_bytes());
    entry[12..].copy_from_slice(&sectors(span.size).to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use crate::layout::{Content, MIB, sizes};

    use super::*;

    #[test]
    fn four_entries_say_kind_start_and_length() {
        let layout = Layout::new(&sizes(), Content { root: 0, state: 0, apps: 0 });
        let bytes = sector(&layout, 0x1234_5678);
        assert_eq!(&bytes[440..444], &[0x78, 0x56, 0x34, 0x12]);
        assert_eq!(&bytes[510..], &[0x55, 0xaa]);
        let found: Vec<(u8, u64, u64)> = bytes[446..510]
            .chunks(16)
            .map(|e| {
                let number = |at: usize| u64::from(u32::from_le_bytes(e[at..at + 4].try_into().unwrap()));
                (e[4], number(8) * SECTOR / MIB, number(12) * SECTOR / MIB)
            })
            .collect();
        let pv = (layout.pv.start / MIB, layout.pv.size / MIB);
        assert_eq!(found, [(0x0e, 4, 64), (0x0c, 68, 256), (0x0c, 324, 256), (0x8e, pv.0, pv.1)]);
    }
}
