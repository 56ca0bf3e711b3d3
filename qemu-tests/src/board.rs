//! A virtual board: it has power or not, and while it has, every reset leads through the firmware to the next boot.
//!
//! Decides what happens between two runs of QEMU: the card's FATs are read anew, the one-shot wishes of the guest count
//! once and only for a reset (they are lost with the power), and a firmware that finds nothing stays where it is.
//! Waiting and judging are the callers' business.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::card::CardFile;
use crate::clock::Clock;
use crate::control::{Control, Said};
use crate::firmware::{self, Boot, Reset};
use crate::qemu::{End, Machine, Qemu};
use crate::serial::Serial;

/// How often a running machine is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How a board is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Without power, or switched off by the guest.
    Off,
    /// Between power-on or reset and the kernel.
    Firmware,
    /// A guest runs.
    Running(Boot),
    /// The firmware found nothing to start, or QEMU does not start.
    Stuck(String),
}

/// What a board is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Its card.
    pub card: CardFile,
    /// Its firmware.
    pub firmware: firmware::Board,
    /// The machine; its clock is the board's to set.
    pub machine: Machine,
    /// A folder for what the firmware reads.
    pub work: PathBuf,
    /// Where the serial line leads.
    pub serial: Serial,
}

/// A board. Dropped, it loses its power.
#[derive(Debug)]
pub struct Board {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    inner: Mutex<Inner>,
    changed: Condvar,
    control: Mutex<Option<(u32, Control)>>,
}

#[derive(Debug)]
struct Inner {
    power: Power,
    state: State,
    /// Boots so far.
    boot: u32,
    /// Resets by a watchdog so far.
    barks: u32,
    qemu: Option<Qemu>,
    wishes: Reset,
    clock: Clock,
    cable: Cable,
    tape: Option<PathBuf>,
    /// The tape's length in bytes when each boot began, since it was put in.
    reels: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Off,
    /// The board itself goes.
    Never,
}

/// The network cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// Plugged in.
    In,
    /// Pulled.
    Out,
}

