//! Where the coordinator is and what opens it: arguments over environment over `~/.config/bramble/config.toml`.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bramble_contracts::Tenant;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What went wrong with our configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// No home.
    #[error("there is no home directory to keep the configuration in: set HOME, or give --api and BRAMBLE_TOKEN")]
    NoHome,
    /// It is there and cannot be read.
    #[error("cannot read {}: {err}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        err: io::Error,
    },
    /// It cannot be understood.
    #[error("{}:{line}: {message}: correct it, or make it anew by `bramble login`", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why.
        message: String,
    },
    /// It cannot be written.
    #[error("cannot write {}: {err}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        err: io::Error,
    },
    /// Nobody said where the coordinator is.
    #[error("no coordinator is known: run `bramble login --api URL`, or give --api or BRAMBLE_API")]
    NoApi,
    /// That is no address.
    #[error("{text:?} is not the address of a coordinator: give http://HOST:PORT or https://HOST:PORT ({why})")]
    BadApi {
        /// What was given.
        text: String,
        /// Why not.
        why: String,
    },
    /// The CA file does not hold certificates.
    #[error("cannot take CA certificates (PEM) from {}: {why}", path.display())]
    BadCa {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// A token, never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text out of sight; blanks around it are not part of a token.
    pub(crate) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }
    /// For the one header it goes into.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Address of the coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Certificates that it is checked against, instead of the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whose things are meant when nothing else says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// Who else may read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// Nobody, or there is no file.
    Private,
    /// Others on this machine.
    Open,
}

/// Where the file is.
pub(crate) fn path() -> Result<PathBuf, ConfigError> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").filter(|h| !h.is_empty()).map(|h| Path::new(&h).join(".config"));
    Ok(base.or_else(home).ok_or(ConfigError::NoHome)?.join("bramble/config.toml"))
}

impl File {
    /// What the file says; nothing when there is none.
    pub(crate) fn load() -> Result<Self, ConfigError> {
        match path() {
            Ok(path) => Self::load_from(&path),
            // Without a home, arguments and environment can still say everything.
            Err(_) => Ok(Self::default()),
        }
    }

    fn load_from(path: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(err) => return Err(ConfigError::Read { path: path.to_owned(), err }),
        };
        toml::from_str(&text).map_err(|err| {
            let before = err.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
            let line = before.matches('\n').count() + 1;
            // The message alone: the whole error quotes the line, which may hold the token.
            ConfigError::Parse { path: path.to_owned(), line, message: err.message().to_owned() }
        })
    }

    /// Writes it, readable by its owner alone, and whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |err| ConfigError::Write { path: path.to_owned(), err };
        let dir = path.parent().expect("invariant: the path ends in bramble/config.toml");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let text = Zeroizing::new(toml::to_string(self).expect("invariant: texts fit TOML"));
        // Made with mode 0600 by tempfile.
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        file.write_all(b"# Made by `bramble login`. It holds a token: keep it private.\n").map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|err| failed(err.error))?;
        Ok(())
    }
}

/// Can others on this machine read the token?
pub(crate) fn privacy(path: &Path) -> Privacy {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Privacy::Open,
        Ok(_) | Err(_) => Privacy::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_private_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bramble/config.toml");
        let file = File {
            api: Some("https://fleet.example:7980".into()),
            token: Some(Secret::new(" s3cret\n")),
            ..File::default()
        };
        file.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(privacy(&path), Privacy::Private);
        let again = File::load_from(&path).unwrap();
        assert_eq!((again.api, again.token.unwrap().reveal()), (file.api, "s3cret"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(privacy(&path), Privacy::Open);
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line_and_without_its_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "api = \"http://x\"\ntoken = s3cret\n").unwrap();
        let told = File::load_from(&path).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{}:2: ", path.display())), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "Secret(…)");
    }
}
