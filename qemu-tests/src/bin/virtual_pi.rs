//! `bramble-virtual-pi`: what `cargo xtask pi` starts: it makes a card, and runs a board with it. Decides nothing that
//! the library does not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bramble_qemu_tests::board::{Board, Parts, State};
use bramble_qemu_tests::card::CardFile;
use bramble_qemu_tests::image::{self, Kind};
use bramble_qemu_tests::qemu::{Forward, Machine, Sockets, Wire};
use bramble_qemu_tests::serial::Serial;
use bramble_qemu_tests::{firmware, wire_program};
use clap::{Parser, Subcommand};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xtask::clock::until;

/// The card of a person's virtual Pi, in MiB; its file is sparse.
const CARD_MIB: u64 = 8192;
/// For a guest to end in peace before its power is cut.
const GRACE: Duration = Duration::from_secs(15);

/// A virtual Pi, for people.
#[derive(Parser)]
#[command(name = "bramble-virtual-pi")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the image and say where it is.
    Image {
        /// With the control channel of the tests.
        #[arg(long)]
        test: bool,
    },
    /// Flash the image onto a new card.
    Card {
        /// Its bramble.toml.
        #[arg(long)]
        seed: PathBuf,
        /// The card's file.
        card: PathBuf,
    },
    /// Run a board until it is told to end, or switches itself off.
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// Its folder, with its card.
    #[arg(long)]
    dir: PathBuf,
    /// Where its sockets lie.
    #[arg(long)]
    run_dir: PathBuf,
    /// HOST:GUEST, ports.
    #[arg(long)]
    forward: Vec<String>,
    /// An address of this machine that the guest reaches at xtask's `HOST`, same port.
    #[arg(long)]
    wire: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Image { test } => {
            println!("{}", image::make(if *test { Kind::Test } else { Kind::Demo })?.display());
            Ok(())
        }
        Command::Card { seed, card } => {
            let seed = std::fs::read(seed).with_context(|| format!("cannot read {}", seed.display()))?;
            // Whole or not at all: a card that is there is taken as it is.
            let part = card.with_extension("part");
            CardFile::flash(&image::make(Kind::Demo)?, &part, CARD_MIB)?.write(1, "bramble.toml", &seed)?;
            std::fs::rename(&part, card).with_context(|| format!("cannot write {}", card.display()))
        }
        Command::Run(run) => board(run),
    }
}

fn board(run: &Run) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let card = CardFile::at(&run.dir.join("card.img"));
    let forwards = run.forward.iter().map(|text| forward(text)).collect::<anyhow::Result<_>>()?;
    let wires = run.wire.iter().map(|host| Wire { guest: (xtask::pi::HOST, host.port()).into(), host: *host });
    let machine = Machine {
        card: card.path().into(),
        tape: None,
        cpus: 2,
        memory_mib: 1024,
        rtc: "utc".into(),
        forwards,
        wires: wires.collect(),
        wire_program: wire_program()?,
        sockets: Sockets::in_dir(&run.run_dir),
    };
    let serial = Serial::to_file(&run.dir.join("serial.log"))?;
    let board = Board::new(Parts { card, firmware: firmware::VIRT, machine, work: run.dir.clone(), serial });
    board.power_on();
    loop {
        if signals.pending().next().is_some() {
            if board.press_power().is_ok() {
                let off = || if board.state() == State::Off { Ok(()) } else { Err(String::new()) };
                // A board whose power is cut is what the device has to bear anyway.
                drop(until("the guest to end", GRACE, off));
            }
            board.cut_power();
            return Ok(());
        }
        match board.state() {
            State::Off if board.boots() > 0 => return Ok(()),
            State::Stuck(why) => anyhow::bail!("the board is stuck: {why}"),
            State::Off | State::Firmware | State::Running(_) => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn forward(text: &str) -> anyhow::Result<Forward> {
    let ports = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    let (host, guest) = ports.with_context(|| format!("{text:?} is not HOST:GUEST"))?;
    Ok(Forward { host, guest })
}
