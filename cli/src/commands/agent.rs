//! `agent`: makes and publishes releases of the agent; `rollout` rolls them out.
//!
//! Decides: the order. What can be known to be wrong is said before a byte is sent; binaries come before the manifest, so
//! that a release is whole the moment it is there; what is there already is not sent again.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bramble_contracts::{
    api::{BinaryView, ReleaseKeysView, ReleaseView},
    bytes::Sha256,
    release::{Artifact, ReleaseKeys, ReleaseManifest},
    v1::AgentVersion,
};
use reqwest::Method;

use super::{Session, keys, releases::amount, rollout};
use crate::{
    args::{Agent, Global, Release},
    client::ClientError,
    clock,
    exit::{Exit, Failure},
    output::{Printed, note, say},
    release::{Binary, Paper, PrivateKey, Purpose, create},
};

/// How often a binary is sent before it is given up.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Makes or publishes.
pub(super) async fn agent(global: Global, args: Agent) -> Result<Exit, Failure> {
    match args {
        Agent::Manifest { release, version, seq, out, keys } => {
            let keys = release_keys(&keys)?;
            let binaries = read(&release.binaries).await?;
            let manifest = make(&binaries, version, seq, release.min_seq.unwrap_or(1), &release).await?;
            create(&out, &signed(&manifest, &keys)?)?;
            say(&format!("manifest of release {version}, sequence {seq}: {}\n", out.display()))?;
            if keys.is_empty() {
                note(&format!(
                    "Now sign it where the keys are: bramble keys sign {} --key FILE --key FILE",
                    out.display()
                ));
            }
            Ok(Exit::Done)
        }
        Agent::Upgrade(upgrade) => {
            let (request, waits) = upgrade.request();
            rollout::begin(&Session::open(global)?, request, waits).await
        }
        Agent::Publish { release, manifest, version, seq, keys, keys_file } => {
            let binaries = read(&release.binaries).await?;
            let keys = release_keys(&keys)?;
            let trusted = keys_file.as_deref().map(Paper::load_keys).transpose()?;
            let s = Session::open(global)?;
            let trusted = agree(&s, trusted).await?;
            let said = match (manifest, version) {
                (Some(file), _) => Said::Signed(load(&file)?),
                (None, Some(version)) => Said::Wished { version, seq, keys },
                (None, None) => return Err(Failure::Usage("give --version, or --manifest".into())),
            };
            publish(&s, said, &release, &binaries, &trusted).await
        }
    }
}

/// What is to be published.
enum Said {
    /// A manifest that was signed elsewhere.
    Signed(Vec<u8>),
    /// A manifest that is to be made now.
    Wished { version: AgentVersion, seq: Option<u64>, keys: Vec<PrivateKey> },
}

fn release_keys(paths: &[PathBuf]) -> Result<Vec<PrivateKey>, Failure> {
    paths.iter().map(|path| PrivateKey::load_for(path, Purpose::Release)).collect()
}

async fn read(files: &[(Option<bramble_contracts::release::Target>, PathBuf)]) -> Result<Vec<Binary>, Failure> {
    let mut binaries = vec![];
    for (target, path) in files {
        binaries.push(Binary::read(target.clone(), path.clone()).await?);
    }
    Ok(binaries)
}

fn load(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    match Paper::load(file)? {
        Paper::Manifest(bytes, _) => Ok(bytes),
        Paper::Keys(..) => Err(Failure::Usage(format!("{} are release keys, a manifest is wanted", file.display()))),
    }
}

fn artifacts(binaries: &[Binary]) -> Result<Vec<Artifact>, Failure> {
    let mut all = BTreeMap::new();
    for binary in binaries {
        let artifact = binary.artifact()?;
        if let Some(twice) = all.insert(artifact.target.clone(), artifact) {
            return Err(Failure::Usage(format!(
                "two binaries are for {}: a release has one for each target",
                twice.target
            )));
        }
    }
    Ok(all.into_values().collect())
}

