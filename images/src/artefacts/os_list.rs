//! The entry for Raspberry Pi Imager: `os_list`, as its schema (`doc/json-schema/os-list-schema.json` in its repository) wants it.
//! Decides what it says, and checks any such text against what the schema requires.

use serde_json::{Value, json};

use crate::Facts;

use super::sbom;

/// What is known only when the image is packed.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) url: String,
    pub(super) extract_size: u64,
    pub(super) extract_sha256: String,
    pub(super) image_download_size: u64,
    pub(super) image_download_sha256: String,
}

/// The file's text.
pub(super) fn text(facts: &Facts, base: &str, entry: &Entry) -> String {
    let date = sbom::date(facts.epoch_s);
    // No `init_format`: Imager's own customisation is not read, bramble.toml on the first partition is.
    let list = json!({ "os_list": [{
        "name": format!("Bramble ({})", facts.name),
        "description": facts.description,
        "icon": format!("{}/bramble.png", base.trim_end_matches('/')),
        "url": entry.url,
        "extract_size": entry.extract_size,
        "extract_sha256": entry.extract_sha256,
        "image_download_size": entry.image_download_size,
        "image_download_sha256": entry.image_download_sha256,
        "release_date": date.split('T').next().unwrap_or_default(),
        "devices": devices(&facts.name),
    }] });
    serde_json::to_string_pretty(&list).expect("invariant: plain data") + "\n"
}

/// Imager's names of the boards that can start it.
fn devices(recipe: &str) -> &'static [&'static str] {
    match recipe {
        "rpi" => &["pi3-64bit", "pi4-64bit"],
        "rpi5" => &["pi4-64bit", "pi5-64bit"],
        _ => &[],
    }
}

/// Whether a value is of the right kind.
type Kind = fn(&Value) -> bool;

/// What the schema requires of an entry, and of which kind.
const REQUIRED: [(&str, Kind); 8] = [
    ("name", Value::is_string),
    ("description", Value::is_string),
    ("icon", Value::is_string),
    ("url", Value::is_string),
    ("extract_size", Value::is_u64),
    ("extract_sha256", Value::is_string),
    ("image_download_size", Value::is_u64),
    ("release_date", Value::is_string),
];

/// In what a text is not as Imager's schema wants it: field by field.
#[must_use]
pub fn problems(text: &str) -> Vec<String> {
    let list: Value = match serde_json::from_str(text) {
        Ok(list) => list,
        Err(err) => return vec![format!("not JSON: {err}")],
    };
    let unknown =
        list.as_object().into_iter().flat_map(|o| o.keys()).filter(|k| !["os_list", "imager"].contains(&k.as_str()));
    let mut found: Vec<String> = unknown.map(|key| format!("{key} is not known")).collect();
    let Some(entries) = list["os_list"].as_array() else {
        found.push("os_list is missing or no list".into());
        return found;
    };
    for (n, entry) in entries.iter().enumerate() {
        let lacks = REQUIRED.iter().filter(|(field, is_right)| !is_right(&entry[*field]));
        found.extend(lacks.map(|(field, _)| format!("os_list[{n}].{field} is missing or of another kind")));
        let sha256 = entry["extract_sha256"].as_str().unwrap_or_default();
        if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            found.push(format!("os_list[{n}].extract_sha256 is no SHA-256: Imager would refuse the image"));
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Package;
    use crate::layout::{Content, Layout};

    pub(crate) fn facts() -> Facts {
        let recipe = crate::recipe("virt").unwrap();
        let [name, version, architecture] = ["libstdc++6", "14.2.0-19+deb13u1", "arm64"].map(String::from);
        Facts {
            layout: Layout::new(&recipe.sizes, Content { root: 0, state: 0, apps: 0 }),
            name: "rpi".into(),
            description: "x".into(),
            unproven: String::new(),
            digest: "d".repeat(64),
            epoch_s: 1_793_491_200,
            kernels: vec!["6.12-arm64".into()],
            packages: vec![Package { name, version, architecture, source: Some("gcc-14".into()) }],
            programs: vec![("bramble-agent".into(), "e".repeat(64))],
        }
    }

    fn entry() -> Entry {
        Entry {
            url: "https://example/x.img.xz".into(),
            extract_size: 1 << 32,
            extract_sha256: "a".repeat(64),
            image_download_size: 1 << 28,
            image_download_sha256: "b".repeat(64),
        }
    }

    #[test]
    fn ours_is_as_imager_wants_it() {
        let text = text(&facts(), "https://example/", &entry());
        assert_eq!(problems(&text), Vec::<String>::new());
        assert!(
            text.contains("\"release_date\": \"2026-11-01\"") && text.contains("https://example/bramble.png"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_is_named() {
        let text = text(&facts(), "https://example", &Entry { extract_sha256: "xyz".into(), ..entry() });
        let broken =
            text.replace("\"icon\"", "\"ikon\"").replace("\"extract_size\": 4294967296", "\"extract_size\": \"4 GiB\"");
        let found = problems(&broken).join("\n");
        for field in ["icon", "extract_size", "extract_sha256"] {
            assert!(found.contains(field), "{field}: {found}");
        }
        assert!(problems("{}").join("").contains("os_list is missing"));
    }
}
