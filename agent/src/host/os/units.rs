//! The privileged units, as the agent sees them: it starts them by systemd, which is all that it may, and asks which run.
//!
//! Decides their names and how systemd's answer is read. Nothing of a wish is in a name: orders lie in files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::reboot::Way;
use crate::core::os::Verb;
use crate::host::cmd::{self, Bounds};

const SYSTEMCTL: &str = "systemctl";
/// Reading volumes waits for whoever changes them.
const LOOK_MAX: Duration = Duration::from_secs(90);

/// What an instance of the unit's template does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One of the core's.
    Verb(Verb),
    /// Looks at the volumes for the agent, which sees no block device.
    Look,
    /// Boots again: who is shut in can neither ask the firmware nor force it.
    Reboot(Way),
    /// Holds to the limit of a trial; a unit of its own.
    Probation,
}

impl Task {
    /// As it stands on the command line.
    pub fn named(name: &str) -> Option<Self> {
        let of_verbs = Verb::ALL.into_iter().map(Self::Verb);
        let others = [Self::Look, Self::Probation].into_iter().chain(Way::ALL.map(Self::Reboot));
        of_verbs.chain(others).find(|task| task.name() == name)
    }

    /// The same, back.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verb(verb) => verb.name(),
            Self::Look => "look",
            Self::Reboot(way) => way.name(),
            Self::Probation => "probation",
        }
    }

    fn unit(self) -> String {
        format!("bramble-os@{}.service", self.name())
    }
}

/// Which of the core's run.
pub type Active = BTreeSet<Verb>;

/// The units of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Units;

impl Units {
    /// Which run, or are about to.
    pub async fn active(self) -> Result<Active, String> {
        let names: Vec<String> = Verb::ALL.into_iter().map(|verb| Task::Verb(verb).unit()).collect();
        let asked = ["show", "--property=Id,ActiveState,Job"];
        let args: Vec<&str> = asked.into_iter().chain(names.iter().map(String::as_str)).collect();
        read(&systemctl(&args, Bounds::default().time).await?)
    }

    /// Has one started, and does not wait for its end.
    pub async fn start(self, verb: Verb) -> Result<(), String> {
        systemctl(&["start", "--no-block", &Task::Verb(verb).unit()], Bounds::default().time).await.map(drop)
    }

    /// Has one look, and waits until it has.
    pub async fn look(self) -> Result<(), String> {
        systemctl(&["start", &Task::Look.unit()], LOOK_MAX).await.map(drop)
    }

    /// Has one boot again, and waits until that is under way: a firmware that does not take a wish is told.
    pub async fn reboot(self, way: Way) -> Result<(), String> {
        let unit = Task::Reboot(way).unit();
        match systemctl(&["start", &unit], LOOK_MAX).await {
            // A reboot that is under way stops its own unit, too.
            Err(why) if !is_stopping().await => Err(why),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// It fails in every state but one; its word counts.
async fn is_stopping() -> bool {
    let asked = cmd::run(Path::new(SYSTEMCTL), &["is-system-running"], Bounds::default()).await;
    asked.is_ok_and(|done| done.stdout.trim() == "stopping")
}

async fn systemctl(args: &[&str], time: Duration) -> Result<String, String> {
    let bounds = Bounds { time, ..Bounds::default() };
    let done = cmd::run(Path::new(SYSTEMCTL), args, bounds).await.map_err(|err| err.to_string())?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(done.stderr.lines().next().unwrap_or("systemctl says nothing").to_owned())
}

/// Blocks of `Name=value`, one for each unit. One with a job is about to run.
fn read(printed: &str) -> Result<Active, String> {
    let mut active = Active::new();
    let mut known = 0;
    for block in printed.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let value = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let id = value("Id").ok_or("systemctl does not say of which unit it speaks")?;
        let Some(verb) = Verb::ALL.into_iter().find(|verb| Task::Verb(*verb).unit() == id) else { continue };
        known += 1;
        let runs = matches!(value("ActiveState"), Some("active" | "activating" | "deactivating" | "reloading"));
        let has_job = value("Job").is_some_and(|job| !matches!(job, "" | "0"));
        if runs || has_job {
            active.insert(verb);
        }
    }
    if known == Verb::ALL.len() { Ok(active) } else { Err(format!("systemctl knows {known} of the units for it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_runs_or_is_about_to_is_active() {
        let mut printed = String::new();
        for verb in Verb::ALL {
            let (state, job) = match verb {
                Verb::Apply => ("activating", "0"),
                Verb::Fail => ("inactive", "812"),
                Verb::Plan => ("failed", ""),
                _ => ("inactive", "0"),
            };
            let job = if job.is_empty() { String::new() } else { format!("Job={job}\n") };
            printed.push_str(&format!("{job}Id=bramble-os@{verb}.service\nActiveState={state}\n\n"));
        }
        assert_eq!(read(&printed).unwrap(), Active::from([Verb::Apply, Verb::Fail]));
        assert!(read("Id=bramble-os@plan.service\nActiveState=inactive\n").unwrap_err().contains("1 of the units"));
    }

    #[test]
    fn every_task_is_found_by_its_name() {
        let others = [Task::Look, Task::Probation].into_iter().chain(Way::ALL.map(Task::Reboot));
        for task in Verb::ALL.into_iter().map(Task::Verb).chain(others) {
            assert_eq!(Task::named(task.name()), Some(task));
        }
        assert_eq!(Task::named("rm -rf"), None);
    }
}
