//! Enrolment: from a token to an id, a JWT and a trust document.
//!
//! The key is durable before the first request, so a lost answer is asked for again with the same key. Nothing secret
//! is sent before the server has shown the CA and root keys that the token names. Decides nothing about the mesh.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::token::EnrollmentToken;
use bramble_contracts::trust::{TrustDocument, TrustError};
use bramble_contracts::v1::{DeviceFacts, EnrollRequest, EnrollResponse, EnrollState};
use bramble_contracts::v3::NEWEST_DOCUMENT;
use data_encoding::BASE64;
use serde::Deserialize;

use super::board::Board;
use super::http::{Base, Client, HttpError};
use super::identity::{DeviceKey, Identity, IdentityError, Received, identity_file, trust_file};
use super::random;
use super::tls::{self, Dates};
use crate::host::state::StateError;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(120);
const PENDING_MAX: Duration = Duration::from_secs(300);

/// Why a try at enrolment did not work.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token file.
    #[error("cannot read the enrolment token in {}: {why}; write the text that `bramble enroll-token create` prints into it, mode 0600", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// No token, and not enrolled.
    #[error(
        "this device is not enrolled and agent.toml names no token_file; make a token with `bramble enroll-token create`"
    )]
    NoToken,
    /// The exchange.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Another server, or a forged document.
    #[error("the coordinator's trust document is refused: {0}")]
    Trust(#[from] TrustError),
    /// The answer does not hold together.
    #[error("the coordinator's answer to the enrolment is not usable: {0}")]
    Answer(&'static str),
    /// Key or identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// State could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What enrolment needs.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// Where keys and identity go.
    pub state_dir: PathBuf,
    /// Where to ask.
    pub coordinator: Base,
    /// Where the token lies.
    pub token_file: Option<PathBuf>,
    /// What the device would like to be called.
    pub name: Option<Name>,
    /// The machine.
    pub facts: DeviceFacts,
    /// What the clock is worth.
    pub board: Board,
}

/// What one try led to.
enum Try {
    Enrolled(Identity),
    Pending(Duration),
}

impl Enrollment {
    /// Enrols, however long it takes. `told` hears what it waits for.
    pub async fn run(&self, told: impl Fn(&str)) -> Identity {
        let mut failures = 0;
        loop {
            let wait = match self.once().await {
                Ok(Try::Enrolled(identity)) => return identity,
                Ok(Try::Pending(wait)) => {
                    failures = 0;
                    told("waits for approval: `bramble device approve`");
                    random::jittered(wait)
                }
                Err(err) => {
                    failures += 1;
                    tracing::warn!(%err, "enrolment did not work, it is tried again");
                    told(&err.to_string());
                    random::backoff(RETRY_FIRST, RETRY_MAX, failures)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn once(&self) -> Result<Try, EnrollError> {
        let path = self.token_file.as_deref().ok_or(EnrollError::NoToken)?;
        let token = read_token(path)?;
        let key = DeviceKey::load_or_make(&self.state_dir)?;
        let trust = self.fetch_trust(&token).await?;
        let client =
            Client::new(self.coordinator.clone(), || tls::pinned(&trust.ca_bundle, &self.board, &Dates::default()))?;
        let public_key = key.public();
        let request = EnrollRequest {
            token: token.id.clone(),
            secret: token.secret_text().to_string(),
            proof: key.proof(&EnrollRequest::proof_text(&token.id, &public_key)),
            public_key,
            name: self.name.clone(),
            newest_document: NEWEST_DOCUMENT,
            facts: self.facts.clone(),
        };
        let answer: EnrollResponse = client.post("/api/v1/enroll", &request).await?;
        self.take(&token, answer)
    }

    /// The first trust document. It authenticates itself against the token, so the connection need not.
    async fn fetch_trust(&self, token: &EnrollmentToken) -> Result<TrustDocument, EnrollError> {
        #[derive(Deserialize)]
        struct Answer {
            trust: String,
        }
        let client = Client::new(self.coordinator.clone(), tls::unverified)?;
        let answer: Answer = client.get("/api/v1/enroll/trust").await?;
        Ok(TrustDocument::open_pinned(&decode(&answer.trust)?, &token.pin)?)
    }

    fn take(&self, token: &EnrollmentToken, answer: EnrollResponse) -> Result<Try, EnrollError> {
        let jwt = match (answer.state, answer.jwt) {
            (EnrollState::Pending, _) => {
                let wait = Duration::from_secs(u64::from(answer.retry_after_secs.max(1)));
                return Ok(Try::Pending(wait.min(PENDING_MAX)));
            }
            (EnrollState::Active, Some(jwt)) => jwt,
            (EnrollState::Active, None) => return Err(EnrollError::Answer("it is active and brings no JWT")),
        };
        let [newest] = &answer.trust[..] else {
            return Err(EnrollError::Answer("it does not bring exactly one trust document"));
        };
        let trust = decode(newest)?;
        TrustDocument::open_pinned(&trust, &token.pin)?;
        let identity = Identity {
            device: answer.device,
            tenant: answer.tenant,
            name: answer.name,
            jwt,
            received: Received::now(),
        };
        // The identity goes last: where it is, everything is.
        trust_file(&self.state_dir).store(&trust)?;
        identity_file(&self.state_dir).store_json(&identity)?;
        tracing::info!(device = %identity.device, name = %identity.name, "enrolled");
        Ok(Try::Enrolled(identity))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, EnrollError> {
    BASE64.decode(text.as_bytes()).map_err(|_| EnrollError::Answer("the trust document in it is not base64"))
}

fn read_token(path: &Path) -> Result<EnrollmentToken, EnrollError> {
    let fail = |why: String| EnrollError::Token { path: path.to_owned(), why };
    let mode = fs::metadata(path).map_err(|err| fail(err.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail("others than its owner can read it".into()));
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(|err| fail(err.to_string()))?);
    text.parse().map_err(|err: bramble_contracts::token::NotAToken| fail(err.to_string()))
}

/// Overwrites and removes the token: its work is done. Best effort, because it is spent and bound to our key.
pub(crate) fn discard_token(path: &Path) {
    let discard = || {
        let length = fs::metadata(path)?.len().min(4096);
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        file.write_all(&vec![0; usize::try_from(length).unwrap_or(0)])?;
        file.sync_all()?;
        fs::remove_file(path)
    };
    match discard() {
        Ok(()) => tracing::info!(path = %path.display(), "enrolment token removed, it is spent"),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
        Err(err) => tracing::warn!(path = %path.display(), %err, "the spent enrolment token could not be removed"),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Uid;
    use bramble_contracts::bytes::Sha256;

    use super::*;

    #[test]
    fn a_token_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = EnrollmentToken::new(Uid::from_entropy([1; 13]), [2; 20], Sha256::of(b"x"));
        fs::write(&path, token.reveal().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_token(&path), Err(EnrollError::Token { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_token(&path).unwrap().id, token.id);
        discard_token(&path);
        assert!(!path.exists());
        discard_token(&path);
    }

    #[test]
    fn a_bad_token_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "bramble1.hunter2").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let said = read_token(&path).unwrap_err().to_string();
        assert!(said.contains("token") && !said.contains("hunter2"), "{said}");
    }
}
