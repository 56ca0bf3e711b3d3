//! The commands of rollouts.

use bramble_contracts::{
    Name,
    api::RolloutRequest,
    label::{LabelKey, LabelValue},
    quantity::{Amount, Millis},
    v1::{self, AgentVersion},
};
use clap::{Args, Subcommand};

use super::label;

#[derive(Args)]
pub(crate) struct Upgrade {
    /// Only devices with all these labels [default: every device of the tenant]
    #[arg(short = 'l', long = "label", value_name = "K=V", value_parser = label, conflicts_with = "devices")]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// Only these devices
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<Name>,
    /// To which version
    #[arg(long = "to", value_name = "VERSION")]
    pub version: AgentVersion,
    /// What the rollout is to be called [default: made from the version]
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,
    #[command(flatten)]
    pub policy: Policy,
    /// Why, for the audit trail
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Wait until it is done; show each device meanwhile
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, requires = "wait", default_value = "1h", value_name = "DURATION")]
    pub timeout: Millis,
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

impl Upgrade {
    /// What is asked for.
    pub(crate) fn request(self) -> RolloutRequest {
        let Self { labels, devices, version, name, policy, reason, wait: _, timeout: _ } = self;
        let is_all = labels.is_empty() && devices.is_empty();
        let selector = bramble_contracts::label::Selector { match_labels: labels.into_iter().collect(), devices };
        RolloutRequest {
            kind: bramble_contracts::api::RolloutKind::Agent,
            name,
            version,
            selector: (!is_all).then_some(selector),
            policy: policy.into(),
            reason,
        }
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
                Command::Agent(Agent::Upgrade(upgrade)) => Some(upgrade.request()),
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
}
