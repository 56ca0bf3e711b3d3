//! The command line: every command, option and help text, and nothing they do.

mod release;
mod rollout;

use std::path::PathBuf;

use bramble_contracts::{
    Name, Tenant, Uid,
    label::{LabelKey, LabelValue},
    quantity::Millis,
    stamp::Moment,
};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::output::Format;

pub(crate) use release::{Agent, Keys, Release, Rotate};
pub(crate) use rollout::{Os, Rollout, Upgrade, Waits, Which};

/// Operates a fleet: says what should run where, and shows what does.
#[derive(Parser)]
#[command(name = "bramble", version, max_term_width = 100, disable_help_subcommand = true, after_help = EXITS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 unreachable, \
7 timed out waiting; `exec` ends with the exit code of the program.";

/// What every command understands.
#[derive(Args)]
pub(crate) struct Global {
    /// Address of the coordinator, http(s)://HOST:PORT
    #[arg(long, global = true, help_heading = "Everywhere", env = "BRAMBLE_API", value_name = "URL")]
    pub api: Option<String>,
    /// API token. Others on this machine can read arguments: prefer `bramble login` or BRAMBLE_TOKEN
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "BRAMBLE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// Whose things [default: default]
    #[arg(long, global = true, help_heading = "Everywhere", env = "BRAMBLE_TENANT", value_name = "NAME")]
    pub tenant: Option<Tenant>,
    /// Certificates (PEM) to check the coordinator against, instead of the machine's
    #[arg(long, global = true, help_heading = "Everywhere", env = "BRAMBLE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How to show things
    #[arg(short, long, global = true, help_heading = "Everywhere", value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Keep address and token of a coordinator for later commands
    Login,
    /// Who am I, and what may I do?
    Whoami,
    /// Create or change deployments as files say
    Apply(Apply),
    /// Show what applying files would change, on which devices, in what order
    Plan(Files),
    /// List things, or show one
    Get(Get),
    /// Show everything about one thing
    Describe(Describe),
    /// Why is a device, or a deployment on it, not up to date? One answer, in words
    Explain(Explain),
    /// Delete things
    Delete(Delete),
    /// Show what the containers of a deployment print
    Logs(Logs),
    /// Run a program in a container
    Exec(Exec),
    /// Tokens with which devices join the fleet
    #[command(subcommand, name = "enroll-token")]
    EnrollToken(EnrollToken),
    /// Change devices
    #[command(subcommand)]
    Device(Device),
    /// Releases of the agent, and which devices run them
    #[command(subcommand)]
    Agent(Agent),
    /// Upgrade the operating system of devices, batch by batch, or say what that would do
    #[command(subcommand)]
    Os(Os),
    /// The keys that sign releases of the agent
    #[command(subcommand)]
    Keys(Keys),
    /// Steer rollouts that are under way
    #[command(subcommand)]
    Rollout(Rollout),
    /// Who did what, when and why
    Audit(Audit),
    /// Decide what happens to devices that are ahead of the store; without a decision, show the difference
    Resume(Resume),
    /// Check this machine's configuration, the coordinator and the fleet
    Doctor,
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(crate) struct Files {
    /// Manifests (YAML, TOML or JSON) or Compose files; - is standard input
    #[arg(short = 'f', long = "file", required = true, num_args = 1.., value_name = "FILE")]
    pub files: Vec<String>,
    /// For a Compose file: for devices with all these labels
    #[arg(short = 'l', long = "label", value_name = "K=V", value_parser = label, conflicts_with = "devices")]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// For a Compose file: for these devices
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<Name>,
}

#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Let the coordinator check and answer, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until every reachable device has proven the new revision
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, requires = "wait", default_value = "5m", value_name = "DURATION")]
    pub timeout: Millis,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resource {
    #[value(alias = "device")]
    Devices,
    #[value(alias = "deployment")]
    Deployments,
    #[value(alias = "rollout")]
    Rollouts,
    Audit,
    #[value(alias = "enrollment-token", alias = "enroll-tokens")]
    EnrollmentTokens,
    #[value(alias = "release")]
    Releases,
    #[value(alias = "tenant")]
    Tenants,
}

#[derive(Args)]
pub(crate) struct Get {
    /// What
    #[arg(value_enum)]
    pub resource: Resource,
    /// Which one
    pub name: Option<String>,
    /// Only those with these labels
    #[arg(short = 'l', long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// Go on showing changes
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    #[value(alias = "devices")]
    Device,
    #[value(alias = "deployments")]
    Deployment,
    #[value(alias = "rollouts")]
    Rollout,
    #[value(alias = "releases")]
    Release,
}

