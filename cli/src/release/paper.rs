//! Signed files: release keys and manifests, told apart by what is in them; written so that nothing is lost.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bramble_contracts::{
    bytes::{KeyId, PublicKey},
    release::{MANIFEST_SIGNED_MAX, ReleaseError, ReleaseKeys, ReleaseKeysError, ReleaseManifest, Signed},
};

use super::keyfile::{PrivateKey, Purpose};
use crate::exit::Failure;

/// A signed file, with whatever signatures it has.
#[derive(Debug)]
pub(crate) enum Paper {
    /// Release keys.
    Keys(Vec<u8>, ReleaseKeys),
    /// A manifest.
    Manifest(Vec<u8>, ReleaseManifest),
}

impl Paper {
    /// Reads a file; its signatures are not judged.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |err: io::Error| Failure::Failed(format!("cannot read {}: {err}", path.display()));
        let mut bytes = vec![];
        let most = MANIFEST_SIGNED_MAX as u64 + 1;
        fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
        let wrong = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
        match (ReleaseKeys::open_unsigned(&bytes), ReleaseManifest::open_unsigned(&bytes)) {
            (Ok(keys), _) => Ok(Self::Keys(bytes, keys)),
            (Err(_), Ok(manifest)) => Ok(Self::Manifest(bytes, manifest)),
            (Err(ReleaseKeysError::Layout), Err(ReleaseError::Layout | ReleaseError::TooLarge { .. })) => {
                Err(wrong("it is neither a signed file of release keys nor a signed manifest".to_owned()))
            }
            (Err(ReleaseKeysError::Layout), Err(err)) => Err(wrong(err.to_string())),
            (Err(err), Err(_)) => Err(wrong(err.to_string())),
        }
    }

    /// Release keys that are signed as they must be.
    pub(crate) fn load_keys(path: &Path) -> Result<(Vec<u8>, ReleaseKeys), Failure> {
        let Self::Keys(bytes, _) = Self::load(path)? else {
            return Err(Failure::Usage(format!("{} is a manifest, release keys are wanted", path.display())));
        };
        let keys = ReleaseKeys::open_stored(&bytes);
        let keys = keys.map_err(|err| Failure::Usage(format!("{}: {err}", path.display())))?;
        Ok((bytes, keys))
    }

    /// Who signs such a file.
    pub(crate) fn signed_by(&self) -> Purpose {
        match self {
            Self::Keys(..) => Purpose::Root,
            Self::Manifest(..) => Purpose::Release,
        }
    }

    /// The same with one more signature.
    pub(crate) fn sign(&self, key: &PrivateKey) -> Result<Vec<u8>, Failure> {
        let failed = |err: String| Failure::Failed(err);
        match self {
            Self::Keys(bytes, _) => ReleaseKeys::sign_more(bytes, &key.key).map_err(|err| failed(err.to_string())),
            Self::Manifest(bytes, _) => {
                ReleaseManifest::sign_more(bytes, &key.key).map_err(|err| failed(err.to_string()))
            }
        }
    }

    /// Its signatures, and what they are worth if `keys` may sign it.
    pub(crate) fn signers(&self, keys: &[PublicKey]) -> Vec<(KeyId, Signed)> {
        match self {
            Self::Keys(bytes, _) => ReleaseKeys::signers(bytes, keys).unwrap_or_default(),
            Self::Manifest(bytes, _) => ReleaseManifest::signers(bytes, keys).unwrap_or_default(),
        }
    }
}

/// Writes a new file, for its owner alone; never over one that is there.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(|err| match err.kind() {
        io::ErrorKind::AlreadyExists => Failure::Conflict(format!(
            "{} is there already: it is not overwritten, choose another name",
            path.display()
        )),
        _ => Failure::Failed(format!("cannot write {}: {err}", path.display())),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_dir(path));
    written.map_err(|err| {
        // Half a file would be in the way of the next try.
        let _ = fs::remove_file(path);
        Failure::Failed(format!("cannot write {}: {err}", path.display()))
    })
}

/// Puts a file in the place of an earlier state of itself, as a whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |err: io::Error| Failure::Failed(format!("cannot write {}: {err}", path.display()));
    let mut file = tempfile::NamedTempFile::new_in(folder(path)).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|err| failed(err.error))?;
    sync_dir(path).map_err(failed)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(folder(path))?.sync_all()
}
