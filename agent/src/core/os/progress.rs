//! How far apt is, by the lines it writes to its status-fd.
//!
//! Decides what a line means, and one percentage of both of apt's halves. Lines that say something else are passed over.

use serde::{Deserialize, Serialize};

/// What apt does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progressed {
    /// It fetches packages.
    Fetching,
    /// It writes this package, or what it does with all of them.
    Writing(String),
}

/// How far a unit is. Told while it runs, and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What it does.
    pub doing: Progressed,
    /// Of that, 0 to 100.
    pub percent: u8,
    /// In apt's words.
    pub said: String,
}

/// What one line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusLine {
    /// It goes on.
    Progress(Progress),
    /// A package failed.
    Failed {
        /// Which.
        package: String,
        /// In dpkg's words.
        why: String,
    },
    /// A configuration file was changed by hand and by its package; it asks what to do.
    Asks {
        /// Which file.
        file: String,
    },
}

/// Reads a line of `-o APT::Status-Fd=N`: `kind:what:percent:text`. A package may carry its architecture after a colon.
pub fn status_line(line: &str) -> Option<StatusLine> {
    let (kind, rest) = line.split_once(':')?;
    let known = matches!(kind, "dlstatus" | "pmstatus" | "pmerror" | "pmconffile" | "media-change");
    let (what, percent, said) = known.then(|| fields(rest)).flatten()?;
    let progress = |doing| {
        // apt counts to 100 with decimals.
        let whole = percent.split('.').next().and_then(|text| text.parse::<u8>().ok()).unwrap_or(0).min(100);
        StatusLine::Progress(Progress { doing, percent: whole, said: said.to_owned() })
    };
    Some(match kind {
        "dlstatus" => progress(Progressed::Fetching),
        "pmerror" => StatusLine::Failed { package: what.to_owned(), why: said.to_owned() },
        "pmconffile" => StatusLine::Asks { file: what.to_owned() },
        "media-change" => StatusLine::Failed { package: what.to_owned(), why: format!("it asks for a medium: {said}") },
        _ => progress(Progressed::Writing(what.to_owned())),
    })
}

/// The percentage is the first field that is a number with decimals.
fn fields(rest: &str) -> Option<(&str, &str, &str)> {
    let is_percent = |text: &str| text.contains('.') && text.parse::<f32>().is_ok();
    let mut from = 0;
    while let Some(colon) = rest[from..].find(':') {
        let at = from + colon;
        let (percent, said) = rest[at + 1..].split_once(':')?;
        if is_percent(percent) {
            return Some((&rest[..at], percent, said));
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As apt 2.6 of Debian 12 wrote it, installing a package into a folder of its own.
    const WELL: &str = include_str!("../../host/os/captured/status_fd.txt");
    /// The same, with a package whose last script fails.
    const BADLY: &str = include_str!("../../host/os/captured/status_fd_failed.txt");

    #[test]
    fn captured_lines() {
        let lines: Vec<StatusLine> = WELL.lines().map(|line| status_line(line).unwrap()).collect();
        let percents: Vec<(bool, u8)> = lines
            .iter()
            .map(|line| match line {
                StatusLine::Progress(progress) => (progress.doing == Progressed::Fetching, progress.percent),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(percents[..4], [(true, 0), (true, 0), (true, 100), (false, 0)]);
        assert_eq!(percents.last(), Some(&(false, 80)));
        let said = "Unpacking quiet-lake (amd64)".to_owned();
        let unpacks = Progress { doing: Progressed::Writing("quiet-lake".into()), percent: 20, said };
        assert!(lines.contains(&StatusLine::Progress(unpacks)));
        let why = "installed bad-postinst package post-installation script subprocess returned error exit status 3";
        let failed = StatusLine::Failed { package: "bad-postinst".into(), why: why.into() };
        assert_eq!(BADLY.lines().last().and_then(status_line), Some(failed));
    }

    #[test]
    fn names_with_colons_and_lines_of_somebody_else() {
        let line = "pmstatus:libc6:arm64:12.5000:Unpacking libc6:arm64 (2.41)";
        let said = "Unpacking libc6:arm64 (2.41)".to_owned();
        let unpacks = Progress { doing: Progressed::Writing("libc6:arm64".into()), percent: 12, said };
        assert_eq!(status_line(line), Some(StatusLine::Progress(unpacks)));
        let asks = "pmconffile:/etc/x.conf:50.0000:'/etc/x.conf' '/etc/x.conf.dpkg-new' 1 1";
        assert_eq!(status_line(asks), Some(StatusLine::Asks { file: "/etc/x.conf".into() }));
        for other in ["", "pmstatus", "pmstatus:a", "pmstatus:a:b:c", "hello:a:1.0:b", "dlstatus::::", "pmstatus:a:1.0"]
        {
            assert_eq!(status_line(other), None, "{other}");
        }
    }
}
