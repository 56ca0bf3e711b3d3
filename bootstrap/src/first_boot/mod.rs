//! Every boot of an image: volumes grow to the card, and a seed on the first partition is taken once.
//!
//! Decides the order, when a seed is taken (its text is not the one that was taken last), and when its secrets are wiped
//! (when the machine has them). Failures are told on the console, in the journal and in `bramble-result.txt` beside the
//! seed, and the next boot tries again. Nothing here keeps the device from starting its apps.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bramble_contracts::bytes::Sha256;

use crate::files;

mod grow;
mod seed;
mod sizes;
mod take;

/// Where the first partition is mounted.
pub(crate) const FIRST: &str = "boot/bramble";
const SEED: &str = "bramble.toml";
const RESULT: &str = "bramble-result.txt";
/// What was taken last, on the state volume.
const TAKEN: &str = "var/lib/bramble/seed.taken";
/// What a wiped file holds for a moment; to TOML it is a comment.
const BLANK: u8 = b'#';
const WRONG: &str = "something is wrong";
const ENROLMENT: &str = "enrolment: ";
/// Below this the agent cannot keep what it has to.
const STATE_FREE_MIN: u64 = 16 << 20;

/// Does all of it. An error is what a person has to do something about.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut lines = vec![];
    let mut failures = vec![];
    let mut tell = |line: String| {
        println!("bramble: {line}");
        lines.push(line);
    };
    if take::is_this_machine(root) {
        if let Err(err) = grow::run(&mut tell) {
            failures.push(format!("the volumes did not grow to the card: {err:#}"));
        }
        failures.extend(state_room(&root.join("var/lib/bramble")));
    }
    let news = seed_once(root, &mut tell);
    let news = news.unwrap_or_else(|err| {
        failures.push(format!("{err:#}"));
        News::Taken
    });
    let path = root.join(FIRST).join(RESULT);
    let was_wrong = || fs::read_to_string(&path).is_ok_and(|text| text.contains(WRONG));
    if news != News::None || !failures.is_empty() || was_wrong() {
        tell_beside(&path, &result_text(news, &lines, &failures));
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\nbramble: ")) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// A seed was taken, or could not be.
    Taken,
    /// It lies there as the image brought it.
    Unfilled,
    /// It is the one that was taken.
    None,
}

/// For whoever takes the card out.
fn tell_beside(path: &Path, text: &str) {
    if let Err(err) = files::file(path, text.as_bytes(), 0o600) {
        println!("bramble: the result cannot be written beside the seed: {err:#}");
    }
}

/// Adds what became of the enrolment to the result beside the seed.
pub(crate) fn add_result(root: &Path, line: &str) {
    let path = root.join(FIRST).join(RESULT);
    let held = fs::read_to_string(&path).unwrap_or_default();
    let kept: String =
        held.lines().filter(|held| !held.starts_with(ENROLMENT)).map(|held| format!("{held}\n")).collect();
    tell_beside(&path, &format!("{kept}{ENROLMENT}{line}\n"));
}

fn result_text(news: News, lines: &[String], failures: &[String]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let head = match news {
        _ if !failures.is_empty() => {
            format!("Bramble {version}: {WRONG}. Mend it, put the card back, and the next boot tries again.\n")
        }
        News::Unfilled => format!("Bramble {version}: this device waits for its seed.\n"),
        News::Taken | News::None => format!("Bramble {version}: this device has taken its seed.\n"),
    };
    let failed = failures.iter().map(|why| format!("WRONG: {why}\n"));
    failed.chain(lines.iter().map(|line| format!("{line}\n"))).fold(head, |text, line| text + &line)
}

