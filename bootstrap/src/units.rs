//! The systemd units, and what they must say.

use bramble_contracts::v1::Instance;

/// The agent's, for its two instances.
pub(crate) const AGENT: (&str, &str) = ("bramble-agent@.service", include_str!("../units/bramble-agent@.service"));
/// The one of earlier versions, which had but one instance.
pub(crate) const OLD_AGENT: &str = "bramble-agent.service";
/// How every unit of ours begins.
pub(crate) const OURS: &str = "# Installed by bramble-bootstrap";

/// The unit of an instance.
pub(crate) fn agent(instance: Instance) -> String {
    format!("bramble-agent@{}.service", instance.name())
}
/// Podman's, for the agent.
pub(crate) const PODMAN: (&str, &str) = ("bramble-podman.service", include_str!("../units/bramble-podman.service"));
/// One part of an OS upgrade; the agent starts its instances.
pub(crate) const OS: (&str, &str) = ("bramble-os@.service", include_str!("../units/bramble-os@.service"));
/// Holds a system on trial to its time.
pub(crate) const PROBATION: (&str, &str) =
    ("bramble-probation.service", include_str!("../units/bramble-probation.service"));
/// Starts that in every boot.
pub(crate) const PROBATION_TIMER: (&str, &str) =
    ("bramble-probation.timer", include_str!("../units/bramble-probation.timer"));
/// Every one that each installation has.
pub(crate) const COMMON: [(&str, &str); 5] = [PODMAN, AGENT, OS, PROBATION, PROBATION_TIMER];
/// Others that start containers by themselves: the agent is to be the only starter.
pub(crate) const RIVALS: [&str; 2] = ["podman-restart.service", "podman-auto-update.timer"];

