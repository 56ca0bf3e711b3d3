//! The chain of trust documents under `<keys>/trust`: one signed file per version.
//!
//! Decides: when a new version is made (the content differs from what is wanted) and what follows a version that a
//! device holds. Deliberately does not: change root keys; that is an operator's act with the old and the new root.

use std::{fs, path::Path};

use bramble_contracts::{
    signed::{self, Role},
    trust::{TrustDocument, TrustError, TrustedKey},
    v1::TRUST_STEPS_MAX,
};
use ed25519_dalek::SigningKey;

use super::files::{self, FileError, Made};

/// Tries to be the one who writes the next version.
const RACES_MAX: u32 = 8;

/// Where devices find the coordinator and the broker. Schemes decide about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Base URLs of the HTTP API.
    pub coordinators: Vec<String>,
    /// `nats://host:port` or `tls://host:port`.
    pub brokers: Vec<String>,
}

impl Addresses {
    /// Does any of them need our certificate authority?
    pub fn uses_tls(&self) -> bool {
        let secure =
            |url: &String| url.starts_with("https://") || url.starts_with("tls://") || url.starts_with("wss://");
        self.coordinators.iter().chain(&self.brokers).any(secure)
    }
}

/// Why the chain cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A version is missing, damaged or not signed as it must be.
    #[error("trust document {version} in the keys folder cannot be used: restore the folder from a backup")]
    Broken {
        /// Which.
        version: u64,
        /// Why.
        #[source]
        err: TrustError,
    },
    /// Something has to be written and the root key is not here.
    #[error(
        "addresses or CA changed, but there is no root key in {dir} to sign trust document {version}: sign it where the root keys are, then put it there"
    )]
    NoRoot {
        /// The keys folder.
        dir: String,
        /// The version that is needed.
        version: u64,
    },
    /// Does not fit a trust document.
    #[error("trust document cannot be written: {0}")]
    TooLarge(String),
    /// Others write new versions all the time.
    #[error("other coordinators keep changing the trust document: give all of them the same addresses")]
    Raced,
}

/// All versions, oldest first. Never empty.
#[derive(Debug, Clone)]
pub struct Chain {
    links: Vec<Vec<u8>>,
    newest: TrustDocument,
}

fn name(version: u64) -> String {
    format!("{version:06}")
}

impl Chain {
    /// Reads and verifies every link; `None` when there is none yet.
    pub fn load(dir: &Path) -> Result<Option<Self>, ChainError> {
        let mut chain: Option<Self> = None;
        loop {
            let version = chain.as_ref().map_or(1, |c| c.newest.version + 1);
            let path = dir.join(name(version));
            if !path.exists() {
                return Ok(chain);
            }
            let bytes = files::read(&path)?;
            let broken = |err| ChainError::Broken { version, err };
            let (mut links, doc) = match chain {
                None => (vec![], TrustDocument::open_stored(&bytes).map_err(broken)?),
                Some(c) => (c.links, c.newest.open_next(&bytes).map_err(broken)?),
            };
            links.push(bytes);
            chain = Some(Self { links, newest: doc });
        }
    }

    /// The newest document.
    pub fn newest(&self) -> &TrustDocument {
        &self.newest
    }

    /// The newest document, signed.
    pub fn newest_bytes(&self) -> &[u8] {
        self.links.last().expect("invariant: a chain has at least one link")
    }

    /// The documents after `version`, in order, at most [`TRUST_STEPS_MAX`].
    pub fn after(&self, version: u64) -> Vec<Vec<u8>> {
        let skip = usize::try_from(version).unwrap_or(usize::MAX);
        self.links.iter().skip(skip).take(TRUST_STEPS_MAX).cloned().collect()
    }
}

/// What the newest document must say.
pub(super) struct Wanted<'a> {
    pub(super) keys: Vec<TrustedKey>,
    pub(super) ca_bundle: &'a str,
    pub(super) addresses: &'a Addresses,
    pub(super) roots: &'a [SigningKey],
}

