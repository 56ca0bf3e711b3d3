//! Who asks, and what they may do: the one place where a bearer token becomes a subject with rights.
//!
//! Decides: which tokens count. Only hashes are compared, in constant time. Deliberately does not: know routes.

use std::{collections::BTreeSet, io, path::Path};

use bramble_contracts::{bytes::Sha256, rights::Right};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::keys::{
    FileError, entropy,
    files::{self, at},
};

/// Where the bootstrap administrator's token lies.
pub const ADMIN_FILE: &str = "admin.token";
/// Where further API tokens are listed, with their hashes.
pub const TOKENS_FILE: &str = "api-tokens.json";
/// What every text of ours begins with, so that scanners find leaked ones.
const PREFIX: &str = "brambleadm1.";

/// Somebody who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token or person.
    pub subject: String,
    /// What they may do.
    pub rights: BTreeSet<Right>,
}

#[derive(Debug, Clone)]
struct Known {
    hash: Sha256,
    caller: Caller,
}

/// The tokens that count.
#[derive(Debug, Clone)]
pub struct Auth(Vec<Known>);

/// Why the tokens cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its contents.
    #[error("{} cannot be read: {why}; it holds a list of name, sha256 and rights", path.display())]
    Tokens {
        /// Which.
        path: std::path::PathBuf,
        /// The parser's reason.
        why: String,
    },
}

/// One entry of the tokens' file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listed {
    name: String,
    sha256: Sha256,
    rights: BTreeSet<Right>,
}

impl Auth {
    /// Reads the tokens in `state`; the administrator's is made once.
    pub fn load(state: &Path) -> Result<Self, AuthError> {
        let path = state.join(ADMIN_FILE);
        if !path.exists() {
            let text = Zeroizing::new(format!(
                "{PREFIX}{}\n",
                data_encoding::BASE32_NOPAD.encode(&*Zeroizing::new(entropy::<20>())).to_ascii_lowercase()
            ));
            files::create_once(&path, text.as_bytes())?;
        }
        let text = Zeroizing::new(files::read(&path)?);
        let admin = Caller { subject: "admin".to_owned(), rights: Right::ALL.into_iter().collect() };
        let mut known = vec![Known { hash: Sha256::of(text.trim_ascii()), caller: admin }];
        let path = state.join(TOKENS_FILE);
        let more = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(err) => at("read", &path, Err(err))?,
        };
        let listed: Vec<Listed> = serde_json::from_slice(&more)
            .map_err(|err| AuthError::Tokens { path: path.clone(), why: err.to_string() })?;
        known.extend(
            listed.into_iter().map(|Listed { name, sha256, rights }| Known {
                hash: sha256,
                caller: Caller { subject: name, rights },
            }),
        );
        Ok(Self(known))
    }

    /// Who presents this token, if anybody we know. Every known one is compared, whatever the outcome.
    pub fn caller(&self, token: &str) -> Option<&Caller> {
        let hash = Sha256::of(token.as_bytes());
        let fits = |known: &&Known| bool::from(known.hash.0.ct_eq(&hash.0));
        self.0.iter().filter(fits).map(|known| &known.caller).next_back()
    }
}

/// The token in an `Authorization` header.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_token_is_made_once_and_others_have_only_their_rights() {
        let dir = tempfile::tempdir().unwrap();
        let hash = Sha256::of(b"reader");
        let list = format!(r#"[{{"name":"ci","sha256":"{hash}","rights":["devices:read"]}}]"#);
        std::fs::write(dir.path().join(TOKENS_FILE), list).unwrap();
        let auth = Auth::load(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(ADMIN_FILE)).unwrap();
        let again = Auth::load(dir.path()).unwrap();
        assert_eq!(auth.caller(text.trim()), again.caller(text.trim()));
        assert_eq!(auth.caller(text.trim()).unwrap().rights.len(), Right::ALL.len());
        let reader = auth.caller("reader").unwrap();
        assert_eq!((reader.subject.as_str(), reader.rights.len()), ("ci", 1));
        assert_eq!(auth.caller("nobody"), None);
        assert_eq!(
            (bearer("Bearer x"), bearer("bearer  x"), bearer("Basic x"), bearer("Bearer")),
            (Some("x"), Some("x"), None, None)
        );
    }
}
