//! ext4 file systems in files, out of folders, by `mke2fs -d`. Decides their features and their form on disk, so that they do
//! not depend on the machine that builds; and takes out of them what does: times of change and access.

use std::fs::{self, File};
use std::path::Path;

use crate::Error;
use crate::layout::JOURNAL_MIB;
use crate::tool::Tool;

/// Instead of the machine's own `/etc/mke2fs.conf`.
const SETTINGS: &str = "[defaults]\n\
    base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n\
    default_mntopts = acl,user_xattr\n\
    enable_periodic_fsck = 0\n\
    blocksize = 4096\n\
    inode_size = 256\n\
    inode_ratio = 16384\n\
    [fs_types]\n\
    ext4 = {\n\
    features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize\n\
    }\n\
    bramble = {\n\
    }\n";

/// A file system to be.
#[derive(Debug, Clone)]
pub(crate) struct Ext4<'a> {
    /// Its label.
    pub label: &'a str,
    /// Its UUID.
    pub uuid: String,
    /// What folders are hashed with, a UUID.
    pub hash_seed: String,
    /// Its size, bytes.
    pub size: u64,
    /// The mode of its root folder.
    pub mode: u32,
    /// No time in it is later, seconds since 1970.
    pub epoch_s: u64,
}

impl Ext4<'_> {
    /// Makes it as the file `out`, with what is in the folder `content`, owners and all.
    ///
    /// # Errors
    /// When a file cannot be written or a tool refuses, such as for a content that does not fit.
    pub(crate) fn make(&self, content: &Path, out: &Path) -> Result<(), Error> {
        let settings = out.with_extension("conf");
        fs::write(&settings, SETTINGS).map_err(|err| Error::file("write", &settings, err))?;
        let file = File::create(out).map_err(|err| Error::file("make", out, err))?;
        file.set_len(self.size).map_err(|err| Error::file("make", out, err))?;
        // Zeros in a new file are there already: nothing is left for the kernel to zero later.
        let extended = format!("lazy_itable_init=0,lazy_journal_init=0,hash_seed={}", self.hash_seed);
        let mke2fs = Tool::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-T", "bramble", "-m", "1", "-L", self.label, "-U", &self.uuid]);
        let mke2fs = mke2fs.arg("-E").arg(extended).arg("-J").arg(format!("size={JOURNAL_MIB}")).arg("-d").arg(content);
        mke2fs.arg(out).env("MKE2FS_CONFIG", &settings).epoch(self.epoch_s).run()?;
        fs::remove_file(&settings).map_err(|err| Error::file("remove", &settings, err))?;
        self.set_times(out)?;
        Tool::new("e2fsck").args(["-f", "-n"]).arg(out).epoch(self.epoch_s).run().map(drop)
    }

    /// `mke2fs -d` copies the times of change and access, which are those of this build.
    fn set_times(&self, out: &Path) -> Result<(), Error> {
        let commands = out.with_extension("debugfs");
        let described = Tool::new("dumpe2fs").arg(out).run()?;
        let inodes = used_inodes(&described)
            .ok_or_else(|| Error::Image(format!("dumpe2fs does not say which inodes {} uses", out.display())))?;
        let root = format!("sif <{ROOT_FOLDER}> mode 04{:04o}\n", self.mode);
        let text = root + &time_commands(&inodes, self.epoch_s);
        fs::write(&commands, text).map_err(|err| Error::file("write", &commands, err))?;
        Tool::new("debugfs").arg("-w").arg("-f").arg(&commands).arg(out).epoch(self.epoch_s).run()?;
        fs::remove_file(&commands).map_err(|err| Error::file("remove", &commands, err))
    }
}

/// The inodes in use, as `dumpe2fs` tells: all but those it lists as free.
fn used_inodes(described: &str) -> Option<Vec<u32>> {
    let count: u32 = described.lines().find_map(|line| line.strip_prefix("Inode count:"))?.trim().parse().ok()?;
    let mut free = vec![false; usize::try_from(count).ok()? + 1];
    for list in described.lines().filter_map(|line| line.trim().strip_prefix("Free inodes:")) {
        for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            free.get_mut(first..=last)?.fill(true);
        }
    }
    Some((1..=count).filter(|inode| !free[usize::try_from(*inode).unwrap_or(0)]).collect())
}

/// The first inode that is not the file system's own.
const FIRST_OF_FILES: u32 = 11;
const ROOT_FOLDER: u32 = 2;

fn time_commands(inodes: &[u32], epoch_s: u64) -> String {
    let ours = inodes.iter().filter(|inode| **inode == ROOT_FOLDER || **inode >= FIRST_OF_FILES);
    let fields = ["ctime", "atime", "crtime"];
    let of = |inode: &u32| {
        let set = |field: &str| format!("sif <{inode}> {field} @{epoch_s}\nsif <{inode}> {field}_extra 0\n");
        fields.map(set).concat()
    };
    ours.map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_that_are_not_free_are_used() {
        let said = "Inode count:              16\n Free blocks: 1-9\n  Free inodes: 4-6, 9\n Group 1:\n  Free inodes: \n  Free \
                    inodes: 14-16\n";
        assert_eq!(used_inodes(said).unwrap(), [1, 2, 3, 7, 8, 10, 11, 12, 13]);
        assert_eq!(used_inodes("Inode count: 3\nFree inodes: 9-12"), None);
        assert_eq!(used_inodes("nothing"), None);
    }

    #[test]
    fn the_file_systems_own_inodes_keep_their_times() {
        let commands = time_commands(&[1, 2, 3, 10, 11, 40], 7);
        let touched: std::collections::BTreeSet<&str> = commands.lines().filter_map(|l| l.split(' ').nth(1)).collect();
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["<11>", "<2>", "<40>"]);
        assert!(commands.contains("sif <40> ctime @7\n"), "{commands}");
    }

    /// Two copies of a folder, made at different moments and in another order, give the same bytes.
    #[test]
    fn the_same_files_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["zeta", "alpha", "mid/inner", "mid/a", "b"];
        let make = |folder: &str, names: &[&str]| {
            let folder = dir.path().join(folder);
            for name in names {
                let path = folder.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, name.repeat(9000)).unwrap();
            }
            crate::tree::set_times(&folder, 1_700_000_000).unwrap();
            let out = dir.path().join(format!("{}.ext4", folder.file_name().unwrap().to_string_lossy()));
            let seed = crate::ids::Seed::new("test");
            let (uuid, hash_seed) = (seed.uuid("root"), seed.uuid("hash"));
            let size = 128 << 20;
            Ext4 { label: "test", uuid, hash_seed, size, mode: 0o700, epoch_s: 1_700_000_000 }
                .make(&folder, &out)
                .unwrap();
            fs::read(out).unwrap()
        };
        let one = make("one", &names);
        let reversed: Vec<&str> = names.into_iter().rev().collect();
        let other = make("other", &reversed);
        let differs = one.iter().zip(&other).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs");
        let described = Tool::new("dumpe2fs").arg("-h").arg(dir.path().join("one.ext4")).run().unwrap();
        // What tells it from ext3, and lets it grow while it is mounted.
        for feature in ["extent", "metadata_csum", "64bit", "flex_bg", "resize_inode", "has_journal"] {
            assert!(described.contains(feature), "{feature}: {described}");
        }
    }
}
