//! What an ELF program says of the machines it is for: processor, and which C library it was linked with.
//!
//! Decides: only what is certain; for the rest the operator names the target. Deliberately does not: read a file.

use bramble_contracts::release::Target;

/// The first bytes of a program are enough: its headers come first.
pub(super) const HEAD: usize = 64 * 1024;

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// The note with which glibc marks every program.
const NT_GNU_ABI_TAG: u32 = 1;

/// Little-endian numbers at places that may lie beyond the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
    fn u16(&self, at: usize) -> Option<u16> {
        self.at(at).map(u16::from_le_bytes)
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.at(at).map(u32::from_le_bytes)
    }
    fn place(&self, at: usize) -> Option<usize> {
        usize::try_from(self.at(at).map(u64::from_le_bytes)?).ok()
    }
    fn part(&self, from: usize, len: usize) -> Option<&[u8]> {
        self.0.get(from..from.checked_add(len)?)
    }
}

/// The processor of a 64-bit little-endian ELF program, as Rust calls it.
pub(super) fn machine(head: &[u8]) -> Option<&'static str> {
    let elf = Bytes(head);
    if elf.at(0)? != *b"\x7fELF\x02\x01" {
        return None;
    }
    match elf.u16(18)? {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        _ => None,
    }
}

/// The target triple of a Linux program that says enough.
pub(super) fn target(head: &[u8]) -> Option<Target> {
    let (machine, elf) = (machine(head)?, Bytes(head));
    let (table, size, count) = (elf.place(32)?, usize::from(elf.u16(54)?), usize::from(elf.u16(56)?));
    let (mut library, mut tagged) = (None, false);
    for n in 0..count {
        let header = table.checked_add(n.checked_mul(size)?)?;
        let body = || elf.part(elf.place(header + 8)?, elf.place(header + 32)?);
        match elf.u32(header)? {
            PT_INTERP => library = if contains(body()?, b"ld-musl") { Some("musl") } else { Some("gnu") },
            PT_NOTE => tagged |= body().is_some_and(has_abi_tag),
            _ => {}
        }
    }
    // A static program has no loader to tell: glibc's start code leaves its mark, musl's does not.
    let library = library.unwrap_or(if tagged { "gnu" } else { "musl" });
    format!("{machine}-unknown-linux-{library}").parse().ok()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn has_abi_tag(notes: &[u8]) -> bool {
    let notes = Bytes(notes);
    let mut at = 0usize;
    let next = |at: usize| -> Option<(bool, usize)> {
        let (name, body, kind) = (notes.u32(at)? as usize, notes.u32(at + 4)? as usize, notes.u32(at + 8)?);
        let is_tag = kind == NT_GNU_ABI_TAG && notes.part(at + 12, name)? == b"GNU\0";
        let end = at.checked_add(12)?.checked_add(name.next_multiple_of(4))?.checked_add(body.next_multiple_of(4))?;
        Some((is_tag, end))
    };
    while let Some((is_tag, end)) = next(at) {
        if is_tag {
            return true;
        }
        at = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of headers alone: each with its kind and contents.
    fn program(machine: u16, parts: &[(u32, &[u8])]) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(64, 0);
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32..40].copy_from_slice(&64u64.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&u16::try_from(parts.len()).unwrap().to_le_bytes());
        let (mut at, mut bodies) = (64 + 56 * parts.len(), vec![]);
        for (kind, body) in parts {
            let mut header = vec![0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(body.len() as u64).to_le_bytes());
            head.extend(header);
            bodies.extend_from_slice(body);
            at += body.len();
        }
        head.extend(bodies);
        head
    }

    fn note(kind: u32) -> Vec<u8> {
        [&4u32.to_le_bytes()[..], &4u32.to_le_bytes(), &kind.to_le_bytes(), b"GNU\0", &[0; 4]].concat()
    }

    #[test]
    fn targets_are_read_where_they_are_certain() {
        let of = |bytes: &[u8]| target(bytes).map(|t| t.to_string());
        let gnu = (PT_INTERP, &b"/lib64/ld-linux-x86-64.so.2\0"[..]);
        assert_eq!(of(&program(62, &[(1, b""), gnu])).as_deref(), Some("x86_64-unknown-linux-gnu"));
        let musl = (PT_INTERP, &b"/lib/ld-musl-aarch64.so.1\0"[..]);
        assert_eq!(of(&program(183, &[musl])).as_deref(), Some("aarch64-unknown-linux-musl"));
        let (build_id, tag) = (note(3), note(1));
        assert_eq!(of(&program(183, &[(PT_NOTE, &build_id)])).as_deref(), Some("aarch64-unknown-linux-musl"));
        let both = [build_id, tag].concat();
        assert_eq!(of(&program(183, &[(PT_NOTE, &both)])).as_deref(), Some("aarch64-unknown-linux-gnu"));
        assert_eq!(of(&program(40, &[])), None, "32 bits and others are named by hand");
        assert_eq!(of(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn what_is_cut_off_or_lies_is_no_program() {
        let whole = program(62, &[(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0"), (PT_NOTE, &note(1))]);
        for cut in 0..120 {
            let _ = target(&whole[..cut.min(whole.len())]);
        }
        for at in 0..whole.len() {
            let mut lies = whole.clone();
            lies[at] = 0xff;
            let _ = target(&lies);
        }
    }
}
