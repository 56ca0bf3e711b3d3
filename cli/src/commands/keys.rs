//! `keys`: who signs the agent's releases. All of it but `publish` works where no network is.
//!
//! Decides: what is signed by whom, and the words. Deliberately does not: keep a private key anywhere but in its file.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use bramble_contracts::{
    api::ReleaseKeysView,
    bytes::{KeyId, PublicKey, key_id},
    release::{KeyRing, ReleaseKeys, ReleaseManifest, Signed},
};
use reqwest::Method;

use super::{Session, releases};
use crate::{
    args::{Global, Keys, Rotate},
    exit::{Exit, Failure},
    output::{Format, Printed, clean, note, say},
    release::{Paper, PrivateKey, Purpose, create, replace},
};

/// Makes, signs, shows or publishes.
pub(super) async fn keys(global: Global, args: Keys) -> Result<Exit, Failure> {
    match args {
        Keys::Init { out, root_keys, root_threshold, release_keys, release_threshold } => {
            init(&out, (root_keys, root_threshold), (release_keys, release_threshold))
        }
        Keys::New { purpose, out } => {
            let key = PrivateKey::generate(purpose)?;
            key.save(&out)?;
            note(&format!("{} is a private {} key. {WHERE}", out.display(), purpose.word()));
            say(&format!("{}\n", key.public()))?;
            Ok(Exit::Done)
        }
        Keys::Sign { file, keys } => sign(&file, &keys),
        Keys::Rotate(args) => rotate(&args),
        Keys::Show { file: Some(file), keys_file } => show(global.output, &file, keys_file.as_deref()),
        Keys::Show { file: None, .. } => {
            let s = Session::open(global)?;
            let view: ReleaseKeysView = s.client.get(&["releases", "keys"], &vec![]).await?;
            if s.format.print(&view)? == Printed::No {
                say(&held(&view))?;
            }
            Ok(Exit::Done)
        }
        Keys::Publish { file } => {
            let (bytes, _) = Paper::load_keys(&file)?;
            let s = Session::open(global)?;
            let view = publish(&s, bytes).await?;
            if s.format.print(&view)? == Printed::No {
                say(&format!("release-keys/{} published\n", view.version))?;
            }
            Ok(Exit::Done)
        }
    }
}

const WHERE: &str = "It belongs on a medium of its own, away from networks and from the other keys.";

/// Gives the coordinator release keys.
pub(super) async fn publish(s: &Session, bytes: Vec<u8>) -> Result<ReleaseKeysView, Failure> {
    Ok(s.client.write_bytes(Method::PUT, &["releases", "keys"], bytes).await?)
}

// --- Making -------------------------------------------------------------------------------------------------------

fn init(out: &Path, root: (u8, u8), release: (u8, u8)) -> Result<Exit, Failure> {
    for (name, (keys, threshold)) in [("root", root), ("release", release)] {
        if threshold > keys {
            return Err(Failure::Usage(format!("{threshold} of {keys} {name} keys cannot sign: there are fewer")));
        }
    }
    let make = |purpose, n: u8| (0..n).map(|_| PrivateKey::generate(purpose)).collect::<Result<Vec<_>, _>>();
    let (roots, releases) = (make(Purpose::Root, root.0)?, make(Purpose::Release, release.0)?);
    let ring =
        |keys: &[PrivateKey], threshold| KeyRing { keys: keys.iter().map(PrivateKey::public).collect(), threshold };
    let document = ReleaseKeys { version: 1, root: ring(&roots, root.1), release: ring(&releases, release.1) };
    let signers: Vec<_> = roots.iter().map(|root| &root.key).collect();
    let signed = document.sign(&signers).map_err(|err| Failure::Failed(err.to_string()))?;

    let failed = |err: io::Error| match err.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::Conflict(format!("{} is there already: keys are made in a new folder", out.display()))
        }
        _ => Failure::Failed(format!("cannot make {}: {err}", out.display())),
    };
    fs::create_dir(out).map_err(failed)?;
    fs::set_permissions(out, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let mut names = vec![];
    for (n, key) in (1..).zip(&roots).chain((1..).zip(&releases)) {
        let name = format!("{}-{n}.key", key.purpose.word());
        key.save(&out.join(&name))?;
        names.push(format!("  {name:<16} {} key {}, private", key.purpose.word(), key.id()));
    }
    let file = out.join("release-keys");
    create(&file, &signed)?;
    say(&format!(
        "Made in {dir}:\n{names}\n  {file:<16} what all devices know of them, version 1, signed by all root keys\n\
         {roots} of {root_keys} root keys sign the next version of the keys; {releases} of {release_keys} release keys sign a release.\n",
        dir = out.display(),
        names = names.join("\n"),
        file = "release-keys",
        roots = root.1,
        root_keys = root.0,
        releases = release.1,
        release_keys = release.0,
    ))?;
    note(&format!(
        "Now move each .key file to a medium of its own and delete it here: who has enough of them can give every device\n\
         a program. Release keys that are lost are replaced by the root keys (`bramble keys rotate`); when fewer than {} root\n\
         keys are left, every device has to be visited. Then: bramble keys publish {}",
        root.1,
        file.display()
    ));
    Ok(Exit::Done)
}

