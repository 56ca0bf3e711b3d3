//! The installation, step by step; each says whether it changed anything.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bramble_contracts::boot::{GROUP, ROOT};
use bramble_contracts::v1::{AgentVersion, Instance};

use crate::files::{self, Done};
use crate::image;
use crate::preflight::{self, Found};
use crate::process::output;
use crate::{Install, settings, units};

/// Where binaries of the agent and the links to them lie.
const BIN: &str = "/var/lib/bramble/bin";
/// Stands before the version in their names.
const PROGRAM: &str = "bramble-agent-v";
const NOT_DONE: &str = "not done: the disk layout stays as it is, so operating system upgrades with a way back are not \
                        possible on this device yet (`bramble-bootstrap convert` makes them so); hardware watchdog \
                        settings are left alone";

/// Does all of it. `tell` hears a line per step.
pub(crate) fn run(wish: &Install, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let found = preflight::check(wish)?;
    found.warnings.iter().for_each(|warning| tell(format!("warning    {warning}")));
    let mut site = Site { root: &wish.root, tell, changed: false };
    site.folders()?;
    site.agent(&found)?;
    site.settings(wish)?;
    site.token(wish, &found)?;
    site.units()?;
    site.mask_rivals()?;
    if wish.image {
        site.image(&found)?;
        return Ok(());
    }
    let changed = site.changed;
    let unit = units::agent(site.instance());
    if preflight::is_this_machine(wish) {
        start(changed, &unit)?;
        tell(format!("started    {unit}; see `systemctl status {unit}`, `/var/lib/bramble/bin/current check`"));
    } else {
        tell(format!("installed  below {}; the agent starts when it boots", wish.root.display()));
    }
    let has_volumes = preflight::is_this_machine(wish) && Path::new("/dev").join(GROUP).join(ROOT).exists();
    if !has_volumes {
        tell(NOT_DONE.into());
    }
    Ok(())
}

struct Site<'a> {
    root: &'a Path,
    tell: &'a mut dyn FnMut(String),
    changed: bool,
}

