//! apt, as the privileged units run it: never asks, keeps configuration files that were changed by hand, and tells how far
//! it is.
//!
//! Decides its arguments, and what a failure is about. What its output means is `apt`'s and `core::os`' matter.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::files::{self, Files, Told};
use super::{apt, holds};
use crate::core::os::{About, BootFiles, Order, Plan, Progress, StatusLine, UnitFailure, Verb, What, status_line};
use crate::host::cmd::{self, Bounds, CmdError, Finished, Heard};

const APT: &str = "/usr/bin/apt-get";
const MARK: &str = "/usr/bin/apt-mark";
const DPKG: &str = "/usr/bin/dpkg";
const QUERY: &str = "/usr/bin/dpkg-query";
/// Nobody is there to answer, and what runs is started anew by the reboot.
const ENV: &[(&str, &str)] = &[
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("APT_LISTBUGS_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
    ("LC_ALL", "C"),
    ("HOME", "/root"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
];
/// A configuration file that was changed by hand stays; the new one comes beside it.
const NEVER_ASK: &[&str] = &[
    "-y",
    "-q",
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
    "-oDPkg::Lock::Timeout=600",
    "-oAcquire::Retries=3",
];
const WORDS_MAX: usize = 300;

/// One run of it.
pub(super) struct Apt<'a> {
    files: &'a Files,
    order: &'a Order,
    apply_max: Duration,
}

impl<'a> Apt<'a> {
    pub(super) fn new(files: &'a Files, order: &'a Order, apply_max: Duration) -> Self {
        Self { files, order, apply_max }
    }

    /// Asks for the newest lists, and what would be done by them.
    pub(super) async fn plan(&self) -> Result<Plan, UnitFailure> {
        self.run(&["update", "-q", "-oAPT::Update::Error-Mode=any"], About::Archive).await?;
        let (options, words) = (self.options().await?, words(&self.order.what));
        let with = |first: &[&str]| owned(first).chain(options.clone()).chain(words.clone()).collect::<Vec<_>>();
        let simulated = self.printed(APT, &with(&["--simulate"]), About::Packages).await?;
        let uris = self.printed(APT, &with(&["-y", "--print-uris", "-qq"]), About::Packages).await?;
        let held = self.printed(MARK, &["showhold".to_owned()], About::Other).await?;
        apt::plan(&simulated, &uris, &held).map_err(other)
    }

    /// Fetches what the plan names. What is there already is not fetched again.
    pub(super) async fn fetch(&self) -> Result<(), UnitFailure> {
        self.wanted(&["--download-only"], About::Archive).await
    }

    /// Mends what an earlier run left half done, and writes packages; from what was fetched alone.
    pub(super) async fn apply(&self) -> Result<(), UnitFailure> {
        let mend = ["--configure", "-a", "--force-confdef", "--force-confold"].map(str::to_owned);
        self.printed(DPKG, &mend, About::Packages).await?;
        self.wanted(&["--no-download", "--fix-broken"], About::Packages).await?;
        let audit = self.printed(DPKG, &["--audit".to_owned()], About::Packages).await?;
        match audit.lines().map(str::trim).find(|line| !line.is_empty()) {
            None => Ok(()),
            Some(line) => Err(failure(About::Packages, &format!("dpkg finds: {line}"))),
        }
    }

    /// What was fetched is not needed on root any more.
    pub(super) async fn clean(&self) {
        // Unheard: what it tells would be how far the unit is.
        if let Err(UnitFailure { why, .. }) = self.printed(APT, &["clean".to_owned()], About::Other).await {
            tracing::warn!(why, "fetched packages stay on root");
        }
    }

    /// Preferences of this run, where boot files are held.
    async fn options(&self) -> Result<Vec<String>, UnitFailure> {
        match self.order.boot_files {
            BootFiles::Upgraded => Ok(vec![]),
            BootFiles::Held => {
                let installed = self.printed(QUERY, &holds::QUERY.map(str::to_owned), About::Other).await?;
                let of_machine = fs::read_to_string(self.files.root().join("etc/apt/preferences")).unwrap_or_default();
                let path = self.files.run("os-preferences");
                let text = holds::preferences(&installed, &of_machine);
                files::put(&path, text.as_bytes()).map_err(other)?;
                Ok(vec![format!("-oDir::Etc::Preferences={}", path.display())])
            }
        }
    }

    /// apt with what is wished, heard.
    async fn wanted(&self, first: &[&str], about: About) -> Result<(), UnitFailure> {
        let options = self.options().await?;
        let args: Vec<String> = owned(first).chain(options).chain(words(&self.order.what)).collect();
        self.run(&args.iter().map(String::as_str).collect::<Vec<_>>(), about).await
    }

    async fn run(&self, args: &[&str], about: About) -> Result<(), UnitFailure> {
        let status_fd = format!("-oAPT::Status-Fd={}", Heard::OUTPUT);
        let args: Vec<&str> =
            NEVER_ASK.iter().copied().chain([status_fd.as_str()]).chain(args.iter().copied()).collect();
        let (mut worst, mut last) = (None, String::new());
        let mut hear = |line: &str| match status_line(line) {
            Some(StatusLine::Progress(progress)) => {
                last.clone_from(&progress.said);
                self.tell(progress);
            }
            Some(StatusLine::Failed { package, why }) => worst = Some(format!("{package}: {why}")),
            Some(StatusLine::Asks { file }) => {
                worst = Some(format!("{file} was changed by hand, and its package asks what to do"));
            }
            None => {}
        };
        let heard = Heard { env: ENV, hear: &mut hear };
        let done = cmd::run_heard(Path::new(APT), &args, heard, self.bounds()).await;
        match done {
            Ok(done) if done.status.success() => Ok(()),
            Ok(done) => Err(failed(about, &done, worst)),
            Err(err) => Err(broke_off(about, &err, &last)),
        }
    }

    /// A command's output.
    async fn printed(&self, program: &str, args: &[String], about: About) -> Result<String, UnitFailure> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match cmd::run_env(Path::new(program), &args, ENV, self.bounds()).await {
            Ok(done) if done.status.success() => Ok(done.stdout),
            Ok(done) => Err(failed(about, &done, None)),
            Err(err) => Err(broke_off(about, &err, "")),
        }
    }

    /// Shorter than the core's patience with the whole unit: what hangs is named.
    fn bounds(&self) -> Bounds {
        const MINUTE: u64 = 60;
        let time = match self.order.verb {
            Verb::Plan => Duration::from_secs(6 * MINUTE),
            Verb::Fetch => Duration::from_secs(350 * MINUTE),
            Verb::Apply => self.apply_max,
            Verb::Snapshot | Verb::Arm | Verb::Fail | Verb::Commit | Verb::Remove | Verb::Resync | Verb::Mend => {
                Duration::from_secs(8 * MINUTE)
            }
        };
        Bounds { time, output_bytes: 2 << 20 }
    }

    /// For whoever watches; it is not kept, and one that cannot be told is no failure.
    fn tell(&self, progress: Progress) {
        let told = Told { verb: self.order.verb, ticket: self.order.ticket.clone(), progress };
        if let Err(err) = self.files.tell(&told) {
            tracing::debug!(%err, "how far it is cannot be told");
        }
    }
}

