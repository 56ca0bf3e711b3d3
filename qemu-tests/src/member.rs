//! A virtual Pi that becomes a device of a fleet: coordinator and broker on this machine, reached by the guest at an
//! address of its own closed network. What goes wrong is a panic.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::api::{Connection, DeviceView};
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::{Fleet, FleetSetup, wait_until};
use serde_json::json;
use xtask::clock::until;
use xtask::paths;
pub use xtask::pi::HOST;
use xtask::pi::Seed;

use crate::pi::{BOOT, Setup, VirtualPi};
use crate::qemu::Wire;

/// The example app's port.
pub const APP: u16 = 8080;
/// Name of the device.
pub const NAME: &str = "pi-1";
/// The longest for an app to answer after a boot that has begun: containers start slowly under emulation.
const APP_UP: Duration = Duration::from_secs(600);

/// A fleet of one virtual Pi.
pub struct Member {
    /// The Pi; it goes before the fleet.
    pub pi: VirtualPi,
    /// Coordinator and broker.
    pub fleet: Fleet,
    /// The address that TLS is spoken on: not loopback. What lives inside reaches the coordinator there; [`HOST`] is the
    /// guest's alone.
    pub net: Arc<NetNs>,
}

impl Member {
    /// The fleet is up; the Pi has an image on its card, no seed, and no power yet.
    #[must_use]
    pub fn new(case: &Arc<Case>, image: &Path) -> Self {
        Self::with(case, image, &[])
    }

    /// The same, and the guest reaches these of this machine, too: at [`HOST`], with the same port.
    #[must_use]
    pub fn with(case: &Arc<Case>, image: &Path, more: &[SocketAddr]) -> Self {
        Self::on_card(case, image, Setup::default().card_mib, more)
    }

    /// The same, on a card of this size.
    #[must_use]
    pub fn on_card(case: &Arc<Case>, image: &Path, card_mib: u64, more: &[SocketAddr]) -> Self {
        let net = Arc::new(NetNs::new(case));
        let setup = FleetSetup { listen: net.host(), serve: vec!["--advertise".into(), HOST.to_string()] };
        let fleet = Fleet::start_in(Arc::clone(case), &setup);
        let wire = |host: SocketAddr| Wire { guest: (HOST, host.port()).into(), host };
        let fleets = [fleet.coordinator().address(), fleet.coordinator().broker()];
        let wires = fleets.iter().chain(more).copied().map(wire).collect();
        let pi = VirtualPi::new(case, NAME, image, &Setup { card_mib, ports: vec![APP], wires, ..Setup::default() });
        Member { pi, fleet, net }
    }

    /// A seed for this fleet with a fresh token.
    #[must_use]
    pub fn seed(&self) -> Seed {
        let token = self.fleet.token_with(&json!({ "autoApprove": true, "labels": { "site": "home" } })).token;
        let coordinator = format!("https://{HOST}:{}", self.fleet.coordinator().address().port());
        Seed { coordinator, token, hostname: NAME.into(), ssh_key: String::new() }
    }

    /// Puts a seed onto the card.
    ///
    /// # Panics
    /// When it cannot be written, or the Pi is on.
    pub fn plant(&self, text: &str) {
        self.pi.card().write(1, "bramble.toml", text.as_bytes()).unwrap_or_else(|err| panic!("{err:#}"));
    }

    /// Waits until the device is online, and gives what the coordinator knows of it.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn online(&self) -> DeviceView {
        wait_until(&format!("{NAME} to be online"), BOOT, || {
            self.fleet.is(NAME, Connection::Online).map_err(|err| format!("{err}. {}", self.pi.serial().last_words()))
        });
        self.fleet.device_view(NAME).unwrap_or_else(|err| panic!("{err}"))
    }

    /// Applies the example app of the documents.
    pub fn apply_hello(&self) {
        let file = paths::checkout().join("docs/examples/hello.yaml");
        self.fleet.bramble().ok(&["apply", "-f", &file.display().to_string()]);
    }

    /// Waits until the app answers through the forwarded port.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn answers(&self) {
        let answered = until("the app to answer through the forwarded port", APP_UP, || {
            let answer = xtask::http::get(self.pi.port(APP), "/").map_err(|err| err.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        answered.unwrap_or_else(|vain| panic!("{vain}. Inside: {}", self.of_apps()));
    }

    /// What the guest says of its apps, for messages.
    fn of_apps(&self) -> String {
        let ask = "ip -br addr; nft list ruleset | grep -iE 'dnat|dport'; \
                   journalctl -b --no-pager -o short-monotonic -n 80 -u 'bramble*'";
        let said = self.pi.board().run(ask, Duration::from_secs(120));
        said.map_or_else(|err| format!("{err:#}. {}", self.pi.serial().last_words()), |said| said.out)
    }

    /// Waits until the app answers inside the guest: no network takes part.
    #[track_caller]
    pub fn answers_inside(&self) {
        let ask = format!("busybox wget -q -T 5 -O - http://127.0.0.1:{APP}/");
        self.pi.until("the app to answer inside the guest", APP_UP, &ask);
    }

    /// What must be so whenever the guest runs: storage is whole, and the slot that was booted is the one asked for.
    #[track_caller]
    pub fn is_sound(&self) {
        let pi = &self.pi;
        let errors = pi.run("dmesg | grep -E 'EXT4-fs error|I/O error|thin.*(failed|needs_check)'");
        assert_eq!(errors.code, 1, "the kernel complains: {}", errors.out);
        let health = pi.ok("lvm lvs --noheadings -o lv_health_status vg0");
        assert_eq!(health.trim(), "", "a volume is unwell");
        assert_eq!(pi.ok("findmnt -n -o SOURCE /boot/firmware | wc -l").trim(), "1", "the slot's partition is mounted");
    }
}
