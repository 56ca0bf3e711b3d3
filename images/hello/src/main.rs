//! The demo app, and the container the tests run: one static program that says which version it is and where it runs.
//!
//! Decides: what each mode does, and that a stop signal ends it at once, also as process 1 of a container (where the
//! kernel drops signals nobody asked for). Does not decide: anything about the fleet; it knows two environment
//! variables, `HELLO_VERSION` from the image and `BRAMBLE_DEVICE` from the agent.

mod http;
mod mode;

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::exit;
use std::time::Duration;

use http::Mood;
use mode::{Mode, USAGE};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What shells say of a program that ended by SIGTERM; the modes that are cut off in their work answer it.
const TERMINATED: i32 = 143;

fn main() {
    let port = std::env::var("PORT").ok();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mode = match mode::parse(&args, port.as_deref()) {
        Ok(mode) => mode,
        Err(why) => {
            say(&format!("bramble-hello: {why}\n{USAGE}"));
            exit(2);
        }
    };
    // Blocked before any thread starts, so every thread inherits it and only the descriptor below sees the signals.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    if let Err(err) = stop.thread_block() {
        fail(&format!("cannot block SIGTERM: {err}"));
    }
    match mode {
        Mode::Serve { port } => serve(&open(port, Mood::Well), &stop),
        Mode::Sick { port } => serve(&open(port, Mood::Sick), &stop),
        Mode::Udp { port } => interruptible(&stop, move || udp(port)),
        Mode::IgnoreTerm { port } => {
            let server = open(port, Mood::Well);
            server.work();
            loop {
                std::thread::park();
            }
        }
        Mode::Exit { code, message } => {
            if let Some(message) = message {
                say(&message);
            }
            exit(code);
        }
        Mode::Sleep { time } => interruptible(&stop, move || std::thread::sleep(time)),
        Mode::Touch { file } => match std::fs::File::create(&file) {
            Ok(_) => println!("touched {file}"),
            Err(err) => fail(&format!("cannot create {file}: {err}")),
        },
        Mode::Env { name } => match std::env::var(&name) {
            Ok(value) => println!("{value}"),
            Err(_) => fail(&format!("{name} is not set")),
        },
        Mode::Cat => interruptible(&stop, cat),
        Mode::Flood => interruptible(&stop, flood),
        Mode::Chatter { every } => interruptible(&stop, move || chatter(every)),
    }
}

fn serve(server: &http::Server, stop: &SigSet) {
    server.work();
    wait_for(stop);
    say("stopping: finishing what was asked");
    server.finish(Duration::from_secs(2));
    exit(0);
}

fn who(mood: Mood) -> http::Who {
    http::Who {
        mood,
        version: std::env::var("HELLO_VERSION").unwrap_or_else(|_| "unknown".into()),
        device: std::env::var("BRAMBLE_DEVICE").unwrap_or_else(|_| "an unknown device".into()),
    }
}

/// The answer to a packet is the version alone.
fn udp(port: u16) {
    let answer = format!("version {}", who(Mood::Well).version);
    let socket =
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let socket = socket.unwrap_or_else(|err| fail(&format!("cannot listen on port {port}: {err}")));
    let mut packet = [0; 64];
    loop {
        // An answer that does not arrive is that client's loss alone.
        if let Ok((_, from)) = socket.recv_from(&mut packet) {
            drop(socket.send_to(answer.as_bytes(), from));
        }
    }
}

fn open(port: u16, mood: Mood) -> http::Server {
    match http::Server::bind(port, who(mood)) {
        Ok(server) => {
            say(&format!("listening on {}", server.address()));
            server
        }
        Err(err) => fail(&format!("cannot listen on port {port}: {err}")),
    }
}

/// Runs `work` on another thread and ends with it, or with the stop signal, whichever comes first.
fn interruptible(stop: &SigSet, work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        work();
        exit(0);
    });
    wait_for(stop);
    exit(TERMINATED);
}

/// What comes in goes out. That nobody reads it any more is a quiet end.
fn cat() {
    if let Err(err) = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())
        && err.kind() != std::io::ErrorKind::BrokenPipe
    {
        fail(&format!("cannot pass on what comes in: {err}"));
    }
}

/// Numbered lines without end, for the tests of log limits. Ends when nobody reads any more.
fn flood() {
    let mut out = std::io::stdout().lock();
    let mut line: u64 = 0;
    while writeln!(out, "flood {line:012} {}", "x".repeat(80)).is_ok() {
        line += 1;
    }
}

/// Numbered lines with the nanoseconds since 1970 at which they were written, to measure how long they travel.
#[allow(clippy::disallowed_methods, reason = "the time of writing is what the line is about")]
fn chatter(every: Duration) {
    let mut line: u64 = 0;
    loop {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let text = format!("chatter {line} {}\n", now.as_nanos());
        if std::io::stdout().write_all(text.as_bytes()).is_err() {
            return;
        }
        line += 1;
        std::thread::sleep(every);
    }
}

fn wait_for(stop: &SigSet) {
    let seen = SignalFd::with_flags(stop, SfdFlags::SFD_CLOEXEC).and_then(|fd| fd.read_signal());
    if let Err(err) = seen {
        fail(&format!("cannot wait for SIGTERM: {err}"));
    }
}

fn fail(why: &str) -> ! {
    say(&format!("bramble-hello: {why}"));
    exit(1)
}

/// A line on stderr, in one write so that a log has it in one piece. That nobody reads it is no reason to fail, as
/// `eprintln!` would.
fn say(line: &str) {
    drop(std::io::stderr().write_all(format!("{line}\n").as_bytes()));
}
