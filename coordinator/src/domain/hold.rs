//! When a device is *on hold*: it knows more than the store, so nothing is decided over its head.
//!
//! Decides: who is on hold and why. Deliberately does not: trust the index alone; `background::hold` reads the store
//! itself before it acts, because buckets arrive in no order.

use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{Generation, v1::RefusalKind, v3::Report};

/// Why a device knows more than the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ahead {
    /// It acts on a newer document than the store has.
    #[error(
        "the device acts on generation {device} and the store has {store}: the store was restored from an older backup or wiped; see `bramble resume`"
    )]
    Generation {
        /// Of the device.
        device: Generation,
        /// Of the store; 0 when it has none.
        store: Generation,
    },
    /// It refused what the store has, because it holds another document of the same generation.
    #[error(
        "the device holds another document of generation {generation} than the store: the store was restored from an older backup; see `bramble resume`"
    )]
    Forked {
        /// Of both.
        generation: Generation,
    },
    /// It reports and the store does not know it.
    #[error(
        "the device reports and the store has no record of it: the store was restored or wiped; see `bramble resume`"
    )]
    Unrecorded,
}

/// Does the device know more than the store? `reported` is the higher one of report and heartbeat.
pub fn ahead(stored: Option<&DesiredDocument>, reported: Generation, report: Option<&Report>) -> Option<Ahead> {
    let store = stored.map_or(Generation(0), |d| d.generation);
    if reported > store {
        return Some(Ahead::Generation { device: reported, store });
    }
    let forked = report?
        .refused
        .iter()
        .any(|r| r.kind == RefusalKind::Forked && r.generation == Some(store) && store > Generation(0));
    forked.then_some(Ahead::Forked { generation: store })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::Refusal;

    use super::*;
    use crate::domain::{
        compose,
        testing::{device, report},
    };

    #[test]
    fn a_device_is_ahead_by_generation_or_by_a_fork_and_never_by_being_new() {
        let device = device(1, &[]);
        let stored = compose::document(&device, Generation(5), &compose::Composition::default());
        let mut report = report(&device, 5);
        assert_eq!(ahead(None, Generation(0), None), None);
        assert_eq!(ahead(Some(&stored), Generation(5), Some(&report)), None);
        let (newer, wiped) = (ahead(Some(&stored), Generation(6), None), ahead(None, Generation(6), None));
        assert_eq!(newer, Some(Ahead::Generation { device: Generation(6), store: Generation(5) }));
        assert_eq!(wiped, Some(Ahead::Generation { device: Generation(6), store: Generation(0) }));
        let refusal = |kind, generation| Refusal { number: 1, kind, detail: String::new(), generation, times: 1 };
        for (kind, generation, want) in [
            (RefusalKind::Forked, Some(Generation(5)), true),
            (RefusalKind::Forked, Some(Generation(4)), false),
            (RefusalKind::Forked, None, false),
            (RefusalKind::OlderGeneration, Some(Generation(5)), false),
            (RefusalKind::Signature, Some(Generation(5)), false),
        ] {
            report.refused = vec![refusal(kind, generation)];
            assert_eq!(ahead(Some(&stored), Generation(5), Some(&report)).is_some(), want, "{kind:?} {generation:?}");
        }
    }
}