/// The targets that want a unit, by its own word.
pub(crate) fn wanted_by(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("WantedBy=")).flat_map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Values of a directive, with its section checked.
    fn values<'a>(unit: &'a str, section: &str, name: &str) -> Vec<&'a str> {
        let mut now = "";
        let mut found = vec![];
        for line in unit.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(head) = line.strip_prefix('[') {
                now = head.strip_suffix(']').expect("a whole section head");
            } else {
                let (key, value) = line.split_once('=').expect("key=value");
                if key == name {
                    assert_eq!(now, section, "{name} is in the wrong section");
                    found.push(value);
                }
            }
        }
        found
    }

    fn one<'a>(unit: &'a str, section: &str, name: &str) -> &'a str {
        let found = values(unit, section, name);
        assert_eq!(found.len(), 1, "{name} is there once");
        found[0]
    }

    #[test]
    fn the_agent_is_watched_restarted_for_ever_and_shut_in() {
        let unit = AGENT.1;
        assert_eq!(one(unit, "Service", "Type"), "notify");
        assert_eq!(one(unit, "Service", "Restart"), "always");
        assert_eq!(one(unit, "Unit", "StartLimitIntervalSec"), "0");
        // What `bramble-agent` says when it ends: `core::upgrade::ExitCode`.
        assert_eq!(one(unit, "Service", "RestartPreventExitStatus"), "64");
        assert_eq!(one(unit, "Service", "SuccessExitStatus"), "64 65");
        let (before, start) = (one(unit, "Service", "ExecStartPre"), one(unit, "Service", "ExecStart"));
        assert!(before.starts_with("-/var/lib/bramble/bin/confirmed guard ") && before.ends_with("--instance %i"));
        assert!(start.starts_with("/var/lib/bramble/bin/current run ") && start.ends_with("--instance %i"));
        // The agent that starts another one gives it 180 s, and says why it did not start; systemd would only say when.
        assert!(one(unit, "Service", "TimeoutStartSec").parse::<u32>().unwrap() > 180);
        let watchdog: u32 = one(unit, "Service", "WatchdogSec").parse().unwrap();
        assert!((30..=300).contains(&watchdog));
        // Apps run without a network and under any clock, and the agent never sets one.
        for awaited in ["network-online", "time-sync", "time-set", "timesyncd", "chrony"] {
            for ordering in ["After", "Wants", "Requires"] {
                assert!(!values(unit, "Unit", ordering).iter().any(|units| units.contains(awaited)), "{awaited}");
            }
        }
        for (name, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateDevices", "yes"),
            ("ProtectClock", "yes"),
            ("RestrictNamespaces", "yes"),
            ("MemoryDenyWriteExecute", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("SystemCallFilter", "@system-service"),
        ] {
            assert_eq!(one(unit, "Service", name), value, "{name}");
        }
        let capabilities = one(unit, "Service", "CapabilityBoundingSet");
        // NET_ADMIN is for host ports, which the agent leads by nftables.
        for dangerous in ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "NET_RAW", "SYS_BOOT"] {
            assert!(!capabilities.contains(dangerous), "{dangerous}");
        }
        let writable = one(unit, "Service", "ReadWritePaths");
        assert_eq!(writable, "/var/lib/bramble /var/lib/bramble-apps /etc/bramble /proc/sys/net/ipv4/conf");
        assert_eq!(one(unit, "Service", "ProtectKernelTunables"), "yes", "but for that one folder");
        assert!(one(unit, "Service", "RestrictAddressFamilies").contains("AF_NETLINK"));
    }

    #[test]
    fn apps_outlive_podmans_service_and_inherit_no_sandbox() {
        let unit = PODMAN.1;
        assert_eq!(one(unit, "Service", "KillMode"), "process");
        assert_eq!(one(unit, "Service", "Delegate"), "yes");
        for inherited in
            ["NoNewPrivileges", "SystemCallFilter", "ProtectSystem", "PrivateTmp", "MemoryDenyWriteExecute"]
        {
            assert!(values(unit, "Service", inherited).is_empty(), "{inherited} would reach into containers");
        }
        // By the program that was confirmed last, by the settings that the agent reads.
        let start = one(unit, "Service", "ExecStart");
        assert_eq!(start, "/var/lib/bramble/bin/confirmed podman --config /etc/bramble/agent.toml");
    }

    #[test]
    fn a_part_of_an_os_upgrade_is_started_by_nobody_but_the_agent() {
        let unit = OS.1;
        assert_eq!(one(unit, "Service", "Type"), "oneshot");
        let start = one(unit, "Service", "ExecStart");
        assert_eq!(start, "/var/lib/bramble/bin/confirmed os %i --config /etc/bramble/agent.toml");
        assert_eq!(wanted_by(unit).count(), 0, "no boot starts it");
        // Packages' scripts run here, and others must not see where boot files are mounted.
        assert_eq!(one(unit, "Service", "PrivateMounts"), "yes");
        for hinders in ["ProtectSystem", "NoNewPrivileges", "RestrictSUIDSGID", "PrivateDevices", "ProtectClock"] {
            assert!(values(unit, "Service", hinders).is_empty(), "{hinders} would break packages' scripts or LVM");
        }
        assert_eq!(one(unit, "Unit", "StartLimitIntervalSec"), "0", "how often is the core's word");
    }

    #[test]
    fn probation_comes_with_every_boot_and_waits_for_nobody_who_may_be_broken() {
        let (service, timer) = (PROBATION.1, PROBATION_TIMER.1);
        assert_eq!(wanted_by(timer).collect::<Vec<_>>(), ["timers.target"]);
        assert!(values(timer, "Timer", "OnBootSec").len() == 1 && values(timer, "Timer", "OnUnitActiveSec").is_empty());
        assert_eq!(one(service, "Service", "Restart"), "on-failure");
        for after in values(service, "Unit", "After") {
            for broken in ["network", "agent", "podman", "multi-user", "dbus"] {
                assert!(!after.contains(broken), "{after}");
            }
        }
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_them_where_it_is_there() {
        let analyze = Path::new("/usr/bin/systemd-analyze");
        if !analyze.exists() {
            eprintln!("systemd-analyze is not on this machine: only our own checks ran");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in COMMON {
            // The programs are not installed here; everything else is judged as it is.
            let lines = text.lines().map(|line| match line.split_once('=') {
                Some(("ExecStart", _)) => "ExecStart=/bin/true",
                Some(("ExecStartPre", _)) => "ExecStartPre=-/bin/true",
                _ => line,
            });
            std::fs::write(dir.path().join(name), lines.collect::<Vec<_>>().join("\n")).unwrap();
        }
        let plain = [PODMAN.0, "bramble-os@apply.service", PROBATION.0, PROBATION_TIMER.0].map(str::to_owned);
        for name in [agent(Instance::A), agent(Instance::B)].into_iter().chain(plain) {
            let path = dir.path().join(name).display().to_string();
            crate::process::output(analyze, &["verify", "--man=no", &path]).unwrap();
        }
    }
}