impl Site<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn note(&mut self, done: Done, path: &Path) {
        let word = match done {
            Done::Unchanged => "unchanged ",
            Done::Written => {
                self.changed = true;
                "wrote     "
            }
        };
        (self.tell)(format!("{word} {}", path.display()));
    }

    fn folders(&self) -> anyhow::Result<()> {
        for path in ["/etc/bramble", "/var/lib/bramble", "/var/lib/bramble-apps", "/var/lib/bramble/bin"] {
            files::folder(&self.at(path), 0o700)?;
        }
        Ok(())
    }

    /// The program lies under its version, and two links lead to it, as the agent itself keeps them when it replaces itself.
    /// An agent that has become a newer one by itself stays that.
    fn agent(&mut self, found: &Found) -> anyhow::Result<()> {
        let bytes = fs::read(&found.agent).with_context(|| format!("cannot read {}", found.agent.display()))?;
        let name = format!("{PROGRAM}{}", found.version);
        let program = self.at(BIN).join(&name);
        let done = files::file(&program, &bytes, 0o755)?;
        self.note(done, &program);
        let confirmed = self.at(BIN).join("confirmed");
        if let Some(newer) = self.runs_newer(&confirmed, &found.version) {
            (self.tell)(format!("left       version {newer} of the agent runs here; {} is older", found.version));
            return Ok(());
        }
        // First what a start that goes wrong goes back to.
        for link in [confirmed, self.at(BIN).join("current")] {
            let done = files::link(&link, Path::new(&name))?;
            self.note(done, &link);
        }
        Ok(())
    }

    fn runs_newer(&self, link: &Path, given: &str) -> Option<AgentVersion> {
        let target = fs::read_link(link).ok()?;
        let held: AgentVersion = target.to_str()?.strip_prefix(PROGRAM)?.parse().ok()?;
        let is_there = self.at(BIN).join(&target).is_file();
        (is_there && given.parse::<AgentVersion>().is_ok_and(|given| given < held)).then_some(held)
    }

    /// The one that starts with the device: the first, unless an upgrade has made it the second.
    fn instance(&self) -> Instance {
        let wants = self.at("/etc/systemd/system/multi-user.target.wants");
        let enabled = |instance: Instance| wants.join(units::agent(instance)).is_symlink();
        if enabled(Instance::B) && !enabled(Instance::A) { Instance::B } else { Instance::A }
    }

    fn settings(&mut self, wish: &Install) -> anyhow::Result<()> {
        let Some(coordinator) = &wish.coordinator else { return Ok(()) };
        let wanted = settings::Wanted { coordinator, name: wish.name.as_ref(), servers: None };
        let path = self.at(settings::PATH);
        let held = fs::read_to_string(&path).unwrap_or_default();
        let done = files::file(&path, settings::text(&held, &path, &wanted)?.as_bytes(), 0o600)?;
        self.note(done, &path);
        Ok(())
    }

    fn token(&mut self, wish: &Install, found: &Found) -> anyhow::Result<()> {
        let (Some(given), Some(token)) = (&wish.token_file, &found.token) else { return Ok(()) };
        if self.at("/var/lib/bramble/keys/identity").exists() {
            (self.tell)("unchanged  this device is enrolled already; the token is not needed and not used".into());
            return Ok(());
        }
        let path = self.at(settings::TOKEN);
        let done = files::file(&path, token.as_bytes(), 0o600)?;
        self.note(done, &path);
        if *given != path {
            (self.tell)(format!("note       {} still holds the token: remove it", given.display()));
        }
        Ok(())
    }

    fn image(&mut self, found: &Found) -> anyhow::Result<()> {
        let mut wrote = vec![];
        image::furnish(self.root, &found.agent, &mut |done, path| {
            if done == Done::Written {
                wrote.push(path.to_owned());
            }
        })?;
        wrote.iter().for_each(|path| self.note(Done::Written, path));
        (self.tell)(format!("furnished  the image below {}; a seed makes it a device", self.root.display()));
        Ok(())
    }

    fn units(&mut self) -> anyhow::Result<()> {
        let folder = self.at("/etc/systemd/system");
        let wants = folder.join("multi-user.target.wants");
        files::folder(&wants, 0o755)?;
        self.remove_old_unit(&folder, &wants)?;
        for (name, text) in units::COMMON {
            let path = folder.join(name);
            let done = files::file(&path, text.as_bytes(), 0o644)?;
            self.note(done, &path);
        }
        for (unit, file) in
            [(units::PODMAN.0.to_owned(), units::PODMAN.0), (units::agent(self.instance()), units::AGENT.0)]
        {
            let done = files::link(&wants.join(unit), &Path::new("/etc/systemd/system").join(file))?;
            self.changed |= done == Done::Written;
        }
        let (name, timers) = (units::PROBATION_TIMER.0, folder.join("timers.target.wants"));
        files::folder(&timers, 0o755)?;
        let done = files::link(&timers.join(name), &Path::new("/etc/systemd/system").join(name))?;
        self.changed |= done == Done::Written;
        Ok(())
    }

    /// Two units on one state would be two agents.
    fn remove_old_unit(&mut self, folder: &Path, wants: &Path) -> anyhow::Result<()> {
        let old = folder.join(units::OLD_AGENT);
        if !fs::read_to_string(&old).is_ok_and(|text| text.starts_with(units::OURS)) {
            return Ok(());
        }
        for path in [wants.join(units::OLD_AGENT), old] {
            files::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        self.changed = true;
        (self.tell)(format!("removed    {}, which {} replaces", units::OLD_AGENT, units::AGENT.0));
        Ok(())
    }

    /// Podman's own starters never see our store; they are masked unless the machine's owner uses them.
    fn mask_rivals(&mut self) -> anyhow::Result<()> {
        let folder = self.at("/etc/systemd/system");
        for name in units::RIVALS {
            let used = ["multi-user.target.wants", "default.target.wants", "timers.target.wants"];
            let path = folder.join(name);
            if used.iter().any(|wants| folder.join(wants).join(name).is_symlink()) || path.is_file() {
                (self.tell)(format!("left       {name} is used on this machine; it does not see Bramble's store"));
                continue;
            }
            let done = files::link(&path, Path::new("/dev/null"))?;
            self.note(done, &path);
        }
        Ok(())
    }
}

