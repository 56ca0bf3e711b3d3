//! The group's metadata as LVM writes it: text. Decides which volumes there are and on which extents.

use std::fmt::Write as _;

use crate::layout::{CHUNK, EXTENT, Layout, SECTOR, Span};

use super::Group;

/// The group.
pub(super) const GROUP: &str = "vg0";
/// The number the pool's metadata has for root.
pub(crate) const ROOT_DEVICE: u32 = 1;
/// The pool's transaction, which the pool's own metadata must name too.
pub(crate) const TRANSACTION: u32 = 1;

/// The text, with the zero that ends it.
pub(super) fn metadata(layout: &Layout, group: &Group) -> Vec<u8> {
    let mut text = format!(
        "{GROUP} {{\nid = \"{}\"\nseqno = 1\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = \
         []\nextent_size = {}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {{\n\npv0 {{\n{}}}\n}}\n\n\
         logical_volumes {{\n",
        group.seed.lvm("vg"),
        EXTENT / SECTOR,
        physical(layout, group),
    );
    for volume in volumes(layout) {
        text.push_str(&volume.text(group));
    }
    write!(
        text,
        "}}\n\n}}\n# Made from outside by Bramble\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\ndescription = \
         \"Made with the image\"\n\ncreation_host = \"image\"\ncreation_time = {}\n\n\0",
        group.epoch_s
    )
    .expect("invariant: writing to a String cannot fail");
    text.into_bytes()
}

fn physical(layout: &Layout, group: &Group) -> String {
    format!(
        "id = \"{}\"\ndevice = \"/dev/none\"\n\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = {}\npe_start = \
         {}\npe_count = {}\n",
        group.seed.lvm("pv"),
        layout.pv.size / SECTOR,
        (layout.extents.start - layout.pv.start) / SECTOR,
        layout.extents.size / EXTENT,
    )
}

struct Volume {
    name: &'static str,
    /// Shown to people, and activated by itself.
    visible: bool,
    flags: &'static str,
    size: u64,
    kind: String,
}

fn volumes(layout: &Layout) -> Vec<Volume> {
    let linear = |name, visible, span: Span| {
        let first = (span.start - layout.extents.start) / EXTENT;
        let kind = format!("type = \"striped\"\nstripe_count = 1\n\nstripes = [\n\"pv0\", {first}\n]\n");
        Volume { name, visible, flags: "", size: span.size, kind }
    };
    let root = format!("type = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = {ROOT_DEVICE}\n");
    let pool = format!(
        "type = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = \
         {TRANSACTION}\nchunk_size = {}\ndiscards = \"passdown\"\n",
        CHUNK / SECTOR
    );
    vec![
        Volume { name: "root", visible: true, flags: "", size: layout.root, kind: root },
        // A pool that is full answers with errors at once: waiting for room that never comes hangs the device.
        Volume { name: "pool", visible: true, flags: "\"ERROR_WHEN_FULL\"", size: layout.pool.size, kind: pool },
        linear("state", true, layout.state),
        linear("apps", true, layout.apps),
        linear("lvol0_pmspare", false, layout.spare),
        linear("pool_tmeta", false, layout.pool_metadata),
        linear("pool_tdata", false, layout.pool),
    ]
}

impl Volume {
    fn text(&self, group: &Group) -> String {
        let visible = if self.visible { ", \"VISIBLE\"" } else { "" };
        format!(
            "\n{name} {{\nid = \"{id}\"\nstatus = [\"READ\", \"WRITE\"{visible}]\nflags = [{flags}]\ncreation_time = \
             {epoch}\ncreation_host = \"image\"\nsegment_count = 1\n\nsegment1 {{\nstart_extent = 0\nextent_count = \
             {extents}\n\n{kind}}}\n}}\n",
            name = self.name,
            id = group.seed.lvm(self.name),
            flags = self.flags,
            epoch = group.epoch_s,
            extents = self.size / EXTENT,
            kind = self.kind,
        )
    }
}
