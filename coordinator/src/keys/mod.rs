//! The keys of the fleet and everything that is signed with them.
//!
//! Decides: which keys exist, where they lie (`<state>/keys`, 0700, files 0600, outside JetStream), and what each may
//! sign. Deliberately does not: talk to a broker, or decide who may have a JWT; `domain` and `http` do.

pub mod accounts;
pub mod ca;
pub mod files;
pub mod jwt;
mod quarantine;
pub mod trust;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{
    DeviceId,
    bytes::{PublicKey, Sha256},
    envelope::EncodeError,
    release::ReleaseTimestamp,
    signed::{self, Role},
    trust::TrustDocument,
    v1::{Command, SignedTime, TimeNonce},
    v2::CommandInput,
};
use ed25519_dalek::SigningKey;
use nkeys::{KeyPair, KeyPairType};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

pub use accounts::{Quarantined, Revocations};
pub use ca::{Ca, CaError, ServerCert};
pub use files::FileError;
pub use jwt::JwtError;
pub use trust::{Addresses, Chain, ChainError};

use self::accounts::Pair;
use crate::clock;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that does not hold the key its name says.
    #[error("{} does not hold a key: restore the keys folder from a backup; new keys would mean to enrol every device again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// Certificates.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The CA file of the broker.
    #[error("the CA file of the NATS server (--nats-ca) holds no PEM certificate, or a damaged one")]
    BrokerCa,
    /// The trust document.
    #[error(transparent)]
    Trust(#[from] ChainError),
}

/// Identity and signing key of an account.
struct Account {
    identity: KeyPair,
    signing: KeyPair,
}

impl Account {
    fn id(&self) -> String {
        self.identity.public_key()
    }
    fn signing_id(&self) -> String {
        self.signing.public_key()
    }
}

/// Credentials of a user of ours: made for this process, never stored.
#[derive(Clone)]
pub struct Creds {
    /// Its JWT.
    pub jwt: String,
    /// Its key.
    pub key: Arc<KeyPair>,
}

impl fmt::Debug for Creds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Creds({}, jwt and key hidden)", self.key.public_key())
    }
}

/// The three accounts as signed JWTs, ready for a broker.
#[derive(Debug, Clone)]
pub struct AccountJwts {
    /// The broker's own account.
    pub sys: String,
    /// Coordinators and JetStream.
    pub fleet: String,
    /// Devices.
    pub dev: String,
}

/// Every key of the fleet. `Debug` shows public halves only.
pub struct Keys {
    dir: PathBuf,
    operator: Account,
    sys: Account,
    fleet: Account,
    dev: Account,
    fleet_key: SigningKey,
    time_key: SigningKey,
    ca: Ca,
    chain: Chain,
    quarantined: RwLock<Quarantined>,
    /// Cut off besides: see [`Keys::set_also_cut`].
    also_cut: RwLock<Revocations>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, operator {}, pin {})", self.dir.display(), self.operator.id(), self.pin())
    }
}

const NKEYS: [(&str, KeyPairType); 8] = [
    ("operator.nk", KeyPairType::Operator),
    ("operator-signing.nk", KeyPairType::Operator),
    ("sys.nk", KeyPairType::Account),
    ("sys-signing.nk", KeyPairType::Account),
    ("fleet.nk", KeyPairType::Account),
    ("fleet-signing.nk", KeyPairType::Account),
    ("dev.nk", KeyPairType::Account),
    ("dev-signing.nk", KeyPairType::Account),
];
const FLEET_KEY: &str = "fleet.ed25519";
const TIME_KEY: &str = "time.ed25519";
const ROOT_KEY: &str = "root.ed25519";
const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// Random bytes from the system.
pub fn entropy<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("invariant: Linux always has random bytes once it has booted");
    bytes
}

/// A short random text for names that must differ.
pub fn random_text() -> String {
    data_encoding::HEXLOWER.encode(&entropy::<6>())
}