fn owned<'a>(words: &'a [&str]) -> impl Iterator<Item = String> + use<'a> {
    words.iter().map(|word| (*word).to_owned())
}

/// apt's words for what is wished. Names came through `Wish::flaw`: none is an option or asks for a removal.
fn words(what: &What) -> Vec<String> {
    match what {
        What::Full => vec!["full-upgrade".to_owned()],
        What::Packages(packages) => {
            let name = |package: &crate::core::os::Package| match &package.version {
                Some(version) => format!("{}={version}", package.name),
                None => package.name.clone(),
            };
            ["install".to_owned(), "--".to_owned()].into_iter().chain(packages.iter().map(name)).collect()
        }
    }
}

fn other(why: impl std::fmt::Display) -> UnitFailure {
    failure(About::Other, &why.to_string())
}

fn failure(about: About, why: &str) -> UnitFailure {
    UnitFailure { about, why: why.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect() }
}

/// Says what apt was at when its time was over: mostly a script of a package.
fn broke_off(about: About, err: &CmdError, last: &str) -> UnitFailure {
    match err {
        CmdError::TimedOut { .. } if !last.is_empty() => failure(about, &format!("{err}; the last word was: {last}")),
        CmdError::TimedOut { .. } => failure(about, &err.to_string()),
        CmdError::Start { .. } | CmdError::Wait { .. } => other(err),
    }
}

