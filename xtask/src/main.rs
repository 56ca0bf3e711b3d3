//! `cargo xtask`: the developer's front door. Decides only which command is which; the work is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::fleet::{self, Left, Stay};
use xtask::stages::{self, Depth, Resume};
use xtask::{bench, cross, image, pi, power_cuts, prepare, tour};

/// Bramble's front door: a real fleet on this machine, and everything that is tested.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a coordinator, its broker and a device on this machine, and deploy the example app.
    Up {
        /// Leave it running and return.
        #[arg(long)]
        detach: bool,
        /// Use a virtual Raspberry Pi as the device.
        #[arg(long)]
        virtual_pi: bool,
    },
    /// Stop the local fleet and remove its containers.
    Down {
        /// Remove its data too.
        #[arg(long)]
        purge: bool,
    },
    /// Install what is missing, and do nothing else: for a machine that is to be ready before it is used.
    Prepare {
        /// What images and virtual Pis need too.
        #[arg(long)]
        virtual_pi: bool,
    },
    /// Make the image of an SD card, packed, with its digest, block map, list of contents and Imager's entry.
    Image {
        /// A recipe of images/recipes.
        #[arg(long, default_value = "virt")]
        board: String,
        /// The folder it is written to; target/images by default.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Make the device's programs for aarch64: static, stripped, in target/cross.
    Cross {
        /// Build them a second time in another folder, and fail when the bytes differ.
        #[arg(long)]
        check_reproducible: bool,
        /// Write their sizes into this document.
        #[arg(long, value_name = "FILE")]
        markdown: Option<PathBuf>,
    },
    /// A virtual Pi: our image, booted under QEMU.
    #[command(subcommand)]
    Pi(PiCommand),
    /// Say what of the local fleet runs.
    Status,
    /// Install what is missing and run every check: format, lints, licences, tests, the commands of README and guide.
    Test {
        /// Leave out what needs a virtual machine.
        #[arg(long)]
        quick: bool,
        /// Run every case by itself and print a table of all of them.
        #[arg(long)]
        full: bool,
        /// With --full: go on after the cases that passed at this commit already.
        #[arg(long, requires = "full")]
        resume: bool,
    },
    /// Run the checks as `.ci/run` does.
    Ci,
    /// Type what README's five-minute tour and the guide say, and compare what it shows with what they say.
    Tour {
        /// Only this page of the guide, such as `logs`; may be given several times.
        #[arg(long)]
        page: Vec<String>,
    },
    /// Cut the power of a virtual Pi that upgrades its operating system, again and again, and publish what became of it.
    PowerCuts {
        /// Cuts in all; those that docs/power-cuts.tsv has for the seed are not made again.
        #[arg(long)]
        count: u64,
        /// Which campaign.
        #[arg(long)]
        seed: u64,
        /// Begin no cut after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
    },
    /// Measure, and print the numbers beside their references.
    Bench {
        /// What the benchmark program is to be told.
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    },
}

#[derive(Subcommand)]
enum PiCommand {
    /// Flash a card where there is none, give it power and wait until it is up.
    Up {
        /// What the new card's bramble.toml is to be; without it the Pi belongs to no fleet.
        #[arg(long, value_name = "FILE")]
        seed: Option<PathBuf>,
    },
    /// A shell on it, or a command.
    Ssh {
        /// What ssh is to run there.
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    },
    /// Show its console and follow it.
    Serial,
    /// Switch it off. Its card stays.
    Down,
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { detach, virtual_pi } => {
            let stay = if *detach { Stay::Detached } else { Stay::Foreground };
            if *virtual_pi { fleet::up_virtual_pi(stay)? } else { fleet::up(stay)? }
        }
        Command::Pi(command) => match command {
            PiCommand::Up { seed } => pi::up(seed.as_deref())?,
            PiCommand::Ssh { args } => pi::ssh(args)?,
            PiCommand::Serial => pi::serial()?,
            PiCommand::Down => pi::down(&fleet::Fleet::of_virtual_pi().pi())?,
        },
        Command::Down { purge } => fleet::down(if *purge { Left::Nothing } else { Left::Data })?,
        Command::Prepare { virtual_pi } => prepare::ready(*virtual_pi)?,
        Command::Image { board, out } => image::image(board, out.as_deref())?,
        Command::Test { quick, full, resume } => stages::test(depth(*full, *resume), !quick)?,
        Command::PowerCuts { count, seed, minutes } => {
            power_cuts::power_cuts(&power_cuts::Asked { count: *count, seed: *seed, minutes: *minutes })?;
        }
        Command::Cross { check_reproducible, markdown } => {
            cross::cross(&cross::Asked { twice: *check_reproducible, markdown: markdown.clone() })?;
        }
        Command::Ci => stages::test(Depth::Change, true)?,
        Command::Tour { page } => tour::tour(page)?,
        Command::Bench { args } => bench::bench(args)?,
        Command::Status => return Ok(if fleet::status() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
    Ok(ExitCode::SUCCESS)
}

fn depth(full: bool, resume: bool) -> Depth {
    match (full, resume) {
        (true, true) => Depth::Full(Resume::Yes),
        (true, false) => Depth::Full(Resume::No),
        (false, _) => Depth::Change,
    }
}
