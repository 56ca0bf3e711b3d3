//! `cargo xtask pi`: a virtual Pi for people. Decides where its card, console and ports are and how it is started and
//! stopped; how a board behaves is decided in `qemu-tests`, whose program runs it.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::clock::until;
use crate::daemon::{Daemon, Ensured};
use crate::fleet::{self, Fleet};
use crate::paths;
use crate::run::Cmd;

/// This machine, as a virtual Pi sees it in its closed network.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const SSH: u16 = 22;
/// From power-on to the first word of its SSH server.
const BOOTED: Duration = Duration::from_secs(600);

/// Where everything of one virtual Pi lies.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
    run_dir: PathBuf,
}

/// What stands in a card's `bramble.toml`.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Base URL of the coordinator.
    pub coordinator: String,
    /// An enrolment token.
    pub token: String,
    /// The device's name.
    pub hostname: String,
    /// Who may come in: a public key.
    pub ssh_key: String,
}

impl Seed {
    /// The file. Nobody is asked for the time: a virtual Pi reaches no time server.
    #[must_use]
    pub fn text(&self) -> String {
        let key = self.ssh_key.trim();
        let keys = if key.is_empty() { String::new() } else { format!("{key:?}") };
        format!(
            "coordinator = \"{}\"\ntoken = \"{}\"\nhostname = \"{}\"\n\n[ssh]\nauthorized_keys = [{keys}]\n\n\
             [clock]\nservers = []\n",
            self.coordinator, self.token, self.hostname,
        )
    }
}

impl Place {
    /// In a folder of its own, with sockets in a folder whose path is short.
    #[must_use]
    pub fn new(dir: &Path, run_dir: &Path) -> Self {
        Place { dir: dir.into(), run_dir: run_dir.into() }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program that runs the board.
    #[must_use]
    pub fn daemon(&self) -> Daemon {
        Daemon::new("virtual-pi", &self.dir)
    }

    /// What it said on its console.
    #[must_use]
    pub fn serial(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    fn card(&self) -> PathBuf {
        self.dir.join("card.img")
    }

    fn ssh_port(&self) -> PathBuf {
        self.dir.join("ssh.port")
    }

    /// The last line of its console.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(self.serial()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().last().unwrap_or("nothing yet").into()
    }
}

/// `pi up`: an own Pi without a fleet, where the virtual fleet's does not run already.
///
/// # Errors
/// When it cannot be made or does not boot.
pub fn up(seed: Option<&Path>) -> anyhow::Result<()> {
    let place = Fleet::of_virtual_pi().pi();
    if !fleet::is_root() {
        return Err(fleet::again_as_root());
    }
    fs::create_dir_all(&place.dir).with_context(|| format!("cannot make {}", place.dir.display()))?;
    let alone = || -> anyhow::Result<Seed> {
        let key = ssh_key(&place)?;
        // A token that was taken already: it belongs to no fleet, and nobody waits for it to enrol.
        Ok(Seed {
            coordinator: format!("https://{HOST}:7980"),
            token: "(wiped)".into(),
            hostname: "pi-1".into(),
            ssh_key: fs::read_to_string(key)?,
        })
    };
    match seed {
        None => make(&place, alone)?,
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            make_with(&place, || Ok(text))?;
        }
    }
    let ensured = start(&place, &[], &[])?;
    println!("{}", if ensured == Ensured::Kept { "It runs already" } else { "Power is on" });
    let port = read_port(&place)?;
    until("its SSH server", BOOTED, || {
        place.daemon().must_run().map_err(|err| format!("{err:#}"))?;
        banner(port).map_err(|err| format!("{err}; its console: {}", place.last_words()))
    })?;
    println!("It is up: cargo xtask pi ssh, cargo xtask pi serial, cargo xtask pi down");
    Ok(())
}

/// The first word of an SSH server on this port.
fn banner(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    if &word == b"SSH-" { Ok(()) } else { Err(std::io::Error::other("something else answers")) }
}

/// Makes the card, where there is none: the image flashed, and the seed on it.
///
/// # Errors
/// When the image cannot be made.
pub fn make(place: &Place, seed: impl FnOnce() -> anyhow::Result<Seed>) -> anyhow::Result<()> {
    make_with(place, || Ok(seed()?.text()))
}

fn make_with(place: &Place, seed: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    build()?;
    if place.card().is_file() {
        return Ok(());
    }
    let file = place.dir.join("seed.toml");
    fs::write(&file, seed()?).with_context(|| format!("cannot write {}", file.display()))?;
    let made =
        program().arg("card").arg("--seed").arg(&file).arg(place.card()).within(Duration::from_secs(3600)).show();
    // It holds a token.
    drop(fs::remove_file(&file));
    made.context("cannot make the card")?;
    Ok(())
}

