//! A Debian package out of a few lines. Decides its form; `dpkg-deb` packs it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use xtask::run::Cmd;

/// A package for all machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    name: String,
    version: String,
    depends: Vec<String>,
    fields: Vec<String>,
    controls: Vec<(&'static str, String, u32)>,
    files: Vec<(String, String, u32)>,
}

impl Package {
    /// An empty one.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        let (name, version) = (name.to_owned(), version.to_owned());
        Package { name, version, depends: vec![], fields: vec![], controls: vec![], files: vec![] }
    }

    /// It needs this one.
    #[must_use]
    pub fn depends(mut self, on: &str) -> Self {
        self.depends.push(on.into());
        self
    }

    /// One more line about it, such as `Breaks: other`.
    #[must_use]
    pub fn field(mut self, line: &str) -> Self {
        self.fields.push(line.into());
        self
    }

    /// What runs after its files are there: lines of shell.
    #[must_use]
    pub fn postinst(mut self, lines: &str) -> Self {
        self.controls.push(("postinst", format!("#!/bin/sh\n{lines}\n"), 0o755));
        self
    }

    /// A file beside its control file: what it asks, or which of its files people may change.
    #[must_use]
    pub fn control_file(mut self, name: &'static str, text: &str, mode: u32) -> Self {
        self.controls.push((name, text.into(), mode));
        self
    }

    /// A text file of it.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str, mode: u32) -> Self {
        self.files.push((path.into(), text.into(), mode));
        self
    }

    /// What a repository's index says of it, without its file.
    #[must_use]
    pub fn control(&self) -> String {
        let (name, version) = (&self.name, &self.version);
        let mut text = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <tests@example>\nPriority: optional\n\
             Section: misc\nDescription: for tests\n"
        );
        if !self.depends.is_empty() {
            text.push_str(&format!("Depends: {}\n", self.depends.join(", ")));
        }
        self.fields.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        text
    }

    /// Packs it into a folder.
    pub(super) fn build(&self, pool: &Path) -> anyhow::Result<PathBuf> {
        let name = format!("{}_{}_all", self.name, self.version.replace(':', "%3a"));
        let tree = pool.with_file_name(format!("{name}.tree"));
        let write = |path: &str, text: &str, mode: u32| -> anyhow::Result<()> {
            let path = tree.join(path.trim_start_matches('/'));
            let folder = path.parent().context("it has a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("cannot set the mode")
        };
        write("DEBIAN/control", &self.control(), 0o644)?;
        for (name, text, mode) in &self.controls {
            write(&format!("DEBIAN/{name}"), text, *mode)?;
        }
        for (path, text, mode) in &self.files {
            write(path, text, *mode)?;
        }
        let file = pool.join(format!("{name}.deb"));
        Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&file).check()?;
        fs::remove_dir_all(&tree).context("cannot remove the package's tree")?;
        Ok(file)
    }
}