/// Writes a whole new set of keys beside `dir`, then renames it: there is no half set.
fn generate(dir: &Path) -> Result<(), KeysError> {
    // First, because it fails where the clock is wrong, and nothing must be left then.
    let (cert, key) = Ca::generate(clock::now())?;
    let parent = dir.parent().unwrap_or(Path::new("/"));
    files::private_dir(parent)?;
    let temp = parent.join(format!(".keys.new.{}", random_text()));
    files::private_dir(&temp)?;
    for (name, kind) in NKEYS {
        let seed = KeyPair::new(kind).seed().map(Zeroizing::new).expect("invariant: a new pair has its seed");
        files::create(&temp.join(name), seed.as_bytes())?;
    }
    for name in [FLEET_KEY, TIME_KEY, ROOT_KEY] {
        let secret = Zeroizing::new(entropy::<32>());
        let text = Zeroizing::new(data_encoding::HEXLOWER.encode(&*secret));
        files::create(&temp.join(name), text.as_bytes())?;
    }
    files::create(&temp.join(CA_CERT), cert.as_bytes())?;
    files::create(&temp.join(CA_KEY), key.as_bytes())?;
    files::create(&temp.join(quarantine::FILE), &quarantine::bytes(&BTreeMap::new()))?;
    trust::make_dir(&temp)?;
    files::sync_dir(&temp)?;
    match fs::rename(&temp, dir) {
        Ok(()) => {
            files::sync_dir(parent)?;
            tracing::info!(dir = %dir.display(), "made the fleet's keys");
            Ok(())
        }
        // Another coordinator was faster: its set counts.
        Err(err) if matches!(err.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            files::at("remove", &temp, fs::remove_dir_all(&temp)).map_err(KeysError::File)
        }
        Err(err) => files::at("create", dir, Err(err)).map_err(KeysError::File),
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let damaged = || KeysError::Damaged { path: path.to_owned() };
    let text = Zeroizing::new(String::from_utf8(files::read(path)?).map_err(|_| damaged())?);
    Ok(text)
}

fn nkey(dir: &Path, name: &str, kind: &KeyPairType) -> Result<KeyPair, KeysError> {
    let path = dir.join(name);
    let text = read_text(&path)?;
    let pair = KeyPair::from_seed(text.trim()).ok().filter(|pair| pair.key_pair_type() == *kind);
    pair.ok_or(KeysError::Damaged { path })
}

fn account(dir: &Path, first: usize) -> Result<Account, KeysError> {
    let key = |i: usize| nkey(dir, NKEYS[i].0, &NKEYS[i].1);
    Ok(Account { identity: key(first)?, signing: key(first + 1)? })
}

fn ed25519(path: &Path) -> Result<SigningKey, KeysError> {
    let text = read_text(path)?;
    let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new).ok();
    let seed = bytes.and_then(|b| <[u8; 32]>::try_from(b.as_slice()).ok()).map(Zeroizing::new);
    seed.map(|s| SigningKey::from_bytes(&s)).ok_or_else(|| KeysError::Damaged { path: path.to_owned() })
}

/// The authorities whose servers devices believe: ours, and the broker's where it has another one.
fn bundle(ca: &Ca, broker_ca: Option<&str>) -> Result<String, KeysError> {
    let Some(theirs) = broker_ca else { return Ok(ca.pem().to_owned()) };
    let certs: Vec<_> = CertificateDer::pem_slice_iter(theirs.as_bytes()).collect();
    if certs.is_empty() || certs.iter().any(Result::is_err) {
        return Err(KeysError::BrokerCa);
    }
    let mut bundle = ca.pem().to_owned();
    // Certificates only: a CA file may have text, or even a key, beside them.
    for cert in certs.into_iter().flatten() {
        let text = data_encoding::BASE64.encode(&cert);
        bundle.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            bundle.push_str(std::str::from_utf8(line).expect("invariant: base64 is ASCII"));
            bundle.push('\n');
        }
        bundle.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(bundle)
}

impl Keys {
    /// Reads the keys in `dir`, or makes them if there are none at all. A new trust document is signed when the
    /// addresses or the CA differ from what the newest one says.
    pub fn load_or_create(dir: &Path, addresses: &Addresses) -> Result<Self, KeysError> {
        Self::load_or_create_with(dir, addresses, None)
    }

    /// The same, where the broker's certificate comes from somebody else: devices trust `broker_ca` (PEM) besides ours.
    pub fn load_or_create_with(dir: &Path, addresses: &Addresses, broker_ca: Option<&str>) -> Result<Self, KeysError> {
        if !dir.exists() {
            generate(dir)?;
        }
        let trust_dir = dir.join("trust");
        trust::make_dir(dir)?;
        let (fleet_key, time_key) = (ed25519(&dir.join(FLEET_KEY))?, ed25519(&dir.join(TIME_KEY))?);
        // The root key may be kept elsewhere once the first trust document exists.
        let root = dir.join(ROOT_KEY);
        let roots = if root.exists() { vec![ed25519(&root)?] } else { vec![] };
        let ca = Ca::load(read_text(&dir.join(CA_CERT))?.to_string(), &read_text(&dir.join(CA_KEY))?)?;
        let mut listed: Vec<_> = roots.iter().map(|key| trust::listed(Role::Root, key)).collect();
        listed.push(trust::listed(Role::Fleet, &fleet_key));
        listed.push(trust::listed(Role::Time, &time_key));
        let ca_bundle = if addresses.uses_tls() { bundle(&ca, broker_ca)? } else { String::new() };
        let chain =
            trust::Wanted { keys: listed, ca_bundle: &ca_bundle, addresses, roots: &roots }.ensure(&trust_dir)?;
        Ok(Self {
            operator: account(dir, 0)?,
            sys: account(dir, 2)?,
            fleet: account(dir, 4)?,
            dev: account(dir, 6)?,
            quarantined: RwLock::new(quarantine::load(dir, clock::unix_secs())),
            also_cut: RwLock::default(),
            dir: dir.to_owned(),
            fleet_key,
            time_key,
            ca,
            chain,
        })
    }