#[derive(Args)]
pub(crate) struct Describe {
    /// What
    #[arg(value_enum)]
    pub resource: Described,
    /// Which one (a device by name or id)
    pub name: String,
    /// Of a rollout: go on showing each change, until it is over
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// What
    #[arg(value_enum)]
    pub resource: Explained,
    /// Which one (name or id)
    pub name: String,
    /// Only this deployment on it
    pub deployment: Option<Name>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Explained {
    Device,
}

#[derive(Args)]
pub(crate) struct Delete {
    /// What
    #[arg(value_enum)]
    pub resource: Deletable,
    /// Which one
    pub name: Name,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deletable {
    Deployment,
}

fn tail(text: &str) -> Result<String, String> {
    if text == "all" || text.parse::<u32>().is_ok() { Ok(text.to_owned()) } else { Err("a number, or all".to_owned()) }
}

#[derive(Args)]
pub(crate) struct Logs {
    /// Of which deployment
    pub deployment: Name,
    /// Only on this device (name or id)
    #[arg(long)]
    pub device: Option<String>,
    /// Only of this container
    #[arg(short, long)]
    pub container: Option<Name>,
    /// The last so many lines of each container, or all [default: 100; all with --since, --until, --previous]
    #[arg(long, value_name = "LINES", value_parser = tail)]
    pub tail: Option<String>,
    /// From the first line on that is not older than this: 10m, or 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Up to the last line that is not younger than this
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<Moment>,
    /// Of the containers before the newest ones
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Begin each line with its time, by the device's clock
    #[arg(short, long)]
    pub timestamps: bool,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Args)]
pub(crate) struct Exec {
    /// On which device (name or id)
    pub device: String,
    /// In which deployment
    pub deployment: Name,
    /// In which container; needed when there are several
    #[arg(short, long)]
    pub container: Option<Name>,
    /// With standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// With this terminal (and so with input); at the beginning of a line ~. ends it and ~? helps
    #[arg(short, long)]
    pub tty: bool,
    /// With -i or -t: end the program after so long without a byte typed or printed [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub idle: Option<Millis>,
    /// End the program after this [default: 60s, with -i or -t 8h]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Millis>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum EnrollToken {
    /// Make a token; its text is shown once
    Create {
        /// How long it can be used
        #[arg(long, default_value = "7d", value_name = "DURATION")]
        ttl: Millis,
        /// By how many devices; those of a token with several uses wait for `bramble device approve`
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// Its devices need no approval
        #[arg(long)]
        auto_approve: bool,
        /// First labels of its devices
        #[arg(short = 'l', long = "label", value_name = "K=V", value_parser = label)]
        labels: Vec<(LabelKey, LabelValue)>,
    },
    /// List tokens, never their secrets
    List,
    /// Make a token useless; devices that used it stay
    Revoke {
        /// Which, as `list` shows it
        id: Uid,
    },
}

#[derive(Subcommand)]
pub(crate) enum Device {
    /// Set labels (k=v) and remove them (k-)
    Label {
        /// Which device (name or id)
        name: String,
        /// k=v sets, k- removes
        #[arg(required = true, value_parser = label_edit)]
        labels: Vec<LabelEdit>,
    },
    /// Let devices that wait for it into the fleet
    Approve {
        /// Which devices (names or ids)
        #[arg(required = true)]
        names: Vec<String>,
        /// Why, for the audit trail
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Cut a device off until `unquarantine`; what runs on it keeps running
    Quarantine {
        /// Which device (name or id)
        name: String,
        /// Why, for the audit trail and for whoever finds it cut off
        #[arg(long)]
        reason: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Let a quarantined device back
    Unquarantine {
        /// Which device (name or id)
        name: String,
        /// Why, for the audit trail
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Args)]
pub(crate) struct Audit {
    /// Only what is younger than this
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Millis>,
    /// At most so many, the newest [default: 100, with --since all]
    #[arg(long, value_name = "EVENTS")]
    pub(crate) limit: Option<usize>,
}

#[derive(Args)]
pub(crate) struct Resume {
    /// The devices are right: rebuild the store's deployments from their documents
    #[arg(long, conflicts_with = "overwrite")]
    pub adopt: bool,
    /// The store is right: send devices what it says
    #[arg(long)]
    pub overwrite: bool,
    /// Only these devices
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<Name>,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// One change of a device's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelEdit {
    Set(LabelKey, LabelValue),
    Remove(LabelKey),
}

/// What is between a name and `=`.
fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let (key, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let key = key.parse::<LabelKey>().map_err(|err| err.to_string())?;
    Ok((key, value.parse::<LabelValue>().map_err(|err| err.to_string())?))
}

fn label_edit(text: &str) -> Result<LabelEdit, String> {
    if text.contains('=') {
        return label(text).map(|(key, value)| LabelEdit::Set(key, value));
    }
    let key = text.strip_suffix('-').ok_or("write NAME=VALUE to set it, NAME- to remove it")?;
    key.parse().map(LabelEdit::Remove).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_are_set_and_removed() {
        assert!(matches!(label_edit("site=paris"), Ok(LabelEdit::Set(..))));
        assert!(matches!(label_edit("site="), Ok(LabelEdit::Set(..))));
        assert!(matches!(label_edit("site-"), Ok(LabelEdit::Remove(..))));
        assert_eq!(label_edit("site").unwrap_err(), "write NAME=VALUE to set it, NAME- to remove it");
        assert!(label("site").is_err() && label("=x").is_err() && label("a=b c").is_err());
    }

    #[test]
    fn what_belongs_to_later_work_is_unknown() {
        for words in [["bramble", "os"], ["bramble", "job"], ["bramble", "backup"]] {
            let err = Cli::try_parse_from(words).err().unwrap();
            assert_eq!(err.exit_code(), 2, "{words:?}");
        }
    }
}
