//! Refused messages: counted, coalesced and numbered for ever, so that operators hear of each exactly once.
//!
//! Numbers are taken from the disk in blocks, so that a flood of bad messages is no flood of writes. Decides nothing
//! about what is refused.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bramble_contracts::Generation;
use bramble_contracts::v1::{Refusal, RefusalKind};

use super::board::Board;
use super::duty::Pen;
use crate::host::state::{StateError, StateFile};

const KEPT: usize = 16;
const BLOCK: u64 = 256;
const DETAIL_MAX: usize = 240;

/// Something that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) kind: RefusalKind,
    pub(crate) detail: String,
    pub(crate) generation: Option<Generation>,
}

pub(crate) struct Refusals {
    file: StateFile,
    pen: Pen,
    board: Board,
    inner: Mutex<Inner>,
}

struct Inner {
    next: u64,
    reserved: u64,
    recent: Vec<Refusal>,
}

impl Refusals {
    /// Goes on where the last run stopped, or above.
    pub(crate) fn load(state_dir: &Path, pen: Pen, board: Board) -> Result<Self, StateError> {
        let file = StateFile::new(state_dir.join("refusals"), 1);
        let reserved = file.load_json::<u64>()?.value().unwrap_or(0);
        Ok(Self { file, pen, board, inner: Mutex::new(Inner { next: reserved + 1, reserved, recent: vec![] }) })
    }

    /// Goes on behind what another agent of this device has numbered.
    pub(crate) fn reload(&self) -> Result<(), StateError> {
        let stored = self.file.load_json::<u64>()?.value().unwrap_or(0);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if stored > inner.reserved {
            (inner.next, inner.reserved) = (stored + 1, stored);
        }
        Ok(())
    }

    /// Refuses one message. Where another agent acts, it hears the same messages and tells of them.
    pub(crate) fn add(&self, bad: &Bad) {
        if !self.pen.is_ours() {
            return tracing::debug!(kind = ?bad.kind, detail = bad.detail, "message refused");
        }
        let detail: String = bad.detail.chars().take(DETAIL_MAX).collect();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |r: &&mut Refusal| r.kind == bad.kind && r.detail == detail && r.generation == bad.generation;
        if let Some(known) = inner.recent.iter_mut().find(same) {
            known.times = known.times.saturating_add(1);
        } else {
            tracing::warn!(kind = ?bad.kind, "message refused: {detail}");
            if inner.next > inner.reserved {
                let upto = inner.next + BLOCK;
                match self.file.store_json(&upto) {
                    Ok(()) => inner.reserved = upto,
                    Err(err) => tracing::error!(%err, "numbers of refused messages may repeat after a restart"),
                }
            }
            let number = inner.next;
            inner.next += 1;
            inner.recent.push(Refusal { number, kind: bad.kind, detail, generation: bad.generation, times: 1 });
            if inner.recent.len() > KEPT {
                inner.recent.remove(0);
            }
        }
        let recent = inner.recent.clone();
        drop(inner);
        self.board.update(|view| view.refused = recent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(detail: &str) -> Bad {
        Bad { kind: RefusalKind::Signature, detail: detail.into(), generation: None }
    }

    #[test]
    fn numbers_never_repeat_and_repeats_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let board = Board::default();
        let refusals = Refusals::load(dir.path(), Pen::ours(), board.clone()).unwrap();
        for _ in 0..1000 {
            refusals.add(&bad("a"));
        }
        refusals.add(&bad("b"));
        let seen = board.view().refused;
        assert_eq!(seen.iter().map(|r| (r.number, r.times)).collect::<Vec<_>>(), [(1, 1000), (2, 1)]);
        let refusals = Refusals::load(dir.path(), Pen::ours(), board.clone()).unwrap();
        refusals.add(&bad("a"));
        assert!(board.view().refused[0].number > 2);
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_writes() {
        let dir = tempfile::tempdir().unwrap();
        let board = Board::default();
        let refusals = Refusals::load(dir.path(), Pen::ours(), board.clone()).unwrap();
        for n in 0..5000 {
            refusals.add(&bad(&format!("{n} {}", "x".repeat(1000))));
        }
        let seen = board.view().refused;
        assert_eq!(seen.len(), KEPT);
        assert!(seen.iter().all(|r| r.detail.chars().count() <= DETAIL_MAX));
        assert_eq!(seen.last().unwrap().number, 5000);
    }
}