    /// The newest trust document, signed.
    pub fn trust(&self) -> &[u8] {
        self.chain.newest_bytes()
    }

    /// The newest trust document.
    pub fn trust_document(&self) -> &TrustDocument {
        self.chain.newest()
    }

    /// The trust documents after `version`, in order, at most eight.
    pub fn trust_chain_after(&self, version: u64) -> Vec<Vec<u8>> {
        self.chain.after(version)
    }

    /// What enrolment tokens pin.
    pub fn pin(&self) -> Sha256 {
        self.chain.newest().pin()
    }

    /// The certificate authority.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Public half of the key that signs documents and commands.
    pub fn fleet_public(&self) -> PublicKey {
        signed::public_key(&self.fleet_key)
    }

    /// Signs a desired document.
    pub fn sign_desired(&self, document: &DesiredDocument) -> Result<Vec<u8>, EncodeError> {
        document.sign(&self.fleet_key)
    }

    /// Opens a desired document that this fleet signed (one a device handed back).
    pub fn open_desired(&self, bytes: &[u8]) -> Result<DesiredDocument, signed::VerifyError> {
        signed::open(bytes, Role::Fleet, |role, id| self.trust_document().key(role, id))
    }

    /// Signs a command.
    pub fn sign_command(&self, command: &Command) -> Result<Vec<u8>, EncodeError> {
        signed::sign(command, Role::Fleet, &self.fleet_key)
    }

    /// Signs a frame of terminal input.
    pub fn sign_input(&self, input: &CommandInput) -> Result<Vec<u8>, EncodeError> {
        signed::sign(input, Role::Fleet, &self.fleet_key)
    }

    /// Signs the time, which is read as late as can be: what is signed is now.
    pub fn sign_time(&self, device: DeviceId, nonce: TimeNonce) -> Result<Vec<u8>, EncodeError> {
        signed::sign(&SignedTime { device, nonce, unix_ms: clock::unix_ms() }, Role::Time, &self.time_key)
    }

    /// Vouches for a release.
    pub fn sign_timestamp(&self, stamp: &ReleaseTimestamp) -> Result<Vec<u8>, EncodeError> {
        signed::sign(stamp, Role::Time, &self.time_key)
    }

    /// A user JWT for a device's own public nkey.
    pub fn device_jwt(&self, device: &DeviceId, public_key: &str, ttl: Duration) -> Result<String, JwtError> {
        self.device_jwt_at(device, public_key, clock::unix_secs(), ttl)
    }

    /// The same, at a given second.
    pub fn device_jwt_at(&self, device: &DeviceId, key: &str, now: u64, ttl: Duration) -> Result<String, JwtError> {
        jwt::check_user_key(key)?;
        let expires = Some(now + ttl.as_secs().max(1));
        let head = jwt::Head { subject: key, name: device.as_str(), issued_at: now, expires };
        Ok(jwt::encode(&self.dev.signing, &head, &accounts::device(&self.dev.id(), device)))
    }

    fn insider(&self, account: &Account, name: &str) -> Creds {
        let key = KeyPair::new_user();
        let subject = key.public_key();
        let head = jwt::Head { subject: &subject, name, issued_at: clock::unix_secs(), expires: None };
        let jwt = jwt::encode(&account.signing, &head, &accounts::insider(&account.id()));
        Creds { jwt, key: Arc::new(key) }
    }

    /// For a connection in FLEET.
    pub fn coordinator_creds(&self) -> Creds {
        self.insider(&self.fleet, "coordinator")
    }

    /// For a connection in SYS.
    pub fn sys_creds(&self) -> Creds {
        self.insider(&self.sys, "coordinator-sys")
    }

    /// Public id of the operator.
    pub fn operator_id(&self) -> String {
        self.operator.id()
    }

