//! A volume group from outside: the bytes before the first extent of its only physical volume, as LVM2 itself writes them
//! (label, header of the metadata area, the group as text, each with its checksum).
//!
//! Decides the format, as LVM's `format_text` and `pvck --dump` know it. Which volumes there are, where they lie and what is
//! in them is the caller's; writing the bytes too. No device-mapper and no LVM are needed, and nothing else on the disk is
//! looked at or wiped, as `pvcreate` would.

use std::fmt::Write as _;

/// Bytes of a sector; LVM counts in them.
const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;
/// Where the metadata area begins, in bytes.
const AREA: usize = 4096;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// What LVM's checksums begin with.
const CRC_INITIAL: u32 = 0xf597_a6cf;
/// The pool that thin volumes are in.
const POOL: &str = "pool";

/// A group on one physical volume.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identifier: 32 letters and digits in groups, as LVM prints them.
    pub id: String,
    /// The physical volume's identifier.
    pub physical: String,
    /// Who made it, for people.
    pub by: &'a str,
    /// When it says it was made, in seconds since 1970.
    pub made_s: u64,
    /// The physical volume's size, in bytes.
    pub size: u64,
    /// Where the metadata area ends, in bytes.
    pub area_end: u64,
    /// Where the first extent begins, in bytes.
    pub begin: u64,
    /// An extent's size, in bytes.
    pub extent: u64,
    /// How many extents there are.
    pub extents: u64,
    /// What is in it.
    pub volumes: Vec<Volume>,
}

/// A logical volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its name.
    pub name: &'static str,
    /// Its identifier.
    pub id: String,
    /// May it be written?
    pub writable: bool,
    /// Is it shown to people, and activated by itself?
    pub visible: bool,
    /// LVM's flags.
    pub flags: &'static [&'static str],
    /// Its parts, in order.
    pub segments: Vec<Segment>,
}

/// A part of a volume.
#[derive(Debug, Clone)]
pub struct Segment {
    /// How many extents it has.
    pub extents: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a part of a volume is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Extents of the physical volume, from this one on.
    Linear(u64),
    /// A thin volume of the pool, by its number there.
    Thin(u32),
    /// The pool, whose data and metadata are `pool_tdata` and `pool_tmeta`.
    Pool {
        /// A block of it, in bytes.
        block: u64,
        /// The transaction that the pool's own metadata names too.
        transaction: u32,
        /// What becomes of discards.
        discards: &'static str,
        /// Are new blocks made zero?
        zero: bool,
    },
}

