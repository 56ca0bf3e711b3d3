//! An LVM physical volume, from outside: the bytes before its first extent, as LVM2 itself writes them (label, header of the
//! metadata area, metadata as text, each with its checksum). Decides the group `vg0` and its volumes; what is in the
//! volumes is not its matter. The build machine needs neither device-mapper nor LVM.

mod text;

pub(crate) use text::{ROOT_DEVICE, TRANSACTION};

use crate::ids::Seed;
use crate::layout::{Layout, SECTOR};

/// What LVM's checksums begin with.
const CRC_INITIAL: u32 = 0xf597_a6cf;
/// Where the metadata area begins in the volume, bytes.
const AREA_START: u64 = 4096;
/// How long it is, bytes: up to the first MiB, LVM's default.
const AREA_SIZE: u64 = (1 << 20) - AREA_START;
const AREA_HEADER: usize = 512;
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// Who and what a group is, beside its layout.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Where its ids come from.
    pub seed: &'a Seed,
    /// When it says it was made, seconds since 1970.
    pub epoch_s: u64,
}

/// The volume's first bytes; all others before its first extent are zeros.
#[must_use]
pub fn head(layout: &Layout, group: &Group) -> Vec<u8> {
    let text = text::metadata(layout, group);
    let mut bytes = vec![0; usize::try_from(AREA_START).expect("invariant: small") + 2 * AREA_HEADER];
    let sector = usize::try_from(SECTOR).expect("invariant: small");
    bytes[sector..2 * sector].copy_from_slice(&label(layout, group));
    let area = usize::try_from(AREA_START).expect("invariant: small");
    bytes[area..area + AREA_HEADER].copy_from_slice(&area_header(&text));
    bytes.truncate(area + AREA_HEADER);
    bytes.extend_from_slice(&text);
    bytes
}

/// Sector 1: that this is a physical volume, its id, its size, and where its parts are.
fn label(layout: &Layout, group: &Group) -> [u8; 512] {
    let id = group.seed.lvm("pv").replace('-', "");
    let mut label = [0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes());
    label[20..24].copy_from_slice(&32_u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(id.as_bytes());
    let first_extent = layout.extents.start - layout.pv.start;
    let numbers = [
        layout.pv.size,
        // Data: from here to the end. Lists end with a pair of zeros.
        first_extent,
        0,
        0,
        0,
        AREA_START,
        AREA_SIZE,
        0,
        0,
    ];
    let end = 64 + 8 * numbers.len();
    for (place, number) in label[64..end].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    // The extension: version 2, "in use by a group"; no area for a boot loader.
    label[end..end + 4].copy_from_slice(&2_u32.to_le_bytes());
    label[end + 4..end + 8].copy_from_slice(&1_u32.to_le_bytes());
    let crc = crc(&label[20..]);
    label[16..20].copy_from_slice(&crc.to_le_bytes());
    label
}

fn area_header(text: &[u8]) -> [u8; AREA_HEADER] {
    let mut header = [0; AREA_HEADER];
    header[4..20].copy_from_slice(MAGIC);
    header[20..24].copy_from_slice(&1_u32.to_le_bytes());
    header[24..32].copy_from_slice(&AREA_START.to_le_bytes());
    header[32..40].copy_from_slice(&AREA_SIZE.to_le_bytes());
    // The text: where in the area, how long, its checksum.
    header[40..48].copy_from_slice(&(AREA_HEADER as u64).to_le_bytes());
    header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    header[56..60].copy_from_slice(&crc(text).to_le_bytes());
    let crc = crc(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    header
}

/// CRC-32 as LVM computes it: the usual polynomial, its own beginning, and no inversion at the end.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(CRC_INITIAL, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::layout::{Content, sizes};

    use super::*;

    fn sample() -> (Layout, Vec<u8>) {
        let layout = Layout::new(&sizes(), Content { root: 0, state: 0, apps: 0 });
        let bytes = head(&layout, &Group { seed: &Seed::new("virt"), epoch_s: 1_793_491_200 });
        (layout, bytes)
    }

    #[test]
    fn the_checksum_is_lvms() {
        // Of the bytes of a volume that `pvcreate` 2.03.16 made: crc() over "123456789" as lvm's own calc_crc gives it.
        assert_eq!(crc(b""), CRC_INITIAL);
        // Linear: the difference of two beginnings is carried through, so one known value fixes the polynomial.
        let usual = bytes_crc_with(0xffff_ffff, b"123456789");
        assert_eq!(!usual, 0xcbf4_3926);
    }

    fn bytes_crc_with(initial: u32, bytes: &[u8]) -> u32 {
        // crc(initial, b) = crc(CRC_INITIAL, b) ^ crc'(initial ^ CRC_INITIAL over zeros), CRC being linear.
        let shifted = (0..8 * bytes.len())
            .fold(initial ^ CRC_INITIAL, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
        crc(bytes) ^ shifted
    }

    #[test]
    fn the_head_fits_before_the_first_extent_and_is_the_same_every_time() {
        let (layout, bytes) = sample();
        assert!((bytes.len() as u64) < AREA_START + AREA_SIZE);
        assert!(AREA_START + AREA_SIZE <= layout.extents.start - layout.pv.start);
        assert_eq!(bytes, sample().1);
    }

    /// The real tools read what we wrote. (They are there wherever images are made: `cargo xtask prepare` installs them.)
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test that asks LVM itself")]
    fn lvm_reads_it() {
        let Some(pvck) = ["/usr/sbin/pvck", "/sbin/pvck"].into_iter().find(|path| std::path::Path::new(path).is_file())
        else {
            eprintln!("pvck is not installed: what LVM says of our bytes was not asked");
            return;
        };
        let (layout, bytes) = sample();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        file.as_file().set_len(layout.pv.size).unwrap();
        let ask = |what: &str| {
            let out = Command::new(pvck).args(["--dump", what]).arg(file.path()).output().unwrap();
            let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success(), "pvck --dump {what}: {said}");
            said
        };
        let headers = ask("headers");
        for line in
            ["label_header.crc", "mda_header_1.checksum", "pv_header_extension.flags 1", "metadata text at 4608"]
        {
            assert!(headers.contains(line), "no {line:?} in {headers}");
        }
        assert!(!headers.to_lowercase().contains("invalid"), "{headers}");
        assert!(!headers.contains("should be"), "{headers}");
        let metadata = ask("metadata");
        assert!(metadata.contains("seqno = 1") && metadata.contains("pool_tdata"), "{metadata}");
    }
}