/// Starts the board, if it does not run: these ports of this machine lead into the guest, and these addresses of this
/// machine are within its reach.
///
/// # Errors
/// When it cannot be started.
pub fn start(place: &Place, forwards: &[(u16, u16)], wires: &[SocketAddr]) -> anyhow::Result<Ensured> {
    let daemon = place.daemon();
    if daemon.running().is_some() {
        return Ok(Ensured::Kept);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    let ssh = listener.local_addr()?.port();
    drop(listener);
    fs::write(place.ssh_port(), ssh.to_string()).context("cannot write the SSH port")?;
    let mut cmd = program().arg("run").arg("--dir").arg(&place.dir).arg("--run-dir").arg(&place.run_dir);
    for (host, guest) in forwards.iter().copied().chain([(ssh, SSH)]) {
        cmd = cmd.args(["--forward", &format!("{host}:{guest}")]);
    }
    for wire in wires {
        cmd = cmd.args(["--wire", &wire.to_string()]);
    }
    daemon.ensure(&cmd, "virtual-pi")
}

/// The public key of whoever uses `pi ssh`, made with its private half where there is none.
///
/// # Errors
/// When it cannot be made.
pub fn ssh_key(place: &Place) -> anyhow::Result<PathBuf> {
    let key = place.dir.join("id_ed25519");
    if !key.is_file() {
        let make =
            Cmd::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "cargo-xtask-pi", "-f"]).arg(&key);
        make.check().context("cannot make an SSH key; is openssh-client installed?")?;
    }
    Ok(key.with_extension("pub"))
}

/// `pi ssh`: becomes ssh.
///
/// # Errors
/// When the Pi does not run.
pub fn ssh(args: &[String]) -> anyhow::Result<()> {
    let place = Fleet::of_virtual_pi().pi();
    place.daemon().must_run().context("the virtual Pi does not run: cargo xtask pi up")?;
    let known = format!("UserKnownHostsFile={}", place.dir.join("known_hosts").display());
    let cmd = Cmd::new("ssh").args(["-p", &read_port(&place)?.to_string(), "-i"]).arg(place.dir.join("id_ed25519"));
    let cmd = cmd.args(["-o", "StrictHostKeyChecking=accept-new", "-o", &known, "-o", "LogLevel=ERROR"]);
    Err(cmd.arg("bramble@127.0.0.1").args(args).exec().into())
}

fn read_port(place: &Place) -> anyhow::Result<u16> {
    let text =
        fs::read_to_string(place.ssh_port()).context("the virtual Pi has not been started: cargo xtask pi up")?;
    text.trim().parse().context("the file of its SSH port is damaged")
}

/// `pi serial`: shows its console and follows it.
///
/// # Errors
/// When it has none yet.
pub fn serial() -> anyhow::Result<()> {
    let place = Fleet::of_virtual_pi().pi();
    anyhow::ensure!(place.serial().is_file(), "the virtual Pi has not been started: cargo xtask pi up");
    Err(Cmd::new("tail").args(["--lines=+1", "--follow=name", "--retry"]).arg(place.serial()).exec().into())
}

/// `pi down`: switches it off. Its card stays.
///
/// # Errors
/// When it cannot be stopped.
pub fn down(place: &Place) -> anyhow::Result<()> {
    if place.daemon().stop()? {
        println!("Switched the virtual Pi off; its card stays");
    }
    Ok(())
}

/// The programs of the virtual Pi.
pub(crate) fn build() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Cmd::new(cargo).args(["build", "--quiet", "-p", "bramble-qemu-tests", "--bins"]).dir(paths::checkout());
    build.within(Duration::from_secs(3600)).show()?;
    Ok(())
}

fn program() -> Cmd {
    Cmd::new(paths::built("bramble-virtual-pi"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_whose_the_card_is() {
        let seed = Seed {
            coordinator: "https://10.0.2.100:7980".into(),
            token: "bramble1.x".into(),
            hostname: "pi-1".into(),
            ssh_key: "ssh-ed25519 AAAA me@here\n".into(),
        };
        let table: toml::Table = seed.text().parse().unwrap();
        assert_eq!(table["coordinator"].as_str(), Some("https://10.0.2.100:7980"));
        assert_eq!(table["ssh"]["authorized_keys"][0].as_str(), Some("ssh-ed25519 AAAA me@here"));
        let without = Seed { ssh_key: String::new(), ..seed };
        let table: toml::Table = without.text().parse().unwrap();
        assert_eq!(table["ssh"]["authorized_keys"].as_array().map(Vec::len), Some(0));
    }
}
