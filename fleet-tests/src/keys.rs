//! The coordinator's keys in the hands of a test: what somebody could do who stole them, or only the broker's part of
//! them. Read from the files themselves, so that nothing of the coordinator's code judges its own work.

use std::fs;
use std::path::Path;

use bramble_contracts::signed::{self, Role};
use bramble_contracts::v1::Command;
use bramble_contracts::v3::DesiredDocument;
use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use nkeys::KeyPair;

use crate::coordinator::Coordinator;
use crate::jwt::{self, Allow};
use crate::mesh::Mesh;

/// The keys of a coordinator.
pub struct Stolen {
    broker: std::net::SocketAddr,
    fleet_key: SigningKey,
    accounts: [Account; 3],
}

struct Account {
    id: String,
    signing: KeyPair,
}

/// One of the broker's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum In {
    /// The broker's own.
    Sys = 0,
    /// The coordinators', with JetStream.
    Fleet = 1,
    /// The devices'.
    Dev = 2,
}

fn text(dir: &Path, name: &str) -> String {
    let file = dir.join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|err| panic!("cannot read {}: {err}", file.display()));
    text.trim().to_owned()
}

impl Stolen {
    /// Reads them.
    ///
    /// # Panics
    /// When they are not where the coordinator keeps them.
    #[must_use]
    pub fn from(coordinator: &Coordinator) -> Self {
        let dir = coordinator.state().join("keys");
        let nkey = |name: &str| KeyPair::from_seed(&text(&dir, name)).expect("a seed");
        let account = |name: &str| Account {
            id: nkey(&format!("{name}.nk")).public_key(),
            signing: nkey(&format!("{name}-signing.nk")),
        };
        let seed = HEXLOWER.decode(text(&dir, "fleet.ed25519").as_bytes()).expect("hex");
        Self {
            broker: coordinator.broker(),
            fleet_key: SigningKey::from_bytes(&seed.try_into().expect("32 bytes")),
            accounts: [account("sys"), account("fleet"), account("dev")],
        }
    }

    /// Connects as somebody who may do everything in an account.
    ///
    /// # Panics
    /// When the broker refuses.
    #[must_use]
    pub fn connect(&self, account: In) -> Mesh {
        let Account { id, signing } = &self.accounts[account as usize];
        let all = || Some(vec![">".to_owned()]);
        let allow = Allow { publish: all(), subscribe: all() };
        let user = KeyPair::new_user();
        let jwt = jwt::user(signing, Some(id), &user, "insider", &allow, None);
        let seed = user.seed().expect("invariant: a new pair has its seed");
        Mesh::connect(self.broker, &jwt, &seed, None).unwrap_or_else(|why| panic!("{account:?}: {why}"))
    }

    /// The account's own signing key.
    #[must_use]
    pub fn signing(&self, account: In) -> (&str, &KeyPair) {
        let Account { id, signing } = &self.accounts[account as usize];
        (id, signing)
    }

    /// The fleet key.
    #[must_use]
    pub fn fleet_key(&self) -> &SigningKey {
        &self.fleet_key
    }

    /// Signs a document as the coordinator does.
    ///
    /// # Panics
    /// When it is too large.
    #[must_use]
    pub fn sign(&self, document: &DesiredDocument) -> Vec<u8> {
        signed::sign(document, Role::Fleet, &self.fleet_key).expect("it fits")
    }

    /// Signs a command as the coordinator does.
    ///
    /// # Panics
    /// When it is too large.
    #[must_use]
    pub fn sign_command(&self, command: &Command) -> Vec<u8> {
        signed::sign(command, Role::Fleet, &self.fleet_key).expect("it fits")
    }

    /// Opens a document that was signed by the fleet key.
    ///
    /// # Panics
    /// When it was not.
    #[must_use]
    pub fn open(&self, bytes: &[u8]) -> DesiredDocument {
        let key = signed::public_key(&self.fleet_key);
        signed::open(bytes, Role::Fleet, |_, _| Some(key)).expect("a signed document")
    }
}

/// A fleet key that nobody has certified.
#[must_use]
pub fn strangers_key() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}
