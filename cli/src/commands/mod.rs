//! One module per family of commands. Each asks the API, and shows the answer.

mod agent;
mod apply;
mod ask;
mod audit;
mod describe;
mod device;
mod doctor;
mod enroll;
mod exec;
mod explain;
mod get;
mod keys;
mod login;
mod logs;
mod os;
mod plan;
mod releases;
mod resume;
mod rollout;
mod session;
mod views;
mod wait;
mod watch;

use bramble_contracts::Tenant;
use clap::CommandFactory;

use crate::{
    args::{Cli, Command, Global},
    client::Client,
    config::{self, ConfigError, File, Privacy, Secret},
    exit::{Exit, Failure},
    output::{Format, note},
};

/// What every command works with.
pub(crate) struct Session {
    client: Client,
    format: Format,
    /// The tenant, where somebody said one.
    tenant: Option<Tenant>,
}

impl Session {
    fn open(global: Global) -> Result<Self, Failure> {
        let file = File::load()?;
        if file.token.is_some() && global.token.is_none() {
            warn_if_open();
        }
        // A token belongs to its coordinator: one from the file is not sent to another address.
        let other = global.api.is_some() && file.api.is_some() && global.api != file.api;
        let kept = file.token.filter(|_| !other);
        let api = global.api.or(file.api).ok_or(ConfigError::NoApi)?;
        let token = global.token.as_deref().map(Secret::new).or(kept);
        let tenant = global.tenant.or(file.tenant);
        let ca = global.ca.or(file.ca.filter(|_| !other));
        let client = Client::new(&api, ca.as_deref(), token, tenant.clone().unwrap_or_default())?;
        if client.is_exposed() {
            note(&format!("warning: {} is not encrypted: your token can be read on the way", client.api()));
        }
        Ok(Self { client, format: global.output, tenant })
    }
}

fn warn_if_open() {
    if let Ok(path) = config::path()
        && config::privacy(&path) == Privacy::Open
    {
        note(&format!("warning: others can read your token: chmod 600 {}", path.display()));
    }
}

/// Runs one command to its end.
pub(crate) async fn run(Cli { global, command }: Cli) -> Result<Exit, Failure> {
    match command {
        Command::Login => login::login(global).await,
        Command::Doctor => doctor::doctor(global).await,
        Command::Completion { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "bramble", &mut script);
            crate::output::say(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
        Command::Whoami => login::whoami(&Session::open(global)?).await,
        Command::Apply(args) => apply::apply(&Session::open(global)?, args).await,
        Command::Plan(args) => plan::plan(&Session::open(global)?, args).await,
        Command::Get(args) => get::get(&Session::open(global)?, args).await,
        Command::Describe(args) => describe::describe(&Session::open(global)?, args).await,
        Command::Explain(args) => explain::explain(&Session::open(global)?, args).await,
        Command::Delete(args) => apply::delete(&Session::open(global)?, args).await,
        Command::Logs(args) => logs::logs(&Session::open(global)?, args).await,
        Command::Exec(args) => exec::exec(&Session::open(global)?, args).await,
        Command::EnrollToken(args) => enroll::enroll_token(&Session::open(global)?, args).await,
        Command::Device(args) => device::device(&Session::open(global)?, args).await,
        Command::Agent(args) => agent::agent(global, args).await,
        Command::Os(args) => os::os(&Session::open(global)?, args).await,
        Command::Keys(args) => keys::keys(global, args).await,
        Command::Rollout(args) => rollout::rollout(&Session::open(global)?, args).await,
        Command::Audit(args) => audit::audit(&Session::open(global)?, args).await,
        Command::Resume(args) => resume::resume(&Session::open(global)?, args).await,
    }
}
