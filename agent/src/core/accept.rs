//! Which desired document wins: generations decide, clocks never do.
//!
//! Decides by generation and meaning only; the signature was verified before, and the caller makes the winner durable.

use bramble_contracts::Generation;
use bramble_contracts::v3::DesiredDocument;

/// A document that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is newer: act on it, once it is durable.
    Newer,
    /// It says what we hold already.
    Same,
}

/// A document that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// Older than what we hold.
    #[error(
        "desired document of generation {got} is older than generation {have}, which this device has accepted; if the coordinator was restored from a backup, use `bramble resume`"
    )]
    Older {
        /// Its generation.
        got: Generation,
        /// Ours.
        have: Generation,
    },
    /// Our generation with other content: two writers, or a forged history.
    #[error(
        "two different desired documents carry generation {0}; two coordinators write for this device, or its history was forged"
    )]
    Forked(Generation),
    /// For somebody else.
    #[error("desired document is for device {0}, not for this one")]
    OtherDevice(String),
}

/// Compares a verified document with the one we hold, and with the highest generation that was ever accepted: they differ
/// when what we accepted was damaged since.
pub fn accept(have: Option<&DesiredDocument>, floor: Generation, got: &DesiredDocument) -> Result<Accepted, Stale> {
    if got.generation < floor {
        return Err(Stale::Older { got: got.generation, have: floor });
    }
    let Some(have) = have else { return Ok(Accepted::Newer) };
    if got.device != have.device {
        return Err(Stale::OtherDevice(got.device.to_string()));
    }
    match got.generation.cmp(&have.generation) {
        std::cmp::Ordering::Less => Err(Stale::Older { got: got.generation, have: have.generation }),
        std::cmp::Ordering::Equal if got.same_meaning(have) => Ok(Accepted::Same),
        std::cmp::Ordering::Equal => Err(Stale::Forked(got.generation)),
        std::cmp::Ordering::Greater => Ok(Accepted::Newer),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::{DeviceId, Tenant};

    use super::*;

    fn document(generation: u64, name: &str) -> DesiredDocument {
        DesiredDocument {
            device: DeviceId::from_entropy([1; 13]),
            generation: Generation(generation),
            tenant: Tenant::default(),
            name: name.parse().unwrap(),
            labels: Default::default(),
            apps: vec![],
            agent: None,
            os: None,
        }
    }

    #[test]
    fn generations_decide() {
        let have = document(5, "a");
        assert_eq!(accept(None, Generation(0), &have), Ok(Accepted::Newer));
        assert_eq!(accept(Some(&have), Generation(0), &document(6, "b")), Ok(Accepted::Newer));
        assert_eq!(accept(Some(&have), Generation(0), &document(5, "a")), Ok(Accepted::Same));
        assert_eq!(accept(Some(&have), Generation(0), &document(5, "b")), Err(Stale::Forked(Generation(5))));
        let older = Stale::Older { got: Generation(4), have: Generation(5) };
        assert_eq!(accept(Some(&have), Generation(0), &document(4, "a")), Err(older));
    }

    #[test]
    fn what_was_lost_does_not_let_older_ones_in() {
        let (held, floor) = (document(4, "a"), Generation(6));
        let older = |got| Err(Stale::Older { got: Generation(got), have: floor });
        assert_eq!(accept(None, floor, &document(5, "a")), older(5));
        assert_eq!(accept(Some(&held), floor, &held), older(4), "not even what we hold");
        assert_eq!(accept(Some(&held), floor, &document(6, "a")), Ok(Accepted::Newer));
        assert_eq!(accept(None, floor, &document(6, "a")), Ok(Accepted::Newer));
    }

    #[test]
    fn anothers_document_is_refused() {
        let mut other = document(9, "a");
        other.device = DeviceId::from_entropy([2; 13]);
        assert!(matches!(accept(Some(&document(5, "a")), Generation(0), &other), Err(Stale::OtherDevice(_))));
    }
}
