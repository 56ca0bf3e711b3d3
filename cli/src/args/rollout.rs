//! The commands of rollouts.

use bramble_contracts::{
    Name,
    api::{OsPlanRequest, RolloutKind, RolloutRequest},
    label::{LabelKey, LabelValue, Selector},
    quantity::{Amount, Millis},
    v1::{self, AgentVersion, Window},
    v3::{OsPackage, OsPackages, Probation, Protection},
};
use clap::{Args, Subcommand};

use super::label;

#[derive(Args)]
pub(crate) struct Upgrade {
    /// To which version
    #[arg(long = "to", value_name = "VERSION")]
    pub version: AgentVersion,
    #[command(flatten)]
    pub common: Common,
}

/// For which devices.
#[derive(Args)]
pub(crate) struct Selection {
    /// Only devices with all these labels [default: every device of the tenant]
    #[arg(short = 'l', long = "label", value_name = "K=V", value_parser = label, conflicts_with = "devices")]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// Only these devices
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<Name>,
}

impl Selection {
    /// Nothing for all.
    fn selector(self) -> Option<Selector> {
        let Self { labels, devices } = self;
        let is_all = labels.is_empty() && devices.is_empty();
        (!is_all).then(|| Selector { match_labels: labels.into_iter().collect(), devices })
    }
}

/// What every rollout is asked with.
#[derive(Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub selection: Selection,
    /// What the rollout is to be called [default: made from what it brings]
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,
    #[command(flatten)]
    pub policy: Policy,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    pub reason: String,
    #[command(flatten)]
    pub waits: Waits,
}

/// Whether the end is waited for.
#[derive(Args)]
pub(crate) struct Waits {
    /// Wait until it is done; show each device meanwhile
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, requires = "wait", default_value = "1h", value_name = "DURATION")]
    pub timeout: Millis,
}

#[derive(Subcommand)]
pub(crate) enum Os {
    /// Install newer packages, on trial and with a way back
    Upgrade(Box<OsUpgrade>),
    /// Ask devices what an upgrade would do; nothing is changed on them
    Plan(OsPlan),
}

/// Of what, and who is left out.
#[derive(Args)]
pub(crate) struct OsWhat {
    /// These packages and what they need: NAME, or NAME=VERSION
    #[arg(long, value_delimiter = ',', value_name = "NAME[=VERSION],…", value_parser = package)]
    pub packages: Vec<OsPackage>,
    /// All packages
    #[arg(long, conflicts_with = "packages", required_unless_present = "packages")]
    pub full: bool,
    /// Devices that are protected less are left out: tryboot, bootcount or none
    #[arg(long, default_value = "tryboot", value_name = "TIER", value_parser = tier)]
    pub least: Protection,
}

impl OsWhat {
    fn packages(&self) -> OsPackages {
        if self.full { OsPackages::All } else { OsPackages::These(self.packages.clone()) }
    }
}

#[derive(Args)]
pub(crate) struct OsPlan {
    #[command(flatten)]
    pub what: OsWhat,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Args)]
pub(crate) struct OsUpgrade {
    #[command(flatten)]
    pub what: OsWhat,
    /// Devices begin only within this window: 'Mon-Fri 02:00-05:00 Europe/Paris'; every day without days, UTC without a zone
    #[arg(long, value_name = "WINDOW")]
    pub window: Option<Window>,
    /// For how long the new system must be connected, healthy and on time to be confirmed [default: 120s]
    #[arg(long, value_name = "DURATION")]
    pub confirm_for: Option<Millis>,
    /// After so long in one boot the old system comes back [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub give_up_after: Option<Millis>,
    #[command(flatten)]
    pub common: Common,
}

fn package(text: &str) -> Result<OsPackage, String> {
    let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
    let name = name.parse().map_err(|err: bramble_contracts::id::Invalid| err.to_string())?;
    let version = version.map(str::parse).transpose();
    Ok(OsPackage { name, version: version.map_err(|err: bramble_contracts::id::Invalid| err.to_string())? })
}

fn tier(text: &str) -> Result<Protection, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("write tryboot, bootcount or none, not {text:.20}"))
}

/// How it goes through the fleet.
#[derive(Args)]
pub(crate) struct Policy {
    /// Devices in each batch, as numbers or shares of all; the last one is 100%
    #[arg(long, value_delimiter = ',', default_value = "1,10%,100%", value_name = "AMOUNT,…")]
    pub batches: Vec<Amount>,
    /// Share of a batch that must be confirmed before the next [default: 95%]
    #[arg(long, value_name = "SHARE")]
    pub success_threshold: Option<Amount>,
    /// How long a device must be well to count [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub healthy_for: Option<Millis>,
    /// A device that does not get on for so long has failed [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub progress_deadline: Option<Millis>,
    /// How many devices may be on their way at once [default: 100%]
    #[arg(long, value_name = "AMOUNT")]
    pub max_unavailable: Option<Amount>,
    /// Wait for `bramble rollout approve` before each batch but the first
    #[arg(long)]
    pub approve: bool,
}

impl From<Policy> for v1::Rollout {
    fn from(policy: Policy) -> Self {
        let Policy { batches, success_threshold, healthy_for, progress_deadline, max_unavailable, approve } = policy;
        let usual = Self::default();
        Self {
            batches,
            success_threshold: success_threshold.unwrap_or(usual.success_threshold),
            healthy_for: healthy_for.unwrap_or(usual.healthy_for),
            progress_deadline: progress_deadline.unwrap_or(usual.progress_deadline),
            max_unavailable: max_unavailable.unwrap_or(usual.max_unavailable),
            approve,
            window: None,
        }
    }
}

