//! `bramble-virtual-pi`: what `cargo xtask pi` starts. Decides nothing that the library does not.

use std::process::ExitCode;

use bramble_qemu_tests::image::{self, Kind};
use clap::{Parser, Subcommand};

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
    }
}
