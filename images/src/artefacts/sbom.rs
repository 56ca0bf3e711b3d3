//! What is in an image, for those who look for what has a known flaw: SPDX 2.3 as JSON. Decides its form.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Facts, Package};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The document.
pub(super) fn text(facts: &Facts) -> String {
    let image = "SPDXRef-Image";
    let mut packages = vec![json!({
        "SPDXID": image,
        "name": format!("bramble-{}", facts.name),
        "versionInfo": facts.digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
    })];
    packages.extend(facts.programs.iter().map(|(name, sha256)| ours(name, sha256)));
    packages.extend(facts.packages.iter().map(debian));
    let ids = packages.iter().skip(1).filter_map(|package| package["SPDXID"].as_str());
    let contains = ids.map(|id| relation(image, "CONTAINS", id));
    let relationships: Vec<Value> =
        std::iter::once(relation("SPDXRef-DOCUMENT", "DESCRIBES", image)).chain(contains).collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("bramble-{}", facts.name),
        "documentNamespace": format!("urn:bramble:image:{}:{}", facts.name, facts.digest),
        "creationInfo": { "created": date(facts.epoch_s), "creators": [format!("Tool: bramble-images-{VERSION}")] },
        "packages": packages,
        "relationships": relationships,
    });
    serde_json::to_string_pretty(&document).expect("invariant: plain data") + "\n"
}

fn ours(name: &str, sha256: &str) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-Program-{name}"),
        "name": name,
        "versionInfo": VERSION,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseDeclared": "Apache-2.0 OR MIT",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": sha256 }],
    })
}

fn debian(package: &Package) -> Value {
    let Package { name, version, architecture, source } = package;
    let source = source.as_ref().unwrap_or(name);
    json!({
        "SPDXID": format!("SPDXRef-Package-{}", id(name)),
        "name": name,
        "versionInfo": version,
        "supplier": "Organization: Debian",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "sourceInfo": format!("built from the source package {source}"),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:deb/debian/{}@{}?arch={architecture}", escaped(name), escaped(version)),
        }],
    })
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Letters, digits, dots and dashes are what an SPDX id has.
fn id(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c.to_string()
            } else {
                format!("-{:x}-", u32::from(c))
            }
        })
        .collect()
}

/// As package URLs want it.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(super) fn date(epoch_s: u64) -> String {
    let time = i64::try_from(epoch_s).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "1970-01-01T00:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_listed_with_an_address_others_understand() {
        let facts = crate::artefacts::os_list::tests::facts();
        let text = text(&facts);
        assert!(text.contains("pkg:deb/debian/libstdc%2B%2B6@14.2.0-19%2Bdeb13u1?arch=arm64"), "{text}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["creationInfo"]["created"], "2026-11-01T00:00:00Z");
        let ids: Vec<&str> =
            document["packages"].as_array().unwrap().iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids, ["SPDXRef-Image", "SPDXRef-Program-bramble-agent", "SPDXRef-Package-libstdc-2b--2b-6"]);
        assert_eq!(document["relationships"].as_array().unwrap().len(), ids.len());
    }
}