    /// Public id of the SYS account.
    pub fn sys_id(&self) -> String {
        self.sys.id()
    }

    /// Public id of the FLEET account.
    pub fn fleet_id(&self) -> String {
        self.fleet.id()
    }

    /// Public id of the DEV account.
    pub fn dev_id(&self) -> String {
        self.dev.id()
    }

    /// The operator's JWT.
    pub fn operator_jwt(&self) -> String {
        let id = self.operator.id();
        // Constant, so that the same keys always give the same configuration.
        let head = jwt::Head { subject: &id, name: "bramble", issued_at: 1, expires: None };
        jwt::encode(&self.operator.identity, &head, &accounts::operator(&self.sys.id(), &self.operator.signing_id()))
    }

    /// The accounts, issued at `issued_at`; the device account carries what is quarantined now.
    pub fn account_jwts(&self, issued_at: u64) -> AccountJwts {
        let also = self.also_cut.read().expect("invariant: nobody panics while holding it").clone();
        let quarantined = self.quarantined();
        let (fleet, dev) = (self.fleet.id(), self.dev.id());
        let pair = Pair { fleet: &fleet, dev: &dev };
        let issue = |account: &Account, name: &str, nats: &serde_json::Value| {
            let id = account.id();
            let head = jwt::Head { subject: &id, name, issued_at, expires: None };
            jwt::encode(&self.operator.signing, &head, nats)
        };
        AccountJwts {
            sys: issue(&self.sys, "SYS", &accounts::sys(&self.sys.signing_id())),
            fleet: issue(&self.fleet, "FLEET", &accounts::fleet(&self.fleet.signing_id(), pair)),
            dev: issue(&self.dev, "DEV", &accounts::dev(&self.dev.signing_id(), pair, &quarantined, &also)),
        }
    }

    /// Which device keys are cut off, as the file beside the keys says.
    pub fn quarantined(&self) -> Quarantined {
        self.quarantined.read().expect("invariant: nobody panics while holding it").clone()
    }

    /// What the accounts refuse besides the list: what a broker was found to refuse already, while it is not certain
    /// that the list is all there is to know. Not stored; [`Keys::set_quarantined`] ends it.
    pub fn set_also_cut(&self, also: Revocations) {
        *self.also_cut.write().expect("invariant: nobody panics while holding it") = also;
    }

    /// Writes the whole list of quarantined keys; durable when it returns.
    pub fn set_quarantined(&self, keys: &BTreeMap<String, u64>) -> Result<(), FileError> {
        let mut now = self.quarantined.write().expect("invariant: nobody panics while holding it");
        if *now != Quarantined::Known(keys.clone()) {
            quarantine::store(&self.dir, keys)?;
            *now = Quarantined::Known(keys.clone());
        }
        self.set_also_cut(Revocations::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn addresses() -> Addresses {
        Addresses { coordinators: vec!["http://127.0.0.1:1".into()], brokers: vec!["nats://127.0.0.1:2".into()] }
    }

    #[test]
    fn keys_are_made_once_private_and_read_back() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("state/keys");
        let one = Keys::load_or_create(&dir, &addresses()).unwrap();
        let two = Keys::load_or_create(&dir, &addresses()).unwrap();
        assert_eq!((one.pin(), one.trust()), (two.pin(), two.trust()));
        assert_eq!(one.operator_jwt(), two.operator_jwt());
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        for file in fs::read_dir(&dir).unwrap().map(Result::unwrap).filter(|f| f.file_type().unwrap().is_file()) {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
        assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_half_set_is_an_error_and_never_replaced() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("keys");
        Keys::load_or_create(&dir, &addresses()).unwrap();
        fs::write(dir.join("dev.nk"), "rubbish").unwrap();
        let err = Keys::load_or_create(&dir, &addresses()).unwrap_err();
        assert!(matches!(&err, KeysError::Damaged { path } if path.ends_with("dev.nk")), "{err}");
        fs::remove_file(dir.join("dev.nk")).unwrap();
        assert!(matches!(Keys::load_or_create(&dir, &addresses()), Err(KeysError::File(_))));
    }

    #[test]
    fn racing_coordinators_end_with_the_same_keys() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("keys");
        let run = || Keys::load_or_create(&dir, &addresses()).unwrap().operator_id();
        let ids: Vec<String> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|_| s.spawn(run)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn the_ca_is_in_the_pin_only_where_it_is_used() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("keys");
        let plain = Keys::load_or_create(&dir, &addresses()).unwrap();
        assert!(plain.trust_document().ca_bundle.is_empty());
        let moved = Addresses { brokers: vec!["tls://fleet.example:4222".into()], ..addresses() };
        let secure = Keys::load_or_create(&dir, &moved).unwrap();
        assert!(secure.trust_document().ca_bundle.starts_with("-----BEGIN CERTIFICATE"));
        let next = plain.trust_document().open_next(&secure.trust_chain_after(1)[0]).unwrap();
        assert_eq!(next.brokers, moved.brokers);
    }

    #[test]
    fn the_ca_of_a_foreign_broker_is_told_to_devices_in_a_new_trust_version() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("keys");
        let far = Addresses { brokers: vec!["tls://nats.example:4222".into()], ..addresses() };
        let ours = Keys::load_or_create(&dir, &far).unwrap();
        let (theirs, _) = Ca::generate(clock::now()).unwrap();
        let file = format!("subject=/CN=theirs\n{theirs}");
        let both = Keys::load_or_create_with(&dir, &far, Some(&file)).unwrap();
        assert_eq!(both.trust_document().version, ours.trust_document().version + 1);
        let next = ours.trust_document().open_next(&both.trust_chain_after(1)[0]).unwrap();
        let told: Vec<_> = CertificateDer::pem_slice_iter(next.ca_bundle.as_bytes()).map(Result::unwrap).collect();
        let want = [both.ca().pem(), &theirs].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
        assert_eq!(told, want);
        let again = Keys::load_or_create_with(&dir, &far, Some(&file)).unwrap();
        assert_eq!(again.trust_document().version, next.version, "nothing new: no new version");
        for bad in ["", "rubbish"] {
            assert!(matches!(Keys::load_or_create_with(&dir, &far, Some(bad)), Err(KeysError::BrokerCa)), "{bad:?}");
        }
    }

