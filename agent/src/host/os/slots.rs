//! The boot files of a slot: made like the other slot's, brought up to date from root, and read back from the card.
//!
//! Decides how files on a FAT are replaced, and which of root's belong there, by a map that the image brings. Never writes
//! to the slot that was booted: the caller hands the other one's folder.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::boot::Slot;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Deserialize;

use crate::host::cmd::{self, Bounds};

/// What of root goes onto a slot, from the root folder. Written by the image that made this root.
pub(super) const BOOT_FILES: &str = "usr/lib/bramble/boot-files.json";
const CMDLINE: &str = "cmdline.txt";
/// Of the slot, not of any package: which kernel the firmware loads, and what that is told.
const SETTINGS: [&str; 2] = [CMDLINE, "config.txt"];
const PIECE: usize = 1 << 20;
const LIST: &str = "/usr/bin/lsinitramfs";

/// What of root goes onto a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BootFiles {
    /// Kernels with their initramfs.
    kernels: Vec<Kernel>,
    /// `[from, to]`, folders with what is in them; `{kernel}` is the first kernel's version.
    #[serde(default)]
    copy: Vec<[String; 2]>,
    /// Without these, as paths in it, an initramfs cannot reach root or put it back.
    #[serde(default)]
    needs: Vec<String>,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    /// How its version ends, such as `-arm64`; the newest of these is taken.
    version_ends: String,
    /// Its name on the slot.
    kernel: String,
    /// Its initramfs' name on the slot.
    initramfs: String,
}

impl BootFiles {
    /// Of this root.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(root.join(BOOT_FILES))?)?)
    }
}

/// Makes `to` like `from`, but for what names the slot; what is alike is left alone.
pub(super) fn copy(from: &Path, to: &Path, slot: Slot) -> io::Result<()> {
    let wanted: BTreeSet<PathBuf> = files(from)?.into_iter().collect();
    for path in files(to)?.into_iter().filter(|path| !wanted.contains(path)) {
        fs::remove_file(to.join(path))?;
    }
    for path in wanted.iter().filter(|path| path.as_path() != Path::new(CMDLINE)) {
        bring_file(&from.join(path), &to.join(path))?;
    }
    settings(from, to, slot)?;
    sync(to)
}

/// The slot's own settings, as the other one has them: packages write theirs over them.
pub(super) fn settings(from: &Path, to: &Path, slot: Slot) -> io::Result<()> {
    for name in SETTINGS.into_iter().filter(|name| from.join(name).is_file()) {
        if name == CMDLINE {
            let text = named(&fs::read_to_string(from.join(name))?, slot);
            put(&to.join(name), text.as_bytes())?;
        } else {
            bring_file(&from.join(name), &to.join(name))?;
        }
    }
    sync(to)
}

/// Brings what root has onto the slot, as the image says. What is missing on root is told as that.
pub(super) fn bring(files: &BootFiles, root: &Path, to: &Path) -> io::Result<()> {
    let mut first = None;
    for (kernel, version) in chosen(files, root)? {
        bring_file(&image(root, &version), &to.join(&kernel.kernel))?;
        bring_file(&initramfs(root, &version), &to.join(&kernel.initramfs))?;
        first.get_or_insert(version);
    }
    for [from, name] in &files.copy {
        let from = root.join(from.replace("{kernel}", first.as_deref().unwrap_or_default()).trim_start_matches('/'));
        let to = to.join(name.trim_start_matches('/'));
        if from.is_dir() {
            for path in self::files(&from)? {
                bring_file(&from.join(&path), &to.join(&path))?;
            }
        } else if from.is_file() {
            bring_file(&from, &to)?;
        } else {
            return Err(missing(format!("{} is missing", from.display())));
        }
    }
    sync(to)
}

