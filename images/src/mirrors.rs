//! Where this machine gets Debian's packages from: a site's mirror or proxy is used for images too. apt itself is asked, so
//! both forms of its sources are understood. Decides which of the machine's archives is which; no address stands in our code.

use crate::Error;
use crate::recipe::Debian;
use crate::tool::Tool;

/// One archive of the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    origin: String,
    label: String,
    address: String,
}

/// The lines of apt sources an image is made from.
///
/// # Errors
/// When the machine's own sources lack an archive that is needed.
pub(crate) fn lines(debian: &Debian) -> Result<Vec<String>, Error> {
    let said = Tool::new("apt-get").args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]).run()?;
    choose(debian, &listed(&said)).map_err(Error::Machine)
}

fn listed(said: &str) -> Vec<Listed> {
    let line = |line: &str| {
        let [origin, label, address] = line.split('|').collect::<Vec<_>>()[..] else { return None };
        Some(Listed { origin: origin.into(), label: label.into(), address: address.into() })
    };
    said.lines().filter_map(line).collect()
}

fn choose(debian: &Debian, listed: &[Listed]) -> Result<Vec<String>, String> {
    let of = |origin: &str, label: Option<&str>| {
        let found = listed.iter().find(|l| l.origin == origin && label.is_none_or(|label| l.label == label));
        let what = label.unwrap_or(origin);
        found.map(|l| l.address.clone()).ok_or_else(|| {
            format!(
                "its apt sources list no archive of {what}, or `apt-get update` has not been run: add it, then update"
            )
        })
    };
    let (suite, components) = (&debian.suite, debian.components.join(" "));
    let (main, fixes) = (of("Debian", Some("Debian"))?, of("Debian", Some("Debian-Security"))?);
    let mut lines = vec![
        format!("deb {main} {suite} {components}"),
        format!("deb {main} {suite}-updates {components}"),
        format!("deb {fixes} {suite}-security {components}"),
    ];
    for archive in &debian.archives {
        let address = of(&archive.origin, None)?;
        lines.push(format!("deb {address} {} {}", archive.suite, archive.components.join(" ")));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Archive;

    const SAID: &str = "Debian|Debian|http://a.example/debian/\nDebian Backports|Debian Backports|http://a.example/debian/\n\
                        Debian|Debian-Security|http://a.example/security/\n||http://other.example/\n";

    fn debian(archives: Vec<Archive>) -> Debian {
        let [suite, architecture] = ["trixie", "arm64"].map(String::from);
        let components = vec!["main".into(), "non-free-firmware".into()];
        Debian { suite, architecture, components, packages: vec![], leave_out: vec![], keep: vec![], archives }
    }

    #[test]
    fn debian_comes_from_where_the_machine_has_it_from() {
        let want = [
            "deb http://a.example/debian/ trixie main non-free-firmware",
            "deb http://a.example/debian/ trixie-updates main non-free-firmware",
            "deb http://a.example/security/ trixie-security main non-free-firmware",
        ];
        assert_eq!(choose(&debian(vec![]), &listed(SAID)).unwrap(), want);
    }

    #[test]
    fn an_archive_the_machine_does_not_list_is_named() {
        let other = Archive { origin: "Somebody".into(), suite: "x".into(), components: vec!["main".into()] };
        let err = choose(&debian(vec![other]), &listed(SAID)).unwrap_err();
        assert!(err.contains("no archive of Somebody"), "{err}");
        assert!(choose(&debian(vec![]), &[]).is_err());
    }
}
