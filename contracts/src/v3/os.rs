//! An upgrade of a device's operating system: what is wished, what protects it, and how it goes.

use serde::{Deserialize, Serialize};

use crate::{
    boot::Slot,
    id::{Uid, checked_text},
    v1::{Status, Window},
};

checked_text!(
    /// A package of Debian. It goes to apt as it is, so nothing that apt reads otherwise is let in.
    PackageName,
    "package name",
    "2 to 128 of a-z, 0-9, +, - and ., beginning with a letter or digit and not ending with -",
    |t| (2..=128).contains(&t.len())
        && t.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        && t.as_bytes()[0].is_ascii_alphanumeric()
        // apt would remove it.
        && !t.ends_with('-')
);
checked_text!(
    /// A version of one, as dpkg writes it.
    PackageVersion,
    "package version",
    "1 to 128 of A-Z, a-z, 0-9 and .+-~:, beginning with a digit",
    |t| (1..=128).contains(&t.len())
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
        && t.as_bytes()[0].is_ascii_digit()
);

/// An upgrade that a device is to make. It begins when the device may, and is made once: an id that the device has brought to
/// an end at this attempt is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsWish {
    /// Of the rollout that brings it.
    pub id: Uid,
    /// From 1. One more is an operator's retry: packages that failed at this attempt are refused, and tried at the next.
    pub attempt: u32,
    /// What is to become newer.
    pub packages: OsPackages,
    /// A device that is protected less refuses it.
    pub least: Protection,
    /// How the new system proves itself.
    pub probation: Probation,
    /// It begins only while this is open, and then comes to its end; at any time when absent.
    pub window: Option<Window>,
}

/// What is to become newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum OsPackages {
    /// All that is installed.
    All,
    /// These, and what they need. Never empty.
    These(Vec<OsPackage>),
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsPackage {
    /// Which.
    pub name: PackageName,
    /// The newest that there is when absent.
    #[serde(default)]
    pub version: Option<PackageVersion>,
}

/// How an upgrade that goes wrong is undone, the weakest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Not at all.
    #[default]
    None,
    /// Root comes back after some boots that failed; kernel and initramfs do not.
    Bootcount,
    /// Root, kernel and initramfs come back by themselves: the firmware boots the new ones once.
    Tryboot,
}

/// How a new system proves itself. In seconds of uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probation {
    /// For so long without a break: connected, healthy, the clock fit.
    pub confirm_secs: u32,
    /// Given up after so long in one boot.
    pub give_up_secs: u32,
    /// Given up after so long in all boots.
    pub give_up_in_all_secs: u32,
}

impl Default for Probation {
    fn default() -> Self {
        Self { confirm_secs: 120, give_up_secs: 600, give_up_in_all_secs: 1800 }
    }
}

impl Probation {
    /// The longest that anything of it may be, in seconds.
    pub const SECS_MAX: u32 = 86_400;

    /// Can it be passed, and does it end? Why not, in words.
    pub fn check(&self) -> Result<(), String> {
        let Self { confirm_secs, give_up_secs, give_up_in_all_secs } = *self;
        if confirm_secs == 0 || give_up_in_all_secs > Self::SECS_MAX {
            return Err(format!("probation takes 1 s at least and {} s at most", Self::SECS_MAX));
        }
        if confirm_secs >= give_up_secs || give_up_secs > give_up_in_all_secs {
            return Err(format!(
                "probation cannot be passed: confirmSecs ({confirm_secs}) must be less than giveUpSecs ({give_up_secs}), and \
                 that not more than giveUpInAllSecs ({give_up_in_all_secs})"
            ));
        }
        Ok(())
    }
}

/// The operating system, as a device sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsReport {
    /// How an upgrade would be undone.
    pub protection: Protection,
    /// What a better protection lacks, in words; empty when there is none better.
    pub lacks: String,
    /// The slot that was booted, where there are two.
    pub slot: Option<Slot>,
    /// Root as it was before an upgrade, as long as it is kept.
    pub snapshot: Option<OsSnapshot>,
    /// The upgrade that is under way, or the last one.
    pub upgrade: Option<OsUpgradeReport>,
}

