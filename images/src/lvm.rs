//! The group `vg0` of an image: its volumes, and on which extents they lie. How LVM writes that is `bramble_contracts::lvm`;
//! what is in the volumes is not its matter.

use bramble_contracts::lvm::{Group, Kind, Segment, Volume};

use crate::ids::Seed;
use crate::layout::{CHUNK, EXTENT, Layout, MIB, Span};

/// The number the pool's metadata has for root.
pub(crate) const ROOT_DEVICE: u32 = 1;
/// The pool's transaction, which the pool's own metadata must name too.
pub(crate) const TRANSACTION: u32 = 1;

/// The physical volume's first bytes; all others before its first extent are zeros. Names come from `seed`; `epoch_s` is when
/// it says it was made, in seconds since 1970.
#[must_use]
pub fn head(layout: &Layout, seed: &Seed, epoch_s: u64) -> Vec<u8> {
    let group = Group {
        name: "vg0",
        id: seed.lvm("vg"),
        physical: seed.lvm("pv"),
        by: "Bramble's images",
        made_s: epoch_s,
        size: layout.pv.size,
        // LVM's default.
        area_end: MIB,
        begin: layout.extents.start - layout.pv.start,
        extent: EXTENT,
        extents: layout.extents.size / EXTENT,
        volumes: volumes(layout, seed),
    };
    group.head()
}

fn volumes(layout: &Layout, seed: &Seed) -> Vec<Volume> {
    let volume = |name, visible, flags, size: u64, kind| Volume {
        name,
        id: seed.lvm(name),
        writable: true,
        visible,
        flags,
        segments: vec![Segment { extents: size / EXTENT, kind }],
    };
    let linear = |name, visible, span: Span| {
        let first = (span.start - layout.extents.start) / EXTENT;
        volume(name, visible, &[], span.size, Kind::Linear(first))
    };
    let pool = Kind::Pool { block: CHUNK, transaction: TRANSACTION, discards: "passdown", zero: true };
    vec![
        volume("root", true, &[], layout.root, Kind::Thin(ROOT_DEVICE)),
        // A pool that is full answers with errors at once: waiting for room that never comes hangs the device.
        volume("pool", true, &["ERROR_WHEN_FULL"], layout.pool.size, pool),
        linear("state", true, layout.state),
        linear("apps", true, layout.apps),
        linear("lvol0_pmspare", false, layout.spare),
        linear("pool_tmeta", false, layout.pool_metadata),
        linear("pool_tdata", false, layout.pool),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::layout::{Content, sizes};

    use super::*;

    fn sample() -> (Layout, Vec<u8>) {
        let layout = Layout::new(&sizes(), Content { root: 0, state: 0, apps: 0 });
        let bytes = head(&layout, &Seed::new("virt"), 1_793_491_200);
        (layout, bytes)
    }

    #[test]
    fn the_head_fits_before_the_first_extent_and_is_the_same_every_time() {
        let (layout, bytes) = sample();
        assert!((bytes.len() as u64) < MIB && MIB <= layout.extents.start - layout.pv.start);
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