/// What it said at the end; a full disk is nobody's fault.
fn failed(about: About, done: &Finished, worst: Option<String>) -> UnitFailure {
    let said = [done.stdout.as_str(), done.stderr.as_str()];
    let mut lines = said.iter().flat_map(|text| text.lines()).map(str::trim);
    let full = ["No space left on device", "You don't have enough free space", "failed to write (No space"];
    if let Some(line) = lines.clone().find(|line| full.iter().any(|words| line.contains(words))) {
        return failure(About::Room, line);
    }
    // What was fetched is gone, or was never whole: no package is to blame.
    let gone = ["E: Unable to fetch some archives", "E: Failed to fetch", "E: Some files failed to download"];
    if let Some(line) = lines.clone().find(|line| gone.iter().any(|words| line.starts_with(words))) {
        return failure(About::Archive, line.trim_start_matches("E: "));
    }
    // The last of its complaints is mostly that dpkg failed, the first says at what.
    let complaint = lines.clone().find_map(|line| line.strip_prefix("E: "));
    let dpkg = lines.find(|line| line.starts_with("dpkg: error"));
    let why = worst.or_else(|| dpkg.map(str::to_owned)).or_else(|| complaint.map(str::to_owned));
    failure(about, &why.unwrap_or_else(|| format!("it ended with {}", done.status)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;
    use crate::core::os::Package;

    fn ended(stdout: &str, stderr: &str) -> Finished {
        Finished { status: ExitStatus::from_raw(100 << 8), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn what_is_wished_in_apts_words() {
        assert_eq!(words(&What::Full), ["full-upgrade"]);
        let named = vec![
            Package { name: "podman".into(), version: Some("5.4-1".into()) },
            Package { name: "jq".into(), version: None },
        ];
        assert_eq!(words(&What::Packages(named)), ["install", "--", "podman=5.4-1", "jq"]);
        assert!(NEVER_ASK.contains(&"-y") && NEVER_ASK.iter().any(|word| word.ends_with("force-confold")));
    }

    #[test]
    fn a_failure_names_the_package_and_a_full_disk_is_nobodys_fault() {
        let said = "Setting up bad (2) ...\ndpkg: error processing package bad (--configure):\n installed bad package \
                    post-installation script subprocess returned error exit status 3\nE: Sub-process /usr/bin/dpkg \
                    returned an error code (1)\n";
        let by_status = failed(About::Packages, &ended("", said), Some("bad: exit status 3".into()));
        assert_eq!((by_status.about, by_status.why.as_str()), (About::Packages, "bad: exit status 3"));
        let by_words = failed(About::Packages, &ended("", said), None);
        assert_eq!(by_words.why, "dpkg: error processing package bad (--configure):");
        let full = "dpkg: error processing archive /x.deb (--unpack):\n cannot copy extracted data for './usr/x' to \
                    '/usr/x.dpkg-new': failed to write (No space left on device)\nE: Sub-process failed\n";
        assert_eq!(failed(About::Packages, &ended("", full), None).about, About::Room);
        let gone =
            failed(About::Archive, &ended("", "Err:1 x\nE: Failed to fetch http://a/x  Connection failed\n"), None);
        assert_eq!((gone.about, gone.why.as_str()), (About::Archive, "Failed to fetch http://a/x  Connection failed"));
        let lost =
            failed(About::Packages, &ended("", "E: Unable to fetch some archives, maybe run apt-get update\n"), None);
        assert_eq!(lost.about, About::Archive, "with --no-download");
        assert!(failed(About::Other, &ended("", ""), None).why.contains("exit status: 100"));
    }

    #[test]
    fn what_hangs_is_named() {
        let err = CmdError::TimedOut { program: APT.into(), after: Duration::from_secs(60) };
        let why = broke_off(About::Packages, &err, "Setting up slow (1.0)");
        assert_eq!(why.about, About::Packages);
        assert!(why.why.ends_with("the last word was: Setting up slow (1.0)"), "{}", why.why);
    }
}
