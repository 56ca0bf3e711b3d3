//! `keys` and `agent`: who signs the agent's releases, and the releases themselves.

use std::path::PathBuf;

use bramble_contracts::{bytes::KeyId, quantity::Millis, release::Target, v1::AgentVersion};
use clap::{Args, Subcommand};

use crate::release::{NewKey, Purpose};

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Make all keys of a fleet's releases, and the signed file that lists them. Needs no network
    Init {
        /// A folder that is not there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How many root keys
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
        root_keys: u8,
        /// How many of them must sign the keys' next version
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
        root_threshold: u8,
        /// How many release keys
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
        release_keys: u8,
        /// How many of them must sign a release
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
        release_threshold: u8,
    },
    /// Make one private key, for `rotate`. Needs no network
    New {
        /// What it is to sign
        #[arg(value_enum)]
        purpose: Purpose,
        /// A file that is not there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Add signatures to release keys (by root keys) or to a manifest (by release keys). Needs no network
    Sign {
        /// What to sign; its earlier signatures stay
        file: PathBuf,
        /// Private keys
        #[arg(long = "key", required = true, value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Make the next version of the release keys, signed by old and new roots. Needs no network
    Rotate(Rotate),
    /// Say what a file of keys, a manifest or a private key is; without a file, what the coordinator holds
    Show {
        /// Which
        file: Option<PathBuf>,
        /// For a manifest: judge its signatures by these release keys
        #[arg(long, value_name = "FILE", requires = "file")]
        keys_file: Option<PathBuf>,
    },
    /// Give the coordinator the release keys: the first ones, or the next version of those it holds
    Publish {
        /// The signed release keys
        file: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Rotate {
    /// The release keys that count now
    pub file: PathBuf,
    /// A file that is not there yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Private root keys that sign it, of the old and of the new ones; others can `sign` it later
    #[arg(long = "key", required = true, value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Keys that go, by their id
    #[arg(long, value_name = "ID")]
    pub remove: Vec<KeyId>,
    /// A root key that comes: its private file, or its public half
    #[arg(long, value_name = "FILE|HEX")]
    pub add_root: Vec<NewKey>,
    /// A release key that comes: its private file, or its public half
    #[arg(long, value_name = "FILE|HEX")]
    pub add_release: Vec<NewKey>,
    /// How many root keys must sign from now on [default: as before]
    #[arg(long, value_name = "N")]
    pub root_threshold: Option<u8>,
    /// How many release keys must sign from now on [default: as before]
    #[arg(long, value_name = "N")]
    pub release_threshold: Option<u8>,
}

#[derive(Subcommand)]
pub(crate) enum Agent {
    /// Make the manifest of a release, to be signed by `bramble keys sign`. Needs no network
    Manifest {
        #[command(flatten)]
        release: Release,
        /// Its version, such as 1.2.3
        #[arg(long, value_name = "VERSION")]
        version: AgentVersion,
        /// Its sequence: above that of every release before
        #[arg(long, value_name = "N")]
        seq: u64,
        /// A file that is not there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Private release keys that sign it now
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Publish a release: its binaries, then its manifest
    Publish {
        #[command(flatten)]
        release: Release,
        /// A signed manifest, made elsewhere
        #[arg(long, value_name = "FILE", conflicts_with_all = ["version", "keys", "seq", "min_seq"])]
        manifest: Option<PathBuf>,
        /// Its version, such as 1.2.3
        #[arg(long, value_name = "VERSION", required_unless_present = "manifest")]
        version: Option<AgentVersion>,
        /// Its sequence [default: one more than the newest]
        #[arg(long, value_name = "N")]
        seq: Option<u64>,
        /// Private release keys that sign it
        #[arg(long = "key", value_name = "FILE", required_unless_present = "manifest")]
        keys: Vec<PathBuf>,
        /// The signed release keys, given to the coordinator where it has none yet
        #[arg(long, value_name = "FILE")]
        keys_file: Option<PathBuf>,
    },
}

/// What both make a manifest of.
#[derive(Args)]
pub(crate) struct Release {
    /// Devices that take this release take none below this sequence any more [default: as the newest release, or 1]
    #[arg(long, value_name = "N")]
    pub min_seq: Option<u64>,
    /// For how long upgrades to it may begin
    #[arg(long, default_value = "1y", value_name = "DURATION", value_parser = life)]
    pub expires: Millis,
    /// The binaries: PATH where the program says for which machines it is, else TARGET=PATH
    #[arg(required = true, value_name = "[TARGET=]PATH", value_parser = binary)]
    pub binaries: Vec<(Option<Target>, PathBuf)>,
}

/// A duration, years too.
fn life(text: &str) -> Result<Millis, String> {
    let years = text.strip_suffix('y').and_then(|years| years.parse::<u64>().ok());
    let days = |years: u64| years.checked_mul(365).map_or_else(|| text.to_owned(), |days| format!("{days}d"));
    let life: Millis = years
        .map_or_else(|| text.to_owned(), days)
        .parse()
        .map_err(|_| format!("write 1y, 90d or 12h, not {text:.20}"))?;
    if life.0 == 0 { Err("longer than nothing".to_owned()) } else { Ok(life) }
}

fn binary(text: &str) -> Result<(Option<Target>, PathBuf), String> {
    match text.split_once('=') {
        None => Ok((None, text.into())),
        Some((target, path)) => {
            Ok((Some(target.parse().map_err(|err: bramble_contracts::id::Invalid| err.to_string())?), path.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_and_lives_are_read() {
        assert_eq!(binary("a/b"), Ok((None, "a/b".into())));
        let target = "x86_64-unknown-linux-gnu";
        assert_eq!(binary(&format!("{target}=a=b")), Ok((Some(target.parse().unwrap()), "a=b".into())));
        assert!(binary("pi=a").unwrap_err().contains("target triple"));
        assert_eq!(life("1y").map(|l| l.to_string()).as_deref(), Ok("365d"));
        assert_eq!(life("90d").map(|l| l.to_string()).as_deref(), Ok("90d"));
        for bad in ["y", "1", "0d", "99999999999999999999y", "18446744073709551615y"] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }
}
