//! Reads `config.txt` and `autoboot.txt` as the Raspberry Pi firmware documents them: which lines count, under which
//! conditional filters. Pure. Decides nothing about what a setting means; a filter that the documentation does not
//! name, or that asks for hardware a virtual board has not, lets nothing pass.

use std::collections::BTreeMap;

/// The most bytes of `autoboot.txt` that count.
pub(super) const AUTOBOOT_BYTES_MAX: usize = 512;

/// Which of the two files is read: they know different filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `[all]`, `[none]`, `[tryboot]` only.
    Autoboot,
    /// All filters.
    Config,
}

/// What filters ask about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Now<'a> {
    /// The model filters that this board sees, such as `pi4`.
    pub(super) models: &'a [&'a str],
    /// Was the one-shot flag set for this boot?
    pub(super) tryboot: bool,
    /// The partition the boot files come from.
    pub(super) partition: u32,
}

/// One line that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    /// `key=value`
    Pair(String, String),
    /// `initramfs FILE [followkernel|ADDRESS]`
    Initramfs(String),
}

/// Filters of one kind replace each other, those of different kinds add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    None,
    Model,
    Serial,
    Screen,
    Gpio,
    Tryboot,
    Partition,
    Unknown,
}

const MODELS: &[&str] =
    &["pi0", "pi0w", "pi02", "pi1", "pi2", "pi3", "pi3+", "pi4", "pi400", "cm4", "cm4s", "pi5", "pi500", "cm5", "cm0"];

/// The settings that count, in order.
#[must_use]
pub(super) fn read(text: &str, dialect: Dialect, now: &Now<'_>) -> Vec<Setting> {
    let mut filters: BTreeMap<Kind, bool> = BTreeMap::new();
    let mut found = vec![];
    for line in text.lines().map(|line| line.trim_end_matches('\r').trim()) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            match judge(name, dialect, now) {
                Some((kind, passes)) => drop(filters.insert(kind, passes)),
                None => filters.clear(),
            }
        } else if filters.values().all(|passes| *passes) {
            found.extend(setting(line, dialect));
        }
    }
    found
}

/// The last value of a key: later lines win.
#[must_use]
pub(super) fn last<'a>(settings: &'a [Setting], key: &str) -> Option<&'a str> {
    settings.iter().rev().find_map(|setting| match setting {
        Setting::Pair(k, value) if k == key => Some(value.as_str()),
        Setting::Pair(..) | Setting::Initramfs(_) => None,
    })
}

/// Kind and answer of a filter; `None` is `[all]`, which takes all others back.
fn judge(name: &str, dialect: Dialect, now: &Now<'_>) -> Option<(Kind, bool)> {
    let general = match name {
        "all" => return None,
        "none" => Some((Kind::None, false)),
        "tryboot" => Some((Kind::Tryboot, now.tryboot)),
        _ => None,
    };
    if general.is_some() || dialect == Dialect::Autoboot {
        return general.or(Some((Kind::Unknown, false)));
    }
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    Some(match key {
        "boot_partition" | "partition" => (Kind::Partition, value.parse() == Ok(now.partition)),
        model if MODELS.contains(&model) => (Kind::Model, now.models.contains(&model)),
        "board-type" => (Kind::Model, false),
        "EDID" => (Kind::Screen, false),
        pin if pin.starts_with("gpio") => (Kind::Gpio, false),
        serial if serial.starts_with("0x") => (Kind::Serial, false),
        _ => (Kind::Unknown, false),
    })
}

fn setting(line: &str, dialect: Dialect) -> Option<Setting> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if dialect == Dialect::Config
        && let Some(rest) = line.strip_prefix("initramfs ")
    {
        return rest.split_whitespace().next().map(|file| Setting::Initramfs(file.into()));
    }
    let (key, value) = line.split_once('=')?;
    Some(Setting::Pair(key.trim().into(), value.trim().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str, dialect: Dialect, now: &Now<'_>) -> String {
        let words = read(text, dialect, now).into_iter().map(|setting| match setting {
            Setting::Pair(key, value) => format!("{key}={value}"),
            Setting::Initramfs(file) => format!("initramfs:{file}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn filters_pass_what_the_documentation_says() {
        let pi4 = Now { models: &["pi4", "pi400"], ..Now::default() };
        let tried = Now { tryboot: true, partition: 3, ..pi4 };
        let table = [
            ("a=1", pi4, "a=1"),
            ("[all]\na=1\n[none]\nb=1\n[all]\nc=1", pi4, "a=1 c=1"),
            ("[pi4]\na=1\n[pi5]\nb=1\n[all]\nc=1", pi4, "a=1 c=1"),
            // Of one kind: the later one replaces. [pi400] sees [pi4] too.
            ("[pi3]\na=1\n[pi4]\nb=1\n[pi400]\nc=1", pi4, "b=1 c=1"),
            // Of different kinds: both must pass, until [all].
            ("[tryboot]\n[pi4]\na=1\n[all]\nb=1", pi4, "b=1"),
            ("[tryboot]\n[pi4]\na=1\n[all]\nb=1", tried, "a=1 b=1"),
            ("[boot_partition=3]\na=1\n[boot_partition=2]\nb=1", tried, "a=1"),
            ("[none]\n[pi4]\na=1", pi4, ""),
            ("[gpio4=1]\na=1\n[EDID=X]\nb=1\n[0x1234]\nc=1\n[all]\nd=1", pi4, "d=1"),
            ("[what]\na=1\n[all]\nb=1", pi4, "b=1"),
            ("# a=1\n\na=2 # why\r\n", pi4, "a=2"),
            ("kernel=vmlinuz\ninitramfs initrd.img followkernel", pi4, "kernel=vmlinuz initramfs:initrd.img"),
            ("no setting", pi4, ""),
        ];
        for (text, now, want) in table {
            assert_eq!(keys(text, Dialect::Config, &now), want, "{text:?}");
        }
    }

    #[test]
    fn autoboot_knows_three_filters() {
        let now = Now { models: &["pi4"], tryboot: true, partition: 0 };
        let text = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n[pi4]\nboot_partition=9";
        let settings = read(text, Dialect::Autoboot, &now);
        assert_eq!(last(&settings, "boot_partition"), Some("3"));
        assert_eq!(last(&settings, "tryboot_a_b"), Some("1"));
        assert_eq!(last(&settings, "kernel"), None);
    }
}
