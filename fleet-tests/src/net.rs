//! A network of its own for a device: a namespace, a veth pair to this machine, and a cut that drops packets silently,
//! as a broken link does.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xtask::run::Cmd;

use crate::{case::Case, cleanup};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A namespace with one cable to this machine.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    host: Ipv4Addr,
    inside: Ipv4Addr,
    inside6: Ipv6Addr,
    // The case outlives its namespaces: it removes them when it is cleaned up.
    _case: Arc<Case>,
}

fn must(cmd: &Cmd) {
    if let Err(err) = cmd.check() {
        panic!("{err}");
    }
}

impl NetNs {
    /// Makes one.
    ///
    /// # Panics
    /// When the machine does not allow it.
    #[must_use]
    pub fn new(case: &Arc<Case>) -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let name = format!("{}{pid}-{n}", cleanup::PREFIX);
        let list = case.dir().join(cleanup::NETNS);
        let known = std::fs::read_to_string(&list).unwrap_or_default();
        std::fs::write(&list, format!("{known}{name}\n")).expect("the case's folder can be written");
        // 10.128.0.0/10 in steps of four; podman_env keeps to 10.64.0.0/10.
        let block = (pid.wrapping_mul(64).wrapping_add(n)) % (1 << 20);
        let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + block * 4;
        let (host, inside) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        // The same block of an IPv6 network of the harness.
        let six = |last: u32| Ipv6Addr::from((0xfd62_6d63_u128 << 96) + u128::from(block * 4 + last));
        let (host6, inside6) = (six(1), six(2));
        let (outer, inner) = (format!("bo{pid}-{n}"), format!("bi{pid}-{n}"));
        let ip = |args: &str| must(&Cmd::new("ip").args(args.split(' ')));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {outer} type veth peer name {inner} netns {name}"));
        ip(&format!("addr add {host}/30 dev {outer}"));
        ip(&format!("link set {outer} up"));
        ip(&format!("addr add {host6}/126 dev {outer} nodad"));
        let net = Self { name, host, inside, inside6, _case: Arc::clone(case) };
        net.run(&["ip", "link", "set", "lo", "up"]);
        net.run(&["ip", "addr", "add", &format!("{inside}/30"), "dev", &inner]);
        net.run(&["ip", "addr", "add", &format!("{inside6}/126"), "dev", &inner, "nodad"]);
        net.run(&["ip", "link", "set", &inner, "up"]);
        net.run(&["ip", "route", "add", "default", "via", &host.to_string()]);
        net
    }

    /// Its name, below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This machine, as seen from inside.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// The inside, as seen from this machine.
    #[must_use]
    pub fn inside(&self) -> Ipv4Addr {
        self.inside
    }

    /// The inside, as seen from this machine, by IPv6.
    #[must_use]
    pub fn inside6(&self) -> Ipv6Addr {
        self.inside6
    }

    /// Moves the calling thread inside, for ever.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("the kernel lets root move");
    }

    /// A command inside.
    #[must_use]
    pub fn cmd(&self, words: &[&str]) -> Cmd {
        Cmd::new("nsenter").arg(format!("--net=/run/netns/{}", self.name)).arg("--").args(words)
    }

    fn run(&self, words: &[&str]) {
        must(&self.cmd(words));
    }

    /// From now on nothing passes, either way, and nobody is told.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut(&self) {
        let host = self.host.to_string();
        self.run(&["iptables", "-w", "-I", "INPUT", "-s", &host, "-j", "DROP"]);
        self.run(&["iptables", "-w", "-I", "OUTPUT", "-d", &host, "-j", "DROP"]);
    }

    /// Everything passes again.
    ///
    /// # Panics
    /// When it was not cut.
    pub fn heal(&self) {
        let host = self.host.to_string();
        self.run(&["iptables", "-w", "-D", "INPUT", "-s", &host, "-j", "DROP"]);
        self.run(&["iptables", "-w", "-D", "OUTPUT", "-d", &host, "-j", "DROP"]);
    }
}
