//! LVM's metadata when the newest text of it is lost. LVM writes a text, and then the header that leads to it, without a flush
//! in between: a card that loses the first and keeps the second has no group any more. The texts before are still in their ring.
//!
//! Decides which of them counts, by what `pvck` prints. An older one is safe: the pool changes after a text, with a flush.

use bramble_contracts::boot::GROUP;

/// The disks in what `pvs -o pv_name` prints, among other things that it has to say.
pub(crate) fn disks(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().map(str::trim).filter(|line| line.starts_with('/'))
}

/// Where the newest whole text of our group begins, in bytes, by `pvck --dump metadata_search`.
pub(crate) fn newest(printed: &str) -> Option<u64> {
    printed.lines().filter_map(text).max_by_key(|(seqno, _)| *seqno).map(|(_, at)| at)
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
    fn the_newest_text_of_our_group_counts_wherever_it_is() {
        assert_eq!(newest(PRINTED), Some(5632));
    }

    #[test]
    fn disks_are_told_from_words() {
        let printed = "  Retrying metadata scan.\n  /dev/vda4 \n  Retrying metadata scan.\n\n  /dev/sda\n";
        assert_eq!(disks(printed).collect::<Vec<_>>(), ["/dev/vda4", "/dev/sda"]);
    }

    #[test]
    fn what_is_printed_otherwise_names_none() {
        let cut = PRINTED.replace("seqno 12", "seqno");
        assert_eq!(newest(&cut), Some(4608));
        for printed in ["", "metadata at x vg vg0 seqno 1", "vg vg0 seqno 3 at 5", "metadata at 5 vg vg0"] {
            assert_eq!(newest(printed), None, "{printed}");
        }
    }
}
