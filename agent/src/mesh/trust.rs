//! The trust document this device holds, and the way to its successor: one version at a time, durable before it counts.
//!
//! Decides which keys verify. Does not fetch anything.

use std::path::Path;
use std::sync::Arc;

use bramble_contracts::bytes::{KeyId, PublicKey};
use bramble_contracts::signed::Role;
use bramble_contracts::trust::{TrustDocument, TrustError};
use tokio::sync::watch;

use super::duty::Pen;
use super::identity::trust_file;
use crate::host::state::{StateError, StateFile};

/// Why the trust document cannot be used or followed.
#[derive(Debug, thiserror::Error)]
pub enum TrustFailure {
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The document itself.
    #[error(transparent)]
    Document(#[from] TrustError),
}

/// The trust document in force. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    file: StateFile,
    pen: Pen,
    now: Arc<watch::Sender<Arc<TrustDocument>>>,
}

impl Trust {
    /// What is stored; `None` before enrolment.
    pub(crate) fn load(state_dir: &Path, pen: Pen) -> Result<Option<Self>, TrustFailure> {
        let file = trust_file(state_dir);
        let Some(bytes) = file.load()?.value() else { return Ok(None) };
        let document = TrustDocument::open_stored(&bytes)?;
        Ok(Some(Self { file, pen, now: Arc::new(watch::Sender::new(Arc::new(document))) }))
    }

    /// The document in force.
    pub(crate) fn now(&self) -> Arc<TrustDocument> {
        self.now.borrow().clone()
    }

    /// Hears of every successor.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<TrustDocument>> {
        self.now.subscribe()
    }

    /// The public key of that id, if it may sign in that role.
    pub(crate) fn key(&self, role: Role, id: &KeyId) -> Option<PublicKey> {
        self.now.borrow().key(role, id)
    }

    /// Takes over what another agent of this device has followed.
    pub(crate) fn reload(&self) -> Result<(), TrustFailure> {
        let Some(bytes) = self.file.load()?.value() else { return Ok(()) };
        let stored = TrustDocument::open_stored(&bytes)?;
        if stored.version > self.now().version {
            self.now.send_replace(Arc::new(stored));
        }
        Ok(())
    }

    /// Follows signed successors, in order; those already held are skipped. Stops at the first that does not fit. Another
    /// agent that acts follows for both.
    pub(crate) fn follow(&self, successors: &[Vec<u8>]) -> Result<(), TrustFailure> {
        if !self.pen.is_ours() {
            return self.reload();
        }
        for bytes in successors {
            let have = self.now();
            let next = match have.open_next(bytes) {
                Ok(next) => next,
                Err(TrustError::Version { got, have }) if got <= have => continue,
                Err(err) => return Err(err.into()),
            };
            self.file.store(bytes)?;
            tracing::info!(version = next.version, "trust document followed");
            self.now.send_replace(Arc::new(next));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::signed::public_key;
    use bramble_contracts::trust::TrustedKey;
    use ed25519_dalek::SigningKey;

    use super::*;

    fn signed(version: u64, root: &SigningKey, also: &SigningKey) -> Vec<u8> {
        let document = TrustDocument {
            version,
            root_threshold: 1,
            keys: vec![TrustedKey { role: Role::Root, key: public_key(root) }],
            ca_bundle: String::new(),
            coordinators: vec![],
            brokers: vec![format!("nats://127.0.0.1:{version}")],
        };
        document.sign(&[root, also]).unwrap()
    }

    #[test]
    fn successors_are_followed_in_order_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, stranger) =
            (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]), SigningKey::from_bytes(&[3; 32]));
        assert!(Trust::load(dir.path(), Pen::ours()).unwrap().is_none());
        trust_file(dir.path()).store(&signed(1, &a, &a)).unwrap();
        let trust = Trust::load(dir.path(), Pen::ours()).unwrap().unwrap();
        trust.follow(&[signed(1, &a, &a), signed(2, &b, &a), signed(3, &b, &b)]).unwrap();
        assert_eq!(trust.now().version, 3);
        assert!(trust.follow(&[signed(5, &b, &b)]).is_err(), "a gap is not jumped");
        assert!(trust.follow(&[signed(4, &stranger, &stranger)]).is_err());
        assert_eq!(Trust::load(dir.path(), Pen::ours()).unwrap().unwrap().now().version, 3);
    }
}
