//! Makes a seed true on the machine: name, keys of people, wireless network, settings of the agent, token.
//!
//! Decides where each of it lies. All of it may be done again. What is in a seed is `seed`'s; that secrets are wiped only
//! after this is done is the caller's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::seed::{Psk, Seed, Wifi};
use crate::files::{self, Done};
use crate::process::output;
use crate::settings;

/// Whoever has a key of the seed comes in as this user.
const USER: &str = "bramble";
const IDENTITY: &str = "var/lib/bramble/keys/identity";

/// Not a folder of a test: programs are run, and the name is set at once.
pub(crate) fn is_this_machine(root: &Path) -> bool {
    root == Path::new("/")
}

/// Does all of it below `root`. `tell` hears what people want to know.
pub(crate) fn take(seed: &Seed, root: &Path, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let site = Site { root };
    if let Some(name) = &seed.hostname {
        site.name(&name.to_string())?;
        tell(format!("this device is called {name}"));
    }
    if !seed.authorized_keys.is_empty() {
        site.keys(&seed.authorized_keys)?;
        tell(format!("{} key(s) may come in by SSH, as the user {USER}", seed.authorized_keys.len()));
    }
    if let Some(wifi) = &seed.wifi {
        tell(site.wifi(wifi)?);
    }
    site.settings(seed)?;
    tell(format!("the coordinator is {}", seed.coordinator));
    tell(site.token(seed)?);
    Ok(())
}

struct Site<'a> {
    root: &'a Path,
}

impl Site<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str, mode: u32) -> anyhow::Result<Done> {
        let path = self.at(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        files::file(&path, text.as_bytes(), mode)
    }

    fn name(&self, name: &str) -> anyhow::Result<()> {
        self.write("etc/hostname", &format!("{name}\n"), 0o644)?;
        let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n");
        self.write("etc/hosts", &hosts, 0o644)?;
        if is_this_machine(self.root) {
            nix::unistd::sethostname(name).with_context(|| format!("cannot call this machine {name}"))?;
        }
        Ok(())
    }

    fn keys(&self, keys: &[String]) -> anyhow::Result<()> {
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        self.write(&format!("etc/ssh/authorized_keys.d/{USER}"), &text, 0o644)?;
        if is_this_machine(self.root) {
            // The image has no such user; both programs leave alone what is there.
            output(Path::new("/usr/bin/systemd-sysusers"), &["/usr/lib/sysusers.d/bramble.conf"])?;
            output(Path::new("/usr/bin/systemd-tmpfiles"), &["--create", "/usr/lib/tmpfiles.d/bramble.conf"])?;
        }
        Ok(())
    }

    fn wifi(&self, wifi: &Wifi) -> anyhow::Result<String> {
        let unit = "wpa_supplicant@wlan0.service";
        if !self.at("usr/lib/systemd/system/wpa_supplicant@.service").is_file() {
            return Ok("Wi-Fi is not set up: this image has no wpa_supplicant".into());
        }
        if let Some(text) = supplicant(wifi) {
            self.write("etc/wpa_supplicant/wpa_supplicant-wlan0.conf", &text, 0o600)?;
        }
        let wants = self.at("etc/systemd/system/multi-user.target.wants");
        files::folder(&wants, 0o755)?;
        files::link(&wants.join(unit), Path::new("/usr/lib/systemd/system/wpa_supplicant@.service"))?;
        if is_this_machine(self.root) {
            let systemctl = Path::new("/usr/bin/systemctl");
            output(systemctl, &["daemon-reload"])?;
            // Not waited for: it is ordered after what runs this.
            output(systemctl, &["--no-block", "restart", unit])?;
        }
        Ok(format!("Wi-Fi is set up for {:?}", wifi.ssid))
    }

    fn settings(&self, seed: &Seed) -> anyhow::Result<()> {
        files::folder(&self.at("etc/bramble"), 0o700)?;
        let path = self.at(settings::PATH);
        let held = fs::read_to_string(&path).unwrap_or_default();
        let (name, servers) = (seed.hostname.as_ref(), seed.servers.as_deref());
        let wanted = settings::Wanted { coordinator: &seed.coordinator, name, servers };
        files::file(&path, settings::text(&held, &path, &wanted)?.as_bytes(), 0o600).map(drop)
    }

