//! A rehearsal for a new agent, beside the one that acts: everything that is stored is read as the new one would, and the
//! broker is asked one question in this device's name. Nothing is written, answered or reported.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_contracts::bytes::{Fixed, key_id};
use bramble_contracts::signed::Role;
use bramble_contracts::subjects;
use tokio::sync::{broadcast, mpsc, watch};

use super::board::Board;
use super::connection::{Connector, Inbound};
use super::context::{Context, Settings};
use super::duty::Roster;
use super::guard;
use super::identity::{DeviceKey, Identity, identity_file, trust_file};
use super::refusals::Refusals;
use super::stored::Stored;
use super::trust::Trust;
use crate::core::clock::StoredFloor;
use crate::host::state::{Loaded, StateError};

/// The broker has to answer within this, tries and all.
const ANSWER_MAX: Duration = Duration::from_secs(40);
const TRY_PAUSE: Duration = Duration::from_secs(1);

/// An agent that has read its state and is not connected.
pub(crate) struct Rehearsal(Arc<Context>);

impl Rehearsal {
    /// Reads everything. The error is in words.
    pub(crate) fn read(settings: Settings) -> Result<Self, String> {
        let dir = settings.state_dir.clone();
        let said = |err: &dyn std::error::Error| err.to_string();
        let identity = identity_file(&dir).load_json::<Identity>().map_err(|err| said(&err))?.value();
        let identity = identity.ok_or("this device is not enrolled")?;
        for file in [trust_file(&dir), DeviceKey::file(&dir)] {
            if let Loaded::Missing = file.load().map_err(|err| said(&err))? {
                return Err(format!("{} is not there", file.path().display()));
            }
        }
        let (roster, board) = (Roster::default(), Board::default());
        let trust = Trust::load(&dir, roster.pen()).map_err(|err| said(&err))?.ok_or("no trust document is stored")?;
        guard::floor_file(&dir).load_json::<StoredFloor>().map_err(|err| said(&err))?;
        let context = Context {
            device: identity.device.clone(),
            session: Fixed(super::random::bytes()),
            key: DeviceKey::load_or_make(&dir).map_err(|err| said(&err))?,
            trust,
            refusals: Refusals::load(&dir, roster.pen(), board.clone()).map_err(|err: StateError| said(&err))?,
            pen: roster.pen(),
            board,
            identity: Mutex::new(identity),
            settings,
        };
        Ok(Self(Arc::new(context)))
    }

    /// Verifies the signature of the stored document, if there is one, by the keys that are stored.
    pub(crate) fn verify(&self) -> Result<String, String> {
        let Context { settings, device, trust, .. } = &*self.0;
        let known = |key: &bramble_contracts::bytes::PublicKey| trust.key(Role::Fleet, &key_id(key)).is_some();
        match Stored::new(&settings.state_dir).verified(device, known)? {
            Some(document) => Ok(format!("of the document of generation {} is right", document.generation)),
            None => Ok("of the trust document is right; no other document is stored".into()),
        }
    }

    /// Connects and reads this device's document once.
    pub(crate) async fn ask(&self) -> Result<String, String> {
        let mut last = "nobody was asked".to_owned();
        let asking = async {
            loop {
                match self.ask_once().await {
                    Ok(()) => return,
                    Err(why) => last = why,
                }
                tokio::time::sleep(TRY_PAUSE).await;
            }
        };
        match tokio::time::timeout(ANSWER_MAX, asking).await {
            Ok(()) => Ok("takes this device's connection and answers".into()),
            Err(_) => Err(format!("did not answer within {} s: {last}", ANSWER_MAX.as_secs())),
        }
    }

    async fn ask_once(&self) -> Result<(), String> {
        let inbound = Inbound { pushes: broadcast::Sender::new(1), commands: mpsc::channel(1).0 };
        let connector = Connector::new(self.0.clone(), watch::Sender::default(), inbound);
        let session = connector.open().await.map_err(|err| err.to_string())?;
        let asked = session.client().request(subjects::device_get(&self.0.device), bytes::Bytes::new()).await;
        // 404 is an answer too: no document was ever written.
        let answered = asked.map(drop).map_err(|err| err.to_string());
        super::connection::close(session).await;
        answered
    }
}