async fn make(
    binaries: &[Binary],
    version: AgentVersion,
    release_seq: u64,
    min_seq: u64,
    release: &Release,
) -> Result<ReleaseManifest, Failure> {
    let artifacts = artifacts(binaries)?;
    for binary in binaries {
        binary.check_version(version).await?;
    }
    let created_ms = u64::try_from(clock::now().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Ok(ReleaseManifest {
        product: ReleaseManifest::PRODUCT.to_owned(),
        version,
        release_seq,
        min_seq,
        created_ms,
        expires_ms: created_ms.saturating_add(release.expires.0),
        artifacts,
    })
}

/// Signs it, and reads it back: what is unsound is said here.
fn signed(manifest: &ReleaseManifest, keys: &[PrivateKey]) -> Result<Vec<u8>, Failure> {
    let keys: Vec<_> = keys.iter().map(|key| &key.key).collect();
    let bytes = manifest.sign(&keys).map_err(|err| Failure::Usage(err.to_string()))?;
    ReleaseManifest::open_unsigned(&bytes).map_err(|err| Failure::Usage(err.to_string()))?;
    Ok(bytes)
}

/// The release keys that the coordinator holds; it is given those of the operator where it has none, or older ones.
async fn agree(s: &Session, mine: Option<(Vec<u8>, ReleaseKeys)>) -> Result<ReleaseKeys, Failure> {
    let held: Result<ReleaseKeysView, Failure> = s.client.get(&["releases", "keys"], &vec![]).await;
    let held = match held {
        Ok(view) => Some(view),
        Err(err) if err.exit() == Exit::NotFound => None,
        Err(err) => return Err(err),
    };
    let view = match (held, mine) {
        (Some(view), None) => view,
        (None, None) => {
            let why = "the coordinator has no release keys yet: give --keys-file, or run `bramble keys publish`";
            return Err(Failure::NotFound(why.into()));
        }
        (Some(view), Some((_, mine))) if view.version > mine.version => {
            return Err(Failure::Conflict(format!(
                "the coordinator holds version {} of the release keys, --keys-file is version {}: take the newer file",
                view.version, mine.version
            )));
        }
        (Some(_) | None, Some((bytes, _))) => keys::publish(s, bytes).await?,
    };
    let ReleaseKeysView { version, root, release, .. } = view;
    Ok(ReleaseKeys { version, root, release })
}

async fn publish(
    s: &Session,
    said: Said,
    release: &Release,
    binaries: &[Binary],
    trusted: &ReleaseKeys,
) -> Result<Exit, Failure> {
    let there: Vec<ReleaseView> = s.client.list(&["releases"], &vec![], usize::MAX).await?;
    let bytes = match said {
        Said::Signed(bytes) => bytes,
        Said::Wished { version, seq, keys } => {
            if let Some(same) = there.iter().find(|r| r.version == version) {
                return again(s, same, seq, release, binaries);
            }
            let newest = there.iter().max_by_key(|r| r.release_seq);
            let next = newest.map_or(1, |r| r.release_seq.saturating_add(1));
            let min_seq = release.min_seq.unwrap_or_else(|| newest.map_or(1, |r| r.min_seq));
            let manifest = make(binaries, version, seq.unwrap_or(next), min_seq, release).await?;
            signed(&manifest, &keys)?
        }
    };
    if let Some(same) = there.iter().find(|r| r.manifest == Sha256::of(&bytes)) {
        return tell(s, same, "unchanged");
    }
    let manifest = ReleaseManifest::open(&bytes, trusted).map_err(|err| Failure::Usage(err.to_string()))?;
    for artifact in &manifest.artifacts {
        upload(s, artifact, binaries).await?;
    }
    let view: ReleaseView = s.client.write_bytes(Method::POST, &["releases"], bytes).await?;
    tell(s, &view, "published")
}

/// The version is there: the same again is no change, anything else is a conflict.
fn again(
    s: &Session,
    there: &ReleaseView,
    seq: Option<u64>,
    release: &Release,
    binaries: &[Binary],
) -> Result<Exit, Failure> {
    let same = there.artifacts == artifacts(binaries)?
        && seq.is_none_or(|seq| seq == there.release_seq)
        && release.min_seq.is_none_or(|min| min == there.min_seq);
    if same {
        return tell(s, there, "unchanged");
    }
    Err(Failure::Conflict(format!(
        "release {} is published already with other contents (sequence {}): a version is published once, take the next one",
        there.version, there.release_seq
    )))
}

fn tell(s: &Session, view: &ReleaseView, done: &str) -> Result<Exit, Failure> {
    if s.format.print(view)? == Printed::No {
        let bytes = view.artifacts.iter().map(|a| a.size).sum();
        let (version, seq, count) = (view.version, view.release_seq, view.artifacts.len());
        say(&format!("release/{version} {done}: sequence {seq}, {count} binaries ({})\n", amount(bytes)))?;
    }
    Ok(Exit::Done)
}

/// Sends a binary that is not there yet; one that broke off is sent again from its beginning.
async fn upload(s: &Session, artifact: &Artifact, binaries: &[Binary]) -> Result<(), Failure> {
    let digest = artifact.sha256.to_string();
    let path = ["releases", "blobs", &digest];
    if s.client.has(&path).await? {
        note(&format!("{} is there already", artifact.target));
        return Ok(());
    }
    let Some(binary) = binaries.iter().find(|b| b.sha256 == artifact.sha256) else {
        return Err(Failure::Usage(format!(
            "the manifest has a binary for {} ({digest}) that is neither among the files nor at the coordinator",
            artifact.target
        )));
    };
    note(&format!("sending {}, {}", artifact.target, amount(artifact.size)));
    let mut left = TRIES;
    loop {
        left -= 1;
        let sent: Result<BinaryView, ClientError> = s.client.send_file(&path, &binary.path, binary.size).await;
        match sent {
            Ok(_) => return Ok(()),
            Err(err) if left > 0 && err.may_pass() => {
                note(&format!("warning: {err}; sending it again"));
                tokio::time::sleep(PAUSE).await;
            }
            Err(err) => return Err(err.into()),
        }
    }
}
