//! What the machine is, for people and selectors. Empty where the machine does not tell.

use std::fs;
use std::path::Path;

use bramble_contracts::v1::DeviceFacts;
use sysinfo::{Disks, System};

use crate::core::disk::Disk;

/// Text of a small file of the kernel, without line end or NUL; empty when there is none.
fn small(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim_end_matches(['\0', '\n', ' ']).to_owned()
}

/// Changes with every boot.
pub fn boot_id() -> String {
    small("/proc/sys/kernel/random/boot_id")
}

/// Everything; `apps` is where apps live. Reads the disk, so call it seldom.
pub fn device(apps: &Path, podman_version: &str) -> DeviceFacts {
    let memory_bytes = System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    let (disk_free_bytes, disk_total_bytes) = disk(apps);
    let model = small("/proc/device-tree/model");
    DeviceFacts {
        hostname: small("/proc/sys/kernel/hostname"),
        model: if model.is_empty() { small("/sys/class/dmi/id/product_name") } else { model },
        arch: std::env::consts::ARCH.to_owned(),
        os: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        kernel: small("/proc/sys/kernel/osrelease"),
        boot_id: boot_id(),
        podman: podman_version.to_owned(),
        memory_bytes,
        cpus: std::thread::available_parallelism().map_or(0, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
        disk_free_bytes,
        disk_total_bytes,
    }
}

/// Free and total bytes of the file system that holds `path`.
pub fn disk(path: &Path) -> (u64, u64) {
    let Ok(disks) = Disks::new_with_refreshed_list() else { return (0, 0) };
    let of_path = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let nearest = of_path.max_by_key(|disk| disk.mount_point().as_os_str().len());
    nearest.map_or((0, 0), |disk| (disk.available_space(), disk.total_space()))
}

/// The same, without a look at every mount, also before the directory is made; zeros when it cannot be told.
pub fn space(path: &Path) -> Disk {
    let Some(stat) = path.ancestors().find_map(|place| nix::sys::statvfs::statvfs(place).ok()) else {
        return Disk::default();
    };
    let block = stat.fragment_size();
    Disk { free: stat.blocks_available().saturating_mul(block), total: stat.blocks().saturating_mul(block) }
}

fn os_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_os_is_named() {
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"), "Debian GNU/Linux 13 (trixie)");
        assert_eq!(os_name(""), "");
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = device(Path::new("/"), "4.3.1");
        assert!(facts.memory_bytes > 0 && facts.cpus > 0 && facts.disk_total_bytes > 0);
        assert_eq!(facts.boot_id.len(), 36);
        assert!(!facts.kernel.is_empty() && !facts.hostname.is_empty());
    }
}