    fn token(&self, seed: &Seed) -> anyhow::Result<String> {
        if self.at(IDENTITY).exists() {
            return Ok("this device is enrolled already; the seed's token was not needed".into());
        }
        let path = self.at(settings::TOKEN);
        match &seed.token {
            Some(token) => {
                files::file(&path, token.as_bytes(), 0o600)?;
                Ok("the token is taken; the agent enrols with it as soon as it reaches the coordinator".into())
            }
            None if path.exists() => Ok("the token was taken before".into()),
            None => {
                Ok("the token of this seed was taken before and is gone, and this device is not enrolled: make a new \
                        one with `bramble enroll-token create`"
                    .into())
            }
        }
    }
}

/// Settings for wpa_supplicant; none where they stay as they are.
fn supplicant(wifi: &Wifi) -> Option<String> {
    let way = match &wifi.psk {
        Psk::Secret(psk) if psk.len() == 64 => format!("psk={psk}"),
        Psk::Secret(psk) => format!("psk=\"{psk}\""),
        Psk::Open => "key_mgmt=NONE".to_owned(),
        Psk::Kept => return None,
    };
    // In hexadecimal digits a name needs no quoting.
    let ssid: String = wifi.ssid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let country = wifi.country.as_ref().map(|country| format!("country={country}\n")).unwrap_or_default();
    Some(format!(
        "# Written from the seed.\nctrl_interface=DIR=/run/wpa_supplicant\n{country}\nnetwork={{\n\tssid={ssid}\n\t{way}\n}}\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn seed() -> Seed {
        Seed {
            coordinator: "https://fleet.example".into(),
            token: Some("bramble1.x\n".into()),
            hostname: Some("pi-1".parse().unwrap()),
            wifi: Some(Wifi { ssid: "Zuhaus'".into(), psk: Psk::Secret("correct horse".into()), country: None }),
            authorized_keys: vec!["ssh-ed25519 AAAA".into()],
            servers: Some(vec!["10.0.2.2".into()]),
            secrets: vec![],
        }
    }

    fn taken(seed: &Seed, root: &Path) -> Vec<String> {
        let mut said = vec![];
        take(seed, root, &mut |line| said.push(line)).unwrap();
        said
    }

    #[test]
    fn everything_lies_where_it_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("usr/lib/systemd/system")).unwrap();
        fs::write(at("usr/lib/systemd/system/wpa_supplicant@.service"), "").unwrap();
        let said = taken(&seed(), dir.path());
        assert!(!said.iter().any(|line| line.contains("bramble1") || line.contains("horse")), "{said:?}");
        let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
        let supplicant = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
        assert_eq!(
            (mode("etc/bramble/enroll.token"), mode("etc/bramble/agent.toml"), mode(supplicant)),
            (0o600, 0o600, 0o600)
        );
        let wifi = fs::read_to_string(at(supplicant)).unwrap();
        assert!(wifi.contains("\tssid=5a756861757327\n\tpsk=\"correct horse\"\n"), "{wifi}");
        assert_eq!(fs::read_to_string(at("etc/hostname")).unwrap(), "pi-1\n");
        let settings = fs::read_to_string(at("etc/bramble/agent.toml")).unwrap();
        assert!(settings.contains("https://fleet.example") && settings.contains("10.0.2.2"), "{settings}");
        let wiped = Wifi { psk: Psk::Kept, ..seed().wifi.unwrap() };
        taken(&Seed { token: None, wifi: Some(wiped), ..seed() }, dir.path());
        assert_eq!(fs::read_to_string(at(supplicant)).unwrap(), wifi, "what was taken before stays");
    }

    #[test]
    fn a_token_is_for_a_device_that_is_not_enrolled() {
        let dir = tempfile::tempdir().unwrap();
        let without = Seed { token: None, wifi: None, ..seed() };
        assert!(taken(&without, dir.path()).iter().any(|line| line.contains("make a new one")));
        let identity = dir.path().join(IDENTITY);
        fs::create_dir_all(identity.parent().unwrap()).unwrap();
        fs::write(&identity, "").unwrap();
        assert!(taken(&seed(), dir.path()).iter().any(|line| line.contains("enrolled already")));
        assert!(!dir.path().join("etc/bramble/enroll.token").exists());
    }
}
