//! What firmware and kernel say of a boot: the command line, and the firmware's words in the device tree.
//!
//! Decides what each of them means. Reads no file: the guard and the agent both do, each in its own way.

use super::{GROUP, ROOT, Slot, SlotBy, Tryboot};

/// Does this command line boot from our layout? On every other machine the guard has nothing to do.
pub fn root_is_ours(cmdline: &str) -> bool {
    let root = word(cmdline, "root=").unwrap_or_default();
    root == format!("/dev/{GROUP}/{ROOT}") || root == format!("/dev/mapper/{GROUP}-{ROOT}")
}

/// Which slot was booted, and who says so. The firmware knows; a slot's own files say what they were written for.
pub fn booted(partition: Option<&[u8]>, cmdline: &str) -> (Slot, SlotBy) {
    let by_firmware = partition.and_then(big_endian).and_then(Slot::on_partition);
    let by_cmdline = match word(cmdline, "bramble.slot=") {
        Some("a") => Some(Slot::A),
        Some("b") => Some(Slot::B),
        Some(_) | None => None,
    };
    match (by_firmware, by_cmdline) {
        (Some(slot), _) => (slot, SlotBy::Firmware),
        (None, Some(slot)) => (slot, SlotBy::CommandLine),
        (None, None) => (Slot::A, SlotBy::Nobody),
    }
}

/// What `/chosen/bootloader/tryboot` of the device tree means.
pub fn tryboot(cell: Option<&[u8]>) -> Tryboot {
    match cell.and_then(big_endian) {
        Some(0) => Tryboot::Clear,
        Some(_) => Tryboot::Set,
        None => Tryboot::Unsupported,
    }
}

/// Both, and what the card is able to: with one set of boot files there are no slots, whatever the firmware says.
pub fn seen(one_set: bool, cell: impl Fn(&str) -> Option<Vec<u8>>, cmdline: &str) -> (Slot, SlotBy, Tryboot) {
    if one_set {
        return (Slot::A, SlotBy::Nobody, Tryboot::Unsupported);
    }
    let (slot, by) = booted(cell("partition").as_deref(), cmdline);
    (slot, by, tryboot(cell("tryboot").as_deref()))
}

fn big_endian(cell: &[u8]) -> Option<u32> {
    cell.try_into().ok().map(u32::from_be_bytes)
}

fn word<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    cmdline.split_whitespace().filter_map(|word| word.strip_prefix(name)).next_back()
}
