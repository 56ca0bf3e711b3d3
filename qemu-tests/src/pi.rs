//! A virtual Pi for tests: a fresh card with an image on it, in a board, in a case of the fleet tests. What goes wrong
//! is a panic that tells the serial line's last words; the line itself is kept with the case's logs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::unix_secs;
use bramble_fleet_tests::{free_port, wait_until};

use crate::board::{Board, Cable, Parts, State};
use crate::card::CardFile;
use crate::clock::Clock;
use crate::control::Said;
use crate::firmware;
use crate::qemu::{Forward, Machine, Sockets, Wire};
use crate::serial::Serial;
use crate::turn::Turn;

/// The longest that a boot may take, from power-on to an answering control channel, on a busy machine.
pub const BOOT: Duration = Duration::from_secs(600);
/// The longest for a command that does no more than look.
const COMMAND: Duration = Duration::from_secs(60);

/// How a virtual Pi is made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The size of its card in MiB.
    pub card_mib: u64,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Ports of the guest that are to be reached from here.
    pub ports: Vec<u16>,
    /// What the guest is to reach here.
    pub wires: Vec<Wire>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { card_mib: 8192, memory_mib: 1024, ports: vec![], wires: vec![] }
    }
}

/// How a guest hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// Process 1 stands still; everything else runs on.
    Init,
    /// Nothing below real-time priority runs any more, process 1 neither.
    Processors,
    /// The kernel panics.
    Panic,
}

/// A virtual Pi. Dropped, it loses its power and its card.
pub struct VirtualPi {
    board: Board,
    forwards: Vec<Forward>,
    // Let go after the board.
    _turn: Arc<Turn>,
    case: Arc<Case>,
}

fn must<T>(result: anyhow::Result<T>, serial: &Serial) -> T {
    result.unwrap_or_else(|err| panic!("{err:#}. {}", serial.last_words()))
}

