//! The programs under test: built once for each test program, found in cargo's target folder.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use xtask::run::Cmd;
use xtask::{paths, prepare};

/// The programs.
#[derive(Debug)]
pub struct Programs {
    /// `bramble-coordinator`
    pub coordinator: PathBuf,
    /// `bramble-agent`
    pub agent: PathBuf,
    /// `bramble`
    pub bramble: PathBuf,
    /// `nats-server`
    pub nats_server: PathBuf,
}

/// The programs; the first call builds them and makes the machine ready.
///
/// # Panics
/// When the build fails, or this is not root.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        machine();
        if std::env::var_os("BRAMBLE_BIN_DIR").is_none() {
            build();
        }
        let nats_server = prepare::nats_server();
        Programs {
            coordinator: place("bramble-coordinator"),
            agent: place("bramble-agent"),
            bramble: place("bramble"),
            nats_server: nats_server.unwrap_or_else(|err| panic!("cannot get the broker: {err:#}")),
        }
    })
}

/// Where a program lies once it is built.
#[must_use]
pub fn place(program: &str) -> PathBuf {
    std::env::var_os("BRAMBLE_BIN_DIR").map_or_else(|| paths::built(program), |dir| PathBuf::from(dir).join(program))
}

/// Makes the machine ready for containers and builds the demo image.
///
/// # Panics
/// When this is not root, or the machine does not allow it.
pub fn machine() {
    assert!(xtask::fleet::is_root(), "the fleet tests start containers and network namespaces: run them as root");
    let must = |result: anyhow::Result<()>, what: &str| {
        if let Err(err) = result {
            panic!("{what}: {err:#}");
        }
    };
    must(prepare::cgroups(), "cannot make the control groups ready");
    must(prepare::hello_rootfs().map(drop), "cannot make the demo image");
}

/// Builds them; cargo does nothing when they are new enough.
fn build() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Cmd::new(cargo)
        .args(["build", "--quiet", "-p", "bramble-coordinator", "-p", "bramble-agent", "-p", "bramble-cli"])
        .dir(paths::checkout())
        .within(Duration::from_secs(1800))
        .check();
    built.unwrap_or_else(|err| panic!("cannot build the programs under test: {err}"));
}
