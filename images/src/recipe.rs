//! What an image is made of, as a person writes it down. Decides what a recipe may say and refuses the rest; how it is
//! carried out is the other modules' matter.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One kind of image. Sizes are in MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What its files are called, such as `virt`.
    pub name: String,
    /// For people: what it is for.
    pub description: String,
    /// What nobody has seen work yet; empty when nothing is left. Shown when it is built, and in its documents.
    #[serde(default)]
    pub unproven: String,
    /// No file in the image is newer, and no clock of a device earlier: seconds since 1970.
    pub epoch_s: u64,
    /// The packages.
    pub debian: Debian,
    /// What is in the initramfs.
    pub initramfs: Initramfs,
    /// What the firmware is told.
    pub boot: Boot,
    /// How large things are at least.
    pub sizes: Sizes,
    /// Folders laid over the finished root file system, in this order.
    #[serde(default)]
    pub overlay: Vec<PathBuf>,
}

/// Where packages come from, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// Debian's release.
    pub suite: String,
    /// Debian's name of the machine.
    pub architecture: String,
    /// Such as `main`.
    pub components: Vec<String>,
    /// What is installed beside the essential packages and what they depend on.
    pub packages: Vec<String>,
    /// Files of packages that are left out, as dpkg's `path-exclude`.
    #[serde(default)]
    pub leave_out: Vec<String>,
    /// What is kept all the same, as dpkg's `path-include`.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Other archives, which the machine that builds must list in its own apt sources.
    #[serde(default)]
    pub archives: Vec<Archive>,
}

/// An archive that is not Debian's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// What its index calls `Origin`; the address is the one the machine's apt sources have for it.
    pub origin: String,
    /// Its release.
    pub suite: String,
    /// Such as `main`.
    pub components: Vec<String>,
}

/// The initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initramfs {
    /// Kernel modules it must have, be it as a file or built into the kernel.
    pub modules: Vec<String>,
    /// Programs and files it must have, as paths in it.
    pub files: Vec<String>,
}

/// What the firmware finds on a slot's partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Kernels; the first is the one without a condition.
    pub kernels: Vec<Kernel>,
    /// Consoles of the kernel, the last one being systemd's.
    pub consoles: Vec<String>,
    /// More words for the kernel.
    #[serde(default)]
    pub words: Vec<String>,
    /// More lines of `config.txt`, before those of the kernels.
    #[serde(default)]
    pub config: Vec<String>,
    /// What is copied from the root file system onto the slot: `[from, to]`, folders with what is in them. `{kernel}` is the
    /// first kernel's version.
    #[serde(default)]
    pub copy: Vec<[String; 2]>,
    /// Likewise, onto partition 1.
    #[serde(default)]
    pub copy_config: Vec<[String; 2]>,
}

/// One kernel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// How its version ends, such as `-arm64`; exactly one installed kernel must match.
    pub version_ends: String,
    /// The section of `config.txt` it is for, such as `pi5`; empty for all boards.
    #[serde(default)]
    pub filter: String,
    /// Its name on the slot's partition.
    pub kernel: String,
    /// The initramfs' name there.
    pub initramfs: String,
}

/// Sizes in MiB. Root and the pool grow with what is in them; these are the least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Partition 1.
    pub config: u64,
    /// Partitions 2 and 3, each.
    pub boot: u64,
    /// The root file system.
    pub root: u64,
    /// What is free in it at least.
    pub root_free: u64,
    /// The thin pool's metadata, for the pool of a full-size card.
    pub pool_metadata: u64,
    /// The device's state.
    pub state: u64,
    /// What is free in it at least.
    pub state_free: u64,
    /// Apps: their images, containers and volumes.
    pub apps: u64,
}

/// Why a text is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or a field that is missing, unknown or of another kind.
    #[error("the recipe {path} does not say what a recipe says")]
    Parse {
        /// Which.
        path: PathBuf,
        /// The field, with its line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It contradicts itself.
    #[error("the recipe {name}: {what}")]
    Wrong {
        /// Which.
        name: String,
        /// In what.
        what: String,
    },
}

impl Recipe {
    /// Reads one from a file; its overlays are relative to it.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
        let mut recipe = Self::parse(&text, path)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        recipe.overlay = recipe.overlay.iter().map(|dir| beside.join(dir)).collect();
        Ok(recipe)
    }

    /// Reads one from a text; `path` is for messages.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text)
            .map_err(|source| RecipeError::Parse { path: path.into(), source: Box::new(source) })?;
        recipe.check().map_err(|what| RecipeError::Wrong { name: recipe.name.clone(), what })?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let plain =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !plain(&self.name) {
            return Err(format!("name {:?} is to be letters, digits, - and _", self.name));
        }
        if self.boot.kernels.is_empty() {
            return Err("boot.kernels is empty: there is nothing to boot".into());
        }
        let sizes = &self.sizes;
        let least = [("config", sizes.config, 32), ("boot", sizes.boot, 64), ("root", sizes.root, 256)];
        let more = [("pool_metadata", sizes.pool_metadata, 4), ("state", sizes.state, 128), ("apps", sizes.apps, 128)];
        for (field, size, least) in least.into_iter().chain(more) {
            if size < least || size % 4 != 0 {
                return Err(format!("sizes.{field} = {size}: at least {least} MiB, in steps of 4"));
            }
        }
        // mkfs.vfat makes FAT16 of this many clusters at most, and the Pi 3's firmware wants it.
        if sizes.config > 512 {
            return Err(format!("sizes.config = {}: FAT16 ends at 512 MiB", sizes.config));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> Vec<PathBuf> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    #[test]
    fn every_recipe_of_ours_reads_and_is_called_as_its_file() {
        assert!(recipes().len() >= 3, "{:?}", recipes());
        for path in recipes() {
            let recipe = Recipe::read(&path).unwrap_or_else(|err| panic!("{}: {err:?}", path.display()));
            assert_eq!(recipe.name, path.file_stem().unwrap().to_string_lossy());
            assert_eq!(recipe.name.starts_with("rpi"), !recipe.unproven.is_empty(), "{}", recipe.name);
        }
    }

    #[test]
    fn a_field_nobody_knows_is_refused_with_its_line() {
        let text = std::fs::read_to_string(&recipes()[2]).unwrap();
        let err = Recipe::parse(&text.replace("state_free =", "state_fre ="), Path::new("x.toml")).unwrap_err();
        let RecipeError::Parse { source, .. } = err else { panic!("{err:?}") };
        let said = source.to_string();
        assert!(said.contains("state_fre") && said.contains("line "), "{said}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let text = std::fs::read_to_string(&recipes()[2]).unwrap();
        for (from, to, says) in
            [("config = 64", "config = 62", "sizes.config"), ("config = 64", "config = 1024", "FAT16")]
        {
            let err = Recipe::parse(&text.replace(from, to), Path::new("x.toml")).unwrap_err().to_string();
            assert!(err.contains(says), "{err}");
        }
    }
}