    fn user_seed_len() -> usize {
        KeyPair::new_user().seed().unwrap().len()
    }

    #[test]
    fn a_device_jwt_names_one_device_and_ends() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(&state.path().join("keys"), &addresses()).unwrap();
        let device = DeviceId::from_entropy([3; 13]);
        let user = KeyPair::new_user().public_key();
        let token = keys.device_jwt_at(&device, &user, 100, Duration::from_secs(50)).unwrap();
        let claims = jwt::decode(&token).unwrap();
        assert_eq!((&claims["sub"], &claims["exp"], &claims["iat"]), (&user.into(), &150.into(), &100.into()));
        assert_eq!(claims["nats"]["issuer_account"], keys.dev_id());
        assert!(
            claims["nats"]["pub"]["allow"]
                .as_array()
                .unwrap()
                .iter()
                .all(|s| s.as_str().unwrap().contains(device.as_str()))
        );
        assert!(keys.device_jwt(&device, "not a key", Duration::from_secs(1)).is_err());
        // A seed is S and 57 letters; public keys, which are shown, hold an S as any other letter.
        let shown = format!("{keys:?}");
        let seed = |word: &str| word.starts_with('S') && word.len() == user_seed_len();
        assert!(!shown.split(|c: char| !c.is_ascii_alphanumeric()).any(seed), "{shown}");
    }

    #[test]
    fn the_quarantine_list_survives_and_its_loss_cuts_everybody() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("keys");
        let keys = Keys::load_or_create(&dir, &addresses()).unwrap();
        assert_eq!(keys.quarantined(), Quarantined::Known(BTreeMap::new()));
        let list = BTreeMap::from([("UX".to_owned(), 7)]);
        keys.set_quarantined(&list).unwrap();
        let again = Keys::load_or_create(&dir, &addresses()).unwrap();
        assert_eq!(again.quarantined(), Quarantined::Known(list));
        let dev = jwt::decode(&again.account_jwts(1).dev).unwrap();
        assert!(accounts::revoked(&dev["nats"]).keys().eq(["UX"]));
        fs::remove_file(dir.join(quarantine::FILE)).unwrap();
        let lost = Keys::load_or_create(&dir, &addresses()).unwrap();
        let dev = jwt::decode(&lost.account_jwts(1).dev).unwrap();
        assert!(accounts::revoked(&dev["nats"]).keys().eq(["*"]));
        lost.set_also_cut(Revocations::from([("UY".to_owned(), 9), ("*".to_owned(), 3)]));
        let dev = jwt::decode(&lost.account_jwts(1).dev).unwrap();
        let both = accounts::revoked(&dev["nats"]);
        assert!(both.keys().eq(["*", "UY"]) && both["*"] > 3, "the later second counts: {both:?}");
        lost.set_quarantined(&BTreeMap::new()).unwrap();
        assert!(accounts::revoked(&jwt::decode(&lost.account_jwts(1).dev).unwrap()["nats"]).is_empty());
    }
}
