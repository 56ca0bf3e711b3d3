//! From bytes to facts: the kernel's command line, the firmware's device tree, and what `lvs` says.
//!
//! Decides what each of them means. What cannot be read is told as that, and is never "no upgrade". Reads no file.

use bramble_contracts::boot::{GROUP, ROOT, SNAPSHOT, Snapshot};
pub use bramble_contracts::boot::{booted, root_is_ours, seen, tryboot};
use serde::Deserialize;

use crate::decide::Volumes;

#[derive(Deserialize)]
struct Lvs {
    report: Vec<Report>,
}

#[derive(Deserialize)]
struct Report {
    lv: Vec<Lv>,
}

#[derive(Deserialize)]
struct Lv {
    lv_name: String,
    lv_tags: String,
}

/// What `lvs --reportformat json -o lv_name,lv_tags vg0` says, or why it says nothing of use.
pub fn volumes(printed: &str) -> Result<Volumes, String> {
    let lvs: Lvs = serde_json::from_str(printed).map_err(|err| format!("lvs said something else ({err})"))?;
    let all: Vec<Lv> = lvs.report.into_iter().flat_map(|report| report.lv).collect();
    if !all.iter().any(|lv| lv.lv_name == ROOT) {
        return Err(format!("the group {GROUP} has no volume {ROOT}"));
    }
    let Some(snapshot) = all.iter().find(|lv| lv.lv_name == SNAPSHOT) else { return Ok(Volumes::Plain) };
    Ok(match Snapshot::from_tags(&snapshot.lv_tags) {
        None => Volumes::Begun,
        Some(Snapshot { phase, new_slot, attempt, returns }) => Volumes::Snapshot { phase, new_slot, attempt, returns },
    })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::{Phase, Slot, SlotBy, Tryboot};

    use super::*;

    #[test]
    fn only_our_layout_is_guarded() {
        for (cmdline, ours) in [
            ("root=/dev/vg0/root rw panic=10 bramble.slot=a", true),
            ("console=ttyAMA0 root=/dev/mapper/vg0-root", true),
            ("root=PARTUUID=0a-02 rootwait", false),
            ("root=/dev/vg0/root root=/dev/sda1", false),
            ("", false),
        ] {
            assert_eq!(root_is_ours(cmdline), ours, "{cmdline}");
        }
    }

    #[test]
    fn the_firmware_knows_best_which_slot_it_booted() {
        let cell = |number: u32| number.to_be_bytes();
        assert_eq!(booted(Some(&cell(3)), "bramble.slot=a"), (Slot::B, SlotBy::Firmware));
        assert_eq!(booted(Some(&cell(1)), "bramble.slot=b"), (Slot::B, SlotBy::CommandLine));
        assert_eq!(booted(None, "quiet bramble.slot=b"), (Slot::B, SlotBy::CommandLine));
        assert_eq!(booted(Some(b"\0\0"), "bramble.slot=c"), (Slot::A, SlotBy::Nobody));
        assert_eq!(tryboot(Some(&cell(1))), Tryboot::Set);
        assert_eq!(tryboot(Some(&cell(0))), Tryboot::Clear);
        assert_eq!(tryboot(None), Tryboot::Unsupported);
    }

    /// As printed by LVM 2.03.31, of Debian 13.
    #[test]
    fn captured_reports() {
        let plain = include_str!("captured/lvs_plain.json");
        assert_eq!(volumes(plain), Ok(Volumes::Plain));
        let trial = include_str!("captured/lvs_trial.json");
        let want = Volumes::Snapshot { phase: Phase::Trial, new_slot: Slot::B, attempt: 2, returns: 0 };
        assert_eq!(volumes(trial), Ok(want));
    }

    #[test]
    fn what_cannot_be_read_is_never_no_upgrade() {
        for printed in ["", "{}", "[]", r#"{"report":[]}"#, r#"{"report":[{"lv":[{"lv_name":"swap","lv_tags":""}]}]}"#]
        {
            assert!(volumes(printed).is_err(), "{printed}");
        }
    }

    #[test]
    fn tags_tell_how_far_an_upgrade_was() {
        let lvs = |tags: &str| {
            let root = r#"{"lv_name":"root","lv_tags":""}"#;
            volumes(&format!(r#"{{"report":[{{"lv":[{root},{{"lv_name":"root_preupgrade","lv_tags":"{tags}"}}]}}]}}"#))
        };
        let of = |phase, new_slot, attempt, returns| Ok(Volumes::Snapshot { phase, new_slot, attempt, returns });
        assert_eq!(lvs(""), Ok(Volumes::Begun), "nothing was written since");
        assert_eq!(lvs("bramble.phase=apply,bramble.slot=a"), of(Phase::Apply, Slot::A, 0, 0));
        assert_eq!(lvs("bramble.attempt=2,bramble.phase=trial,bramble.slot=b"), of(Phase::Trial, Slot::B, 2, 0));
        assert_eq!(lvs("bramble.phase=failed,bramble.returns=3,bramble.slot=b"), of(Phase::Failed, Slot::B, 0, 3));
        assert_eq!(lvs("bramble.phase=trial"), of(Phase::Apply, Slot::B, 0, 0), "a trial of nobody knows what");
    }
}
