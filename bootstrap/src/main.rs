//! `bramble-bootstrap`: run once on a stock Debian or Raspberry Pi OS machine, makes it a member of a fleet.
//!
//! Safe to run again: what is right already is left alone. Never touches an enrolled device's identity, apps or volumes.

mod convert;
mod files;
mod install;
mod preflight;
mod process;
mod settings;
mod units;

use std::path::PathBuf;
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
    /// Turn the root partition into a volume, so that operating system upgrades have a way back.
    Convert(convert::Convert),
}

/// What is to be installed.
#[derive(clap::Args, Debug, Clone)]
struct Install {
    /// Base URL of the coordinator, https:// unless it is on this machine.
    #[arg(long, value_name = "URL")]
    coordinator: String,
    /// A file with the text that `bramble enroll-token create` printed.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The agent's program; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// What the device would like to be called; by default its host name.
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Install below this folder, into an image: nothing is started.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

fn main() -> ExitCode {
    let tell = &mut |line| println!("{line}");
    let done = match Args::parse().command {
        Command::Install(wish) => install::run(&wish, tell),
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
