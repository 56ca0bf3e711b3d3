//! What apt would do: `apt-get -s` tells versions, `apt-get --print-uris` bytes, `apt-mark showhold` what is held.
//!
//! Decides which lines count. All are printed with `LC_ALL=C`. Runs nothing.

use std::collections::BTreeMap;

use crate::core::os::{Change, Plan};

/// Puts the three together. Held packages that apt kept back are those that would change.
pub fn plan(simulated: &str, uris: &str, held: &str) -> Result<Plan, String> {
    let bytes = sizes(uris)?;
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for line in simulated.lines() {
        if let Some(mut change) = change(line)? {
            change.bytes = change
                .to
                .as_deref()
                .and_then(|to| bytes.get(&(change.name.clone(), to.to_owned())).copied())
                .unwrap_or(0);
            // One that is unpacked in two goes is told twice.
            changes.insert(change.name.clone(), change);
        }
    }
    counted(simulated, &changes)?;
    let held: Vec<&str> = held.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
    let kept = kept_back(simulated).into_iter().filter(|name| held.contains(&name.as_str())).collect();
    Ok(Plan::new(changes.into_values().collect(), kept))
}

/// `Inst jq [1.6-2] (1.7-1 Debian:13 [arm64]) []`, `Remv bc [1.07]`; other lines are none.
fn change(line: &str) -> Result<Option<Change>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let bare = |word: &str| word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).map(str::to_owned);
    let change = |name: &str, from, to| Change { name: name.to_owned(), from, to, bytes: 0 };
    let strange = || format!("apt-get -s said something else: {line}");
    match words[..] {
        ["Inst", name, from, to, ..] if from.starts_with('[') => {
            let to = to.strip_prefix('(').ok_or_else(strange)?;
            Ok(Some(change(name, bare(from), Some(to.to_owned()))))
        }
        ["Inst", name, to, ..] => {
            let to = to.strip_prefix('(').ok_or_else(strange)?;
            Ok(Some(change(name, None, Some(to.to_owned()))))
        }
        ["Remv" | "Purg", name, from, ..] => {
            let from = bare(from).ok_or_else(strange)?;
            Ok(Some(change(name, Some(from), None)))
        }
        ["Inst" | "Remv" | "Purg", ..] => Err(strange()),
        _ => Ok(None),
    }
}

/// apt's own count: a line that was not understood shows here.
fn counted(simulated: &str, changes: &BTreeMap<String, Change>) -> Result<(), String> {
    let line = simulated.lines().find(|line| line.contains(" newly installed, "));
    let line = line.ok_or("apt-get -s does not say how much it would do")?;
    let numbers: Vec<usize> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    // The last one is of those that it would not touch.
    let told: usize = numbers.iter().rev().skip(1).sum();
    let found = changes.len();
    if numbers.len() >= 4 && told == found {
        Ok(())
    } else {
        Err(format!("apt-get -s names {found} changes and counts otherwise: {line}"))
    }
}

/// Bytes to be fetched, by name and version: `'address' jq_1.7-1_arm64.deb 64432 MD5Sum:…`.
fn sizes(uris: &str) -> Result<BTreeMap<(String, String), u64>, String> {
    let mut sizes = BTreeMap::new();
    for line in uris.lines().filter(|line| line.starts_with('\'')) {
        let strange = || format!("apt-get --print-uris said something else: {line}");
        let mut words = line.split_whitespace().skip(1);
        let (file, size) = words.next().zip(words.next()).ok_or_else(strange)?;
        let (name, rest) = file.split_once('_').ok_or_else(strange)?;
        let (version, _) = rest.rsplit_once('_').ok_or_else(strange)?;
        // An epoch's colon cannot stand in a file's name.
        let version = version.replace("%3a", ":").replace("%3A", ":");
        sizes.insert((name.to_owned(), version), size.parse().map_err(|_| strange())?);
    }
    Ok(sizes)
}

/// The names below "The following packages have been kept back:", which are indented.
fn kept_back(simulated: &str) -> Vec<String> {
    let lines = simulated.lines().skip_while(|line| !line.starts_with("The following packages have been kept back"));
    let names = lines.skip(1).take_while(|line| line.starts_with(' '));
    names.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As apt 2.6 of Debian 12 printed them for `install bc- jq tzdata tree`; only the mirror's name was changed.
    const SIMULATED: &str = include_str!("captured/apt_simulated.txt");
    const URIS: &str = include_str!("captured/apt_uris.txt");

    fn told(plan: &Plan) -> Vec<String> {
        let word = |version: &Option<String>| version.clone().unwrap_or("-".into());
        let line =
            |change: &Change| format!("{} {} {} {}", change.name, word(&change.from), word(&change.to), change.bytes);
        plan.delta.changes.iter().map(line).collect()
    }

    #[test]
    fn captured_output() {
        let plan = plan(SIMULATED, URIS, "").unwrap();
        let want = [
            "bc 1.07.1-3+b1 - 0",
            "jq 1.6-2.1+deb12u1 1.6-2.1+deb12u3 64432",
            "libjq1 1.6-2.1+deb12u1 1.6-2.1+deb12u3 136460",
            "tree - 2.1.0-1 52464",
            "tzdata 2025b-0+deb12u2 2026f-0+deb12u1 307832",
        ];
        assert_eq!(told(&plan), want);
        assert_eq!((plan.fetch_bytes, plan.delta.more), (561_188, 0));
        // What lies in the cache already is not fetched.
        assert_eq!(super::plan(SIMULATED, "", "").unwrap().fetch_bytes, 0);
    }

    #[test]
    fn held_packages_are_those_that_would_change() {
        let simulated = "Calculating upgrade...\nThe following packages have been kept back:\n  jq libjq1\n  linux-image-rpi-v8\n\
                         0 upgraded, 0 newly installed, 0 to remove and 3 not upgraded.\n";
        let plan = plan(simulated, "", "jq\nlinux-image-rpi-v8\nvim\n").unwrap();
        assert_eq!(plan.held, ["jq", "linux-image-rpi-v8"]);
        assert!(plan.delta.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_not_less_to_do() {
        let cut = SIMULATED.replace("Inst tree (2.1.0-1", "Inst tree 2.1.0-1");
        assert!(plan(&cut, URIS, "").unwrap_err().contains("something else"));
        let lost = SIMULATED.replace("Inst tree", "Neu tree");
        assert!(plan(&lost, URIS, "").unwrap_err().contains("counts otherwise"));
        assert!(plan("", URIS, "").is_err());
        assert!(plan(SIMULATED, "'http://mirror.example/x' x 12", "").is_err());
        let epoch =
            "'http://mirror.example/p/podman_5.4.2%2bds1-2_arm64.deb' podman_1%3a5.4.2+ds1-2_arm64.deb 10 MD5Sum:0";
        let key = ("podman".to_owned(), "1:5.4.2+ds1-2".to_owned());
        assert_eq!(sizes(epoch).unwrap().get(&key), Some(&10));
    }
}
