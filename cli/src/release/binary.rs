//! The binaries of a release as files: their digest, their target, and what they say of themselves.
//!
//! Decides: when a program is asked for its version: only where it can run, and briefly. Deliberately does not: sign.

use std::{path::PathBuf, process::Stdio, time::Duration};

use bramble_contracts::{
    bytes::{Fixed, Sha256},
    release::{ARTIFACT_MAX, Artifact, Target},
    v1::AgentVersion,
};
use sha2::Digest as _;
use tokio::{fs::File, io::AsyncReadExt as _};

use super::elf;
use crate::exit::Failure;

/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// A file and what is in it.
#[derive(Debug)]
pub(crate) struct Binary {
    /// Where.
    pub path: PathBuf,
    /// For which machines, as it says itself.
    said: Option<Target>,
    /// For which machines, as the operator says.
    named: Option<Target>,
    /// Which processor.
    machine: Option<&'static str>,
    /// Bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256,
}

impl Binary {
    /// Reads it once, part by part.
    pub(crate) async fn read(named: Option<Target>, path: PathBuf) -> Result<Self, Failure> {
        let failed = |err: std::io::Error| Failure::Failed(format!("cannot read {}: {err}", path.display()));
        let mut file = File::open(&path).await.map_err(failed)?;
        let (mut digest, mut size, mut head) = (sha2::Sha256::new(), 0u64, vec![]);
        let mut part = vec![0; elf::HEAD];
        loop {
            let len = file.read(&mut part).await.map_err(failed)?;
            if len == 0 {
                break;
            }
            size += len as u64;
            if size > ARTIFACT_MAX {
                let why = format!("{} is larger than the {ARTIFACT_MAX} bytes that devices take", path.display());
                return Err(Failure::Usage(why));
            }
            digest.update(&part[..len]);
            head.extend_from_slice(&part[..len.min(elf::HEAD.saturating_sub(head.len()))]);
        }
        if size == 0 {
            return Err(Failure::Usage(format!("{} is empty", path.display())));
        }
        let sha256 = Fixed(digest.finalize().into());
        Ok(Self { said: elf::target(&head), machine: elf::machine(&head), path, named, size, sha256 })
    }

    /// What a manifest says of it.
    pub(crate) fn artifact(&self) -> Result<Artifact, Failure> {
        let path = self.path.display();
        let target = match (&self.named, &self.said) {
            (Some(named), None) => named.clone(),
            (None, Some(said)) => said.clone(),
            (Some(named), Some(said)) if processor(named) != processor(said) => {
                return Err(Failure::Usage(format!(
                    "{path} is named as {named}, and says itself that it is for {said}"
                )));
            }
            (Some(named), Some(_)) => named.clone(),
            (None, None) => {
                return Err(Failure::Usage(format!(
                    "{path} does not say for which machines it is: write TARGET={path}, such as aarch64-unknown-linux-musl={path}"
                )));
            }
        };
        Ok(Artifact { target, size: self.size, sha256: self.sha256 })
    }

    /// Asks it for its version where it can run here; a program that cannot be asked is believed.
    pub(crate) async fn check_version(&self, version: AgentVersion) -> Result<(), Failure> {
        if self.machine != Some(std::env::consts::ARCH) {
            return Ok(());
        }
        let Some(said) = self.says().await else { return Ok(()) };
        let said = said.trim();
        if said == format!("bramble-agent {version}") {
            return Ok(());
        }
        let said: String = said.chars().take(80).collect();
        let path = self.path.display();
        Err(Failure::Usage(format!(
            "{path} is not bramble-agent {version}: it says {said:?} when it is asked for its version"
        )))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the program starts another; bounded in time and output"
    )]
    async fn says(&self) -> Option<String> {
        let path = std::path::absolute(&self.path).ok()?;
        let mut command = tokio::process::Command::new(path);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let asked = async {
            let mut child = command.env_clear().spawn().ok()?;
            let mut said = vec![];
            child.stdout.take()?.take(1024).read_to_end(&mut said).await.ok()?;
            child.wait().await.ok()?.success().then_some(())?;
            String::from_utf8(said).ok()
        };
        tokio::time::timeout(VERSION_WITHIN, asked).await.ok()?
    }
}

fn processor(target: &Target) -> &str {
    target.as_str().split('-').next().unwrap_or_default()
}
