//! Debian suites that this machine does not list: QEMU comes from backports, a virtual Pi is a newer Debian. Decides which
//! mirror they come from (the machine's own, so a site's mirror or proxy stays in use) and adds what is missing as a file
//! of ours; what the machine lists itself is never changed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

const SOURCES: &str = "/etc/apt";

/// Where Debian's packages come from on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The archive's address.
    pub uri: String,
    /// The file with the keys it is signed with, where the machine names one.
    pub signed_by: Option<String>,
}

/// The mirror of the machine's own Debian release.
///
/// # Errors
/// When its sources list none: it is another distribution, or its archive is not Debian's.
pub fn mirror() -> anyhow::Result<Mirror> {
    let mut texts = vec![];
    let dir = Path::new(SOURCES);
    let parts = fs::read_dir(dir.join("sources.list.d")).into_iter().flatten().filter_map(Result::ok);
    for file in std::iter::once(dir.join("sources.list")).chain(parts.map(|part| part.path())) {
        let listed = file.extension().is_some_and(|e| e == "list" || e == "sources");
        if listed && let Ok(text) = fs::read_to_string(&file) {
            texts.push(text);
        }
    }
    let found = texts.iter().find_map(|text| mirror_in(text));
    found.with_context(|| format!("no file below {SOURCES} lists Debian's archive with the component main"))
}

/// The name of the machine's Debian release, such as `bookworm`.
///
/// # Errors
/// When `/etc/os-release` does not say.
pub fn codename() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').into())
}

/// Makes a suite known to apt; says so the first time. The caller refreshes the lists.
pub(super) fn add(suite: &str) -> anyhow::Result<()> {
    let file = Path::new(SOURCES).join(format!("sources.list.d/bramble-{suite}.sources"));
    let text = stanza(&mirror()?, suite);
    if fs::read_to_string(&file).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    println!("Adding the suite {suite} as {}", file.display());
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The suite that brings newer versions of some packages to this machine's release; `None` where none is needed.
pub(super) fn backports() -> anyhow::Result<Option<&'static str>> {
    match codename()?.as_str() {
        "bookworm" => Ok(Some("bookworm-backports")),
        "trixie" | "forky" | "sid" => Ok(None),
        other => bail!("virtual Pis need QEMU 10, and where to find it on the release {other} is not known here"),
    }
}

fn stanza(mirror: &Mirror, suite: &str) -> String {
    let signed_by = mirror.signed_by.iter().map(|file| format!("Signed-By: {file}\n")).collect::<String>();
    format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", mirror.uri)
}

fn mirror_in(text: &str) -> Option<Mirror> {
    let stanzas = text.split("\n\n").filter_map(deb822);
    stanzas.chain(text.lines().filter_map(one_line)).next()
}

/// One stanza of a `.sources` file, if it lists the archive of a release.
fn deb822(stanza: &str) -> Option<Mirror> {
    let field = |name: &str| {
        let of = |line: &'_ str| -> Option<String> {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        stanza.lines().find_map(of)
    };
    let off = field("Enabled").is_some_and(|on| matches!(on.as_str(), "no" | "false" | "0"));
    let suites = field("Suites")?;
    if off || !is_archive(suites.split_whitespace(), field("Components")?.split_whitespace()) {
        return None;
    }
    Some(Mirror { uri: field("URIs")?.split_whitespace().next()?.into(), signed_by: field("Signed-By") })
}

/// One line of a `.list` file, likewise.
fn one_line(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (uri, suite, components) = (words.first()?, words.get(1)?, words.get(2..)?);
    if !is_archive(std::iter::once(*suite), components.iter().copied()) {
        return None;
    }
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Mirror { uri: (*uri).into(), signed_by: signed_by.map(Into::into) })
}

/// A release itself, not its security fixes or somebody's packages for it.
fn is_archive<'a>(mut suites: impl Iterator<Item = &'a str>, mut components: impl Iterator<Item = &'a str>) -> bool {
    const RELEASES: [&str; 6] = ["bookworm", "trixie", "forky", "stable", "testing", "sid"];
    suites.any(|suite| RELEASES.contains(&suite)) && components.any(|component| component == "main")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uri: &str, signed_by: Option<&str>) -> Option<Mirror> {
        Some(Mirror { uri: uri.into(), signed_by: signed_by.map(Into::into) })
    }

    #[test]
    fn the_archive_is_told_from_security_fixes_and_other_peoples_packages() {
        let sources = "Types: deb\nURIs: http://a.example/security\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\n# a remark\nURIs: http://a.example/debian http://b.example\nSuites: bookworm \
                       bookworm-updates\nComponents: main contrib\nSigned-By: /usr/share/keyrings/x.gpg\n";
        assert_eq!(mirror_in(sources), found("http://a.example/debian", Some("/usr/share/keyrings/x.gpg")));
        assert_eq!(mirror_in("Types: deb\nURIs: http://x.example\nSuites: nodistro\nComponents: main\n"), None);
        let off = "Types: deb\nEnabled: no\nURIs: http://x.example\nSuites: bookworm\nComponents: main\n";
        assert_eq!(mirror_in(off), None);
    }

    #[test]
    fn lists_of_the_old_form_are_read_too() {
        let list = "# deb http://no.example bookworm main\ndeb-src http://no.example bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main non-free\n";
        assert_eq!(mirror_in(list), found("http://a.example/debian", Some("/k.gpg")));
        assert_eq!(mirror_in("deb http://a.example/debian trixie main"), found("http://a.example/debian", None));
        assert_eq!(mirror_in("deb http://a.example/debian bookworm contrib"), None);
    }

    #[test]
    fn a_suite_of_ours_uses_the_machines_mirror() {
        let mirror = Mirror { uri: "http://a.example/debian".into(), signed_by: Some("/k.gpg".into()) };
        let want = "Types: deb\nURIs: http://a.example/debian\nSuites: x\nComponents: main\nSigned-By: /k.gpg\n";
        assert_eq!(stanza(&mirror, "x"), want);
        assert_eq!(mirror_in(&stanza(&mirror, "trixie")).unwrap(), mirror);
    }
}