impl VirtualPi {
    /// With an image flashed onto a new card; without power yet. Waits for its turn.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(case: &Arc<Case>, name: &str, image: &Path, setup: &Setup) -> Self {
        let made = cpus().and_then(Turn::wait).and_then(|turn| Self::in_turn(case, name, image, setup, Arc::new(turn)));
        made.unwrap_or_else(|err| panic!("cannot make a virtual Pi: {err:#}"))
    }

    fn in_turn(case: &Arc<Case>, name: &str, image: &Path, setup: &Setup, turn: Arc<Turn>) -> anyhow::Result<Self> {
        let work = case.subdir(name);
        let card = CardFile::flash(image, &work.join("card.img"), setup.card_mib)?;
        let serial = Serial::to_file(&case.logs().join(format!("{name}.serial.log")))?;
        let forward = |guest: &u16| Forward { host: free_port(case), guest: *guest };
        let forwards: Vec<Forward> = setup.ports.iter().map(forward).collect();
        let machine = Machine {
            card: card.path().into(),
            tape: None,
            cpus: cpus()?,
            memory_mib: setup.memory_mib,
            rtc: "utc".into(),
            forwards: forwards.clone(),
            wires: setup.wires.clone(),
            wire_program: wire_program()?,
            sockets: Sockets::in_dir(&case.new_run_dir()),
        };
        let board = Board::new(Parts { card, firmware: firmware::VIRT, machine, work, serial });
        Ok(VirtualPi { board, forwards, _turn: turn, case: Arc::clone(case) })
    }

    /// The board, for what has no word here.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Its case.
    #[must_use]
    pub fn case(&self) -> &Arc<Case> {
        &self.case
    }

    /// Its serial line.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        self.board.serial()
    }

    /// Its card, which may be read and damaged while the board is off.
    ///
    /// # Panics
    /// When it is on.
    #[track_caller]
    #[must_use]
    pub fn card(&self) -> &CardFile {
        assert_eq!(self.board.state(), State::Off, "the card is the guest's while the board is on");
        self.board.card()
    }

    /// Where a port of the guest is reached from here.
    ///
    /// # Panics
    /// When the setup did not name it.
    #[must_use]
    pub fn port(&self, guest: u16) -> SocketAddr {
        let found = self.forwards.iter().find(|f| f.guest == guest);
        let forward = found.unwrap_or_else(|| panic!("the setup names no port {guest}"));
        (Ipv4Addr::LOCALHOST, forward.host).into()
    }

    /// Gives it power and waits until its control channel answers.
    ///
    /// # Panics
    /// When it does not within [`BOOT`].
    #[track_caller]
    pub fn boot(&self) {
        let before = self.board.boots();
        self.board.power_on();
        self.wait_boot(before + 1);
    }

    /// Waits for boot number `number`, or a later one, to answer on the control channel.
    ///
    /// # Panics
    /// When it does not within [`BOOT`].
    #[track_caller]
    pub fn wait_boot(&self, number: u32) {
        wait_until(&format!("boot {number} to answer"), BOOT, || {
            match self.board.state() {
                State::Stuck(why) => panic!("the board is stuck: {why}"),
                state @ (State::Off | State::Firmware) => return Err(format!("{state:?}")),
                State::Running(_) if self.board.boots() < number => return Err("it has not been reset".into()),
                State::Running(_) => {}
            }
            let said = self.board.run("true", Duration::from_secs(20));
            said.map(drop).map_err(|err| format!("{err:#}. {}", self.serial().last_words()))
        });
    }

    /// Pulls the plug.
    pub fn cut_power(&self) {
        self.board.cut_power();
    }

    /// Restarts it in peace, and waits until it answers again.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn reboot(&self) {
        let boots = self.board.boots();
        self.ok("systemctl --no-block reboot");
        self.wait_boot(boots + 1);
    }

    /// Switches it off in peace.
    ///
    /// # Panics
    /// When it does not go off.
    #[track_caller]
    pub fn switch_off(&self) {
        self.ok("systemctl --no-block poweroff");
        wait_until("the board to go off", Duration::from_secs(180), || match self.board.state() {
            State::Off => Ok(()),
            state => Err(format!("{state:?}. {}", self.serial().last_words())),
        });
    }

    /// Runs a command in the guest; any exit code will do.
    ///
    /// # Panics
    /// When it does not answer within a minute.
    #[track_caller]
    #[must_use]
    pub fn run(&self, command: &str) -> Said {
        must(self.board.run(command, COMMAND), self.serial())
    }

    /// Runs a command in the guest, which must succeed. Gives what it said.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let said = self.run(command);
        assert_eq!(said.code, 0, "`{command}` in the guest: {}", said.out);
        said.out
    }

    /// Waits until a command in the guest succeeds, and gives what it said.
    ///
    /// # Panics
    /// When it does not within `limit`.
    #[track_caller]
    pub fn until(&self, what: &str, limit: Duration, command: &str) -> String {
        wait_until(what, limit, || match self.board.run(command, COMMAND) {
            Ok(said) if said.code == 0 => Ok(said.out),
            Ok(said) => Err(format!("{} {}", said.code, said.out.trim())),
            Err(err) => Err(format!("{err:#}. {}", self.serial().last_words())),
        })
    }

    /// Pulls the network cable.
    pub fn cut_network(&self) {
        must(self.board.set_cable(Cable::Out), self.serial());
    }

    /// Plugs it in again.
    pub fn heal_network(&self) {
        must(self.board.set_cable(Cable::In), self.serial());
    }

    /// What the clock shows from the next boot on.
    pub fn set_clock(&self, clock: Clock) {
        self.board.set_clock(clock);
    }

    /// Whatever its clock showed at power-on, it is not before the time floor.
    ///
    /// # Panics
    /// When it is.
    #[track_caller]
    pub fn is_past_floor(&self) {
        let said = self.ok("date +%Y");
        let year: Option<u32> = said.trim().parse().ok();
        assert!(year.is_some_and(|year| year >= 2026), "the time floor holds: {said}");
    }

    /// Does what a time server would; none is reached from here.
    ///
    /// # Panics
    /// When the guest does not take it.
    #[track_caller]
    pub fn put_time_right(&self) {
        self.ok(&format!("date -u -s @{}", unix_secs()));
    }

    /// Makes the guest hang. What ends it is its own watchdog.
    ///
    /// # Panics
    /// When the guest does not take it.
    #[track_caller]
    pub fn hang(&self, how: Hang) {
        let command = match how {
            // Process 1 cannot be stopped by a signal, but its control group can be frozen.
            Hang::Init => "echo 1 > /sys/fs/cgroup/init.scope/cgroup.freeze",
            Hang::Processors => {
                "echo -1 > /proc/sys/kernel/sched_rt_runtime_us; mountpoint -q /sys/kernel/debug || \
                 mount -t debugfs none /sys/kernel/debug; \
                 for f in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do echo 0 > $f; done; \
                 (sleep 5; for n in 1 2 3 4; do chrt -f 99 sh -c 'while :; do :; done' & done) >/dev/null 2>&1 &"
            }
            Hang::Panic => "(sleep 1; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &",
        };
        self.ok(command);
    }
}

/// Two, or what `BRAMBLE_GUEST_CPUS` says: a boot with one takes a fifth less of this machine's time.
fn cpus() -> anyhow::Result<u32> {
    let Ok(text) = std::env::var("BRAMBLE_GUEST_CPUS") else { return Ok(2) };
    text.parse().with_context(|| format!("BRAMBLE_GUEST_CPUS is {text:?}, not a number of processors"))
}

/// The program that joins a wire's two ends; built with this package's tests and programs.
///
/// # Errors
/// When it is not.
pub fn wire_program() -> anyhow::Result<std::path::PathBuf> {
    let program = xtask::paths::built("bramble-wire");
    anyhow::ensure!(program.is_file(), "{} is not built: cargo build -p bramble-qemu-tests", program.display());
    Ok(program)
}