fn sign(file: &Path, keys: &[std::path::PathBuf]) -> Result<Exit, Failure> {
    let mut paper = Paper::load(file)?;
    let purpose = paper.signed_by();
    // All are read before anything is signed.
    let keys: Vec<PrivateKey> =
        keys.iter().map(|path| PrivateKey::load_for(path, purpose)).collect::<Result<_, _>>()?;
    if let Paper::Keys(_, document) = &paper {
        let listed = |key: &&PrivateKey| !document.root.keys.contains(&key.public());
        for key in keys.iter().filter(listed) {
            note(&format!(
                "note: {} is no root of these keys; it counts where it is a root of the ones before",
                key.id()
            ));
        }
    }
    for key in &keys {
        let bytes = paper.sign(key)?;
        paper = match paper {
            Paper::Keys(_, document) => Paper::Keys(bytes, document),
            Paper::Manifest(_, manifest) => Paper::Manifest(bytes, manifest),
        };
    }
    let (Paper::Keys(bytes, _) | Paper::Manifest(bytes, _)) = &paper;
    replace(file, bytes)?;
    let by: Vec<String> = paper.signers(&[]).into_iter().map(|(id, _)| id.to_string()).collect();
    say(&format!("{}\nsigned by {}\n", title(&paper), by.join(", ")))?;
    Ok(Exit::Done)
}

fn rotate(args: &Rotate) -> Result<Exit, Failure> {
    let (_, old) = Paper::load_keys(&args.file)?;
    let mut new = ReleaseKeys { version: old.version + 1, ..old.clone() };
    for id in &args.remove {
        let before = new.root.keys.len() + new.release.keys.len();
        new.root.keys.retain(|key| key_id(key) != *id);
        new.release.keys.retain(|key| key_id(key) != *id);
        if new.root.keys.len() + new.release.keys.len() == before {
            return Err(Failure::NotFound(format!(
                "{} lists no key {id}: see `bramble keys show`",
                args.file.display()
            )));
        }
    }
    let add = |ring: &mut KeyRing, keys: &[crate::release::NewKey], purpose| -> Result<(), Failure> {
        for key in keys {
            let key = key.public(purpose)?;
            if ring.keys.contains(&key) {
                return Err(Failure::Usage(format!("key {} is listed already", key_id(&key))));
            }
            ring.keys.push(key);
        }
        Ok(())
    };
    add(&mut new.root, &args.add_root, Purpose::Root)?;
    add(&mut new.release, &args.add_release, Purpose::Release)?;
    new.root.threshold = args.root_threshold.unwrap_or(old.root.threshold);
    new.release.threshold = args.release_threshold.unwrap_or(old.release.threshold);
    let signers: Vec<PrivateKey> =
        args.keys.iter().map(|path| PrivateKey::load_for(path, Purpose::Root)).collect::<Result<_, _>>()?;
    for key in &signers {
        if !old.root.keys.contains(&key.public()) && !new.root.keys.contains(&key.public()) {
            return Err(Failure::Usage(format!(
                "key {} is neither an old nor a new root: it signs nothing here",
                key.id()
            )));
        }
    }
    let keys: Vec<_> = signers.iter().map(|key| &key.key).collect();
    let bytes = new.sign(&keys).map_err(|err| Failure::Failed(err.to_string()))?;
    // What is unsound is said before anything is written.
    ReleaseKeys::open_unsigned(&bytes).map_err(|err| Failure::Usage(err.to_string()))?;
    create(&args.out, &bytes)?;
    let missing = [("old", &old.root), ("new", &new.root)].map(|(whose, ring)| missing(whose, ring, &bytes));
    say(&format!("release keys, version {}: {}\n", new.version, args.out.display()))?;
    for words in missing.into_iter().flatten() {
        note(&format!("{words}: bramble keys sign {} --key FILE", args.out.display()));
    }
    Ok(Exit::Done)
}