impl Board {
    /// A board without power.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            power: Power::Off,
            state: State::Off,
            boot: 0,
            barks: 0,
            qemu: None,
            wishes: Reset::default(),
            clock: Clock::Right,
            cable: Cable::In,
            tape: None,
            reels: vec![],
        };
        let shared =
            Arc::new(Shared { parts, inner: Mutex::new(inner), changed: Condvar::new(), control: Mutex::new(None) });
        let board = Arc::clone(&shared);
        // QEMU dies with the thread that started it, so this one lives as long as the board.
        let thread = std::thread::spawn(move || board.live());
        Board { shared, thread: Some(thread) }
    }

    /// How it is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.lock().state.clone()
    }

    /// How often it has booted.
    #[must_use]
    pub fn boots(&self) -> u32 {
        self.shared.lock().boot
    }

    /// How often a watchdog has reset it.
    #[must_use]
    pub fn barks(&self) -> u32 {
        self.shared.lock().barks
    }

    /// Its serial line.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.shared.parts.serial
    }

    /// Its card. Nobody may read or write it while the board is on.
    #[must_use]
    pub fn card(&self) -> &CardFile {
        &self.shared.parts.card
    }

    /// Gives it power. Does nothing when it runs.
    pub fn power_on(&self) {
        let mut inner = self.shared.lock();
        inner.power = Power::On;
        self.shared.changed.notify_all();
    }

    /// Pulls the plug: the guest is gone at once, and when this returns nothing writes to the card any more.
    pub fn cut_power(&self) {
        self.shared.cut(Power::Off);
    }

    /// What the clock shows from the next boot on.
    pub fn set_clock(&self, clock: Clock) {
        self.shared.lock().clock = clock;
    }

    /// Pulls the network cable or plugs it in, now and for the boots to come.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_cable(&self, cable: Cable) -> anyhow::Result<()> {
        let mut inner = self.shared.lock();
        inner.cable = cable;
        match inner.qemu.as_mut() {
            Some(qemu) => qemu.plug(cable),
            None => Ok(()),
        }
    }

    /// From the next boot on, all that is written to the card is recorded there, too; nothing is with `None`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn record(&self, tape: Option<PathBuf>) -> anyhow::Result<()> {
        if let Some(tape) = &tape {
            File::create(tape).with_context(|| format!("cannot make {}", tape.display()))?;
        }
        let mut inner = self.shared.lock();
        (inner.tape, inner.reels) = (tape, vec![]);
        Ok(())
    }

    /// How long the tape was, in bytes, when each boot began that is on it.
    #[must_use]
    pub fn reels(&self) -> Vec<u64> {
        self.shared.lock().reels.clone()
    }

    /// Stops the guest's processors while `look` runs: its card does not change meanwhile.
    ///
    /// # Errors
    /// When it is off, or QEMU refuses.
    pub fn still<T>(&self, look: impl FnOnce(&CardFile) -> T) -> anyhow::Result<T> {
        let mut inner = self.shared.lock();
        let qemu = inner.qemu.as_mut().context("the board is off: it stands still anyway")?;
        qemu.ask("stop", &json!({}))?;
        let seen = look(&self.shared.parts.card);
        qemu.ask("cont", &json!({}))?;
        Ok(seen)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When it is off.
    pub fn reset(&self) -> anyhow::Result<()> {
        let mut inner = self.shared.lock();
        let qemu = inner.qemu.as_mut().context("the board is off: it cannot be reset")?;
        qemu.ask("system_reset", &json!({})).map(drop)
    }

    /// Presses the power button: a guest that listens ends in peace.
    ///
    /// # Errors
    /// When it is off.
    pub fn press_power(&self) -> anyhow::Result<()> {
        let mut inner = self.shared.lock();
        let qemu = inner.qemu.as_mut().context("the board is off")?;
        qemu.ask("system_powerdown", &json!({})).map(drop)
    }

    /// Runs a command in the guest, which must have been built for tests.
    ///
    /// # Errors
    /// When the machine is off, is reset meanwhile, or does not answer within `limit`.
    pub fn run(&self, command: &str, limit: Duration) -> anyhow::Result<Said> {
        let boot = self.boots();
        let mut held = self.shared.control.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|(of, _)| *of != boot) {
            *held = Some((boot, Control::connect(&self.shared.parts.machine.sockets.control())?));
        }
        let (_, control) = held.as_mut().expect("invariant: just connected");
        let is_on = || {
            let inner = self.shared.lock();
            inner.boot == boot && inner.qemu.is_some()
        };
        let said = control.run(command, limit, is_on);
        if said.is_err() {
            *held = None;
        }
        said
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.shared.cut(Power::Never);
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, power: Power) {
        let mut inner = self.lock();
        inner.power = power;
        if let Some(qemu) = inner.qemu.as_mut() {
            qemu.kill();
        }
        self.changed.notify_all();
        while power == Power::Off && inner.state != State::Off {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, state: State) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    /// The board's life.
    fn live(&self) {
        loop {
            let mut inner = self.lock();
            while inner.power == Power::Off {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            if inner.power == Power::Never {
                return;
            }
            drop(inner);
            self.powered();
            let mut inner = self.lock();
            if inner.power == Power::On {
                // It went off by itself; the switch follows, so that it can be switched on again.
                inner.power = Power::Off;
            }
            inner.state = State::Off;
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// From power-on to power-off.
    fn powered(&self) {
        let mut reset = Reset::default();
        loop {
            self.set(State::Firmware);
            match self.boot(reset) {
                Ok(End::Reset { watchdog }) => {
                    let mut inner = self.lock();
                    inner.barks += u32::from(watchdog);
                    // Spent: they count once. A watchdog's reset finds what the guest has asked for, too.
                    reset = std::mem::take(&mut inner.wishes);
                    drop(inner);
                    self.parts.serial.note(if watchdog { "the watchdog resets the board" } else { "reset" });
                }
                Ok(End::Off) => return self.parts.serial.note("the guest has switched itself off"),
                Ok(End::Gone(why)) => return self.parts.serial.note(&format!("power off ({why})")),
                Err(err) => {
                    self.parts.serial.note(&format!("stuck: {err:#}"));
                    return self.stay(&format!("{err:#}"));
                }
            }
            if self.lock().power != Power::On {
                return;
            }
        }
    }

    /// Stuck until somebody pulls the plug.
    fn stay(&self, why: &str) {
        self.set(State::Stuck(why.into()));
        let mut inner = self.lock();
        while inner.power == Power::On {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One boot, to its end.
    fn boot(&self, reset: Reset) -> anyhow::Result<End> {
        let parts = &self.parts;
        let number = parts.serial.next_boot();
        let fats = parts.work.join("fats");
        let outcome = firmware::start(&parts.firmware, &parts.card.for_firmware(&fats)?, reset);
        outcome.trail.iter().for_each(|step| parts.serial.note(&format!("firmware: {step}")));
        let boot = outcome.boot?;
        let mut inner = self.lock();
        let machine = Machine { rtc: inner.clock.rtc(), tape: inner.tape.clone(), ..parts.machine.clone() };
        if let Some(tape) = &inner.tape {
            let length = tape.metadata().with_context(|| format!("no tape at {}", tape.display()))?.len();
            inner.reels.push(length);
        }
        if inner.power != Power::On {
            return Ok(End::Gone("before the kernel".into()));
        }
        let (mut qemu, line) = Qemu::start(&machine, &boot, &fats.join(boot.partition.to_string()), &parts.work)?;
        let serial = parts.serial.clone();
        let reader = std::thread::spawn(move || serial.read_from(line));
        qemu.plug(inner.cable)?;
        inner.wishes = Reset::default();
        inner.boot = number;
        inner.qemu = Some(qemu);
        inner.state = State::Running(boot);
        drop(inner);
        self.changed.notify_all();
        std::thread::scope(|scope| {
            scope.spawn(|| self.listen());
            let end = self.watch();
            // The pipe ends with QEMU.
            drop(reader.join());
            Ok(end)
        })
    }

    /// Waits for the end of the machine.
    fn watch(&self) -> End {
        loop {
            let mut inner = self.lock();
            if let Some(end) = inner.qemu.as_mut().map_or(Some(End::Gone("killed".into())), Qemu::ended) {
                inner.qemu = None;
                return end;
            }
            drop(self.changed.wait_timeout(inner, LOOK));
        }
    }

    /// Notes what the guest asks of the firmware: `tryboot`, or `partition N`, each on a line.
    fn listen(&self) {
        let Ok(port) = UnixStream::connect(self.parts.machine.sockets.firmware()) else { return };
        for line in BufReader::new(port).lines().map_while(Result::ok) {
            let mut inner = self.lock();
            match line.trim().split_once(' ') {
                None if line.trim() == "tryboot" => inner.wishes.tryboot = true,
                Some(("partition", number)) => inner.wishes.partition = number.parse().ok(),
                None | Some(_) => {}
            }
            drop(inner);
            self.parts.serial.note(&format!("the guest asks the firmware: {}", line.trim()));
        }
    }
}