/// Looks into every initramfs that would be booted; why one could not do its work.
pub(super) async fn examine(files: &BootFiles, root: &Path) -> Result<(), String> {
    for (_, version) in chosen(files, root).map_err(|err| err.to_string())? {
        let path = initramfs(root, &version);
        let (text, bounds) =
            (path.display().to_string(), Bounds { time: Duration::from_secs(600), output_bytes: 4 << 20 });
        let done = cmd::run(Path::new(LIST), &[&text], bounds).await.map_err(|err| err.to_string())?;
        if !done.status.success() {
            return Err(format!("{text} cannot be read: {}", done.stderr.lines().next().unwrap_or("it is damaged")));
        }
        if let Some(lacks) = lacking(&files.needs, &done.stdout) {
            return Err(format!("{text} is without {lacks}"));
        }
    }
    Ok(())
}

fn lacking<'a>(needs: &'a [String], listed: &str) -> Option<&'a str> {
    let there: BTreeSet<&str> =
        listed.lines().map(|line| line.trim_start_matches("./").trim_start_matches('/')).collect();
    needs.iter().map(String::as_str).find(|need| !there.contains(need.trim_start_matches('/')))
}

fn image(root: &Path, version: &str) -> PathBuf {
    root.join(format!("boot/vmlinuz-{version}"))
}

fn initramfs(root: &Path, version: &str) -> PathBuf {
    root.join(format!("boot/initrd.img-{version}"))
}

/// The newest version of each kernel, with its modules, whole.
fn chosen<'a>(files: &'a BootFiles, root: &Path) -> io::Result<Vec<(&'a Kernel, String)>> {
    let versions = versions(root)?;
    let newest = |kernel: &'a Kernel| {
        let ends = &kernel.version_ends;
        let of = versions.iter().filter(|version| version.ends_with(ends.as_str()));
        let version = of.max_by(|a, b| compare(a, b)).ok_or_else(|| missing(format!("root has no kernel …{ends}")))?;
        for path in [image(root, version), initramfs(root, version)] {
            if path.metadata().map_or(0, |meta| meta.len()) == 0 {
                return Err(missing(format!("{} is missing or empty", path.display())));
            }
        }
        Ok((kernel, version.clone()))
    };
    files.kernels.iter().map(newest).collect()
}

/// Kernels whose modules are installed: one without them would not find root.
fn versions(root: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(root.join("usr/lib/modules"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|version| image(root, version).is_file()).collect())
}

/// Versions of kernels: numbers count as numbers.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let split = text.split(|c: char| !c.is_ascii_alphanumeric());
        split.map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
    };
    parts(a).cmp(&parts(b))
}

/// A kernel's command line, with this slot's name.
fn named(cmdline: &str, slot: Slot) -> String {
    let others = cmdline.split_whitespace().filter(|word| !word.starts_with("bramble.slot="));
    let mut words: Vec<String> = others.map(str::to_owned).collect();
    let at = cmdline.split_whitespace().position(|word| word.starts_with("bramble.slot="));
    words.insert(at.unwrap_or(words.len()).min(words.len()), format!("bramble.slot={slot}"));
    words.join(" ") + "\n"
}

