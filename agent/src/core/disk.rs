//! Disk space as judgements over numbers: is room running out, does an image fit, which images may go.
//!
//! Decides thresholds, estimates and order. Measures nothing and removes nothing; names images only by what it is given.

use std::collections::BTreeSet;
use std::fmt;

/// The disk that apps live on, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Free for us.
    pub free: u64,
    /// In all; 0 when it cannot be seen.
    pub total: u64,
}

/// What is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRules {
    /// Below this share of the disk unneeded images go, in percent.
    pub low_percent: u8,
    /// Below so many bytes they go, whatever the share.
    pub low_bytes: u64,
    /// A pull leaves so many bytes free, or is refused or stopped.
    pub reserve_bytes: u64,
}

impl Default for DiskRules {
    fn default() -> Self {
        Self { low_percent: 10, low_bytes: 1 << 30, reserve_bytes: 512 << 20 }
    }
}

impl DiskRules {
    /// Below so many free bytes unneeded images go. A small disk is not asked for more than a quarter of itself.
    pub fn low(&self, disk: Disk) -> u64 {
        let share = disk.total / 100 * u64::from(self.low_percent);
        share.max(self.low_bytes).min(disk.total / 4)
    }

    /// So many bytes a pull leaves free; at most a tenth of the disk.
    pub fn reserve(&self, disk: Disk) -> u64 {
        self.reserve_bytes.min(disk.total / 10)
    }
}

/// A layer of an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob as it is sent.
    pub digest: String,
    /// Its bytes.
    pub bytes: u64,
    /// How it is packed.
    pub packing: Packing,
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Compressed.
    Compressed,
    /// As it is.
    Plain,
}

/// An image of which nothing is known may need this.
pub const UNKNOWN_BYTES: u64 = 64 << 20;
/// Compressed layers unpack to about two or three times their size, in tenths.
const UNPACKED_TENTHS: u64 = 25;

/// What pulling these layers needs at its worst, in bytes: the blobs lie beside what is unpacked of them until the end.
/// Layers that are in the store are not sent again.
pub fn need(layers: &[Layer], present: &BTreeSet<String>) -> u64 {
    let missing = layers.iter().filter(|layer| !present.contains(&layer.digest));
    let one = |layer: &Layer| {
        let unpacked = match layer.packing {
            Packing::Compressed => layer.bytes.saturating_mul(UNPACKED_TENTHS) / 10,
            Packing::Plain => layer.bytes,
        };
        layer.bytes.saturating_add(unpacked)
    };
    missing.map(one).fold(0, u64::saturating_add)
}

/// An image that does not fit, with the numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "image {image} needs about {}, and {} are to stay free; {} of {} are free, {} can be collected: make room, or use a smaller image",
    Bytes(*.need), Bytes(*.reserve), Bytes(.disk.free), Bytes(.disk.total), Bytes(*.collectable)
)]
pub struct NoRoom {
    /// Which.
    pub image: String,
    /// What it needs.
    pub need: u64,
    /// What is to stay free.
    pub reserve: u64,
    /// What there is.
    pub disk: Disk,
    /// What unneeded images take up.
    pub collectable: u64,
}

/// How an image is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// It fits.
    Fits,
    /// It fits once so many bytes are collected.
    AfterCollecting(u64),
}

/// Does it fit? A disk that cannot be seen refuses nothing.
pub fn admit(image: &str, need: u64, disk: Disk, rules: &DiskRules, collectable: u64) -> Result<Admit, NoRoom> {
    let reserve = rules.reserve(disk);
    let short = need.saturating_add(reserve).saturating_sub(disk.free);
    match short {
        0 => Ok(Admit::Fits),
        _ if disk.total == 0 => Ok(Admit::Fits),
        short if short <= collectable => Ok(Admit::AfterCollecting(short)),
        _ => Err(NoRoom { image: image.to_owned(), need, reserve, disk, collectable }),
    }
}

/// How many bytes are to be freed now, because room runs out.
pub fn pressure(disk: Disk, rules: &DiskRules) -> Option<u64> {
    let short = rules.low(disk).saturating_sub(disk.free);
    (short > 0).then_some(short)
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Podman's id.
    pub id: String,
    /// What it is called: tags and digests.
    pub names: Vec<String>,
    /// Bytes that nothing else uses, as far as it is known.
    pub bytes: u64,
    /// When it was made, in seconds since 1970: by whoever built it, so it orders and says no more.
    pub created_s: i64,
    /// Containers that use it.
    pub containers: u64,
}

impl StoredImage {
    /// It was made or loaded here, and no registry gives it back.
    fn is_local(&self) -> bool {
        self.names.iter().any(|name| name.starts_with("localhost/"))
    }

