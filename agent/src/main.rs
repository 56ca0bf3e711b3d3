//! `bramble-agent`: the program on a device.

use std::path::PathBuf;
use std::process::ExitCode;

use bramble_agent::check::{self, age_secs, text};
use bramble_agent::config::{Config, DEFAULT_PATH};
use bramble_agent::core::os::Protection;
use bramble_agent::core::upgrade::replay;
use bramble_agent::host::instances::{self, Guarded};
use bramble_agent::host::lease;
use bramble_agent::host::os::{Files, Machine, Task, look, probation, reboot, run as run_verb};
use bramble_agent::parent;
use bramble_agent::run;
use bramble_agent::status::Status;
use bramble_agent::version;
use bramble_contracts::smoke::Suite;
use bramble_contracts::v1::Instance;
use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// The agent of a Bramble fleet: runs on the device, keeps its apps running.
#[derive(Parser)]
#[command(name = "bramble-agent", version = version::text())]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until told to stop; apps outlive it.
    Run(RunArgs),
    /// Run this device's agents where there is no systemd: start them, start them again, and let one replace the other.
    Supervise(ConfigArg),
    /// Run Podman's service for the agents of this device: a unit of its own under systemd.
    Podman(ConfigArg),
    /// Before each start of an agent: if a new one was started too often without being confirmed, go back to the one before.
    Guard(RunArgs),
    /// What the agent on this machine says of itself.
    Status(ConfigArg),
    /// What is well on this machine and what is not; needs no network. Ends with 1 when something failed.
    Check(CheckArgs),
    /// Whether this program could take over this device: what the agent that acts asks a new one. Ends with 1 when it
    /// could not.
    SelfTest(CheckArgs),
    /// Tell what an upgrade log of an agent says, step by step.
    Replay(ReplayArgs),
    /// One privileged part of an OS upgrade: what the units of systemd run.
    #[command(hide = true)]
    Os(OsArgs),
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
struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Which of two agents this is; agent.toml says so where this does not.
    #[arg(long, value_name = "a|b", value_parser = instance)]
    instance: Option<Instance>,
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
struct OsArgs {
    /// Which part.
    #[arg(value_name = "VERB", value_parser = task)]
    task: Task,
    #[command(flatten)]
    config: ConfigArg,
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
            let mut config = Config::load(&arg.config.config)?;
            config.instance = arg.instance.unwrap_or(config.instance);
            log_to();
            Ok(runtime()?.block_on(run::run(&config))?.code())
        }
        Command::Supervise(arg) => {
            let config = Config::load(&arg.config)?;
            log_to();
            runtime()?.block_on(parent::supervise(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Podman(arg) => {
            let config = Config::load(&arg.config)?;
            log_to();
            runtime()?.block_on(parent::podman(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Guard(arg) => {
            before_start(&arg);
            // Whatever it found, the agent is to start.
            Ok(ExitCode::SUCCESS)
        }
        Command::SelfTest(args) => show(check::self_test, &Config::load(&args.config.config)?, args.output),
        Command::Status(arg) => Ok(status(&Config::load(&arg.config)?)),
        Command::Check(args) => show(check::check, &Config::load(&args.config.config)?, args.output),
        Command::Replay(args) => {
            let log = std::fs::read_to_string(&args.file);
            let log = log.map_err(|err| anyhow::anyhow!("cannot read {}: {err}", args.file.display()))?;
            print!("{}", replay(&log).map_err(|err| anyhow::anyhow!("{}: {err}", args.file.display()))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Os(args) => {
            let config = Config::load(&args.config.config)?;
            log_to();
            runtime()?.block_on(os(args.task, &config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("{}", version::text());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn task(text: &str) -> Result<Task, String> {
    Task::named(text).ok_or_else(|| "it is no part of an OS upgrade".to_owned())
}

async fn os(task: Task, config: &Config) -> anyhow::Result<()> {
    let files = &Files::of(&config.state_dir);
    match task {
        Task::Verb(verb) => Box::pin(run_verb(verb, files, config.os.apply_max())).await,
        Task::Look => look(files).await,
        Task::Reboot(way) => reboot(way, Machine::look().tier() == Protection::Tryboot).await,
        Task::Probation => Box::pin(probation(files)).await,
    }
}

fn instance(text: &str) -> Result<Instance, String> {
    let all = [Instance::A, Instance::B];
    all.into_iter().find(|one| one.name() == text).ok_or_else(|| "it is a or b".to_owned())
}

fn before_start(arg: &RunArgs) {
    let guarded = Config::load(&arg.config.config).map(|config| {
        let instance = arg.instance.unwrap_or(config.instance);
        instances::guard(&config.state_dir, instance, &config.bounds())
    });
    match guarded {
        Ok(Ok(Guarded::Starts)) => {}
        Ok(Ok(Guarded::TurnedBack(version))) => {
            eprintln!("a new agent was started too often without being confirmed: version {version} runs again");
        }
        Ok(Err(err)) => eprintln!("starts are not guarded: {err}"),
        Err(err) => eprintln!("starts are not guarded: {err}"),
    }
}

fn show<'a, F: Future<Output = Suite>>(
    look: impl FnOnce(&'a Config) -> F,
    config: &'a Config,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let suite = runtime.block_on(look(config));
    match output {
        Output::Text => print!("{}", text(&suite)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&suite)?),
    }
    // A thread that hangs on a disk is left behind.
    runtime.shutdown_background();
    Ok(if suite.judge().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status(config: &Config) -> ExitCode {
    let Some(status) = Status::of_device(config) else {
        eprintln!("no agent has run since boot: {} is not there", config.status_file().display());
        return ExitCode::from(3);
    };
    let running = lease::is_held(&config.state_dir);
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
