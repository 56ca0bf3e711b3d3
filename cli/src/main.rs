//! `bramble`, the operator's command line. Speaks only the public HTTP API.
//!
//! Decides: which command runs, and, in one place, what the program ends with. Data goes to standard output,
//! everything else to standard error.

mod args;
mod client;
mod clock;
mod commands;
mod config;
mod exit;
mod manifest;
mod output;
mod release;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use exit::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(commands::run(cli))),
        Err(err) => Err(err.into()),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_silent() {
                let told = failure.to_string();
                output::note(&format!("{} {told}", output::paint_error("error:")));
                for field in failure.fields().iter().map(ToString::to_string).filter(|f| !told.contains(f)) {
                    output::note(&format!("  {field}"));
                }
            }
            let exit: Exit = failure.exit();
            exit.into()
        }
    }
}
