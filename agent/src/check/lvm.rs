//! The thin pool that snapshots live in, where LVM is used: a full one stops every write on the device.
//!
//! Decides when it should be looked at. Parses what `lvs` says of itself.

use bramble_contracts::boot::WORDS_APART;

use super::{Answer, failed, look, machine, ok};
use crate::host::os::lvm::{ARGS, Lv, rows};

/// Somebody should make room.
const PERCENT_LOOK: f64 = 80.0;
/// Writes are about to fail.
const PERCENT_FULL: f64 = 95.0;

/// Every thin pool of the machine.
pub(super) async fn thin_pool() -> Answer {
    if machine::program("lvs").is_none() {
        return ok("is not used here: LVM is not installed");
    }
    match machine::printed_with("lvs", ARGS, &[WORDS_APART]).await {
        Ok(printed) => judge(&printed),
        Err(why) => look(format!("cannot be looked at: {why}")),
    }
}

fn judge(printed: &str) -> Answer {
    let all = match rows(printed) {
        Ok(all) => all,
        Err(why) => return look(format!("cannot be looked at: {why}")),
    };
    // The first letter of the attributes is the volume's type.
    let pools = all.iter().filter(|lv| lv.lv_attr.starts_with('t'));
    let answers: Vec<Answer> = pools.map(pool).collect();
    let Some(worst) = answers.iter().map(|(state, _)| *state).max() else { return ok("is not used here") };
    (worst, answers.into_iter().map(|(_, words)| words).collect::<Vec<_>>().join("; "))
}

fn pool(lv: &Lv) -> Answer {
    let name = format!("{}/{}", lv.vg_name, lv.lv_name);
    let (Ok(data), Ok(metadata)) = (lv.data_percent.parse::<f64>(), lv.metadata_percent.parse::<f64>()) else {
        return look(format!("{name} is not active, so how full it is is unknown"));
    };
    let text = format!("{name} is {data:.0}% full, its metadata {metadata:.0}%");
    match data.max(metadata) {
        full if full >= PERCENT_FULL => failed(format!("{text}: extend it with lvextend, or remove snapshots")),
        high if high >= PERCENT_LOOK => look(format!("{text}: extend it soon")),
        _ => ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As lvs 2.03.16 printed it of a pool on a machine whose kernel has no device mapper.
    const INACTIVE: &str = include_str!("../host/captured/lvs_inactive.json");

    fn filled(data: &str, metadata: &str) -> Answer {
        let of_pool = r#""pool_lv":"", "data_percent":"", "metadata_percent":"""#;
        assert!(INACTIVE.contains(of_pool));
        let with = format!(r#""pool_lv":"", "data_percent":"{data}", "metadata_percent":"{metadata}""#);
        judge(&INACTIVE.replace(of_pool, &with))
    }

    #[test]
    fn a_pool_is_judged_by_the_fuller_of_data_and_metadata() {
        assert_eq!(judge(INACTIVE), look("vgcap/pool is not active, so how full it is is unknown"));
        assert_eq!(filled("12.34", "1.05"), ok("vgcap/pool is 12% full, its metadata 1%"));
        assert_eq!(filled("12.34", "81.00"), look("vgcap/pool is 12% full, its metadata 81%: extend it soon"));
        let full = "vgcap/pool is 100% full, its metadata 3%: extend it with lvextend, or remove snapshots";
        assert_eq!(filled("100.00", "3.00"), failed(full));
    }

    #[test]
    fn no_pool_and_no_json() {
        assert_eq!(judge(r#"{"report":[{"lv":[]}]}"#), ok("is not used here"));
        assert!(judge("WARNING").1.starts_with("cannot be looked at"));
    }
}
