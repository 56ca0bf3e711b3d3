//! The local fleet: one coordinator with its broker and one device, on this machine, out of this checkout.
//!
//! Decides names, places and ports. `up`, `down` and `status` are what is done with it.

mod down;
mod status;
mod up;
mod virtual_pi;

pub use down::{Left, down};
pub use status::status;
pub use up::{Stay, up};
pub use virtual_pi::up as up_virtual_pi;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::unistd::Uid;

use crate::daemon::Daemon;
use crate::prepare::{Store, sha256};
use crate::run::Cmd;
use crate::{paths, pi};

const API_PORT: u16 = 7980;
const BROKER_PORT: u16 = 7981;
const APP_PORT: u16 = 8080;
/// The device's name, its label, and what is deployed to it.
const DEVICE: &str = "pi-1";
const LABEL: &str = "site=home";
const EXAMPLE: &str = "docs/examples/hello.yaml";

/// Where everything of one local fleet lies.
#[derive(Debug, Clone)]
pub struct Fleet {
    dir: PathBuf,
    run_dir: PathBuf,
    /// What a person's shell reads.
    env: PathBuf,
    /// Where coordinator and broker listen.
    at: Ipv4Addr,
}

impl Fleet {
    /// The fleet of `$BRAMBLE_DIR`, else the checkout's `.bramble`.
    #[must_use]
    pub fn here() -> Self {
        let dir = std::env::var_os("BRAMBLE_DIR").map_or_else(|| paths::checkout().join(".bramble"), PathBuf::from);
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        // Sockets need short paths, and are gone after a reboot like the processes behind them.
        let mark = &sha256(dir.as_os_str().as_encoded_bytes())[..8];
        let run_dir = PathBuf::from(format!("/run/bramble-{mark}"));
        Fleet { run_dir, env: dir.join("env"), dir, at: Ipv4Addr::LOCALHOST }
    }

    /// The fleet beside it whose device is a virtual Pi. It listens where the Pi, in its closed network, sees this
    /// machine, so that there is one address for everybody, with TLS.
    #[must_use]
    pub fn of_virtual_pi() -> Self {
        let here = Self::here();
        Fleet { run_dir: here.run_dir.join("virtual-pi"), dir: here.dir.join("virtual-pi"), at: pi::HOST, ..here }
    }

    fn api(&self) -> SocketAddr {
        (self.at, API_PORT).into()
    }

    fn broker(&self) -> SocketAddr {
        (self.at, BROKER_PORT).into()
    }

    /// Base URL of the API.
    fn url(&self) -> String {
        let scheme = if self.at.is_loopback() { "http" } else { "https" };
        format!("{scheme}://{}", self.api())
    }

    /// The certificate of the coordinator's authority.
    fn ca(&self) -> PathBuf {
        self.coordinator_state().join("keys/ca.pem")
    }

    /// The virtual Pi of this fleet.
    #[must_use]
    pub fn pi(&self) -> pi::Place {
        pi::Place::new(&self.dir.join(DEVICE), &self.run_dir)
    }

    fn coordinator(&self) -> Daemon {
        Daemon::new("coordinator", &self.dir)
    }

    fn agent(&self) -> Daemon {
        Daemon::new("agent", &self.dir)
    }

    fn coordinator_state(&self) -> PathBuf {
        self.dir.join("coordinator")
    }

    fn admin_token(&self) -> PathBuf {
        self.coordinator_state().join("admin.token")
    }

    fn device(&self) -> PathBuf {
        self.dir.join("device")
    }

    fn apps_dir(&self) -> PathBuf {
        self.device().join("apps")
    }

    fn containers_conf(&self) -> PathBuf {
        self.device().join("podman/containers.conf")
    }

    fn store(&self) -> Store {
        Store::of_device(&self.apps_dir(), &self.run_dir, &self.containers_conf())
    }

    /// The operator's command line, as the administrator. The token goes by the environment, never by arguments.
    fn bramble(&self) -> anyhow::Result<Cmd> {
        let file = self.admin_token();
        let token = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let cmd = Cmd::new(paths::built("bramble")).env("BRAMBLE_API", self.url()).env("BRAMBLE_TOKEN", token.trim());
        let cmd = if self.at.is_loopback() { cmd } else { cmd.env("BRAMBLE_CA", self.ca()) };
        Ok(cmd.dir(paths::checkout()))
    }
}

fn app() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, APP_PORT).into()
}

/// Whether this process may do what a fleet needs: install, mount, start containers.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Goes on as root, by sudo, with the same environment. Returns only what kept it from doing so.
#[must_use]
pub fn again_as_root() -> anyhow::Error {
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(err) => return anyhow::Error::new(err).context("cannot find this program"),
    };
    println!("A fleet needs root (it installs packages, mounts and starts containers): going on with sudo");
    let mut sudo = Cmd::new("sudo");
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "BRAMBLE_CACHE", "BRAMBLE_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            let mut pair = std::ffi::OsString::from(name);
            pair.push("=");
            pair.push(value);
            sudo = sudo.arg(pair);
        }
    }
    let err = sudo.arg("BRAMBLE_BUILT=1").arg(this).args(std::env::args_os().skip(1)).exec();
    anyhow::Error::new(err).context("this needs root, and sudo is not to be had: run it again as root")
}

/// Whether the caller before sudo has built everything, as the user whose checkout it is.
fn built_before_sudo() -> bool {
    std::env::var_os("BRAMBLE_BUILT").is_some()
}

/// The path as a person in the checkout would type it.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
