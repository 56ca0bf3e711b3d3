//! The operator's command line in a terminal of its own: typed to, watched, resized. Nothing here waits by looking again
//! and again; what the program shows wakes whoever waits for it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::clock::Watch;
use crate::fleet::Fleet;
use crate::programs::programs;

/// For things that take a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `bramble` in a terminal.
pub struct Pty {
    master: OwnedFd,
    /// Held open, so that what the terminal is set to can be asked for after the program.
    _slave: File,
    child: Child,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

#[derive(Default)]
struct Shown {
    text: Vec<u8>,
    /// Up to here it has been looked for.
    seen: usize,
    over: bool,
}

fn sized(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Pty {
    /// Starts it as the administrator.
    ///
    /// # Panics
    /// When there is no terminal to be had.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "a program in a terminal is started in another way than all others")]
    pub fn start(fleet: &Fleet, args: &[&str], (columns, rows): (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a new terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal of our own");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name").into_string().expect("a path");
        tcsetwinsize(&master, sized(columns, rows)).expect("a terminal has a size");
        let open = || File::options().read(true).write(true).open(&name).expect("the terminal's other end");
        // `setsid --ctty` makes it the program's own terminal, with Ctrl-C and changes of size.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(&programs().bramble).args(args);
        command.env("BRAMBLE_API", fleet.coordinator().url()).env("BRAMBLE_TOKEN", fleet.coordinator().admin_token());
        command.env("HOME", fleet.case().subdir("home")).env("TERM", "vt220").env_remove("XDG_CONFIG_HOME");
        command.stdin(Stdio::from(open())).stdout(Stdio::from(open())).stderr(Stdio::from(open()));
        let child = command.spawn().expect("setsid is part of every Debian");
        let shown = Arc::new((Mutex::new(Shown::default()), Condvar::new()));
        let (mut reader, kept) = (File::from(master.try_clone().expect("one more descriptor")), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = reader.read(&mut buffer).unwrap_or(0);
                let mut shown = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
                shown.text.extend_from_slice(&buffer[..read]);
                shown.over = read == 0;
                kept.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { master, _slave: open(), child, shown }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&self, text: &str) {
        let mut master = File::from(self.master.try_clone().expect("one more descriptor"));
        master.write_all(text.as_bytes()).expect("the terminal takes what is typed");
    }

    /// Waits until this is shown, after what was waited for before.
    ///
    /// # Panics
    /// When it is not, with everything that is.
    #[track_caller]
    pub fn sees(&self, text: &str) {
        let watch = Watch::start();
        let mut shown = self.shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &shown.text[shown.seen..];
            if let Some(at) = new.windows(text.len()).position(|part| part == text.as_bytes()) {
                shown.seen += at + text.len();
                return;
            }
            let left = PATIENCE.saturating_sub(watch.elapsed());
            assert!(!left.is_zero() && !shown.over, "{text:?} was not shown after {:?}", self.tail(&shown));
            shown = self.shown.1.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tail(&self, shown: &Shown) -> String {
        let text = &shown.text[shown.text.len().saturating_sub(4000)..];
        String::from_utf8_lossy(text).into_owned()
    }

    /// Makes it larger or smaller.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, sized(columns, rows)).expect("the terminal is there");
    }

    /// Is it as people like it: shows what is typed, and works by lines?
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        let modes = tcgetattr(&self.master).expect("the terminal is there").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The program's process id.
    ///
    /// # Panics
    /// When it has none any more.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("invariant: a pid fits an i32")
    }

    /// Waits for its end, and gives its exit code, or the signal below 0.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let child = &mut self.child;
        let status = crate::clock::soon("the command line to end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // That it has ended is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
