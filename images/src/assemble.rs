//! One image, from its parts to its bytes. Decides the order of steps; each step's what and how is its own module's matter.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::bootfiles::{self, Slot};
use crate::digest;
use crate::ext4::Ext4;
use crate::fat::{Bits, Fat, sorted};
use crate::ids::Seed;
use crate::layout::{Content, Layout, MIB, Span};
use crate::recipe::Recipe;
use crate::{Error, Facts, Programs, initramfs, lvm, mbr, system, thin, tree};

/// The card's file in the folder worked in.
pub(crate) const DISK: &str = "disk.img";
const STATE: &str = "var/lib/bramble";
const APPS: &str = "var/lib/bramble-apps";

/// Makes the card as the file [`DISK`] in `work`.
pub(crate) fn assemble(
    recipe: &Recipe,
    programs: &Programs,
    tarball: &Path,
    digest: &str,
    cache: &Path,
    work: &Path,
) -> Result<Facts, Error> {
    let root = work.join("root");
    println!("Unpacking Debian, installing Bramble");
    tree::unpack(tarball, &root)?;
    system::prepare(recipe, programs, &root)?;
    let kernels = kernels(recipe, &root)?;
    for kernel in &kernels {
        initramfs::put(recipe, kernel, &root, cache)?;
    }
    let map = bootfiles::map(&recipe.boot, &recipe.initramfs.files);
    tree::file(&root.join(bootfiles::MAP), map.as_bytes(), 0o644)?;
    system::clean(&root)?;
    let maker = Maker { recipe, seed: Seed::new(&recipe.name), work, root: &root };
    let [state, apps] = [maker.moved_out(STATE, "state")?, maker.moved_out(APPS, "apps")?];
    let content = Content { root: tree::size(&root)?, state: tree::size(&state)?, apps: tree::size(&apps)? };
    let layout = Layout::new(&recipe.sizes, content);
    println!("Making file systems and LVM, {} MiB", layout.disk / MIB);
    maker.disk(&layout, &kernels)?;
    let programs = [("bramble-agent", &programs.agent), ("bramble-bootstrap", &programs.bootstrap)]
        .into_iter()
        .chain([("bramble-bootguard", &programs.bootguard)])
        .map(|(name, path)| Ok((name.to_owned(), digest::of_file(path)?)))
        .collect::<Result<_, Error>>()?;
    Ok(Facts {
        name: recipe.name.clone(),
        description: recipe.description.clone(),
        unproven: recipe.unproven.clone(),
        digest: digest.into(),
        epoch_s: recipe.epoch_s,
        layout,
        kernels,
        packages: system::packages(&root)?,
        programs,
    })
}

/// The version of each of the recipe's kernels.
pub(crate) fn kernels(recipe: &Recipe, root: &Path) -> Result<Vec<String>, Error> {
    let installed: Vec<String> = sorted(&root.join("usr/lib/modules"))?
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let one = |ends: &str| {
        let found: Vec<&String> = installed.iter().filter(|version| version.ends_with(ends)).collect();
        match found[..] {
            [version] => Ok(version.clone()),
            _ => Err(Error::Image(format!("one kernel ...{ends} is to be installed; these are: {installed:?}"))),
        }
    };
    recipe.boot.kernels.iter().map(|kernel| one(&kernel.version_ends)).collect()
}

/// Makes the parts of a card in the folder `work`, out of the root file system in `root`.
pub(crate) struct Maker<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) seed: Seed,
    pub(crate) work: &'a Path,
    pub(crate) root: &'a Path,
}

