//! What is asked of a device: an upgrade of its packages, at an attempt, with a least protection and times.
//!
//! Decides which wishes make no sense. Whether one can begin now is `begin`'s word.

use std::fmt;

use bramble_contracts::v1::Window;
use bramble_contracts::window::Weekly;
use serde::{Deserialize, Serialize};

use super::probation::Terms;
use crate::core::upgrade::Moment;

/// Packages that are named one by one.
const NAMED_MAX: usize = 256;

/// What brings the old system back, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Nothing: such a device is not upgraded.
    None,
    /// Root comes back after some boots; there is one set of boot files, and it is not touched.
    Bootcount,
    /// The firmware boots the new files once, and root follows.
    Tryboot,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Bootcount => "bootcount",
            Self::Tryboot => "tryboot",
        })
    }
}

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// As apt knows it.
    pub name: String,
    /// The newest one without.
    pub version: Option<String>,
}

/// Which packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// All that there is something newer of.
    Full,
    /// These.
    Packages(Vec<Package>),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// Of the campaign.
    pub id: String,
    /// From 1; an operator's retry has the next number.
    pub attempt: u32,
    /// Which packages.
    pub what: What,
    /// A device with less is not upgraded.
    pub least: Protection,
    /// Milliseconds in which all has to be well without a break.
    pub confirm_for_ms: u64,
    /// Milliseconds of uptime after which a trial fails.
    pub give_up_after_ms: u64,
    /// The same, of all boots of a trial.
    pub give_up_in_all_ms: u64,
    /// It begins only while this is open; at any time without.
    pub window: Option<Window>,
}

impl Wish {
    /// How long things may take.
    pub fn terms(&self) -> Terms {
        Terms {
            confirm_for_ms: self.confirm_for_ms,
            give_up_after_ms: self.give_up_after_ms,
            give_up_in_all_ms: self.give_up_in_all_ms,
            ..Terms::default()
        }
    }

    /// Why nobody could do it, in words. Names end up among the arguments of apt, so only names come through.
    pub fn flaw(&self) -> Option<String> {
        let Terms { confirm_for_ms, give_up_after_ms, give_up_in_all_ms, .. } = self.terms();
        if confirm_for_ms >= give_up_after_ms || give_up_after_ms > give_up_in_all_ms {
            return Some("its times contradict each other: confirmFor < giveUpAfter <= giveUpInAll".into());
        }
        if self.id.is_empty() || self.attempt == 0 {
            return Some("it has no name, or no attempt".into());
        }
        self.what.flaw()
    }

    /// One of an upgrade that nobody here remembers.
    pub(super) fn unknown() -> Self {
        let Terms { confirm_for_ms, give_up_after_ms, give_up_in_all_ms, .. } = Terms::default();
        Self {
            id: String::new(),
            attempt: 0,
            what: What::Full,
            least: Protection::None,
            confirm_for_ms,
            give_up_after_ms,
            give_up_in_all_ms,
            window: None,
        }
    }
}

impl What {
    /// Why apt is not asked for it, in words.
    pub fn flaw(&self) -> Option<String> {
        let Self::Packages(packages) = self else { return None };
        if packages.is_empty() || packages.len() > NAMED_MAX {
            return Some(format!("it names {} packages; 1 to {NAMED_MAX} can be", packages.len()));
        }
        let strange = packages.iter().find(|package| {
            !is_name(&package.name) || package.version.as_deref().is_some_and(|version| !is_version(version))
        });
        strange.map(|package| format!("{:?} is no package, or has no such version", package.name))
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (name, arch) = text.split_once(':').unwrap_or((text, "all"));
    name.len() >= 2
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.".contains(c))
        && !name.ends_with(['+', '-'])
        && !arch.is_empty()
        && arch.chars().all(plain)
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
}

/// One run of an upgrade: what units are started for, and what root says made it. No two are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// [`Wish::id`]; empty when nobody remembers.
    pub wish: String,
    /// [`Wish::attempt`].
    pub attempt: u32,
    /// When it began.
    pub began: Moment,
}

/// A window that is not open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closed {
    /// In words.
    pub why: String,
    /// When it opens, in milliseconds from now; absent where nobody knows.
    pub opens_in_ms: Option<u64>,
}

/// May a wish with this window begin? `now_ms`, since 1970, is absent where the clock is not fit: then it is closed.
pub fn window(window: Option<&Window>, now_ms: Option<u64>) -> Result<(), Closed> {
    let Some(window) = window else { return Ok(()) };
    let unknown = |why: String| Closed { why, opens_in_ms: None };
    let weekly = Weekly::of(window)
        .map_err(|flaw| unknown(format!("this device cannot read its window ({flaw}): upgrade its agent")))?;
    let Some(now_ms) = now_ms else {
        return Err(unknown(format!("the clock does not tell whether its window is open: {window}")));
    };
    if weekly.is_open(now_ms) {
        return Ok(());
    }
    Err(Closed { why: format!("its window is not open: {window}"), opens_in_ms: weekly.opens_in_ms(now_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::os::testing::wish;

    #[test]
    fn only_names_and_versions_come_through() {
        let of = |name: &str, version: Option<&str>| {
            let package = Package { name: name.into(), version: version.map(str::to_owned) };
            Wish { what: What::Packages(vec![package]), ..wish(1) }.flaw()
        };
        for (name, version) in
            [("podman", None), ("libstdc++6", Some("14.2.0-19")), ("zlib1g:arm64", Some("1:1.3~rc1+b1"))]
        {
            assert_eq!(of(name, version), None, "{name}");
        }
        for name in ["-o", "--reinstall", "a b", "x", "Podman", "bc-", "bc+", "../x.deb", "podman:", ""] {
            assert!(of(name, None).is_some(), "{name}");
        }
        for version in ["", "-1", "1 2", "a1", "1;reboot"] {
            assert!(of("podman", Some(version)).is_some(), "{version}");
        }
        assert!(Wish { what: What::Packages(vec![]), ..wish(1) }.flaw().is_some());
    }

    #[test]
    fn times_that_contradict_each_other_are_said_to() {
        assert_eq!(wish(1).flaw(), None);
        assert!(Wish { confirm_for_ms: 600_000, ..wish(1) }.flaw().is_some());
        assert!(Wish { give_up_in_all_ms: 1, ..wish(1) }.flaw().is_some());
    }

    #[test]
    fn a_window_needs_a_clock_and_a_zone_that_is_known() {
        const HOUR: u64 = 3_600_000;
        // 1 January 1970 was a Thursday.
        let of = |text: &str, now_ms| window(Some(&text.parse().unwrap()), now_ms);
        assert!(window(None, None).is_ok());
        assert_eq!(of("Thu 02:00-05:00", Some(2 * HOUR)), Ok(()));
        let closed = of("Thu 02:00-05:00", Some(HOUR)).unwrap_err();
        assert_eq!(
            (closed.why.as_str(), closed.opens_in_ms),
            ("its window is not open: Thu 02:00-05:00 UTC", Some(HOUR))
        );
        let blind = of("Thu 02:00-05:00", None).unwrap_err();
        assert!(blind.why.contains("the clock does not tell"), "{}", blind.why);
        let newer = Window { time_zone: "Moon/Tycho".into(), .."02:00-05:00".parse().unwrap() };
        let strange = window(Some(&newer), Some(2 * HOUR)).unwrap_err();
        assert!(strange.why.contains("timeZone") && strange.why.contains("upgrade its agent"), "{}", strange.why);
    }
}
