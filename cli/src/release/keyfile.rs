//! Private keys as files: one for each, for its owner alone.
//!
//! Decides: the layout. They are not encrypted: they belong on media of their own that lie in a drawer, not on a machine
//! that is connected. Deliberately does not: show a private half, not even in an error about a damaged file.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf, str::FromStr};

use bramble_contracts::{
    bytes::{KeyId, PublicKey, Sha256, key_id},
    signed::public_key,
};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::paper::create;
use crate::{exit::Failure, output::note};

/// A key file is some hundred bytes.
const KEY_FILE_MAX: u64 = 4096;

/// What a key signs: it does one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// The release keys and their next version
    Root,
    /// Manifests of releases
    Release,
}

impl Purpose {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
        }
    }
}

/// A private key and what it is for. It has no `Debug`.
pub(crate) struct PrivateKey {
    /// What it is for.
    pub purpose: Purpose,
    /// Itself.
    pub key: SigningKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    purpose: Purpose,
    public: PublicKey,
    private: Zeroizing<String>,
}

impl PrivateKey {
    /// A new one, from the kernel's randomness.
    pub(crate) fn generate(purpose: Purpose) -> Result<Self, Failure> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|err| Failure::Failed(format!("the kernel gives no randomness: {err}")))?;
        Ok(Self { purpose, key: SigningKey::from_bytes(&seed) })
    }

    pub(crate) fn public(&self) -> PublicKey {
        public_key(&self.key)
    }

    pub(crate) fn id(&self) -> KeyId {
        key_id(&self.public())
    }

    /// Writes it to a file that must not be there yet.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let private = Zeroizing::new(data_encoding::HEXLOWER.encode(&*Zeroizing::new(self.key.to_bytes())));
        let layout = Layout { purpose: self.purpose, public: self.public(), private };
        let head = format!(
            "# Private {} key {} of a Bramble fleet. Keep it on a medium of its own, away from networks and from the other keys.\n",
            self.purpose.word(),
            self.id()
        );
        let text = toml::to_string(&layout).map_err(|_| Failure::Failed("a key cannot be written: a defect".into()))?;
        create(path, Zeroizing::new(format!("{head}{}", *Zeroizing::new(text))).as_bytes())
    }

    /// Reads one.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |err| Failure::Failed(format!("cannot read the key {}: {err}", path.display()));
        let meta = fs::metadata(path).map_err(failed)?;
        // What a parser says would repeat what is in the file.
        let not = || Failure::Usage(format!("{} is no private key of `bramble keys`", path.display()));
        if !meta.is_file() || meta.len() > KEY_FILE_MAX {
            return Err(not());
        }
        if meta.mode() & 0o077 != 0 {
            note(&format!("warning: others can read this private key: chmod 600 {}", path.display()));
        }
        let text = Zeroizing::new(fs::read(path).map_err(failed)?);
        let text = std::str::from_utf8(&text).map_err(|_| not())?;
        let Layout { purpose, public, private } = toml::from_str(text).map_err(|_| not())?;
        let seed = Sha256::from_str(&private).map_err(|_| not())?;
        let key = Self { purpose, key: SigningKey::from_bytes(&Zeroizing::new(seed.0)) };
        if key.public() != public {
            return Err(Failure::Failed(format!("{} is damaged: its halves do not belong together", path.display())));
        }
        Ok(key)
    }

    /// Reads one that must be for `purpose`.
    pub(crate) fn load_for(path: &Path, purpose: Purpose) -> Result<Self, Failure> {
        let key = Self::load(path)?;
        if key.purpose == purpose {
            return Ok(key);
        }
        let (is, want) = (key.purpose.word(), purpose.word());
        Err(Failure::Usage(format!(
            "{} is a {is} key, this is signed by {want} keys: a key has one purpose",
            path.display()
        )))
    }
}

/// A key that joins: the file of its private half, or its public half.
#[derive(Debug, Clone)]
pub(crate) enum NewKey {
    File(PathBuf),
    Public(PublicKey),
}

impl FromStr for NewKey {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::File(text.into()), Self::Public))
    }
}

impl NewKey {
    /// Its public half.
    pub(crate) fn public(&self, purpose: Purpose) -> Result<PublicKey, Failure> {
        match self {
            Self::Public(key) => Ok(*key),
            Self::File(path) => PrivateKey::load_for(path, purpose).map(|key| key.public()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_reads_back_is_never_overwritten_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root-1.key");
        let key = PrivateKey::generate(Purpose::Root).unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = PrivateKey::load_for(&path, Purpose::Root).unwrap();
        assert_eq!((read.purpose, read.id()), (Purpose::Root, key.id()));
        assert!(key.save(&path).unwrap_err().to_string().contains("is there already"));
        let other = PrivateKey::load_for(&path, Purpose::Release).err().unwrap().to_string();
        assert!(other.contains("is a root key"), "{other}");

        let text = fs::read_to_string(&path).unwrap();
        let private = data_encoding::HEXLOWER.encode(&key.key.to_bytes());
        for (from, to, words) in [
            ("private = \"", "private = \"0", "no private key"),
            ("purpose = \"root\"", "purpose = \"time\"", "no private key"),
            ("public = \"", "private = \"", "no private key"),
        ] {
            fs::write(&path, text.replace(from, to)).unwrap();
            let told = PrivateKey::load(&path).err().unwrap().to_string();
            assert!(told.contains(words) && !told.contains(&private[..8]), "{told}");
        }
        let stranger = PrivateKey::generate(Purpose::Root).unwrap().public().to_string();
        fs::write(&path, text.replace(&key.public().to_string(), &stranger)).unwrap();
        assert!(PrivateKey::load(&path).err().unwrap().to_string().contains("do not belong together"));
    }
}
