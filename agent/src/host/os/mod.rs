//! What LVM and apt print, as facts for `core::os`. Only text is read here; running programs comes with the units.

pub mod apt;
pub mod lvm;
