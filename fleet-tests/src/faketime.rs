//! A wrong wall clock for one device's programs, by libfaketime; uptime and everybody else's clock stay as they are.
//! Nobody's clock is set, so the kernel tells nobody of a change: that half is the agent's own test's.

use std::fs;
use std::path::{Path, PathBuf};

/// The clock of one device; clones are the same clock.
#[derive(Debug, Clone)]
pub struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is off by so many seconds.
    ///
    /// # Panics
    /// When `dir` cannot be written.
    #[must_use]
    pub fn off_by(dir: &Path, secs: i64) -> Self {
        let new = Self { file: dir.join("faketime") };
        new.set_off_by(secs);
        new
    }

    /// Sets it to 1970, from where it goes on whenever a program starts, as on a board without a battery.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set_1970(&self) {
        self.write("@1970-01-02 00:00:10");
    }

    /// Sets it, also while its programs run.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set_off_by(&self, secs: i64) {
        self.write(&format!("{secs:+}"));
    }

    fn write(&self, text: &str) {
        // In one step: programs read it at every look at the clock.
        let beside = self.file.with_extension("new");
        let written = fs::write(&beside, format!("{text}\n")).and_then(|()| fs::rename(&beside, &self.file));
        written.unwrap_or_else(|err| panic!("cannot write {}: {err}", self.file.display()));
    }

    /// What a program's environment needs, to see this clock.
    pub(crate) fn env(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("TZ", "UTC".into()),
        ]
    }
}

/// For programs with threads.
fn library() -> String {
    let of = |arch: &str| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketimeMT.so.1");
    let path = of(std::env::consts::ARCH);
    assert!(Path::new(&path).exists(), "{path} is not there: apt-get install libfaketime");
    path
}