impl Group<'_> {
    /// The volume's first bytes. All others before its first extent are zeros.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let text = self.text();
        let mut out = vec![0; AREA];
        out[SECTOR_BYTES..2 * SECTOR_BYTES].copy_from_slice(&self.label());
        out.extend_from_slice(&self.area(&text));
        out.extend_from_slice(&text);
        out
    }

    /// The second sector: what this is, how large, and where data and metadata lie.
    fn label(&self) -> [u8; SECTOR_BYTES] {
        let mut body = vec![];
        body.extend_from_slice(&32_u32.to_le_bytes());
        body.extend_from_slice(b"LVM2 001");
        body.extend(self.physical.bytes().filter(|byte| *byte != b'-'));
        // Data: from the first extent to the end. Lists end with a pair of zeros.
        let area = [AREA as u64, self.area_end - AREA as u64];
        for number in [self.size, self.begin, 0, 0, 0, area[0], area[1], 0, 0] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        // An extension: version 2, "in use by a group"; no area for a boot loader.
        body.extend_from_slice(&2_u32.to_le_bytes());
        body.extend_from_slice(&1_u32.to_le_bytes());
        body.resize(SECTOR_BYTES - 20, 0);
        let mut out = [0; SECTOR_BYTES];
        out[..8].copy_from_slice(b"LABELONE");
        out[8..16].copy_from_slice(&1_u64.to_le_bytes());
        out[16..20].copy_from_slice(&crc(&body).to_le_bytes());
        out[20..].copy_from_slice(&body);
        out
    }

    /// The metadata area's first sector: where its text lies.
    fn area(&self, text: &[u8]) -> [u8; SECTOR_BYTES] {
        let mut body = vec![];
        body.extend_from_slice(AREA_MAGIC);
        body.extend_from_slice(&1_u32.to_le_bytes());
        for number in [AREA as u64, self.area_end - AREA as u64, SECTOR, text.len() as u64] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&crc(text).to_le_bytes());
        body.resize(SECTOR_BYTES - 4, 0);
        let mut out = [0; SECTOR_BYTES];
        out[..4].copy_from_slice(&crc(&body).to_le_bytes());
        out[4..].copy_from_slice(&body);
        out
    }

    /// The text, with the zero that ends it. Line by line: LVM's quick look at a group goes by lines, and begins again behind
    /// the one that ends it.
    fn text(&self) -> Vec<u8> {
        let Self { name, id, physical, by, made_s, .. } = self;
        let mut out = format!(
            "{name} {{\nid = \"{id}\"\nseqno = 1\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
             flags = []\nextent_size = {}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {{\n\npv0 {{\n\
             id = \"{physical}\"\ndevice = \"/dev/none\"\n\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = {}\n\
             pe_start = {}\npe_count = {}\n}}\n}}\n\nlogical_volumes {{\n",
            self.extent / SECTOR,
            self.size / SECTOR,
            self.begin / SECTOR,
            self.extents,
        );
        for volume in &self.volumes {
            out.push_str(&volume.text(*made_s));
        }
        let _ = write!(
            out,
            "}}\n\n}}\n# Made by {by}\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\ndescription = \"{by}\"\n\n\
             creation_host = \"bramble\"\ncreation_time = {made_s}\n\n\0"
        );
        out.into_bytes()
    }
}

impl Volume {
    fn text(&self, made_s: u64) -> String {
        let Self { name, id, .. } = self;
        let words = [Some("READ"), self.writable.then_some("WRITE"), self.visible.then_some("VISIBLE")];
        let quoted = |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let status = quoted(&words.into_iter().flatten().collect::<Vec<_>>());
        let mut start = 0;
        let segments: Vec<String> = (1..)
            .zip(&self.segments)
            .map(|(number, Segment { extents, kind })| {
                let at = start;
                start += extents;
                let kind = kind.text();
                format!("segment{number} {{\nstart_extent = {at}\nextent_count = {extents}\n\n{kind}}}\n")
            })
            .collect();
        format!(
            "\n{name} {{\nid = \"{id}\"\nstatus = [{status}]\nflags = [{}]\ncreation_time = {made_s}\n\
             creation_host = \"bramble\"\nsegment_count = {}\n\n{}}}\n",
            quoted(self.flags),
            segments.len(),
            segments.join("\n"),
        )
    }
}

impl Kind {
    fn text(&self) -> String {
        match self {
            Self::Linear(first) => {
                format!("type = \"striped\"\nstripe_count = 1\n\nstripes = [\n\"pv0\", {first}\n]\n")
            }
            Self::Thin(device) => {
                format!("type = \"thin\"\nthin_pool = \"{POOL}\"\ntransaction_id = 0\ndevice_id = {device}\n")
            }
            Self::Pool { block, transaction, discards, zero } => {
                let zero = if *zero { "" } else { "zero_new_blocks = 0\n" };
                format!(
                    "type = \"thin-pool\"\nmetadata = \"{POOL}_tmeta\"\npool = \"{POOL}_tdata\"\n\
                     transaction_id = {transaction}\nchunk_size = {}\ndiscards = \"{discards}\"\n{zero}",
                    block / SECTOR
                )
            }
        }
    }
}

/// CRC-32 as LVM computes it: the usual polynomial, its own beginning, and no inversion at the end.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(CRC_INITIAL, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Group<'static> {
        let linear = |at| Segment { extents: 1, kind: Kind::Linear(at) };
        Group {
            name: "vg0",
            id: "group".into(),
            physical: "aaaaaa-bbbb".into(),
            by: "a test",
            made_s: 7,
            size: 64 << 20,
            area_end: 1 << 20,
            begin: 2 << 20,
            extent: 4 << 20,
            extents: 15,
            volumes: vec![Volume {
                name: "state",
                id: "s".into(),
                writable: true,
                visible: true,
                flags: &[],
                segments: vec![linear(3), linear(9)],
            }],
        }
    }

    #[test]
    fn the_checksum_is_lvms() {
        // CRC is linear, so that one value known under the usual beginning fixes the polynomial.
        let shifted = (0..72).fold(!0 ^ CRC_INITIAL, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
        assert_eq!(!(crc(b"123456789") ^ shifted), 0xcbf4_3926);
        assert_eq!(crc(b""), CRC_INITIAL);
    }

    #[test]
    fn the_parts_lie_where_lvm_looks() {
        let head = sample().head();
        assert!(head[..512].iter().all(|byte| *byte == 0));
        assert_eq!(&head[512..520], b"LABELONE");
        assert_eq!(&head[544..554], b"aaaaaabbbb");
        assert_eq!(&head[4100..4116], AREA_MAGIC);
        assert_eq!(head.last(), Some(&0));
        let sum = |at: usize, of: &[u8]| assert_eq!(head[at..at + 4], crc(of).to_le_bytes(), "at {at}");
        sum(512 + 16, &head[512 + 20..1024]);
        sum(4096, &head[4100..4608]);
        sum(4096 + 56, &head[4608..]);
    }

    #[test]
    fn the_text_goes_line_by_line_as_lvm_2_03_31_reads_it() {
        let text = String::from_utf8(sample().text()).unwrap();
        assert!(text.contains("\n}\n\n}\n# Made by a test\n") && !text.contains("} }"), "{text}");
        assert!(text.contains("status = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []"), "{text}");
        let second = "segment2 {\nstart_extent = 1\nextent_count = 1\n\ntype = \"striped\"\nstripe_count = 1\n\n\
                      stripes = [\n\"pv0\", 9\n]\n}\n}\n";
        assert!(text.contains(second), "{text}");
    }
}