impl Maker<'_> {
    /// Takes a folder's content out of root, to become a file system that is mounted there.
    fn moved_out(&self, inside: &str, name: &str) -> Result<PathBuf, Error> {
        let (from, to) = (self.root.join(inside), self.work.join(name));
        tree::folder(&from)?;
        fs::rename(&from, &to).map_err(|err| Error::file("move", &from, err))?;
        tree::folder(&from)?;
        tree::set_mode(&from, 0o700)?;
        tree::set_mode(&to, 0o700)?;
        Ok(to)
    }

    fn disk(&self, layout: &Layout, kernels: &[String]) -> Result<(), Error> {
        let mut disk = Disk::new(&self.work.join(DISK), layout.disk)?;
        disk.bytes(0, &mbr::sector(layout, self.seed.number("disk")))?;
        disk.bytes(layout.pv.start, &lvm::head(layout, &self.seed, self.recipe.epoch_s))?;

        let config = self.config_files()?;
        disk.file(layout.config.start, &self.fat("BRAMBLECFG", Bits::Sixteen, layout.config, &config)?)?;
        for (slot, span) in Slot::ALL.into_iter().zip(layout.boot) {
            let content = self.boot_files(slot.label(), kernels, &bootfiles::cmdline(&self.recipe.boot, slot))?;
            disk.file(span.start, &self.fat(slot.label(), Bits::ThirtyTwo, span, &content)?)?;
        }

        let root = self.ext4("root", self.root, layout.root, 0o755)?;
        let runs = thin::runs(&root)?;
        let metadata = self.work.join("pool_tmeta");
        thin::metadata(&thin::xml(&runs, layout.pool.size), layout.pool_metadata.size, &metadata)?;
        disk.file(layout.pool_metadata.start, &metadata)?;
        // Each block at its own place in the pool.
        disk.file(layout.pool.start, &root)?;
        let state = self.ext4("state", &self.work.join("state"), layout.state.size, 0o700)?;
        disk.file(layout.state.start, &state)?;
        let apps = self.ext4("apps", &self.work.join("apps"), layout.apps.size, 0o700)?;
        disk.file(layout.apps.start, &apps)
    }

    pub(crate) fn ext4(&self, label: &str, content: &Path, size: u64, mode: u32) -> Result<PathBuf, Error> {
        tree::set_times(content, self.recipe.epoch_s)?;
        let out = self.work.join(format!("{label}.ext4"));
        let (uuid, hash_seed) = (self.seed.uuid(label), self.seed.uuid(&format!("{label} folders")));
        Ext4 { label, uuid, hash_seed, size, mode, epoch_s: self.recipe.epoch_s }.make(content, &out)?;
        Ok(out)
    }

    pub(crate) fn fat(&self, label: &str, bits: Bits, span: Span, content: &Path) -> Result<PathBuf, Error> {
        tree::set_times(content, self.recipe.epoch_s)?;
        let out = self.work.join(format!("{label}.fat"));
        let serial = self.seed.number(label);
        Fat { label, bits, serial, span, epoch_s: self.recipe.epoch_s }.make(content, &out)?;
        Ok(out)
    }

    fn config_files(&self) -> Result<PathBuf, Error> {
        let dir = self.work.join("config");
        tree::folder(&dir)?;
        self.copied(&self.recipe.boot.copy_config, "", &dir)?;
        for (name, text) in
            [("autoboot.txt", bootfiles::AUTOBOOT), ("config.txt", ""), ("bramble.toml", bootfiles::SEED)]
        {
            tree::file(&dir.join(name), text.as_bytes(), 0o644)?;
        }
        Ok(dir)
    }

    /// What the firmware finds on a partition that it boots, as a folder of that name.
    pub(crate) fn boot_files(&self, name: &str, kernels: &[String], cmdline: &str) -> Result<PathBuf, Error> {
        let (boot, dir) = (&self.recipe.boot, self.work.join(name));
        tree::folder(&dir)?;
        self.copied(&boot.copy, kernels.first().map_or("", String::as_str), &dir)?;
        for (kernel, version) in boot.kernels.iter().zip(kernels) {
            tree::copy_plain(&self.root.join(format!("boot/vmlinuz-{version}")), &dir.join(&kernel.kernel))?;
            tree::copy_plain(&self.root.join(format!("boot/initrd.img-{version}")), &dir.join(&kernel.initramfs))?;
        }
        tree::file(&dir.join("config.txt"), bootfiles::config(boot).as_bytes(), 0o644)?;
        tree::file(&dir.join("cmdline.txt"), cmdline.as_bytes(), 0o644)?;
        Ok(dir)
    }

    fn copied(&self, pairs: &[[String; 2]], kernel: &str, dir: &Path) -> Result<(), Error> {
        for [from, to] in pairs {
            let from = self.root.join(from.replace("{kernel}", kernel).trim_start_matches('/'));
            let to = dir.join(to.trim_start_matches('/'));
            if !from.exists() {
                return Err(Error::Image(format!("the recipe copies {}, which no package brings", from.display())));
            }
            tree::copy_plain(&from, &to)?;
        }
        Ok(())
    }
}

/// The card's file in the making. Zeros are left out: the file is sparse.
pub(crate) struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    pub(crate) fn new(path: &Path, size: u64) -> Result<Self, Error> {
        let failed = |err| Error::file("make", path, err);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
        file.set_len(size).map_err(failed)?;
        Ok(Disk { file, path: path.into() })
    }

    pub(crate) fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let wrote = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        wrote.map_err(|err| Error::file("write", &self.path, err))
    }

    /// A file's bytes, from `at` on.
    pub(crate) fn file(&mut self, at: u64, from: &Path) -> Result<(), Error> {
        let failed = |err| Error::file("read", from, err);
        let mut source = File::open(from).map_err(failed)?;
        let size = usize::try_from(MIB).expect("invariant: small");
        let (mut piece, zeros) = (vec![0; size], vec![0; size]);
        let mut at = at;
        loop {
            let read = source.read(&mut piece).map_err(failed)?;
            if read == 0 {
                break;
            }
            if piece[..read] != zeros[..read] {
                self.bytes(at, &piece[..read])?;
            }
            at += read as u64;
        }
        drop(source);
        fs::remove_file(from).map_err(|err| Error::file("remove", from, err))
    }
}