impl Common {
    fn request(self, kind: RolloutKind) -> (RolloutRequest, Waits) {
        let Self { selection, name, policy, reason, waits } = self;
        let request = RolloutRequest {
            kind,
            name,
            version: None,
            packages: None,
            least: None,
            probation: None,
            selector: selection.selector(),
            policy: policy.into(),
            reason,
        };
        (request, waits)
    }
}

impl Upgrade {
    /// What is asked for.
    pub(crate) fn request(self) -> (RolloutRequest, Waits) {
        let (request, waits) = self.common.request(RolloutKind::Agent);
        (RolloutRequest { version: Some(self.version), ..request }, waits)
    }
}

impl OsPlan {
    /// What is asked for.
    pub(crate) fn request(self) -> OsPlanRequest {
        let (packages, least) = (self.what.packages(), Some(self.what.least));
        OsPlanRequest { packages, least, selector: self.selection.selector() }
    }
}

impl OsUpgrade {
    /// What is asked for. A device that boots twice on the way is silent for longer than one that replaces an app.
    pub(crate) fn request(self) -> (RolloutRequest, Waits) {
        let Self { what, window, confirm_for, give_up_after, mut common } = self;
        common.policy.progress_deadline.get_or_insert(Millis::secs(3600));
        let usual = Probation::default();
        let secs =
            |of: Option<Millis>, usual: u32| of.map_or(usual, |of| u32::try_from(of.0 / 1000).unwrap_or(u32::MAX));
        let give_up_secs = secs(give_up_after, usual.give_up_secs);
        let probation = Probation {
            confirm_secs: secs(confirm_for, usual.confirm_secs),
            give_up_secs,
            give_up_in_all_secs: usual.give_up_in_all_secs.max(give_up_secs),
        };
        let (mut request, waits) = common.request(RolloutKind::Os);
        request.policy.window = window;
        let (packages, least, probation) = (Some(what.packages()), Some(what.least), Some(probation));
        (RolloutRequest { packages, least, probation, ..request }, waits)
    }
}

#[derive(Subcommand)]
pub(crate) enum Rollout {
    /// Let no further device begin; those that have begun come to their end
    Pause(Which),
    /// Go on after a pause
    Resume(Which),
    /// End it; devices that have it keep it, agents on trial go back
    Abort(Which),
    /// Go on to the next batch without waiting for this one
    Promote(Which),
    /// Let devices that failed (or were left out for failing too often) try again, and go on
    Retry(Which),
    /// Let the next batch begin
    Approve(Which),
}

#[derive(Args)]
pub(crate) struct Which {
    /// Which rollout; a deployment's is called as the deployment
    pub name: Name,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Agent, Cli, Command};

    #[test]
    fn an_upgrade_is_for_all_devices_unless_some_are_named() {
        let asked = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["bramble", "agent", "upgrade"], words].concat()).ok()?;
            match cli.command {
                Command::Agent(Agent::Upgrade(upgrade)) => Some(upgrade.request().0),
                _ => None,
            }
        };
        let all = asked(&["--to", "1.2.3"]).unwrap();
        assert_eq!((all.selector, all.policy.batches.len()), (None, 3));
        let some = asked(&["--to", "1.2.3", "--device", "pi-1", "--batches", "2,100%", "--approve"]).unwrap();
        assert_eq!(some.selector.unwrap().devices.len(), 1);
        assert_eq!((some.policy.batches, some.policy.approve), (vec![Amount::Count(2), Amount::Percent(100)], true));
        assert!(asked(&["--to", "1.2"]).is_none() && asked(&[]).is_none());
        assert!(asked(&["--to", "1.2.3", "--device", "a", "-l", "k=v"]).is_none());
    }

    #[test]
    fn packages_are_named_or_all_of_them_meant() {
        let asked = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["bramble", "os", "upgrade"], words].concat()).ok()?;
            match cli.command {
                Command::Os(Os::Upgrade(upgrade)) => Some(upgrade.request().0),
                _ => None,
            }
        };
        let all = asked(&["--full", "--least", "bootcount", "--confirm-for", "20s"]).unwrap();
        assert_eq!((all.packages, all.least), (Some(OsPackages::All), Some(Protection::Bootcount)));
        assert_eq!(all.probation.map(|p| (p.confirm_secs, p.give_up_secs, p.check())), Some((20, 600, Ok(()))));
        let some = asked(&["--packages", "podman,curl=8.1-1"]).unwrap();
        let Some(OsPackages::These(these)) = some.packages else { panic!("{some:?}") };
        assert_eq!(these.iter().map(|p| p.version.is_some()).collect::<Vec<_>>(), [false, true]);
        assert_eq!(some.policy.window, None);
        let nightly = asked(&["--full", "--window", "Mon-Fri 02:00-05:00 Europe/Paris"]).unwrap();
        assert_eq!(nightly.policy.window.unwrap().to_string(), "Mon-Fri 02:00-05:00 Europe/Paris");
        for bad in [
            &["--packages", "-o"][..],
            &[],
            &["--full", "--packages", "a1"],
            &["--full", "--least", "much"],
            &["--full", "--window", "at night"],
        ] {
            assert!(asked(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_plan_is_asked_for_as_an_upgrade_is() {
        let words = ["bramble", "os", "plan", "-l", "site=paris", "--packages", "podman", "--least", "bootcount"];
        let Ok(Cli { command: Command::Os(Os::Plan(plan)), .. }) = Cli::try_parse_from(words) else { panic!() };
        let OsPlanRequest { packages, least, selector } = plan.request();
        assert!(matches!(packages, OsPackages::These(these) if these.len() == 1));
        assert_eq!((least, selector.unwrap().match_labels.len()), (Some(Protection::Bootcount), 1));
        assert!(Cli::try_parse_from(["bramble", "os", "plan"]).is_err());
    }
}
