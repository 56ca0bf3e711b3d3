//! The layers of Podman's store, read from its own lists: which are there, and whether their files are whole.
//!
//! Podman does not sync what it unpacks, so a power cut soon after a pull leaves files that are empty, and Podman never
//! notices. Beside each layer lies a list of what was in its archive (`tar-split`): names and sizes are compared with it,
//! contents are not. Changes nothing. What cannot be understood is no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Component, Path};

use serde::Deserialize;

/// A list longer than this is not read.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// An archive's list, unpacked, is read so far.
const SPLIT_BYTES_MAX: u64 = 1 << 30;
/// An image has no more layers than this.
const LAYERS_MAX: usize = 256;

#[derive(Deserialize)]
struct Layer {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(default, rename = "compressed-diff-digest")]
    sent: String,
    #[serde(default, rename = "diff-digest")]
    plain: String,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Image {
    /// Podman's id.
    pub(super) id: String,
    /// What it is called.
    #[serde(default)]
    pub(super) names: Vec<String>,
    #[serde(default)]
    layer: String,
}

/// One line of a list of what was in an archive; only files have a size.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    size: u64,
}

/// Digests of the layers in the store, as they were sent and as they are.
pub(super) fn present(store: &Path) -> BTreeSet<String> {
    let layers = layers(store).unwrap_or_default();
    layers.into_iter().flat_map(|layer| [layer.sent, layer.plain]).filter(|digest| !digest.is_empty()).collect()
}

/// Compares the files of an image with the lists; says what is wrong.
pub(super) fn examine(store: &Path, image: &str) -> std::io::Result<Option<String>> {
    let images = images(store)?;
    let Some(image) = images.into_iter().find(|one| one.id == image) else { return Ok(None) };
    for layer in chain(&image, &parents(store)?) {
        if let Some(why) = examine_layer(store, &layer)? {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

/// Other images that stand on a layer of this one.
pub(super) fn sharers(store: &Path, image: &str) -> std::io::Result<Vec<Image>> {
    let (mut images, parents) = (images(store)?, parents(store)?);
    let own: BTreeSet<String> =
        images.iter().filter(|one| one.id == image).flat_map(|one| chain(one, &parents)).collect();
    images.retain(|one| one.id != image && chain(one, &parents).iter().any(|layer| own.contains(layer)));
    Ok(images)
}

/// The id of the image of that name.
pub(super) fn id_of(store: &Path, name: &str) -> Option<String> {
    images(store).ok()?.into_iter().find(|one| one.names.iter().any(|one| one == name)).map(|one| one.id)
}

/// Every image in the store, as they came in.
pub(super) fn images(store: &Path) -> std::io::Result<Vec<Image>> {
    read(&store.join("overlay-images/images.json"))
}

/// Every layer with the one below it.
fn parents(store: &Path) -> std::io::Result<BTreeMap<String, String>> {
    Ok(layers(store)?.into_iter().map(|layer| (layer.id, layer.parent)).collect())
}

/// The layers of an image that are known, the uppermost first.
fn chain(image: &Image, parents: &BTreeMap<String, String>) -> Vec<String> {
    let above = |layer: &String| parents.get(layer).filter(|below| !below.is_empty()).cloned();
    let first = Some(image.layer.clone()).filter(|layer| !layer.is_empty());
    std::iter::successors(first, above).take(LAYERS_MAX).collect()
}

fn examine_layer(store: &Path, id: &str) -> std::io::Result<Option<String>> {
    let list = match File::open(store.join(format!("overlay-layers/{id}.tar-split.gz"))) {
        Ok(list) => list,
        // Layers that were made here have none.
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let root = store.join("overlay").join(id).join("diff");
    let (mut bad, mut first) = (0u32, None);
    let lines = BufReader::new(flate2::read::MultiGzDecoder::new(list).take(SPLIT_BYTES_MAX));
    for line in lines.split(b'\n') {
        // A list that is cut short is damaged itself and proves nothing about the files.
        let Ok(line) = line else { break };
        let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { continue };
        if entry.size > 0 && !is_whole(&root, &entry) {
            bad += 1;
            first.get_or_insert(entry.name);
        }
    }
    Ok(first.map(|name| format!("{bad} of its files are missing or cut short, the first is {name}")))
}

fn is_whole(root: &Path, entry: &Entry) -> bool {
    let name = Path::new(entry.name.trim_start_matches('/'));
    let plain = name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || entry.name.is_empty() {
        return true;
    }
    match std::fs::symlink_metadata(root.join(name)) {
        Ok(meta) => !meta.is_file() || meta.len() == entry.size,
        Err(err) => err.kind() != std::io::ErrorKind::NotFound,
    }
}

fn layers(store: &Path) -> std::io::Result<Vec<Layer>> {
    read(&store.join("overlay-layers/layers.json"))
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> std::io::Result<Vec<T>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(LIST_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A store with one image of two layers, the upper one with a file of four bytes.
    fn store(dir: &Path) {
        for below in ["overlay-images", "overlay-layers", "overlay/top/diff/bin", "overlay/base/diff"] {
            std::fs::create_dir_all(dir.join(below)).unwrap();
        }
        let images =
            r#"[{"id":"i","layer":"top"},{"id":"j","names":["reg/j:1"],"layer":"base"},{"id":"k","layer":"x"}]"#;
        std::fs::write(dir.join("overlay-images/images.json"), images).unwrap();
        let layers = r#"[{"id":"base","diff-digest":"sha256:b"},
            {"id":"top","parent":"base","compressed-diff-digest":"sha256:c","diff-digest":"sha256:t"}]"#;
        std::fs::write(dir.join("overlay-layers/layers.json"), layers).unwrap();
        let mut split = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let lines = [
            r#"{"type":2,"payload":"YQ==","position":0}"#,
            r#"{"type":1,"name":"./bin/","payload":null,"position":1}"#,
            r#"{"type":1,"name":"./bin/sh","size":4,"payload":"YQ==","position":2}"#,
            r#"{"type":1,"name":"../outside","size":4,"payload":"YQ==","position":3}"#,
        ];
        lines.iter().for_each(|line| writeln!(split, "{line}").unwrap());
        std::fs::write(dir.join("overlay-layers/top.tar-split.gz"), split.finish().unwrap()).unwrap();
        std::fs::write(dir.join("overlay/top/diff/bin/sh"), "true").unwrap();
    }

    #[test]
    fn empty_and_missing_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        assert_eq!(examine(dir.path(), "i").unwrap(), None);
        assert_eq!(examine(dir.path(), "other").unwrap(), None);
        let file = dir.path().join("overlay/top/diff/bin/sh");
        std::fs::write(&file, "").unwrap();
        let said = "1 of its files are missing or cut short, the first is ./bin/sh";
        assert_eq!(examine(dir.path(), "i").unwrap().as_deref(), Some(said));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(examine(dir.path(), "i").unwrap().as_deref(), Some(said));
        let list = dir.path().join("overlay-layers/top.tar-split.gz");
        std::fs::write(list, "rubbish").unwrap();
        assert_eq!(examine(dir.path(), "i").unwrap(), None, "a damaged list proves nothing");
    }

    #[test]
    fn layers_are_known_as_sent_and_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let all: Vec<String> = present(dir.path()).into_iter().collect();
        assert_eq!(all, ["sha256:b", "sha256:c", "sha256:t"]);
        assert!(present(Path::new("/nonexistent")).is_empty());
        let sharing: Vec<String> = sharers(dir.path(), "i").unwrap().into_iter().map(|image| image.id).collect();
        assert_eq!(sharing, ["j"]);
    }
}
