//! `bramble-agent`: the program on a device.

use std::path::PathBuf;
use std::process::ExitCode;

use bramble_agent::check::{age_secs, check, text};
use bramble_agent::config::{Config, DEFAULT_PATH};
use bramble_agent::core::upgrade::replay;
use bramble_agent::run;
use bramble_agent::status::Status;
use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// The agent of a Bramble fleet: runs on the device, keeps its apps running.
#[derive(Parser)]
#[command(name = "bramble-agent", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until told to stop; apps outlive it.
    Run(ConfigArg),
    /// What the agent on this machine says of itself.
    Status(ConfigArg),
    /// What is well on this machine and what is not; needs no network. Ends with 1 when something failed.
    Check(CheckArgs),
    /// Tell what an upgrade log of an agent says, step by step.
    Replay(ReplayArgs),
    /// Print the version.
    Version,
}

#[derive(clap::Args)]
struct ConfigArg {
    /// The settings.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args)]
struct ReplayArgs {
    /// `upgrade.log` of the state directory, or a copy of it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    match act(Args::parse().command) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("bramble-agent: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arg) => {
            let config = Config::load(&arg.config)?;
            log_to();
            runtime()?.block_on(run::run(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(arg) => Ok(status(&Config::load(&arg.config)?)),
        Command::Check(args) => look(&Config::load(&args.config.config)?, args.output),
        Command::Replay(args) => {
            let log = std::fs::read_to_string(&args.file);
            let log = log.map_err(|err| anyhow::anyhow!("cannot read {}: {err}", args.file.display()))?;
            print!("{}", replay(&log).map_err(|err| anyhow::anyhow!("{}: {err}", args.file.display()))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn look(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let suite = runtime.block_on(check(config));
    match output {
        Output::Text => print!("{}", text(&suite)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&suite)?),
    }
    // A thread that hangs on a disk is left behind.
    runtime.shutdown_background();
    Ok(if suite.judge().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(config: &Config) -> ExitCode {
    let Some(status) = Status::read(&config.status_file()) else {
        eprintln!("no agent has run since boot: {} is not there", config.status_file().display());
        return ExitCode::from(3);
    };
    let running = run::is_running(config);
    print!("{}", status.text(running, age_secs(status.up_ms)));
    if running { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One thread for everything but files: the agent is to be small.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()
}

/// To the journal under systemd, else to stderr.
fn log_to() {
    // What async-nats says of the connection comes back to us as events, and is told once.
    let filter = EnvFilter::try_from_env("BRAMBLE_LOG").unwrap_or_else(|_| EnvFilter::new("info,async_nats=off"));
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let stderr =
        journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false));
    tracing_subscriber::registry().with(journal).with(stderr).with(filter.boxed()).init();
}
