//! LVM's text, its metadata of the group, when the newest one is lost. LVM writes a text, and then the header that leads to
//! it, without a flush in between: a card that loses the first and keeps the second has no group any more. The texts before are
//! still in their ring.
//!
//! Decides which of them counts: the newest that LVM can read. An older one is safe, for the pool changes only after a text, with
//! a flush. Two disks with a group of our name are one too many: nothing is written to either.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bramble_contracts::boot::GROUP;

use crate::process::{LVM, run};

/// Where the area of header and ring begins on every disk of LVM's.
const AREA: u64 = 4096;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// More than one can be torn: what `pvck` finds may end too early.
const TEXTS_MAX: usize = 4;

/// Makes the newest readable text the one that counts, where LVM knows no group of ours. `work` is a folder for copies.
pub(crate) fn recall(work: &Path) -> Result<(), String> {
    if is_known() {
        return Ok(());
    }
    fs::create_dir_all(work).map_err(|err| format!("{}: {err}", work.display()))?;
    let listed = run(LVM, &["pvs", "--noheadings", "-o", "pv_name"])?;
    let (mut found, mut unread) = (vec![], String::new());
    for disk in disks(&listed) {
        match copies(disk, work) {
            Ok(texts) if texts.is_empty() => {}
            Ok(texts) => found.push((disk, texts)),
            // It is not the one.
            Err(why) => unread = format!("; {why}"),
        }
    }
    let [(disk, texts)] = &found[..] else {
        return Err(format!("{} disks have texts of the group {GROUP}, not one{unread}", found.len()));
    };
    for text in texts {
        run(LVM, &["pvck", "-y", "--repairtype", "metadata", "--file", text, disk])?;
        File::open(disk).and_then(|file| file.sync_all()).map_err(|err| format!("{disk}: {err}"))?;
        if is_known() {
            return Ok(());
        }
    }
    Err(format!("none of {} texts on {disk} can be read", texts.len()))
}

fn is_known() -> bool {
    run(LVM, &["vgs", GROUP]).is_ok()
}

/// Copies of a disk's texts, newest first: a repair writes to where others lie.
fn copies(disk: &str, work: &Path) -> Result<Vec<String>, String> {
    let mut header = [0; 512];
    File::open(disk).and_then(|file| file.read_exact_at(&mut header, AREA)).map_err(|err| format!("{disk}: {err}"))?;
    let length = area_length(&header).ok_or_else(|| format!("{disk}: it has no header of LVM's"))?;
    let area = format!("mda_offset={AREA} mda_size={length}");
    let search = |settings: &str, more: &[&str]| {
        run(LVM, &[&["pvck", "--dump", "metadata_search", "--settings", settings][..], more, &[disk]].concat())
    };
    let copy = |at: u64| {
        let path = work.join(format!("text-{at}")).display().to_string();
        search(&format!("metadata_offset={at} {area}"), &["--file", &path]).map(|_| path)
    };
    newest(&search(&area, &[])?).into_iter().map(copy).collect()
}

/// How long the area of header and ring is, by its header: on a converted card it is shorter than `pvck` takes it to be.
fn area_length(header: &[u8; 512]) -> Option<u64> {
    let length = header[32..40].try_into().map(u64::from_le_bytes).ok()?;
    (header[4..20] == *MAGIC && length > 512).then_some(length)
}

/// The disks in what `pvs -o pv_name` prints, among other things that it has to say.
fn disks(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().map(str::trim).filter(|line| line.starts_with('/'))
}

/// Where texts of our group begin, by `pvck --dump metadata_search`, newest first.
fn newest(printed: &str) -> Vec<u64> {
    let mut texts: Vec<(u64, u64)> = printed.lines().filter_map(text).collect();
    texts.sort_by_key(|(seqno, _)| std::cmp::Reverse(*seqno));
    texts.into_iter().map(|(_, at)| at).take(TEXTS_MAX).collect()
}

/// `metadata at 7680 length 728 crc 226a3151 vg vg0 seqno 4 id …`: its number, and where it begins.
fn text(line: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|other| *other == word).and_then(|at| words.get(at + 1)).copied();
    let is_ours = line.trim_start().starts_with("metadata at ") && after("vg") == Some(GROUP);
    if is_ours { Some((after("seqno")?.parse().ok()?, after("at")?.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pvck 2.03.16 printed it, the newest text being lost; the ring had gone round its end.
    const PRINTED: &str = "  Searching for metadata at offset 4096 size 1044480
  metadata at 4608 length 758 crc e09cd8de vg vg0 seqno 11 id ZLi25i-ocL7-O3ne-j5nV-Dl8k-BlAu-Ux2fPU
  metadata at 5632 length 716 crc 34556446 vg vg0 seqno 12 id ZLi25i-ocL7-O3ne-j5nV-Dl8k-BlAu-Ux2fPU
  metadata at 7680 length 728 crc 226a3151 vg vg0 seqno 9 id ZLi25i-ocL7-O3ne-j5nV-Dl8k-BlAu-Ux2fPU
  metadata at 8704 length 734 crc aada211a vg other seqno 99 id ZLi25i-ocL7-O3ne-j5nV-Dl8k-BlAu-Ux2fPU
";

    #[test]
    fn the_newest_texts_of_our_group_come_first_wherever_they_are() {
        assert_eq!(newest(PRINTED), [5632, 4608, 7680]);
        let many: String =
            (1..9).map(|n| format!("  metadata at {n} length 1 crc 0 vg vg0 seqno {n} id x\n")).collect();
        assert_eq!(newest(&many), [8, 7, 6, 5]);
    }

    #[test]
    fn disks_are_told_from_words() {
        let printed = "  Retrying metadata scan.\n  /dev/vda4 \n  Retrying metadata scan.\n\n  /dev/sda\n";
        assert_eq!(disks(printed).collect::<Vec<_>>(), ["/dev/vda4", "/dev/sda"]);
    }

    #[test]
    fn what_is_printed_otherwise_names_none() {
        let cut = PRINTED.replace("seqno 12", "seqno");
        assert_eq!(newest(&cut), [4608, 7680]);
        for printed in ["", "metadata at x vg vg0 seqno 1", "vg vg0 seqno 3 at 5", "metadata at 5 vg vg0"] {
            assert!(newest(printed).is_empty(), "{printed}");
        }
    }

    #[test]
    fn the_areas_length_is_its_headers() {
        let mut header = [0; 512];
        assert_eq!(area_length(&header), None);
        header[4..20].copy_from_slice(MAGIC);
        header[32..40].copy_from_slice(&(256 * 1024 - 4096_u64).to_le_bytes());
        assert_eq!(area_length(&header), Some(258_048));
    }
}
