//! Releases under test: keys, agents of other versions, agents that are wrong in one way each, and how they are published.
//!
//! An agent of another version is the same program with another number stamped into it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use xtask::run::Cmd;

use crate::fleet::Fleet;
use crate::programs::programs;

const MARK: &[u8] = bramble_agent::version::MARK.as_bytes();

/// How an agent is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its self-test fails.
    SelfTest,
    /// It ends as soon as it runs.
    Crash,
    /// It runs and never says that it is ready.
    Hang,
    /// It runs where no network is.
    Deaf,
    /// It is no program.
    Rubbish,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::SelfTest, Self::Crash, Self::Hang, Self::Deaf, Self::Rubbish];
}

/// Who publishes, and with which keys.
pub struct Publisher {
    dir: PathBuf,
    template: OnceLock<Template>,
}

/// The agent under test, and where its version stands.
struct Template {
    bytes: Vec<u8>,
    at: usize,
}

impl Template {
    fn below(dir: &Path) -> Self {
        let path = dir.join("agent");
        // Without what is for debuggers: it is sent many times.
        let strip = Cmd::new("strip").arg("-o").arg(&path).arg(&programs().agent).check();
        strip.unwrap_or_else(|err| panic!("{err}"));
        let bytes = fs::read(&path).expect("it was just written");
        let found = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
        let after = found.map(|(at, _)| at + MARK.len());
        let at: Vec<usize> = after.filter(|at| bytes[*at].is_ascii_digit()).collect();
        let [at] = at[..] else { panic!("the version stands {} times in the program", at.len()) };
        Self { bytes, at }
    }
}

impl Publisher {
    /// Makes all keys of a fleet's releases.
    ///
    /// # Panics
    /// When the command line refuses.
    #[must_use]
    pub fn new(fleet: &Fleet) -> Self {
        let dir = fleet.case().subdir("releases");
        fleet.bramble().ok(&["keys", "init", "--out", &dir.join("keys").display().to_string()]);
        Self { dir, template: OnceLock::new() }
    }

    /// The agent under test, as this version.
    ///
    /// # Panics
    /// When the version is not as long as the one it has.
    #[must_use]
    pub fn agent(&self, version: &str) -> PathBuf {
        let Template { bytes, at } = self.template.get_or_init(|| Template::below(&self.dir));
        let place = *at..at + version.len();
        let is_number = |b: &u8| b.is_ascii_digit() || *b == b'.';
        assert!(
            bytes[place.clone()].iter().all(is_number) && !is_number(&bytes[place.end]),
            "{version} has another length"
        );
        let mut bytes = bytes.clone();
        bytes[place].copy_from_slice(version.as_bytes());
        let path = self.dir.join(format!("agent-{version}"));
        write_program(&path, &bytes);
        path
    }

    /// An agent of this version that is wrong.
    #[must_use]
    pub fn bad_agent(&self, version: &str, fault: Fault) -> PathBuf {
        let good = self.agent(version).display().to_string();
        let script = match fault {
            Fault::SelfTest => "if [ \"$1\" = self-test ]; then echo broken by a test; exit 1; fi; exec GOOD \"$@\"",
            Fault::Crash => "if [ \"$1\" = run ]; then exit 3; fi; exec GOOD \"$@\"",
            Fault::Hang => "if [ \"$1\" = run ]; then exec sleep 100000; fi; exec GOOD \"$@\"",
            Fault::Deaf => "if [ \"$1\" = run ]; then exec unshare --net GOOD \"$@\"; fi; exec GOOD \"$@\"",
            Fault::Rubbish => "",
        };
        let text = match fault {
            Fault::Rubbish => "\u{7f}ELF, and then nothing of use\n".to_owned(),
            Fault::SelfTest | Fault::Crash | Fault::Hang | Fault::Deaf => {
                format!("#!/bin/sh\n{}\n", script.replace("GOOD", &good))
            }
        };
        let path = self.dir.join(format!("agent-{version}-{fault:?}"));
        write_program(&path, text.as_bytes());
        path
    }

    /// Publishes a binary as a version.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn publish(&self, fleet: &Fleet, version: &str, binary: &Path) {
        let key = |n: u32| self.dir.join(format!("keys/release-{n}.key")).display().to_string();
        let keys = self.dir.join("keys/release-keys").display().to_string();
        let binary = format!("{}={}", bramble_agent::version::target(), binary.display());
        let words = [
            "agent",
            "publish",
            "--version",
            version,
            "--keys-file",
            &keys,
            "--key",
            &key(1),
            "--key",
            &key(2),
            &binary,
        ];
        fleet.bramble().ok(&words);
    }
}

fn write_program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the case's folder can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}