fn missing(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

/// Every file below, by its path from there.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (vec![], vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(dir.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}

/// Makes `to` hold the bytes of `from`, unless it does.
fn bring_file(from: &Path, to: &Path) -> io::Result<()> {
    if alike(from, to)? {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut target = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    settle(&target)?;
    if alike(from, to)? { Ok(()) } else { Err(reads_back_otherwise(to)) }
}

/// Makes a file hold this, and reads it back.
fn put(to: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(to).is_ok_and(|held| held == bytes) {
        return Ok(());
    }
    let mut target = File::create(to)?;
    target.write_all(bytes)?;
    settle(&target)?;
    if fs::read(to)? == bytes { Ok(()) } else { Err(reads_back_otherwise(to)) }
}

/// Onto the card, and out of memory, so that the next read is of the card.
pub(super) fn settle(file: &File) -> io::Result<()> {
    file.sync_all()?;
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

fn reads_back_otherwise(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} reads back otherwise", path.display()))
}

/// The same bytes. A FAT's times tell nothing.
fn alike(a: &Path, b: &Path) -> io::Result<bool> {
    let mut a = File::open(a)?;
    let mut b = match File::open(b) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let n = read_full(&mut a, &mut one)?;
        if n != read_full(&mut b, &mut other)? || one[..n] != other[..n] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read(&mut into[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

/// The whole file system, so that its tables are on the card, too.
fn sync(dir: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(dir)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::write;
    use super::*;

    fn text(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_slot_becomes_like_the_other_but_for_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (slot, name) in [(&a, "a"), (&b, "b")] {
            write(slot, "cmdline.txt", format!("root=/dev/vg0/root bramble.slot={name} quiet\n").as_bytes());
            write(slot, "vmlinuz", b"old");
        }
        write(&a, "vmlinuz", b"new!");
        write(&a, "overlays/x.dtbo", b"x");
        write(&b, "stale", b"s");
        copy(&a, &b, Slot::B).unwrap();
        assert_eq!(text(b.join("cmdline.txt")), "root=/dev/vg0/root bramble.slot=b quiet\n");
        assert_eq!(text(b.join("vmlinuz")), "new!");
        assert!(b.join("overlays/x.dtbo").is_file() && !b.join("stale").exists());
        write(&b, "cmdline.txt", b"of a package");
        settings(&a, &b, Slot::B).unwrap();
        assert_eq!(text(b.join("cmdline.txt")), "root=/dev/vg0/root bramble.slot=b quiet\n");
        assert_eq!(named("root=x", Slot::A), "root=x bramble.slot=a\n");
    }

    /// As `images` writes it for the virtual Pi.
    const MAP: &str = r#"{"kernels":[{"versionEnds":"-arm64","kernel":"vmlinuz","initramfs":"initrd.img"}],
        "copy":[["/usr/lib/linux-image-{kernel}/broadcom","/"]],"needs":["usr/sbin/lvm"]}"#;

    #[test]
    fn the_newest_kernel_with_modules_is_brought() {
        let dir = tempfile::tempdir().unwrap();
        let (root, slot) = (dir.path().join("root"), dir.path().join("slot"));
        fs::create_dir_all(&slot).unwrap();
        for version in ["6.12.9+deb13-arm64", "6.12.118+deb13-arm64", "6.12.200+deb13-rpi"] {
            write(&root, &format!("usr/lib/modules/{version}/modules.dep"), b"");
            write(&root, &format!("boot/vmlinuz-{version}"), version.as_bytes());
            write(&root, &format!("boot/initrd.img-{version}"), format!("initrd {version}").as_bytes());
            write(&root, &format!("usr/lib/linux-image-{version}/broadcom/x.dtb"), version.as_bytes());
        }
        write(&root, "boot/vmlinuz-7.0-arm64", b"without modules");
        write(&root, BOOT_FILES, MAP.as_bytes());
        let map = BootFiles::of(&root).unwrap();
        bring(&map, &root, &slot).unwrap();
        let newest = "6.12.118+deb13-arm64";
        assert_eq!(text(slot.join("vmlinuz")), newest);
        assert_eq!(text(slot.join("initrd.img")), format!("initrd {newest}"));
        assert_eq!(text(slot.join("x.dtb")), newest);
        write(&root, &format!("boot/initrd.img-{newest}"), b"");
        assert!(bring(&map, &root, &slot).unwrap_err().to_string().contains("missing or empty"));
        fs::remove_file(root.join(format!("boot/vmlinuz-{newest}"))).unwrap();
        fs::remove_file(root.join("boot/vmlinuz-6.12.9+deb13-arm64")).unwrap();
        fs::remove_file(root.join("boot/vmlinuz-7.0-arm64")).unwrap();
        assert!(bring(&map, &root, &slot).unwrap_err().to_string().contains("no kernel …-arm64"));
    }

    #[test]
    fn an_initramfs_without_the_guard_is_found() {
        let needs = ["usr/sbin/lvm".to_owned(), "usr/lib/bramble/bramble-bootguard".to_owned()];
        assert_eq!(lacking(&needs, "usr\nusr/sbin/lvm\nusr/lib/bramble/bramble-bootguard\n"), None);
        assert_eq!(lacking(&needs, "./usr/sbin/lvm\n"), Some("usr/lib/bramble/bramble-bootguard"));
    }
}
