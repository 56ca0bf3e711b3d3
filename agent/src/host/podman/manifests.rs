//! What a registry says about an image before it is fetched: its layers, or the index that leads to them.
//!
//! Reads what Podman hands through. Podman 4.3, and 5.4 for OCI manifests, refuse to show the manifest of a single image
//! and quote it whole in the refusal; that is read too. What is not understood is no manifest.

use serde::Deserialize;

use crate::core::disk::{Layer, Packing};

/// What a registry said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The layers of an image.
    Layers(Vec<Layer>),
    /// One of several images: the digest of the one for this machine.
    Index(String),
    /// Nothing that helps.
    Nothing,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Option<Vec<Blob>>,
    #[serde(default)]
    manifests: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    digest: String,
    size: u64,
    #[serde(default)]
    media_type: String,
}

#[derive(Deserialize)]
struct Listed {
    digest: String,
    #[serde(default)]
    platform: Platform,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
    variant: String,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    message: String,
}

/// Reads an answer to `/manifests/<name>/json`.
pub(super) fn read(success: bool, body: &[u8]) -> Said {
    if success {
        return manifest(body);
    }
    let quoted = serde_json::from_slice::<Refused>(body).ok().and_then(|refused| quoted(&refused.message));
    quoted.map_or(Said::Nothing, |text| manifest(text.as_bytes()))
}

/// The manifest that `parsing manifest blob "…" as a "…"` quotes. Go quotes as JSON does, as far as manifests go.
fn quoted(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("parsing manifest blob ")?;
    let mut text = serde_json::Deserializer::from_str(rest);
    String::deserialize(&mut text).ok()
}

fn manifest(text: &[u8]) -> Said {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(text) else { return Said::Nothing };
    if let Some(layers) = manifest.layers {
        return Said::Layers(layers.into_iter().map(layer).collect());
    }
    let listed = manifest.manifests.unwrap_or_default();
    let fits = listed.into_iter().filter(|one| one.platform.os == "linux" && one.platform.architecture == arch());
    // Of several variants the first one stands for all: they differ little in size.
    let best = fits.min_by_key(|one| !one.platform.variant.is_empty());
    best.map_or(Said::Nothing, |one| Said::Index(one.digest))
}

fn layer(blob: Blob) -> Layer {
    let packed = ["gzip", "zstd"].iter().any(|kind| blob.media_type.contains(kind));
    let packing = if packed { Packing::Compressed } else { Packing::Plain };
    Layer { digest: blob.digest, bytes: blob.size, packing }
}

/// This machine, as registries call it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_refusal_quotes_the_manifest() {
        let Said::Layers(layers) = read(false, include_bytes!("../captured/manifest_refused.json")) else {
            panic!("layers are quoted")
        };
        assert_eq!(layers.iter().map(|layer| layer.bytes).collect::<Vec<_>>(), [1_083_805, 240, 147]);
        assert!(layers.iter().all(|layer| layer.packing == Packing::Compressed));
    }

    #[test]
    fn an_index_leads_to_this_machine() {
        let index = format!(
            r#"{{"manifests":[{{"digest":"sha256:a","platform":{{"os":"linux","architecture":"s390x"}}}},
                {{"digest":"sha256:b","platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
            arch()
        );
        assert_eq!(read(true, index.as_bytes()), Said::Index("sha256:b".into()));
        assert_eq!(read(true, br#"{"manifests":[]}"#), Said::Nothing);
    }

    #[test]
    fn rubbish_is_nothing() {
        for body in
            [&b"<html>"[..], b"{}", br#"{"message":"parsing manifest blob \"{ as"}"#, br#"{"message":"denied"}"#]
        {
            assert_eq!(read(false, body), Said::Nothing);
            assert_eq!(read(true, body), Said::Nothing);
        }
    }
}