/// How many signatures are still to come, in words.
fn missing(whose: &str, ring: &KeyRing, bytes: &[u8]) -> Option<String> {
    let signers = ReleaseKeys::signers(bytes, &ring.keys).unwrap_or_default();
    let valid = signers.iter().filter(|(_, signed)| *signed == Signed::Valid).count();
    let left = usize::from(ring.threshold).saturating_sub(valid);
    (left > 0).then(|| format!("{left} more of the {whose} root keys must sign it"))
}

// --- Showing ------------------------------------------------------------------------------------------------------

fn title(paper: &Paper) -> String {
    match paper {
        Paper::Keys(_, keys) => format!("release keys, version {}", keys.version),
        Paper::Manifest(_, manifest) => {
            format!("release {}, sequence {}, for {}", manifest.version, manifest.release_seq, targets(manifest))
        }
    }
}

fn targets(manifest: &ReleaseManifest) -> String {
    manifest.artifacts.iter().map(|a| a.target.to_string()).collect::<Vec<_>>().join(", ")
}

fn rings(root: &KeyRing, release: &KeyRing) -> String {
    let ring = |name: &str, ring: &KeyRing| {
        let keys = ring.keys.iter().map(|key: &PublicKey| format!("    {}  {key}\n", key_id(key))).collect::<String>();
        format!("  {name} keys, {} of {} sign\n{keys}", ring.threshold, ring.keys.len())
    };
    ring("root", root) + &ring("release", release)
}

fn held(view: &ReleaseKeysView) -> String {
    format!(
        "release keys, version {}\n  pin        {}\n  published  {} by {}\n{}",
        view.version,
        view.pin,
        view.published,
        clean(&view.published_by),
        rings(&view.root, &view.release)
    )
}

fn signatures(paper: &Paper, keys: Option<&[PublicKey]>) -> String {
    let line = |(id, signed): (KeyId, Signed)| {
        let worth = match (keys, signed) {
            (None, Signed::Valid | Signed::Invalid | Signed::Unknown) => "not judged: give --keys-file",
            (Some(_), Signed::Valid) => "valid",
            (Some(_), Signed::Invalid) => "INVALID: something was altered",
            (Some(_), Signed::Unknown) => "by a key that is not listed",
        };
        format!("    {id}  {worth}\n")
    };
    let all: String = paper.signers(keys.unwrap_or_default()).into_iter().map(line).collect();
    if all.is_empty() { "  signed by nobody yet\n".to_owned() } else { format!("  signed by\n{all}") }
}

fn show(format: Format, file: &Path, keys_file: Option<&Path>) -> Result<Exit, Failure> {
    if let Ok(key) = PrivateKey::load(file) {
        say(&format!("private {} key {}\n  public half {}\n", key.purpose.word(), key.id(), key.public()))?;
        return Ok(Exit::Done);
    }
    let paper = Paper::load(file)?;
    let text = match &paper {
        Paper::Keys(bytes, keys) => {
            if format.print(keys)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            let pin = if keys.version == 1 {
                ReleaseKeys::pin(bytes).map(|pin| format!("  pin {pin}\n")).unwrap_or_default()
            } else {
                String::new()
            };
            rings(&keys.root, &keys.release) + &pin + &signatures(&paper, Some(&keys.root.keys))
        }
        Paper::Manifest(_, manifest) => {
            if format.print(manifest)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            let keys = keys_file.map(Paper::load_keys).transpose()?.map(|(_, keys)| keys.release.keys);
            releases::made(manifest) + &signatures(&paper, keys.as_deref())
        }
    };
    say(&format!("{}\n{text}", title(&paper)))?;
    Ok(Exit::Done)
}
