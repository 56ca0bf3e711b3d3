//! One case: its folders, its seed, its logs. When the last part of a case is dropped everything it made is removed;
//! after a panic its logs are kept first, and their ends are printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use crate::{cleanup, clock::Dice};

static COUNT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// What all parts of a case share.
#[derive(Debug)]
pub struct Case {
    name: String,
    dir: PathBuf,
    run: PathBuf,
    seed: u64,
    devices: AtomicU32,
}

impl Case {
    /// Makes the folders of a case.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Arc<Self> {
        SWEEP.call_once(cleanup::sweep);
        let mark = format!("{}{}-{}", cleanup::PREFIX, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (dir, run) = (std::env::temp_dir().join(&mark), PathBuf::from("/run").join(&mark));
        for dir in [&dir.join("logs"), &run] {
            fs::create_dir_all(dir).unwrap_or_else(|err| panic!("cannot make {}: {err}", dir.display()));
        }
        cleanup::claim(&dir);
        let seed = crate::clock::seed();
        println!("case {name}: seed {seed} (BRAMBLE_SEED={seed} repeats it), folder {}", dir.display());
        Arc::new(Self { name: name.to_owned(), dir, run, seed, devices: AtomicU32::new(0) })
    }

    /// Where its files lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its logs lie.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// A short folder for sockets, one for each device.
    #[must_use]
    pub fn new_run_dir(&self) -> PathBuf {
        self.run.join(self.devices.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Random choices of this case.
    #[must_use]
    pub fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }

    /// A folder inside the case's.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn subdir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap_or_else(|err| panic!("cannot make {}: {err}", dir.display()));
        dir
    }

    fn keep_logs(&self) {
        let kept = xtask::paths::target().join("fleet-tests").join(&self.name);
        drop(fs::remove_dir_all(&kept));
        let copy = || -> std::io::Result<()> {
            fs::create_dir_all(&kept)?;
            for entry in fs::read_dir(self.logs())? {
                let entry = entry?;
                fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
            Ok(())
        };
        match copy() {
            Ok(()) => println!("logs of {} are in {}", self.name, kept.display()),
            Err(err) => println!("the logs of {} could not be kept: {err}", self.name),
        }
    }

    fn print_tails(&self) {
        let Ok(entries) = fs::read_dir(self.logs()) else { return };
        for path in entries.filter_map(|e| Some(e.ok()?.path())) {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            println!("── the end of {} ──", path.display());
            println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.print_tails();
        }
        if failed || std::env::var_os("BRAMBLE_KEEP").is_some() {
            self.keep_logs();
        }
        for problem in cleanup::remove_case(&self.dir, &self.run) {
            println!("cleaning up {}: {problem}", self.name);
        }
    }
}