impl Wanted<'_> {
    fn document(&self, version: u64) -> TrustDocument {
        TrustDocument {
            version,
            root_threshold: 1,
            keys: self.keys.clone(),
            ca_bundle: self.ca_bundle.to_owned(),
            coordinators: self.addresses.coordinators.clone(),
            brokers: self.addresses.brokers.clone(),
        }
    }

    /// Keys that are certified already stay: releases keys and offline roots are not known here.
    fn said_by(&self, have: &TrustDocument) -> bool {
        have.ca_bundle == self.ca_bundle
            && have.coordinators == self.addresses.coordinators
            && have.brokers == self.addresses.brokers
            && self.keys.iter().all(|k| have.keys.contains(k))
    }

    fn successor(&self, have: &TrustDocument) -> TrustDocument {
        let mut doc = self.document(have.version + 1);
        doc.root_threshold = have.root_threshold;
        let online = |role: Role| matches!(role, Role::Fleet | Role::Time);
        let kept = have.keys.iter().filter(|k| !online(k.role) && !self.keys.contains(k)).cloned();
        doc.keys.extend(kept.collect::<Vec<_>>());
        doc
    }

    /// The chain that ends with what is wanted; writes one more link if it does not yet.
    pub(super) fn ensure(&self, dir: &Path) -> Result<Chain, ChainError> {
        for _ in 0..RACES_MAX {
            let doc = match Chain::load(dir)? {
                Some(chain) if self.said_by(&chain.newest) => return Ok(chain),
                Some(chain) => self.successor(&chain.newest),
                None => self.document(1),
            };
            let no_root = || ChainError::NoRoot { dir: dir.display().to_string(), version: doc.version };
            if self.roots.len() < usize::from(doc.root_threshold) {
                return Err(no_root());
            }
            let roots: Vec<&SigningKey> = self.roots.iter().collect();
            let bytes = doc.sign(&roots).map_err(|err| ChainError::TooLarge(err.to_string()))?;
            match files::create_once(&dir.join(name(doc.version)), &bytes)? {
                Made::Now => tracing::info!(version = doc.version, "new trust document"),
                Made::Before => tracing::info!(version = doc.version, "another coordinator wrote this trust document"),
            }
        }
        Err(ChainError::Raced)
    }
}

/// A root, fleet or time key as the document lists it.
pub(super) fn listed(role: Role, key: &SigningKey) -> TrustedKey {
    TrustedKey { role, key: signed::public_key(key) }
}

/// Makes the folder of the chain.
pub(super) fn make_dir(keys: &Path) -> Result<(), FileError> {
    let dir = keys.join("trust");
    if fs::metadata(&dir).is_ok_and(|m| m.is_dir()) { Ok(()) } else { files::private_dir(&dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(root: &'a [SigningKey], addresses: &'a Addresses) -> Wanted<'a> {
        Wanted { keys: vec![listed(Role::Root, &root[0])], ca_bundle: "", addresses, roots: root }
    }

    #[test]
    fn a_moved_coordinator_is_one_version_more_and_devices_can_follow() {
        let dir = tempfile::tempdir().unwrap();
        let root = [SigningKey::from_bytes(&[1; 32])];
        let here = Addresses { coordinators: vec!["http://a".into()], brokers: vec![] };
        let there = Addresses { coordinators: vec!["http://b".into()], brokers: vec![] };
        let one = wanted(&root, &here).ensure(dir.path()).unwrap();
        assert_eq!(wanted(&root, &here).ensure(dir.path()).unwrap().newest().version, 1, "unchanged: no new version");
        let two = wanted(&root, &there).ensure(dir.path()).unwrap();
        let steps = two.after(1);
        assert_eq!(steps.len(), 1);
        assert_eq!(one.newest().open_next(&steps[0]).unwrap().coordinators, ["http://b"]);
        assert!(two.after(2).is_empty() && two.after(u64::MAX).is_empty());
        assert_eq!(two.after(0).len(), 2);
    }

    #[test]
    fn a_damaged_link_and_a_missing_root_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let root = [SigningKey::from_bytes(&[1; 32])];
        let here = Addresses::default();
        wanted(&root, &here).ensure(dir.path()).unwrap();
        let there = Addresses { coordinators: vec!["http://b".into()], brokers: vec![] };
        let mut without = wanted(&root, &there);
        without.roots = &[];
        assert!(matches!(without.ensure(dir.path()), Err(ChainError::NoRoot { version: 2, .. })));
        let path = dir.path().join("000001");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Chain::load(dir.path()), Err(ChainError::Broken { version: 1, .. })));
    }
}
