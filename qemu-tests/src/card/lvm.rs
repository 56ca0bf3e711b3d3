//! LVM's metadata as it lies on a physical volume: label, header, and the newest text in the ring behind it. Read only,
//! without device-mapper and without LVM. Pure; the caller reads the bytes.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// The header before the ring of texts.
const MDA_HEADER: u64 = 512;

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Grows with every change.
    pub seqno: u64,
    /// The size of an extent in bytes.
    pub extent: u64,
    /// Its volumes, hidden ones too.
    pub volumes: BTreeMap<String, LogicalVolume>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Of its first segment: `striped` (what LVM calls linear), `thin-pool`, `thin`.
    pub kind: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// The thin volume it is a snapshot of.
    pub origin: Option<String>,
    /// The thin volume it is being merged into.
    pub merging_into: Option<String>,
}

/// Reads the newest metadata; `bytes` gives bytes of the physical volume.
pub(super) fn read(bytes: impl Fn(u64, usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<VolumeGroup> {
    parse(&text(&bytes)?)
}

/// The newest text, as the header has it.
struct Newest {
    /// Of the metadata area.
    start: u64,
    /// Of the metadata area.
    length: u64,
    /// Of the text, from the area's beginning on.
    offset: u64,
    size: u64,
    crc: u32,
}

/// Where the newest text begins, in bytes of the physical volume, and how long it is.
pub(super) fn newest(bytes: impl Fn(u64, usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<(u64, u64)> {
    let Newest { start, offset, size, .. } = header(bytes)?;
    Ok((start + offset, size))
}

fn header(bytes: impl Fn(u64, usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Newest> {
    let head = bytes(0, 4 * 512)?;
    let label =
        head.chunks(512).position(|sector| sector.starts_with(b"LABELONE") && sector[24..].starts_with(b"LVM2 001"));
    let label = label.context("no LVM label: this is no physical volume")?;
    let sector = &head[label * 512..(label + 1) * 512];
    // UUID and size, then the data areas and the metadata areas, each list ended by an empty entry.
    let mut at = le32(sector, 20)? as usize + 32 + 8;
    while le64(sector, at)? != 0 {
        at += 16;
    }
    at += 16;
    let (start, length) = (le64(sector, at)?, le64(sector, at + 8)?);
    ensure!(start != 0, "the physical volume has no metadata area");
    let header = bytes(start, 512)?;
    ensure!(header[4..20] == *MAGIC, "the metadata area of the physical volume is damaged");
    let (offset, size) = (le64(&header, 40)?, le64(&header, 48)?);
    ensure!(offset >= MDA_HEADER && size > 0 && size < length, "the physical volume belongs to no volume group");
    Ok(Newest { start, length, offset, size, crc: le32(&header, 56)? })
}

fn text(bytes: impl Fn(u64, usize) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<String> {
    let Newest { start, length, offset, size, crc } = header(&bytes)?;
    // The ring goes on behind its header.
    let before_end = size.min(length - offset);
    let mut text = bytes(start + offset, usize::try_from(before_end)?)?;
    text.extend(bytes(start + MDA_HEADER, usize::try_from(size - before_end)?)?);
    ensure!(crc_of(&text) == crc, "the newest metadata of the physical volume is damaged: its checksum is wrong");
    Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
}

/// The CRC-32 of LVM: the usual polynomial, another beginning, no end.
fn crc_of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn le64(bytes: &[u8], at: usize) -> anyhow::Result<u64> {
    let found = bytes.get(at..at + 8).context("the LVM label is cut short")?;
    Ok(u64::from_le_bytes(found.try_into().expect("invariant: eight bytes")))
}

fn le32(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let found = bytes.get(at..at + 4).context("the LVM label is cut short")?;
    Ok(u32::from_le_bytes(found.try_into().expect("invariant: four bytes")))
}

/// A value of LVM's configuration language.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    List(Vec<Value>),
    Section(BTreeMap<String, Value>),
}

type Section = BTreeMap<String, Value>;

fn parse(text: &str) -> anyhow::Result<VolumeGroup> {
    let words = words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let all = section(&mut words)?;
    let groups = all.into_iter().find_map(|(name, value)| match value {
        Value::Section(group) if group.contains_key("seqno") => Some((name, group)),
        Value::Text(_) | Value::Number(_) | Value::List(_) | Value::Section(_) => None,
    });
    let (name, group) = groups.context("the metadata names no volume group")?;
    let extent = number(&group, "extent_size")? * SECTOR;
    let volumes = match group.get("logical_volumes") {
        Some(Value::Section(volumes)) => volumes.clone(),
        Some(Value::Text(_) | Value::Number(_) | Value::List(_)) | None => Section::new(),
    };
    let volumes = volumes.into_iter().map(|(name, value)| match value {
        Value::Section(volume) => {
            Ok((name.clone(), logical(&volume, extent).with_context(|| format!("volume {name}"))?))
        }
        Value::Text(_) | Value::Number(_) | Value::List(_) => bail!("volume {name} is no section"),
    });
    Ok(VolumeGroup { seqno: number(&group, "seqno")?, name, extent, volumes: volumes.collect::<anyhow::Result<_>>()? })
}

fn logical(volume: &Section, extent: u64) -> anyhow::Result<LogicalVolume> {
    let segments: Vec<&Section> = volume
        .iter()
        .filter_map(|(name, value)| match value {
            Value::Section(segment) if name.starts_with("segment") => Some(segment),
            Value::Text(_) | Value::Number(_) | Value::List(_) | Value::Section(_) => None,
        })
        .collect();
    let first = segments.first().context("it has no segment")?;
    let extents: u64 = segments.iter().map(|s| number(s, "extent_count")).sum::<anyhow::Result<u64>>()?;
    let mut tags: Vec<String> = match volume.get("tags") {
        Some(Value::List(tags)) => tags.iter().filter_map(word).collect(),
        Some(Value::Text(_) | Value::Number(_) | Value::Section(_)) | None => vec![],
    };
    tags.sort();
    Ok(LogicalVolume {
        kind: first.get("type").and_then(word).context("its segment has no type")?,
        bytes: extents * extent,
        tags,
        origin: first.get("origin").and_then(word),
        merging_into: first.get("merge").and_then(word),
    })
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(_) | Value::List(_) | Value::Section(_) => None,
    }
}

fn number(section: &Section, key: &str) -> anyhow::Result<u64> {
    match section.get(key) {
        Some(Value::Number(n)) => Ok(*n),
        Some(Value::Text(_) | Value::List(_) | Value::Section(_)) | None => bail!("{key} is no number"),
    }
}

/// Splits into names, numbers, `"texts"` (with their first quote) and marks; comments are dropped.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let mut word = String::from('"');
                while let Some(c) = rest.next_if(|c| *c != '"') {
                    word.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
                }
                rest.next();
                words.push(word);
            }
            '{' | '}' | '=' | '[' | ']' | ',' => words.push(c.into()),
            c if c.is_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !"{}=[],#\"".contains(*c)) {
                    word.push(c);
                }
                words.push(word);
            }
        }
    }
    words
}

