//! Names that must be unlike others' and the same in every build: UUIDs and serial numbers out of a digest. Decides their
//! form, not what is named.

use sha2::{Digest as _, Sha256};

/// Where all names of one image come from.
#[derive(Debug, Clone)]
pub struct Seed(String);

impl Seed {
    /// The seed of an image that is called so.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Seed(format!("bramble image {name}"))
    }

    fn bytes(&self, what: &str) -> [u8; 32] {
        Sha256::new().chain_update(&self.0).chain_update("\n").chain_update(what).finalize().into()
    }

    /// A UUID (version 8: made by rules of one's own), as text.
    #[must_use]
    pub fn uuid(&self, what: &str) -> String {
        let mut b = self.bytes(what);
        b[6] = (b[6] & 0x0f) | 0x80;
        b[8] = (b[8] & 0x3f) | 0x80;
        let hex: String = b[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// An id of LVM: 32 letters and digits, in groups as LVM shows it.
    #[must_use]
    pub fn lvm(&self, what: &str) -> String {
        const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let text: String =
            self.bytes(what).iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect();
        let groups = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
        groups.map(|range| text[range].to_owned()).join("-")
    }

    /// A number, as of a FAT volume or a partition table.
    #[must_use]
    pub fn number(&self, what: &str) -> u32 {
        let b = self.bytes(what);
        u32::from_be_bytes([b[0], b[1], b[2], b[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_and_differ() {
        let (a, b) = (Seed::new("virt"), Seed::new("rpi"));
        assert_eq!(a.uuid("root"), Seed::new("virt").uuid("root"));
        assert_ne!(a.uuid("root"), a.uuid("state"));
        assert_ne!(a.uuid("root"), b.uuid("root"));
        assert_eq!(a.uuid("root").len(), 36);
        assert_eq!(&a.uuid("root")[14..15], "8");
        assert_eq!(a.lvm("vg").len(), 38);
        assert_ne!(a.number("disk"), b.number("disk"));
    }
}