fn seed_once(root: &Path, tell: &mut dyn FnMut(String)) -> anyhow::Result<News> {
    let path = root.join(FIRST).join(SEED);
    finish_wipe(&path)?;
    let is_device = root.join(crate::settings::PATH).is_file();
    let Some(text) = read(&path)? else {
        if is_device {
            return Ok(News::None);
        }
        bail!(
            "there is no {SEED} on the first partition (BRAMBLECFG), so this device belongs to no fleet yet: write one"
        );
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let taken = root.join(TAKEN);
    if fs::read_to_string(&taken).is_ok_and(|held| held.trim() == digest(text)) {
        return Ok(News::None);
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        if is_device {
            return Ok(News::None);
        }
        tell(format!("{SEED} is not filled in, so this device belongs to no fleet yet"));
        return Ok(News::Unfilled);
    }
    let seed = seed::parse(text)?;
    take::take(&seed, root, tell)?;
    let clean = seed::without_secrets(text, &seed.secrets);
    if clean != text {
        wipe(&path, &clean)?;
        tell(format!("the secrets in {SEED} are wiped"));
    }
    // Last: what was not marked as taken is taken again, and that changes nothing.
    files::file(&taken, digest(&clean).as_bytes(), 0o600)?;
    Ok(News::Taken)
}

fn digest(text: &str) -> String {
    format!("{}\n", Sha256::of(text.as_bytes())).trim().to_owned()
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let mut bytes = vec![];
    match fs::File::open(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err).with_context(|| format!("cannot read {}", path.display())),
        Ok(file) => file.take(seed::SIZE_MAX + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > seed::SIZE_MAX {
        bail!("{SEED} is longer than {} KiB: that is no seed", seed::SIZE_MAX >> 10);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => bail!("{SEED} is not plain text in UTF-8: save it as that"),
    }
}

/// Over the old bytes where they lie, then a clean file in its place. A card may keep old copies where nobody reads them.
fn wipe(path: &Path, clean: &str) -> anyhow::Result<()> {
    let over = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        let blanks = vec![BLANK; usize::try_from(length).unwrap_or(0)];
        file.rewind()?;
        file.write_all(&blanks)?;
        file.sync_all()
    };
    // The clean one is whole on the card before the old one is touched.
    files::file(&cleaned(path), clean.as_bytes(), 0o600)?;
    over().with_context(|| format!("cannot wipe {}", path.display()))?;
    replace(path)
}

fn cleaned(path: &Path) -> PathBuf {
    path.with_extension("toml.new")
}

fn replace(path: &Path) -> anyhow::Result<()> {
    fs::rename(cleaned(path), path).with_context(|| format!("cannot replace {}", path.display()))?;
    files::sync_parent(path).with_context(|| format!("cannot sync {}", path.display()))
}

/// The power may have gone between the two halves of a wipe. Where the old file was not blanked yet, it is taken again.
fn finish_wipe(path: &Path) -> anyhow::Result<()> {
    if !cleaned(path).is_file() {
        return Ok(());
    }
    let is_blank = match fs::read(path) {
        Ok(bytes) => bytes.iter().all(|byte| *byte == BLANK),
        Err(err) => err.kind() == std::io::ErrorKind::NotFound,
    };
    if is_blank { replace(path) } else { files::remove(&cleaned(path)).context("cannot remove what a wipe has left") }
}

/// A full state volume is said loudly: the agent cannot enrol, and cannot keep what it is told.
fn state_room(state: &Path) -> Option<String> {
    let stat = nix::sys::statvfs::statvfs(state).ok()?;
    #[allow(clippy::useless_conversion, reason = "these are narrower on 32-bit machines")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    let mib = free >> 20;
    (free < STATE_FREE_MIN).then(|| {
        format!(
            "the state volume ({}) is full: {mib} MiB free, the agent needs {}",
            state.display(),
            STATE_FREE_MIN >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Uid;
    use bramble_contracts::token::EnrollmentToken;

    use super::*;

    struct Card(tempfile::TempDir);

    impl Card {
        fn new() -> Self {
            let card = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(card.at(FIRST)).unwrap();
            fs::create_dir_all(card.at("var/lib/bramble")).unwrap();
            card
        }
        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }
        fn seed(&self, text: &str) {
            fs::write(self.at(FIRST).join(SEED), text).unwrap();
        }
        fn boot(&self) -> Result<(), String> {
            run(self.0.path()).map_err(|err| format!("{err:#}"))
        }
        fn on_first(&self, name: &str) -> String {
            fs::read_to_string(self.at(FIRST).join(name)).unwrap_or_default()
        }
    }

    fn token() -> String {
        EnrollmentToken::new(Uid::from_entropy([1; 13]), [2; 20], Sha256::of(b"x")).reveal().to_string()
    }

    fn good() -> String {
        format!("\u{feff}coordinator = \"https://fleet.example\"\r\ntoken = \"{}\"\r\n", token())
    }

    #[test]
    fn a_seed_is_taken_once_and_its_token_is_gone() {
        let card = Card::new();
        card.seed(&good());
        card.boot().unwrap();
        assert_eq!(fs::read_to_string(card.at("etc/bramble/enroll.token")).unwrap().trim(), token());
        for file in [SEED, RESULT] {
            assert!(!card.on_first(file).contains("bramble1."), "{file}");
        }
        assert!(card.on_first(RESULT).contains("has taken its seed"));
        assert_eq!(fs::read_dir(card.at(FIRST)).unwrap().count(), 2, "nothing lies about");
        // By hand, later: the seed was taken, and does not come over it again.
        fs::write(card.at("etc/bramble/agent.toml"), "coordinator = \"https://moved.example\"\n").unwrap();
        fs::remove_file(card.at("etc/bramble/enroll.token")).unwrap();
        fs::remove_file(card.at(FIRST).join(RESULT)).unwrap();
        card.boot().unwrap();
        assert!(fs::read_to_string(card.at("etc/bramble/agent.toml")).unwrap().contains("moved"));
        assert_eq!(card.on_first(RESULT), "", "and there is nothing new to say");
    }

    #[test]
    fn what_becomes_of_the_enrolment_is_the_last_line() {
        let card = Card::new();
        card.seed(&good());
        card.boot().unwrap();
        add_result(card.0.path(), "the token is used up");
        add_result(card.0.path(), "enrolled");
        let result = card.on_first(RESULT);
        assert!(result.ends_with("\nenrolment: enrolled\n") && !result.contains("used up"), "{result}");
    }

    #[test]
    fn a_damaged_seed_is_told_and_the_next_boot_tries_again() {
        let card = Card::new();
        assert!(card.boot().unwrap_err().contains("no bramble.toml"));
        card.seed(&good().replace("token =", "tokn ="));
        let said = card.boot().unwrap_err();
        assert!(said.contains("line 2") && said.contains("tokn") && !said.contains("bramble1."), "{said}");
        let result = card.on_first(RESULT);
        assert!(result.contains("WRONG: bramble.toml, line 2") && !result.contains("bramble1."), "{result}");
        assert!(!card.at("etc/bramble/agent.toml").exists());
        fs::write(card.at(FIRST).join(SEED), [0xff, 0xfe, b'c', 0]).unwrap();
        assert!(card.boot().unwrap_err().contains("UTF-8"));
        card.seed(&good());
        card.boot().unwrap();
        assert!(card.on_first(RESULT).contains("has taken its seed"));
    }

    #[test]
    fn a_seed_that_nobody_filled_in_is_waited_for() {
        let card = Card::new();
        card.seed("# What this device is to become.\n\n#: coordinator = \"https://fleet.example\"\n");
        card.boot().unwrap();
        assert!(card.on_first(RESULT).contains("waits for its seed"), "{}", card.on_first(RESULT));
        card.seed(&good());
        card.boot().unwrap();
        assert!(card.on_first(RESULT).contains("has taken its seed"));
    }

    /// The power goes after the token is taken, after the wipe, before the mark.
    #[test]
    fn a_power_cut_leaves_a_seed_that_is_taken_by_the_next_boot() {
        let card = Card::new();
        card.seed(&good());
        card.boot().unwrap();
        fs::remove_file(card.at(TAKEN)).unwrap();
        card.boot().unwrap();
        assert!(card.on_first(RESULT).contains("the token was taken before"));
        let clean = card.on_first(SEED);
        for whole in [good(), "#".repeat(good().len())] {
            fs::remove_file(card.at(TAKEN)).unwrap();
            card.seed(&whole);
            fs::write(card.at(FIRST).join("bramble.toml.new"), &clean).unwrap();
            card.boot().unwrap();
            assert_eq!(card.on_first(SEED), clean, "cut before and in the middle of the wipe");
            assert!(!card.at(FIRST).join("bramble.toml.new").exists());
        }
    }
}
