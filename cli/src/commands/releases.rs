//! How releases are listed and described.

use bramble_contracts::{
    api::{ReleaseState, ReleaseView},
    release::{Artifact, ReleaseManifest},
};
use time::OffsetDateTime;

use super::{
    describe::Page,
    views::{Cell, Listed, plain, word},
};
use crate::output::{Table, Tone, age, clock as at};

/// A number of bytes for people.
pub(super) fn amount(bytes: u64) -> String {
    match bytes {
        ..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        10_485_760.. => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn state(release: &ReleaseView) -> Cell {
    let tone = match release.state {
        ReleaseState::Usable => Tone::Good,
        ReleaseState::Expired => Tone::Warn,
        ReleaseState::KeysChanged => Tone::Bad,
    };
    (tone, word(&release.state))
}

impl Listed for ReleaseView {
    const HEAD: &'static [&'static str] = &["VERSION", "SEQ", "STATE", "TARGETS", "PUBLISHED"];
    const WIDE: &'static [&'static str] = &["MIN-SEQ", "EXPIRES", "BY", "MANIFEST"];

    fn key(&self) -> String {
        self.version.to_string()
    }

    fn cells(&self, now: OffsetDateTime) -> Vec<Cell> {
        let targets: Vec<&str> = self.artifacts.iter().map(|a| a.target.as_str()).collect();
        let published = format!("{} ago", age(&self.published, now));
        let (version, seq) = (self.version.to_string(), self.release_seq.to_string());
        vec![plain(version), plain(seq), state(self), plain(targets.join(",")), plain(published)]
    }

    fn wide(&self) -> Vec<Cell> {
        let manifest = self.manifest.to_string()[..12].to_owned();
        let min_seq = self.min_seq.to_string();
        vec![plain(min_seq), plain(self.expires.as_str()), plain(self.published_by.as_str()), plain(manifest)]
    }
}

fn binaries(artifacts: &[Artifact]) -> Table {
    let mut table = Table::new(&["TARGET", "SIZE", "SHA-256"]);
    for artifact in artifacts {
        let (size, digest) = (amount(artifact.size), artifact.sha256.to_string());
        table.row(vec![plain(artifact.target.as_str()), plain(size), plain(digest)]);
    }
    table
}

/// Everything about a release.
pub(super) fn page(release: &ReleaseView) -> String {
    let mut page = Page::default();
    page.head(&format!("release {}", release.version));
    page.field("state", state(release));
    page.field("why", plain(release.detail.as_str()));
    page.field("sequence", plain(release.release_seq.to_string()));
    page.field("floor", plain(format!("who takes it takes none below {} any more", release.min_seq)));
    page.field("made", plain(release.created.as_str()));
    page.field("expires", plain(release.expires.as_str()));
    page.field("published", plain(format!("{} by {}", release.published, release.published_by)));
    let signers: Vec<String> = release.signed_by.iter().map(ToString::to_string).collect();
    page.field("signed by", plain(signers.join(", ")));
    page.field("manifest", plain(release.manifest.to_string()));
    page.table(2, &binaries(&release.artifacts));
    page.text()
}

/// What a manifest says.
pub(super) fn made(manifest: &ReleaseManifest) -> String {
    let mut page = Page::default();
    page.field("floor", plain(format!("who takes it takes none below {} any more", manifest.min_seq)));
    page.field("made", plain(at(manifest.created_ms)));
    page.field("expires", plain(at(manifest.expires_ms)));
    page.table(2, &binaries(&manifest.artifacts));
    page.text()
}
