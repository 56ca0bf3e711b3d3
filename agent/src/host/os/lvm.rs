//! What `lvs` says of our volume group: whether a snapshot is there and how it is tagged, and how full the pool is.
//!
//! Decides what each field means. What cannot be read is told as that, and is never "no snapshot".

use bramble_contracts::boot::{GROUP, ROOT, SNAPSHOT, Snapshot};
use serde::{Deserialize, Serialize};

use crate::core::os::Volumes;

/// The arguments after `lvs`; bytes without units.
pub const ARGS: &[&str] = &[
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "-o",
    "vg_name,lv_name,lv_attr,lv_tags,lv_size,pool_lv,data_percent,metadata_percent",
];

#[derive(Debug, Deserialize)]
struct Printed {
    report: Vec<Report>,
}

#[derive(Debug, Deserialize)]
struct Report {
    lv: Vec<Lv>,
}

/// One logical volume, as `lvs` prints it: everything is text, and empty where it is unknown. Fields that were not asked for
/// are empty, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Lv {
    /// Its group.
    pub vg_name: String,
    /// Its name.
    pub lv_name: String,
    /// The first letter is its type.
    pub lv_attr: String,
    /// With commas.
    pub lv_tags: String,
    /// In bytes.
    pub lv_size: String,
    /// The pool it lies in.
    pub pool_lv: String,
    /// Of a pool.
    pub data_percent: String,
    /// Of a pool.
    pub metadata_percent: String,
}

/// All volumes of a report.
pub fn rows(printed: &str) -> Result<Vec<Lv>, String> {
    let printed: Printed = serde_json::from_str(printed).map_err(|err| format!("lvs said something else ({err})"))?;
    Ok(printed.report.into_iter().flat_map(|report| report.lv).collect())
}

/// How much room the pool has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Not written yet.
    pub free: u64,
    /// Of its metadata, in percent, rounded up.
    pub metadata_percent: u8,
    /// What root may grow to.
    pub root: u64,
    /// Written, in percent, rounded up.
    pub percent: u8,
}

fn ours(all: &[Lv]) -> impl Iterator<Item = &Lv> {
    all.iter().filter(|lv| lv.vg_name.is_empty() || lv.vg_name == GROUP)
}

/// Is there a snapshot, and how is it tagged?
pub fn volumes(printed: &str) -> Volumes {
    let all = match rows(printed) {
        Ok(all) => all,
        Err(why) => return Volumes::Unreadable(why),
    };
    if !ours(&all).any(|lv| lv.lv_name == ROOT) {
        return Volumes::Unreadable(format!("the group {GROUP} has no volume {ROOT}"));
    }
    let snapshot = ours(&all).find(|lv| lv.lv_name == SNAPSHOT).and_then(|lv| Snapshot::from_tags(&lv.lv_tags));
    snapshot.map_or(Volumes::Plain, Volumes::Snapshot)
}

/// The pool that root lies in; absent where it cannot be read, or is not active.
pub fn pool(printed: &str) -> Option<Pool> {
    let all = rows(printed).ok()?;
    let root = ours(&all).find(|lv| lv.lv_name == ROOT)?;
    let pool = ours(&all).find(|lv| lv.lv_name == root.pool_lv && lv.lv_attr.starts_with('t'))?;
    let size: u64 = pool.lv_size.parse().ok()?;
    let percent = |text: &str| text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    let (data, metadata) = (percent(&pool.data_percent)?, percent(&pool.metadata_percent)?);
    // LVM prints two decimals: a hundredth more is written than it says, at most.
    let written = ((data + 0.01) / 100.0 * size as f64).ceil() as u64;
    let metadata_percent = metadata.ceil() as u8;
    let percent = data.ceil() as u8;
    Some(Pool { free: size.saturating_sub(written), metadata_percent, root: root.lv_size.parse().ok()?, percent })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::{Phase, Slot};

    use super::*;

    /// As LVM 2.03.31 of Debian 13 printed them: those that the boot guard is tested on.
    const PLAIN: &str = include_str!("../../../../initramfs/src/captured/lvs_plain.json");
    const TRIAL: &str = include_str!("../../../../initramfs/src/captured/lvs_trial.json");
    /// As lvs 2.03.16 printed it of a pool on a machine whose kernel has no device mapper.
    const INACTIVE: &str = include_str!("../captured/lvs_inactive.json");

    #[test]
    fn captured_reports() {
        assert_eq!(volumes(PLAIN), Volumes::Plain);
        let tags = Snapshot { phase: Phase::Trial, new_slot: Slot::B, attempt: 2, returns: 0 };
        assert_eq!(volumes(TRIAL), Volumes::Snapshot(tags));
        assert_eq!(pool(TRIAL), None, "nobody asked for it");
    }

    #[test]
    fn a_pool_that_is_not_active_is_not_an_empty_one() {
        let ours = INACTIVE.replace("vgcap", GROUP);
        assert_eq!(pool(&ours), None);
        let of_pool = r#""pool_lv":"", "data_percent":"", "metadata_percent":"""#;
        assert!(ours.contains(of_pool));
        let full = |data: &str, metadata: &str| {
            let with = format!(r#""pool_lv":"", "data_percent":"{data}", "metadata_percent":"{metadata}""#);
            pool(&ours.replace(of_pool, &with))
        };
        let quarter = Pool { free: 78_632_714, metadata_percent: 11, root: 67_108_864, percent: 25 };
        assert_eq!(full("25.00", "10.06"), Some(quarter));
        assert_eq!(full("100.00", "1.00").map(|pool| pool.free), Some(0));
        for strange in ["", "nan", "-1", "101"] {
            assert_eq!(full(strange, "1.00"), None, "{strange}");
        }
        assert_eq!(pool(INACTIVE), None, "another group is not ours");
    }

    #[test]
    fn a_snapshot_without_a_phase_is_of_no_upgrade() {
        assert!(TRIAL.contains("bramble.phase=trial"));
        assert_eq!(volumes(&TRIAL.replace("bramble.phase=trial", "other")), Volumes::Plain);
    }

    #[test]
    fn what_cannot_be_read_is_never_no_snapshot() {
        for printed in ["", "{}", "[]", r#"{"report":[]}"#, r#"{"report":[{"lv":[{"lv_name":"swap"}]}]}"#] {
            assert!(matches!(volumes(printed), Volumes::Unreadable(_)), "{printed}");
        }
    }
}