fn section<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> anyhow::Result<Section> {
    let mut found = Section::new();
    while let Some(name) = words.next_if(|word| *word != "}") {
        let value = match words.next() {
            Some("{") => {
                let inner = section(words)?;
                ensure!(words.next() == Some("}"), "the metadata's section {name} does not end");
                Value::Section(inner)
            }
            Some("=") => value(words)?,
            Some(_) | None => bail!("the metadata is not readable at {name}"),
        };
        found.insert(name.into(), value);
    }
    Ok(found)
}

fn value<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> anyhow::Result<Value> {
    match words.next().context("the metadata is cut short")? {
        "[" => {
            let mut list = vec![];
            while words.next_if(|word| *word == "]").is_none() {
                list.push(value(words)?);
                words.next_if(|word| *word == ",");
            }
            Ok(Value::List(list))
        }
        text if text.starts_with('"') => Ok(Value::Text(text[1..].into())),
        number => number.parse().map(Value::Number).with_context(|| format!("{number:?} is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        # Generated by LVM2
        contents = "Text Format Volume Group"
        version = 1
        vg0 {
            id = "a-b"
            seqno = 7
            extent_size = 8192 # 4 Megabytes
            flags = []
            logical_volumes {
                root { id = "x"
                    segment_count = 1
                    segment1 { start_extent = 0 extent_count = 400 type = "thin" thin_pool = "pool" device_id = 1 } }
                root_preupgrade {
                    tags = ["bramble.slot=3", "bramble.phase=trial"]
                    segment1 { extent_count = 400 type = "thin" origin = "root" } }
                pool_tdata {
                    segment1 { extent_count = 600 type = "striped" stripes = [ "pv0", 8 ] }
                    segment2 { extent_count = 40 type = "striped" stripes = [ "pv0", 900 ] } }
            }
        }
    "#;

    #[test]
    fn volumes_tags_and_sizes_are_read() {
        let group = parse(TEXT).unwrap();
        assert_eq!((group.name.as_str(), group.seqno, group.extent), ("vg0", 7, 4 << 20));
        let snapshot = &group.volumes["root_preupgrade"];
        assert_eq!(snapshot.tags, ["bramble.phase=trial", "bramble.slot=3"]);
        assert_eq!((snapshot.origin.as_deref(), snapshot.merging_into.as_deref()), (Some("root"), None));
        assert_eq!(group.volumes["root"].bytes, 1600 << 20);
        assert_eq!(
            (group.volumes["pool_tdata"].bytes, group.volumes["pool_tdata"].kind.as_str()),
            (2560 << 20, "striped")
        );
    }

    #[test]
    fn what_is_cut_short_is_an_error_that_says_so() {
        for end in [40, 120, 400] {
            assert!(parse(&TEXT[..end]).is_err(), "{end}");
        }
        assert!(read(|_, n| Ok(vec![0; n])).unwrap_err().to_string().contains("no physical volume"));
    }

    /// A physical volume with its text at the end of the ring, so that it goes on at its beginning.
    fn volume(text: &str) -> Vec<u8> {
        let (start, length, first) = (4096_usize, 8192_usize, 100_usize);
        let mut bytes = vec![0; start + length];
        let put = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(&mut bytes, 512, b"LABELONE");
        put(&mut bytes, 512 + 20, &32_u32.to_le_bytes());
        put(&mut bytes, 512 + 24, b"LVM2 001");
        let lists = 512 + 32 + 40;
        put(&mut bytes, lists, &(1_u64 << 20).to_le_bytes());
        put(&mut bytes, lists + 32, &(start as u64).to_le_bytes());
        put(&mut bytes, lists + 40, &(length as u64).to_le_bytes());
        put(&mut bytes, start + 4, MAGIC);
        put(&mut bytes, start + 40, &((length - first) as u64).to_le_bytes());
        put(&mut bytes, start + 48, &(text.len() as u64).to_le_bytes());
        put(&mut bytes, start + 56, &crc_of(text.as_bytes()).to_le_bytes());
        put(&mut bytes, start + length - first, &text.as_bytes()[..first]);
        put(&mut bytes, start + 512, &text.as_bytes()[first..]);
        bytes
    }

    #[test]
    fn the_ring_is_followed_round_its_end_and_damage_is_seen() {
        let mut bytes = volume(TEXT);
        let get = |bytes: &[u8]| read(|at, n| Ok(bytes[usize::try_from(at).unwrap()..][..n].to_vec()));
        assert_eq!(get(&bytes).unwrap().seqno, 7);
        bytes[4096 + 512 + 30] ^= 1;
        assert!(get(&bytes).unwrap_err().to_string().contains("checksum"));
    }
}
