//! Files on a FAT inside an image, by mtools. Decides nothing about which.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use xtask::run::Cmd;

use crate::firmware::{Content, Fat};

/// The largest text the firmware reads itself.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

fn tool(name: &str, image: &Path, start: u64) -> Cmd {
    // Sizes that mtools calls odd are the firmware's matter, not ours.
    Cmd::new(name).args(["-i", &format!("{}@@{start}", image.display())]).env("MTOOLS_SKIP_CHECK", "1")
}

/// Copies everything into a folder that is made anew.
pub(super) fn extract(image: &Path, start: u64, into: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(into) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err).context("cannot empty the folder"),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let listed = tool("mdir", image, start).args(["-b", "::"]).check()?;
    if listed.trim().is_empty() {
        return Ok(());
    }
    let copy = tool("mcopy", image, start).args(["-s", "-n", "-Q", "::*"]).arg(into);
    copy.within(Duration::from_secs(120)).check()?;
    Ok(())
}

/// What the firmware sees of an extracted FAT.
pub(super) fn look(dir: &Path) -> anyhow::Result<Fat> {
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found)?;
    Ok(Fat(found))
}

fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Content>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy().to_lowercase());
        let bytes = entry.metadata()?.len();
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), found)?;
        } else if name.ends_with(".txt") && bytes <= TEXT_BYTES_MAX {
            let text = fs::read(entry.path())?;
            found.insert(name, Content::Text(String::from_utf8_lossy(&text).into_owned()));
        } else {
            found.insert(name, Content::Bytes(bytes));
        }
    }
    Ok(())
}

pub(super) fn read(image: &Path, start: u64, file: &str) -> anyhow::Result<Vec<u8>> {
    let beside = beside(image, "read");
    tool("mcopy", image, start).args(["-n", "-o", &format!("::{file}")]).arg(&beside).check()?;
    let bytes = fs::read(&beside).with_context(|| format!("cannot read {}", beside.display()));
    drop(fs::remove_file(&beside));
    bytes
}

pub(super) fn write(image: &Path, start: u64, file: &str, content: &[u8]) -> anyhow::Result<()> {
    let beside = beside(image, "write");
    fs::write(&beside, content).with_context(|| format!("cannot write {}", beside.display()))?;
    let written = tool("mcopy", image, start).arg("-o").arg(&beside).arg(format!("::{file}")).check();
    drop(fs::remove_file(&beside));
    written?;
    Ok(())
}

pub(super) fn remove(image: &Path, start: u64, file: &str) -> anyhow::Result<()> {
    tool("mdel", image, start).arg(format!("::{file}")).check()?;
    Ok(())
}

/// A file of our own for what passes to and from a tool. Two threads never use one card at once.
fn beside(image: &Path, what: &str) -> std::path::PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    image.with_file_name(format!(".{name}.{}.{what}", std::process::id()))
}
