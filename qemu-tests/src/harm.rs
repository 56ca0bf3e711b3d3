//! The canary matrix: packages that do harm, and times that do, each with the end that a device must come to.
//!
//! Decides what each does and which words an operator reads; `canary` does it and judges. What is not here but in the
//! campaign of power cuts: a cut at any moment of it.

use std::time::Duration;

use crate::apt::Package;
use crate::clock::Clock;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What the newer package brings besides its mark.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    /// Its last script does this, in shell.
    Postinst(&'static str),
    /// The initramfs does this, in shell, before anything else of it: put before the archive that is there, as microcode
    /// is. `update-initramfs` does the same in two minutes under emulation.
    Early(&'static str),
    /// This unit comes with it, wanted by a target.
    Unit(&'static str, &'static str),
    /// It asks a question, and has a configuration file that was changed by hand.
    Asks,
}

/// What is done to the device meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Besides {
    /// Nothing.
    Nothing,
    /// The clock shows this in the boot on trial.
    TrialClock(Clock),
    /// The state volume is full when it is asked for, and has room again once it has said so.
    StateFullBefore,
    /// The state volume, which the package has filled, has room again once the old system is back.
    StateFullAfter,
    /// Packages may be written for two minutes.
    ShortApply,
    /// The tables of the other slot's FAT are overwritten before.
    SlotDamaged,
}

/// How it must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The old root with the old boot files.
    Back,
    /// The new ones: it did no harm, or none that counts.
    Stays,
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Harm {
    /// Among the sampled cases, and of its rollout.
    pub name: &'static str,
    /// What its package does.
    pub does: Does,
    /// What is done to the device.
    pub besides: Besides,
    /// How it must end.
    pub end: End,
    /// One of these is part of the reason; the reason is empty where there are none.
    pub says: &'static [&'static str],
    /// Uptime after which the trial is given up.
    pub give_up: &'static str,
    /// Resets by a watchdog that it takes at least.
    pub barks: u32,
}

const NOT_UP: &[&str] = &["the new system did not come up"];
const SILENT: &[&str] = &["the agent did nothing for"];