fn start(changed: bool, unit: &str) -> anyhow::Result<()> {
    let systemctl = Path::new("/usr/bin/systemctl");
    if changed {
        // Its file may be gone; its process is not.
        if let Err(err) = output(systemctl, &["stop", units::OLD_AGENT]) {
            eprintln!("{} was not there to be stopped: {err:#}", units::OLD_AGENT);
        }
        output(systemctl, &["daemon-reload"])?;
        output(systemctl, &["restart", unit])?;
    }
    output(systemctl, &["start", units::PODMAN.0, unit])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bramble_contracts::Uid;
    use bramble_contracts::bytes::Sha256;
    use bramble_contracts::token::EnrollmentToken;

    use super::*;

    struct Image {
        dir: tempfile::TempDir,
        wish: Install,
    }

    fn image() -> Image {
        let dir = tempfile::tempdir().unwrap();
        let token = EnrollmentToken::new(Uid::from_entropy([1; 13]), [2; 20], Sha256::of(b"x"));
        let (token_file, agent, root) = (dir.path().join("token"), dir.path().join("agent"), dir.path().join("root"));
        fs::write(&token_file, token.reveal().as_bytes()).unwrap();
        fs::write(&agent, "#!/bin/sh\necho 0.1.0\n").unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(&root).unwrap();
        let coordinator = Some("https://fleet.example".to_owned());
        let wish =
            Install { coordinator, token_file: Some(token_file), agent: Some(agent), name: None, root, image: false };
        Image { dir, wish }
    }

    fn install(wish: &Install) -> anyhow::Result<Vec<String>> {
        let mut said = vec![];
        run(wish, &mut |line| said.push(line))?;
        Ok(said)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_image_gets_everything_once() {
        let image = image();
        let root = &image.wish.root;
        let said = install(&image.wish).unwrap();
        assert!(said.iter().any(|line| line.starts_with("not done")), "{said:?}");
        assert_eq!(links(root), ["bramble-agent-v0.1.0"; 2]);
        assert_eq!(mode(&root.join("var/lib/bramble/bin/bramble-agent-v0.1.0")), 0o755);
        assert_eq!(mode(&root.join("var/lib/bramble/bin")), 0o700);
        let enabled = root.join("etc/systemd/system/multi-user.target.wants/bramble-agent@a.service");
        assert_eq!(fs::read_link(enabled).unwrap(), Path::new("/etc/systemd/system/bramble-agent@.service"));
        assert_eq!(mode(&root.join("etc/bramble/enroll.token")), 0o600);
        assert_eq!(mode(&root.join("etc/bramble/agent.toml")), 0o600);
        assert_eq!(mode(&root.join("var/lib/bramble")), 0o700);
        let masked = fs::read_link(root.join("etc/systemd/system/podman-restart.service")).unwrap();
        assert_eq!(masked, Path::new("/dev/null"));
        let timer = fs::read_link(root.join("etc/systemd/system/timers.target.wants/bramble-probation.timer")).unwrap();
        assert_eq!(timer, Path::new("/etc/systemd/system/bramble-probation.timer"));
        let again = install(&image.wish).unwrap();
        assert!(!again.iter().any(|line| line.starts_with("wrote")), "{again:?}");
    }

    fn links(root: &Path) -> [String; 2] {
        ["current", "confirmed"].map(|link| {
            let target = fs::read_link(root.join("var/lib/bramble/bin").join(link)).unwrap();
            target.display().to_string()
        })
    }

    #[test]
    fn a_newer_agent_leaves_the_older_one_beside_it_and_an_older_one_changes_nothing() {
        let image = image();
        let root = &image.wish.root;
        install(&image.wish).unwrap();
        let agent = image.wish.agent.clone().unwrap();
        fs::write(&agent, "#!/bin/sh\necho 0.2.0\n").unwrap();
        install(&image.wish).unwrap();
        assert_eq!(links(root), ["bramble-agent-v0.2.0"; 2]);
        assert!(root.join("var/lib/bramble/bin/bramble-agent-v0.1.0").is_file());
        fs::write(&agent, "#!/bin/sh\necho 0.1.0\n").unwrap();
        let said = install(&image.wish).unwrap();
        assert_eq!(links(root), ["bramble-agent-v0.2.0"; 2]);
        assert!(said.iter().any(|line| line.contains("version 0.2.0 of the agent runs here")), "{said:?}");
    }

    #[test]
    fn what_an_upgrade_has_enabled_stays_so_and_the_unit_of_earlier_versions_goes() {
        let image = image();
        let units = image.wish.root.join("etc/systemd/system");
        let wants = units.join("multi-user.target.wants");
        install(&image.wish).unwrap();
        fs::rename(wants.join("bramble-agent@a.service"), wants.join("bramble-agent@b.service")).unwrap();
        fs::write(units.join("bramble-agent.service"), "# Installed by bramble-bootstrap; ...\n").unwrap();
        std::os::unix::fs::symlink("../bramble-agent.service", wants.join("bramble-agent.service")).unwrap();
        let said = install(&image.wish).unwrap();
        assert!(
            !wants.join("bramble-agent@a.service").is_symlink() && wants.join("bramble-agent@b.service").is_symlink()
        );
        assert!(!units.join("bramble-agent.service").exists() && !wants.join("bramble-agent.service").is_symlink());
        assert!(said.iter().any(|line| line.starts_with("removed")), "{said:?}");
        fs::write(units.join("bramble-agent.service"), "# somebody else's\n").unwrap();
        install(&image.wish).unwrap();
        assert!(units.join("bramble-agent.service").exists());
    }

    #[test]
    fn an_enrolled_device_gets_no_token_and_used_units_stay() {
        let image = image();
        let root = &image.wish.root;
        fs::create_dir_all(root.join("var/lib/bramble/keys")).unwrap();
        fs::write(root.join("var/lib/bramble/keys/identity"), "x").unwrap();
        let wants = root.join("etc/systemd/system/timers.target.wants");
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink("/lib/x", wants.join("podman-auto-update.timer")).unwrap();
        let said = install(&image.wish).unwrap();
        assert!(!root.join("etc/bramble/enroll.token").exists());
        assert!(!root.join("etc/systemd/system/podman-auto-update.timer").exists(), "{said:?}");
    }

    #[test]
    fn an_image_has_an_agent_for_any_processor_and_neither_coordinator_nor_token() {
        let mut image = image();
        let (root, agent) = (image.wish.root.clone(), image.wish.agent.clone().unwrap());
        fs::write(&agent, b"\x7fELF\0bramble-agent version \0\0bramble-agent version 1.2.3\0rest").unwrap();
        for name in ["bramble-bootstrap", "bramble-bootguard"] {
            fs::write(agent.with_file_name(name), name).unwrap();
        }
        fs::create_dir_all(root.join("etc/ssh")).unwrap();
        image.wish = Install { coordinator: None, token_file: None, image: true, ..image.wish };
        install(&image.wish).unwrap();
        assert_eq!(links(&root), ["bramble-agent-v1.2.3"; 2]);
        assert!(!root.join("etc/bramble/agent.toml").exists() && !root.join("etc/bramble/enroll.token").exists());
        assert!(root.join("etc/systemd/system/bramble-firstboot.service").is_file());
        let again = install(&image.wish).unwrap();
        assert!(!again.iter().any(|line| line.starts_with("wrote")), "{again:?}");
        fs::write(&agent, b"\x7fELF\0 nothing of ours").unwrap();
        assert!(install(&image.wish).unwrap_err().to_string().contains("no agent of Bramble"));
        image.wish.root = "/".into();
        assert!(install(&image.wish).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_touched() {
        let image = image();
        let wish = |change: &dyn Fn(&mut Install)| {
            let mut wish = image.wish.clone();
            change(&mut wish);
            install(&wish).unwrap_err()
        };
        let broken = image.dir.path().join("broken");
        fs::write(&broken, "bramble1.secretpart").unwrap();
        let said = format!("{:#}", wish(&|wish| wish.token_file = Some(broken.clone())));
        assert!(said.contains("not an enrolment token") && !said.contains("secretpart"), "{said}");
        assert!(wish(&|wish| wish.coordinator = Some("http://fleet.example".into())).to_string().contains("https"));
        assert!(wish(&|wish| wish.agent = Some("/nonexistent".into())).to_string().contains("--agent"));
        assert_eq!(fs::read_dir(&image.wish.root).unwrap().count(), 0, "nothing was touched");
    }
}
