//! Boot files that are not touched: with one set of them nothing could bring the old ones back.
//!
//! Decides which packages write some, and how apt is told: by preferences of this run alone, which pin what is installed and
//! refuse every other version. `name-` among apt's arguments would remove the package, and `apt-mark hold` would stay.

use std::fmt::Write as _;

/// Packages that bring kernels, initramfs makers, firmware and boot loaders.
const GLOBS: [&str; 8] = [
    "linux-image-*",
    "linux-modules-*",
    "initramfs-tools*",
    "dracut*",
    "raspi-firmware",
    "raspberrypi-kernel*",
    "raspberrypi-bootloader*",
    "rpi-eeprom*",
];

/// What `dpkg-query` is asked for.
pub(super) const QUERY: [&str; 2] = ["-W", "-f=${db:Status-Abbrev} ${Package} ${Version}\\n"];

/// apt's preferences: those of the machine, and ours before them, because the first that fits a package counts.
pub(super) fn preferences(installed: &str, of_machine: &str) -> String {
    let mut text = String::from("# Written by bramble-agent for one run of apt.\n");
    for (name, version) in installed.lines().filter_map(package).filter(|(name, _)| brings_boot_files(name)) {
        let _ = write!(text, "\nPackage: {name}\nPin: version {version}\nPin-Priority: 1001\n");
    }
    let _ = write!(text, "\nPackage: {}\nPin: version *\nPin-Priority: -1\n", GLOBS.join(" "));
    let _ = write!(text, "\n{of_machine}");
    text
}

/// `ii  name 1.2-3`: its state, then the rest.
fn package(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (state, name, version) = (words.next()?, words.next()?, words.next()?);
    state.starts_with(['i', 'h']).then_some((name, version))
}

pub(super) fn brings_boot_files(name: &str) -> bool {
    GLOBS.iter().any(|glob| match glob.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == *glob,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_pinned_before_everything_else_is_refused() {
        let installed =
            "ii  linux-image-arm64 6.12.9-1\nrc  linux-image-6.1 6.1-1\nii  podman 5.4-1\nii  raspi-firmware 1.2\n";
        let text = preferences(installed, "Package: *\nPin: release a=now\nPin-Priority: 900\n");
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in\n{text}"));
        assert!(at("Package: linux-image-arm64\nPin: version 6.12.9-1\nPin-Priority: 1001\n") < at("Pin-Priority: -1"));
        assert!(at("Package: raspi-firmware\n") < at("Pin-Priority: -1") && at("Pin-Priority: -1") < at("a=now"));
        assert!(!text.contains("podman") && !text.contains("6.1-1"));
    }
}