/// Root as it was before an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsSnapshot {
    /// How far the upgrade is, as its tag says.
    pub phase: SnapshotPhase,
    /// How full the pool is that both share, in percent.
    pub pool_percent: u8,
}

/// What the tag on a snapshot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotPhase {
    /// Packages are written.
    Apply,
    /// The new system is on trial.
    Trial,
    /// It was judged, and root goes back.
    Failed,
}

/// One upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsUpgradeReport {
    /// Of the wish.
    pub id: Uid,
    /// Of the wish.
    pub attempt: u32,
    /// In one word.
    pub status: Status,
    /// In detail.
    pub phase: OsPhase,
    /// Of this phase.
    pub percent: u8,
    /// Why it waits, failed or was rolled back, in words; empty when all is well.
    pub reason: String,
    /// Are the packages to blame? Then they are refused until an operator retries. Else it is tried again by itself.
    pub blamed: bool,
    /// What becomes newer, the first [`OsUpgradeReport::CHANGES_MAX`] by name.
    pub changes: Vec<PackageChange>,
    /// How many there are beyond these.
    pub changes_more: u32,
    /// To be downloaded, in bytes.
    pub download_bytes: u64,
    /// From the wish to the end, in milliseconds of uptime.
    pub took_ms: Option<u64>,
    /// For how long the device was down for it, in milliseconds.
    pub down_ms: Option<u64>,
}

impl OsUpgradeReport {
    /// So many changes are told one by one.
    pub const CHANGES_MAX: usize = 100;
}

/// A package that becomes another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PackageChange {
    /// Which.
    pub name: PackageName,
    /// Before; absent where it is new.
    pub from: Option<PackageVersion>,
    /// After; absent where it goes.
    pub to: Option<PackageVersion>,
}

/// Where an upgrade of the operating system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OsPhase {
    /// It is wished and cannot begin yet; the reason says what it waits for.
    Waiting,
    /// What it would change is computed, and whether there is room.
    Preflight,
    /// Root is kept as it is.
    Snapshot,
    /// Packages are written.
    Applying,
    /// All is written; the device boots the new system.
    Armed,
    /// The new system proves itself.
    Trial,
    /// It is made the one that is booted from now on.
    Committing,
    /// Over: the status says how.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_read_as_an_order_is_no_package() {
        for good in ["linux-image-arm64", "g++", "libstdc++6", "0ad"] {
            assert!(good.parse::<PackageName>().is_ok(), "{good}");
        }
        for bad in ["-o", "--reinstall", "vim-", "a b", "vim=1", "vim/sid", "VIM", "x", "", "a;b", "*"] {
            assert!(bad.parse::<PackageName>().is_err(), "{bad}");
        }
        for good in ["1", "2:1.4~rc1-3+deb13u1"] {
            assert!(good.parse::<PackageVersion>().is_ok(), "{good}");
        }
        for bad in ["", "sid", "1 2", "1/2", "-1", "1=2"] {
            assert!(bad.parse::<PackageVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_probation_can_be_passed_and_ends() {
        assert!(Probation::default().check().is_ok());
        let with = |confirm_secs, give_up_secs, give_up_in_all_secs| {
            Probation { confirm_secs, give_up_secs, give_up_in_all_secs }.check()
        };
        assert!(with(20, 60, 60).is_ok());
        assert!(with(0, 60, 60).is_err());
        assert!(with(60, 60, 60).unwrap_err().contains("cannot be passed"));
        assert!(with(20, 120, 60).is_err());
        assert!(with(20, 120, 90_000).is_err());
    }

    #[test]
    fn protection_is_ordered() {
        assert!(Protection::None < Protection::Bootcount && Protection::Bootcount < Protection::Tryboot);
    }
}