/// One that comes back.
const fn back(name: &'static str, does: Does, says: &'static [&'static str], give_up: &'static str) -> Harm {
    Harm { name, does, besides: Besides::Nothing, end: End::Back, says, give_up, barks: 0 }
}

/// One that stays.
const fn stays(name: &'static str, does: Does, besides: Besides) -> Harm {
    Harm { name, does, besides, end: End::Stays, says: &[], give_up: "900s", barks: 0 }
}

/// The network is switched off: seen from the device like a broker that is away.
pub const SOFT: Harm = back("no-network", Does::Postinst(NO_NETWORK), &["no broker for"], "240s");
/// The kernel panics before the boot guard runs.
pub const HARD: Harm = back("panics-early", Does::Early("echo c > /proc/sysrq-trigger"), NOT_UP, "240s");

const NO_NETWORK: &str = "ln -sf /dev/null /etc/systemd/system/systemd-networkd.service";
/// As `update-initramfs` brings it: two minutes longer, and just what a package would do.
const INIT_PANICS: &str = "script=/etc/initramfs-tools/scripts/init-top/fleet-harm\n\
    printf '#!/bin/sh\\n[ \"$1\" = prereqs ] && exit 0\\necho c > /proc/sysrq-trigger\\n' > $script\n\
    chmod 755 $script\nupdate-initramfs -u";
/// Whole as an archive, with all names that are looked for, and nothing in it.
const HOLLOW: &str = "d=$(mktemp -d)\n\
    for f in $(tr -d '\\n' < /usr/lib/bramble/boot-files.json | sed 's/.*\"needs\":\\[\\([^]]*\\)\\].*/\\1/' | tr ',\"' '  '); do\n\
    mkdir -p $d/$(dirname $f); : > $d/$f\ndone\n\
    for i in /boot/initrd.img-*; do (cd $d && find . | cpio -o -H newc --quiet) > $i; done";
const TRUNCATED: &str = "for i in /boot/initrd.img-*; do truncate -s -300000 $i; done";
const CMDLINE: &str = "echo 'root=/dev/nothing init=/bin/false panic=0' > /boot/firmware/cmdline.txt";
const BROKEN_INIT: &str =
    "rm -f /usr/sbin/init; printf '#!/bin/sh\\nexit 1\\n' > /usr/sbin/init; chmod 755 /usr/sbin/init";
const MISSING_DISK: &str =
    "echo '/dev/disk/by-uuid/not-there /srv ext4 defaults,x-systemd.device-timeout=5s 0 2' >> /etc/fstab";
const NO_AGENT: &str =
    "find /etc/systemd/system /usr/lib/systemd/system -name 'bramble-agent@*' -prune -exec rm -r {} +";
const AGENT_LOOPS: &str = "mkdir -p /etc/systemd/system/bramble-agent@.service.d\n\
    printf '[Service]\\nLimitAS=1M\\n' > /etc/systemd/system/bramble-agent@.service.d/90-harm.conf";
/// To the last byte that root may take; its script goes on as if nothing were.
const FILLS_DISK: &str = "fallocate -l $(df --output=avail -k / | tail -n1)K /var/fleet-fill || true\n\
    dd if=/dev/zero of=/var/fleet-fill2 bs=64k 2>/dev/null || true\ndd if=/dev/zero of=/var/fleet-fill3 bs=512 2>/dev/null || true";
/// Blocks of root and of the pool are taken, given back and taken again, beside the snapshot.
const CHURN: &str = "for n in 1 2 3; do dd if=/dev/zero of=/var/fleet-churn bs=1M count=400 2>/dev/null; sync; done\n\
    rm /var/fleet-churn; fstrim / || true";
const HANG_UNIT: &str = "[Unit]\nBefore=bramble-agent@a.service bramble-agent@b.service\n\
    [Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n";
const FREEZE_UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=sysinit.target\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo 1 > /sys/fs/cgroup/init.scope/cgroup.freeze'\n";
const FILL_STATE_UNIT: &str = "[Unit]\nRequiresMountsFor=/var/lib/bramble\nBefore=bramble-agent@a.service bramble-agent@b.service\n\
    [Service]\nType=oneshot\nExecStart=-/bin/dd if=/dev/zero of=/var/lib/bramble/filler bs=64k\n\
    ExecStart=-/bin/sh -c 'dd if=/dev/zero of=/var/lib/bramble/filler bs=512 oflag=append conv=notrunc; sync'\n";
/// A stand-in for a newer Podman: the old one finds a database of a schema that it does not know (1 KiB of SQLite, packed).
/// Written on the way down, after Podman's service; and the new system goes back for want of a broker.
const NEWER_STORE_UNIT: &str = "[Unit]\nRequiresMountsFor=/var/lib/bramble-apps\nBefore=bramble-podman.service\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/sbin/nft 'add table ip harm; \
    add chain ip harm out { type filter hook output priority -300; }; add rule ip harm out ip daddr 10.0.2.100 drop'\n\
    ExecStop=/bin/sh -c 'cd /var/lib/bramble-apps/store && rm db.sql* && echo \
    H4sIAAAAAAACAwsO9MksSVVIyy/KTSxRMGZgYmBkZHBQUGBgADIhGAYYgZgFjU8IMDHoJTPyghQzdjMA0SjADYoZ2cVlZRkbLUsSk3JSXZyc8/PSMtNhNJNz\
    kKtjiKtCiKOTj6sCTFTD00XB0y/E1d01SCEgyNPXMShSwds1UsHPP0TBL9THR0chODkjNTcxLLWoODM/D64WJq8JiZtfDEA0CkYUYGFkZmBMBgBgQX1bAAQA\
    AA== | base64 -d | gzip -d > db.sql'\n";

/// All of them.
pub const HARMS: &[Harm] = &[
    SOFT,
    HARD,
    back("wrong-root", Does::Early("echo ROOT=/dev/vg0/nothing > /conf/param.conf"), NOT_UP, "240s"),
    back("init-panics", Does::Postinst(INIT_PANICS), NOT_UP, "240s"),
    back("hollow-initramfs", Does::Postinst(HOLLOW), NOT_UP, "240s"),
    back("truncated-initramfs", Does::Postinst(TRUNCATED), &["packages failed"], "240s"),
    back("broken-init", Does::Postinst(BROKEN_INIT), NOT_UP, "240s"),
    back("emergency", Does::Postinst(MISSING_DISK), &["did not come up", "the agent did nothing for"], "600s"),
    Harm {
        barks: 1,
        ..back(
            "hang-initramfs",
            Does::Early("echo 'while :; do sleep 1; done' >> /scripts/local-bottom/ORDER"),
            NOT_UP,
            "600s",
        )
    },
    Harm { barks: 1, ..back("hang-userspace", Does::Unit("sysinit.target", FREEZE_UNIT), NOT_UP, "600s") },
    back("hang-unit", Does::Unit("multi-user.target", HANG_UNIT), SILENT, "150s"),
    back("no-agent", Does::Postinst(NO_AGENT), SILENT, "150s"),
    back("agent-loops", Does::Postinst(AGENT_LOOPS), SILENT, "150s"),
    back("fills-disk", Does::Postinst(FILLS_DISK), &["o space left", "no room"], "240s"),
    Harm {
        besides: Besides::ShortApply,
        ..back("postinst-hangs", Does::Postinst("sleep 100000"), &["did not end within 120 s"], "240s")
    },
    back("postinst-fails", Does::Postinst("echo it breaks >&2; exit 3"), &["packages failed: fleet-mark"], "240s"),
    back("newer-store", Does::Unit("multi-user.target", NEWER_STORE_UNIT), &["no broker for"], "300s"),
    Harm {
        besides: Besides::StateFullAfter,
        ..back("state-full-on-trial", Does::Unit("multi-user.target", FILL_STATE_UNIT), &["judged failed"], "150s")
    },
    stays("state-full-before", Does::Postinst("true"), Besides::StateFullBefore),
    stays("cmdline", Does::Postinst(CMDLINE), Besides::Nothing),
    stays("asks", Does::Asks, Besides::Nothing),
    stays("slot-damaged", Does::Postinst("true"), Besides::SlotDamaged),
    stays("churn", Does::Postinst(CHURN), Besides::Nothing),
    stays("trial-1970", Does::Postinst("true"), Besides::TrialClock(Clock::Unset)),
    Harm {
        besides: Besides::TrialClock(Clock::Ahead(Duration::from_secs(10 * YEAR.as_secs()))),
        ..back("trial-ahead", Does::Postinst("true"), &["the clock is not fit", "no broker for"], "240s")
    },
];

/// One by its name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn harm(name: &str) -> &'static Harm {
    HARMS.iter().find(|harm| harm.name == name).unwrap_or_else(|| panic!("no harm is called {name}"))
}

