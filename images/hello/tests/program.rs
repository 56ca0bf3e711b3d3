//! The real program, as a container would run it: it answers, stops when told, or does not when it should not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(10);

#[allow(clippy::disallowed_methods, reason = "the test starts the program under test")]
fn hello(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bramble-hello"));
    command.args(args).env("HELLO_VERSION", "1").env("BRAMBLE_DEVICE", "pi-1").env_remove("PORT");
    command
}

struct Running {
    child: Child,
    port: u16,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = hello(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
        let port = first.trim().rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("no port in {first:?}"));
        Running { child, port }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(mut self) -> ExitStatus {
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || tx.send(self.child.wait().unwrap()));
        rx.recv_timeout(LIMIT).expect("the program ends in time")
    }
}

#[test]
fn it_answers_and_ends_with_success_when_told_to_stop() {
    let running = Running::start(&["serve", "--port", "0"]);
    assert!(running.get("/").ends_with("\r\n\r\nhello from version 1 on pi-1\n"));
    assert!(running.get("/health").ends_with("\r\n\r\nok\n"));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn ignore_term_answers_on_until_killed() {
    use std::os::unix::process::ExitStatusExt;
    let running = Running::start(&["ignore-term", "--port", "0"]);
    running.signal(Signal::SIGTERM);
    assert!(running.get("/").contains("hello from"));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn the_small_modes_do_what_their_names_say() {
    let out = hello(&["exit", "7", "no database"]).output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).trim()), (Some(7), "no database"));
    let out = hello(&["env", "BRAMBLE_DEVICE"]).output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stdout).trim()), (Some(0), "pi-1"));
    assert_eq!(hello(&["env", "NOT_SET_ANYWHERE"]).output().unwrap().status.code(), Some(1));
    assert_eq!(hello(&["sleep", "0"]).output().unwrap().status.code(), Some(0));
    assert_eq!(hello(&["dance"]).output().unwrap().status.code(), Some(2));
    let file = std::env::temp_dir().join(format!("bramble-hello-touch-{}", std::process::id()));
    assert_eq!(hello(&["touch", file.to_str().unwrap()]).output().unwrap().status.code(), Some(0));
    std::fs::remove_file(&file).expect("touch made the file");
}

#[test]
fn a_flood_and_a_long_sleep_are_cut_short_by_the_stop_signal() {
    let mut child = hello(&["flood"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    for _ in 0..100 {
        out.read_line(&mut lines).unwrap();
    }
    assert!(lines.lines().last().unwrap().starts_with("flood 000000000099 "), "{lines}");
    let flood = Running { child, port: 0 };
    flood.signal(Signal::SIGTERM);
    assert_eq!(flood.end().code(), Some(143));
    // Blocked from the first line on, so the signal is not lost however early it comes after the mask is set.
    let mut child = hello(&["sleep", "600"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_blocked(child.id());
    drop(child.stderr.take());
    let sleep = Running { child, port: 0 };
    sleep.signal(Signal::SIGTERM);
    assert_eq!(sleep.end().code(), Some(143));
}

/// Waits until the process blocks SIGTERM, by the mask the kernel shows.
fn wait_until_blocked(pid: u32) {
    for _ in 0..1_000_000 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap().trim();
        if u64::from_str_radix(mask, 16).unwrap() & (1 << (Signal::SIGTERM as u64 - 1)) != 0 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the program never blocked SIGTERM");
}
