//! FAT file systems in files: made by `mkfs.vfat`, filled by mtools. Decides nothing about what is in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::layout::{SECTOR, Span};
use crate::tool::Tool;

/// How the allocation table counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// FAT16: partition 1, which the Pi 3's firmware wants so.
    Sixteen,
    /// FAT32: the boot slots.
    ThirtyTwo,
}

/// A file system to be.
#[derive(Debug, Clone)]
pub(crate) struct Fat<'a> {
    /// Its label.
    pub label: &'a str,
    /// Its kind.
    pub bits: Bits,
    /// Its serial number.
    pub serial: u32,
    /// Where it will lie on the disk.
    pub span: Span,
    /// The time of everything in it, seconds since 1970.
    pub epoch_s: u64,
}

impl Fat<'_> {
    /// Makes it as the file `out`, with what is in the folder `content`.
    ///
    /// # Errors
    /// When a file cannot be written or a tool refuses, such as for a content that does not fit.
    pub(crate) fn make(&self, content: &Path, out: &Path) -> Result<(), Error> {
        let file = File::create(out).map_err(|err| Error::file("make", out, err))?;
        file.set_len(self.span.size).map_err(|err| Error::file("make", out, err))?;
        let (bits, cluster) = match self.bits {
            Bits::Sixteen => ("16", "4"),
            Bits::ThirtyTwo => ("32", "1"),
        };
        let hidden = (self.span.start / SECTOR).to_string();
        let mkfs = Tool::new("mkfs.vfat").args(["--invariant", "-F", bits, "-s", cluster, "-h", &hidden]);
        let mkfs = mkfs.arg("-i").arg(format!("{:08x}", self.serial)).args(["-n", self.label]);
        mkfs.arg(out).epoch(self.epoch_s).run()?;
        let entries = sorted(content)?;
        if entries.is_empty() {
            return Ok(());
        }
        let mcopy = Tool::new("mcopy").args(["-Q", "-m", "-s", "-i"]).arg(out).args(&entries).arg("::");
        mcopy.epoch(self.epoch_s).env("MTOOLS_SKIP_CHECK", "1").run().map(drop)
    }
}

/// What is in a folder, in the order of names.
pub(crate) fn sorted(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = fs::read_dir(dir).and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
    let mut paths: Vec<PathBuf> = read.map_err(|err| Error::file("read", dir, err))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made twice, of folders that were made at different moments: the same bytes, and mtools reads the files back.
    #[test]
    fn the_same_files_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for bits in [Bits::Sixteen, Bits::ThirtyTwo] {
            let make = |name: &str| {
                let content = dir.path().join(format!("{name}-{bits:?}"));
                fs::create_dir_all(content.join("overlays")).unwrap();
                fs::write(content.join("config.txt"), "kernel=vmlinuz\n").unwrap();
                fs::write(content.join("empty.txt"), "").unwrap();
                fs::write(content.join("overlays/a-long-name.dtbo"), "x".repeat(9000)).unwrap();
                crate::tree::set_times(&content, 1_793_491_200).unwrap();
                let out = content.with_extension("fat");
                let span = Span { start: 4 << 20, size: 64 << 20 };
                Fat { label: "BOOT_A", bits, serial: 7, span, epoch_s: 1_793_491_200 }.make(&content, &out).unwrap();
                let file = Tool::new("mtype").arg("-i").arg(&out).arg("::config.txt").run().unwrap();
                assert_eq!(file, "kernel=vmlinuz\n");
                fs::read(out).unwrap()
            };
            let one = make("one");
            let mut later = make("other");
            let differs = one.iter().zip(&later).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{bits:?}: the first byte that differs");
            later.truncate(512);
            assert_eq!(later[510..], [0x55, 0xaa]);
        }
    }
}
