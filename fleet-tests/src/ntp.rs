//! Time servers on loopback: chrony's, which is right, and one that says what a case wants.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::case::Case;
use crate::clock::unix_secs;
use crate::coordinator::free_port;
use crate::process::{Line, Proc};

/// chrony's server, which takes this machine's clock for right and leaves it alone.
#[derive(Debug)]
pub struct Chrony {
    proc: Proc,
    port: u16,
}

impl Chrony {
    /// Runs on a free port of loopback.
    ///
    /// # Panics
    /// When it cannot be fetched or started.
    #[must_use]
    pub fn start(case: &Arc<Case>) -> Self {
        let program = xtask::prepare::chronyd().unwrap_or_else(|err| panic!("{err:#}"));
        let (port, dir) = (free_port(case), case.subdir("chrony"));
        let path = |name: &str| dir.join(name).display().to_string();
        let conf = format!(
            "local stratum 1\nport {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\ncmdport 0\nbindcmdaddress /\n\
             pidfile {}\ndriftfile {}\n",
            path("pid"),
            path("drift")
        );
        std::fs::write(dir.join("chrony.conf"), conf).expect("the case's folder can be written");
        // In the foreground, never setting a clock, as who we are.
        let line = Line::new(&program).args(["-d", "-x", "-u", "root", "-f", &path("chrony.conf")]);
        let proc = Proc::new("chrony", &case.logs(), line);
        proc.start();
        Self { proc, port }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    #[must_use]
    pub fn proc(&self) -> &Proc {
        &self.proc
    }
}

/// A server whose time is off.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    off: Arc<AtomicI64>,
    over: Arc<()>,
}

impl Liar {
    /// Off by so many seconds.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn off_by(secs: i64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket has a timeout");
        let address = socket.local_addr().expect("a bound socket has an address");
        let new = Self { address, off: Arc::new(AtomicI64::new(secs)), over: Arc::default() };
        let (off, over) = (new.off.clone(), Arc::downgrade(&new.over));
        std::thread::spawn(move || {
            let mut question = [0; 48];
            while over.strong_count() > 0 {
                // Nobody asks for a while: look whether the case is over.
                let Ok((48, asker)) = socket.recv_from(&mut question) else { continue };
                let answer = answer(&question, off.load(Ordering::Relaxed));
                socket.send_to(&answer, asker).expect("loopback takes it");
            }
        });
        new
    }

    /// Off by so many seconds from now on.
    pub fn set_off_by(&self, secs: i64) {
        self.off.store(secs, Ordering::Relaxed);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

fn answer(question: &[u8; 48], off: i64) -> [u8; 48] {
    let mut answer = [0; 48];
    // Version 4, server, stratum 2; the question's own stamp comes back.
    (answer[0], answer[1]) = (0b00_100_100, 2);
    answer[24..32].copy_from_slice(&question[40..48]);
    let now = i64::try_from(unix_secs()).expect("invariant: not that late") + 2_208_988_800 + off;
    let secs = u32::try_from(now & 0xffff_ffff).expect("invariant: masked");
    for at in [32, 40] {
        answer[at..at + 4].copy_from_slice(&secs.to_be_bytes());
        answer[at + 4] = 0x80;
    }
    answer
}
