//! `bramble-bootstrap`: run once on a stock Debian or Raspberry Pi OS machine, makes it a member of a fleet.
//!
//! Safe to run again: what is right already is left alone. Never touches an enrolled device's identity, apps or volumes.

mod clock_floor;
mod convert;
mod files;
mod first_boot;
mod follow;
mod image;
mod install;
mod lost;
mod payload;
mod preflight;
mod process;
mod settings;
mod units;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bramble_contracts::Name;
use clap::{Parser, Subcommand};

/// Makes this machine a member of a Bramble fleet.
#[derive(Parser)]
#[command(name = "bramble-bootstrap", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the agent, its units and its settings, and start it.
    Install(Install),
    /// On an image, at every boot: grow the volumes to the card, and take the seed.
    FirstBoot,
    /// On an image: raise the clock to the latest time that is known to have been right.
    ClockFloor,
    /// On an image: say on the console how the enrolment goes, until it is done.
    Follow,
    /// On an image: say what failed in this boot, and wait.
    Lost {
        /// Seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u32,
    },
    /// Turn the root partition into a volume, so that operating system upgrades have a way back.
    Convert(convert::Convert),
}

/// What is to be installed.
#[derive(clap::Args, Debug, Clone)]
struct Install {
    /// Base URL of the coordinator, https:// unless it is on this machine.
    #[arg(long, value_name = "URL", required_unless_present = "image")]
    coordinator: Option<String>,
    /// A file with the text that `bramble enroll-token create` printed.
    #[arg(long, value_name = "FILE", required_unless_present = "image")]
    token_file: Option<PathBuf>,
    /// The agent's program; by default the one beside this program. An image takes the other two from beside it.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// What the device would like to be called; by default its host name.
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Install below this folder, into an image: nothing is started.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Make the folder of --root an image of a device: settings and units of the whole machine, and a seed instead of a
    /// coordinator and a token. The programs may be another processor's.
    #[arg(long, requires = "root", conflicts_with_all = ["coordinator", "token_file", "name"])]
    image: bool,
}

fn main() -> ExitCode {
    let root = Path::new("/");
    let tell = &mut |line| println!("{line}");
    let done = match Args::parse().command {
        Command::Install(wish) => install::run(&wish, tell),
        Command::FirstBoot => first_boot::run(root),
        Command::ClockFloor => clock_floor::run(root),
        Command::Follow => {
            follow::run(root);
            Ok(())
        }
        Command::Lost { wait } => {
            lost::run(root, wait);
            Ok(())
        }
        Command::Convert(wish) => convert::run(&wish, tell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bramble-bootstrap: {err:#}");
            ExitCode::FAILURE
        }
    }
}