    /// What people know it by.
    pub fn title(&self) -> &str {
        self.names.first().map_or(&self.id, String::as_str)
    }
}

/// Images that may go, oldest first: whatever no app needs, no container uses, and a registry could give back.
pub fn collectable<'a>(images: &'a [StoredImage], needed: &BTreeSet<String>) -> Vec<&'a StoredImage> {
    let is_needed =
        |image: &StoredImage| needed.contains(&image.id) || image.names.iter().any(|name| needed.contains(name));
    let free = images.iter().filter(|image| image.containers == 0 && !image.is_local() && !is_needed(image));
    let mut free: Vec<&StoredImage> = free.collect();
    free.sort_by(|a, b| (a.created_s, &a.id).cmp(&(b.created_s, &b.id)));
    free
}

/// Bytes for people: `1.2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) if self.0 / unit >= 100 => write!(f, "{} {name}", self.0 / unit),
            Some((unit, name)) => write!(f, "{}.{} {name}", self.0 / unit, self.0 % unit * 10 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn image(id: &str, names: &[&str], created_s: i64, containers: u64) -> StoredImage {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        StoredImage { id: id.to_owned(), names, bytes: MIB, created_s, containers }
    }

    #[test]
    fn thresholds_fit_small_and_large_disks() {
        let rules = DiskRules::default();
        for (total, low, reserve) in
            [(0, 0, 0), (200 * MIB, 50 * MIB, 20 * MIB), (8 * GIB, GIB, 512 * MIB), (250 * GIB, 25 * GIB, 512 * MIB)]
        {
            let disk = Disk { free: 0, total };
            assert!(rules.low(disk).abs_diff(low) < 100, "{total}: {}", rules.low(disk));
            assert_eq!(rules.reserve(disk), reserve, "{total}");
        }
        assert_eq!(pressure(Disk { free: 2 * GIB, total: 8 * GIB }, &rules), None);
        assert_eq!(pressure(Disk { free: 600 * MIB, total: 8 * GIB }, &rules), Some(424 * MIB));
    }

    #[test]
    fn layers_that_are_there_cost_nothing() {
        let layer = |digest: &str, packing| Layer { digest: digest.to_owned(), bytes: 100, packing };
        let layers = [layer("a", Packing::Compressed), layer("b", Packing::Plain), layer("c", Packing::Compressed)];
        assert_eq!(need(&layers, &BTreeSet::new()), 350 + 200 + 350);
        assert_eq!(need(&layers, &BTreeSet::from(["a".to_owned(), "c".to_owned()])), 200);
        let huge = Layer { bytes: u64::MAX, ..layers[0].clone() };
        assert_eq!(need(&[huge.clone(), huge], &BTreeSet::new()), u64::MAX, "a registry that lies costs no panic");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let rules = DiskRules::default();
        let disk = Disk { free: 900 * MIB, total: 29 * GIB };
        assert_eq!(admit("x", 300 * MIB, disk, &rules, 0), Ok(Admit::Fits));
        assert_eq!(admit("x", 500 * MIB, disk, &rules, 200 * MIB), Ok(Admit::AfterCollecting(112 * MIB)));
        let refused = admit("docker.io/library/x:1", 1229 * MIB, disk, &rules, 200 * MIB).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "image docker.io/library/x:1 needs about 1.2 GiB, and 512 MiB are to stay free; 900 MiB of 29.0 GiB are free, 200 MiB can be collected: make room, or use a smaller image"
        );
        assert_eq!(admit("x", u64::MAX, Disk::default(), &rules, 0), Ok(Admit::Fits), "an unseen disk refuses nothing");
    }

    #[test]
    fn only_what_comes_back_goes_and_the_oldest_first() {
        let images = [
            image("new", &["reg/a:2"], 20, 0),
            image("old", &["reg/a:1", "reg/a@sha256:1"], 10, 0),
            image("used", &["reg/b:1"], 1, 1),
            image("local", &["localhost/c:1", "reg/c:1"], 1, 0),
            image("wanted", &["reg/d:1"], 1, 0),
            image("by-id", &[], 1, 0),
            image("nameless", &[], 5, 0),
        ];
        let needed = BTreeSet::from(["reg/d:1".to_owned(), "by-id".to_owned()]);
        let ids: Vec<&str> = collectable(&images, &needed).iter().map(|image| image.id.as_str()).collect();
        assert_eq!(ids, ["nameless", "old", "new"]);
    }

    #[test]
    fn bytes_are_told_as_people_say_them() {
        let said: Vec<String> = [17, 1536, 5 * MIB, 400 * MIB, GIB + GIB / 5].map(|n| Bytes(n).to_string()).into();
        assert_eq!(said, ["17 bytes", "1.5 KiB", "5.0 MiB", "400 MiB", "1.1 GiB"]);
    }
}