/// What a package asks, and its question's usual answer.
const TEMPLATES: &str =
    "Template: fleet-mark/fruit\nType: string\nDefault: apple\nDescription: Which fruit?\n Nobody answers.\n";
/// A configuration file that packages have, too.
pub const CONFIG: &str = "/etc/fleet-mark.conf";
/// Where the answer to its question comes to lie.
pub const ANSWER: &str = "/usr/share/fleet-mark.answer";

impl Harm {
    /// The newer package, with it.
    #[must_use]
    pub fn package(&self, package: Package, first: &str) -> Package {
        match self.does {
            Does::Postinst(lines) => package.postinst(&format!("{first}{lines}\n")),
            Does::Early(lines) => package.postinst(&format!("{first}{}", early(lines))),
            Does::Unit(target, text) => {
                let wants = format!("/etc/systemd/system/{target}.wants");
                let wanted = format!("{first}mkdir -p {wants}\nln -sf {UNIT} {wants}/fleet-harm.service\n");
                package.file(UNIT, text, 0o644).postinst(&wanted)
            }
            Does::Asks => asks(package, first),
        }
    }
}

const UNIT: &str = "/usr/lib/systemd/system/fleet-harm.service";

fn early(lines: &str) -> String {
    format!(
        "d=$(mktemp -d)\nmkdir -p $d/conf/conf.d\ncat > $d/conf/conf.d/fleet-harm <<'END'\n{lines}\nEND\n\
         for i in /boot/initrd.img-*; do\n(cd $d && find . | cpio -o -H newc --quiet; cat $i) > $i.new\nmv $i.new $i\ndone\n"
    )
}

fn asks(package: Package, first: &str) -> Package {
    let config =
        "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_input critical fleet-mark/fruit || true\ndb_go\n";
    let asks = format!(
        ". /usr/share/debconf/confmodule\n{first}db_input critical fleet-mark/fruit || true\ndb_go || true\n\
         db_get fleet-mark/fruit\necho \"$RET\" > {ANSWER}\n"
    );
    package
        .depends("debconf")
        .control_file("templates", TEMPLATES, 0o644)
        .control_file("config", config, 0o755)
        .control_file("conffiles", &format!("{CONFIG}\n"), 0o644)
        .file(CONFIG, "of the package\n", 0o644)
        .postinst(&asks)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_ends_have_words() {
        let names: BTreeSet<&str> = HARMS.iter().map(|harm| harm.name).collect();
        assert_eq!(names.len(), HARMS.len());
        for harm in HARMS {
            assert_eq!(harm.end == End::Back, !harm.says.is_empty(), "{}", harm.name);
            assert_eq!(super::harm(harm.name).name, harm.name);
        }
    }
}
