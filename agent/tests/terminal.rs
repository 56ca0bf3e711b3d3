//! Programs with what somebody types, on real Podman: terminals, pipes, and what is left when nobody listens any more.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use bramble_agent::core::app::AppKey;
use bramble_agent::host::podman::{Attach, ExecSpec, Podman};
use bramble_agent::supervise::{Attached, Chunk, OutputStream, Program, SessionWish};
use bramble_contracts::v1::{Terminal, TerminalSize};
use bytes::Bytes;
use common::{Device, container, deployment, running};

const PATIENCE: Duration = Duration::from_secs(60);

/// A session and everything its program has printed.
struct Typist {
    session: Attached,
    out: String,
    err: String,
}

impl Typist {
    async fn start(device: &Device, argv: &[&str], terminal: Option<Terminal>) -> Self {
        let wish = SessionWish {
            app: AppKey::parse("default.web").unwrap(),
            container: None,
            program: Program { argv: argv.iter().map(|&word| word.to_owned()).collect(), terminal },
        };
        let session = device.agent().session(wish).await.unwrap();
        Self { session, out: String::new(), err: String::new() }
    }

    async fn type_in(&self, text: &str) {
        self.session.input.send(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    }

    async fn next(&mut self) -> Option<i32> {
        match tokio::time::timeout(PATIENCE, self.session.output.recv()).await {
            Ok(Some(Chunk::Output { piece, .. })) => {
                let text = String::from_utf8_lossy(&piece.bytes).into_owned();
                match piece.stream {
                    OutputStream::Out => self.out.push_str(&text),
                    OutputStream::Err => self.err.push_str(&text),
                }
                None
            }
            Ok(Some(Chunk::End { exit_code })) => Some(exit_code.unwrap()),
            other => panic!("{other:?} after {:?} {:?}", self.out, self.err),
        }
    }

    /// Reads until it has printed this; forgets what came before it.
    async fn sees(&mut self, text: &str) {
        loop {
            if let Some(at) = self.out.find(text) {
                self.out.drain(..at + text.len());
                return;
            }
            assert_eq!(self.next().await, None, "it ended before it printed {text:?}: {:?}", self.out);
        }
    }

    async fn ends(&mut self) -> i32 {
        loop {
            if let Some(code) = self.next().await {
                return code;
            }
        }
    }
}

/// How many processes of this machine have this command line.
fn count(line: &str) -> usize {
    let words = line.replace(' ', "\0") + "\0";
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|l| l == words)).count()
}

/// Looks again until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "waited in vain for {what}");
}

async fn device() -> Device {
    let device = Device::start().await;
    device
        .want(&[(1, deployment("web", &[], &[container("main", "trap 'exit 0' TERM; while :; do sleep 0.1; done")]))]);
    device.until("web", running).await;
    device
}

fn terminal(columns: u16, rows: u16) -> Option<Terminal> {
    Some(Terminal { name: "vt100".into(), size: TerminalSize { columns, rows } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_takes_keys_and_passes_every_character() {
    let device = device().await;
    let mut shell = Typist::start(&device, &["sh"], terminal(101, 33)).await;
    shell.sees("# ").await;
    shell.type_in("busybox stty size; echo $TERM\r").await;
    shell.sees("33 101\r\nvt100\r\n").await;
    shell.session.size.send_replace(TerminalSize { columns: 120, rows: 40 });
    shell.type_in("until [ \"$(busybox stty size)\" = '40 120' ]; do :; done; echo as \"wide\"\r").await;
    shell.sees("as wide\r\n").await;
    shell.type_in("echo 'grüß dich, 世界 🍓'\r").await;
    shell.sees("\ngrüß dich, 世界 🍓\r\n").await;
    shell.type_in("sleep 98762\r").await;
    until("it to sleep", || count("sleep 98762") == 1).await;
    shell.type_in("\x03").await;
    shell.sees("# ").await;
    // Ctrl-P is the line before, not the first half of a way out of Podman.
    shell.type_in("echo o''nce\r").await;
    shell.sees("\nonce\r\n").await;
    shell.type_in("\x10").await;
    shell.sees("echo o''nce").await;
    shell.type_in("\r").await;
    shell.sees("\nonce\r\n").await;
    shell.type_in("exit 42\r").await;
    assert_eq!(shell.ends().await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_carries_everything_both_ways_and_its_end() {
    let device = device().await;
    let mut program = Typist::start(&device, &["sh", "-c", "cat; echo fine >&2; exit 3"], None).await;
    let Attached { input, output: _, size: _ } = &program.session;
    let (input, whole) = (input.clone(), "0123456789abcdef".repeat(128 * 1024));
    let text = whole.clone();
    let typing = tokio::spawn(async move {
        for part in text.as_bytes().chunks(16 * 1024) {
            input.send(Bytes::copy_from_slice(part)).await.unwrap();
        }
    });
    while program.out.len() < whole.len() {
        assert_eq!(program.next().await, None);
    }
    typing.await.unwrap();
    assert!(program.out == whole, "2 MiB come back as they went");
    // The last sender of its input goes: that is the end of it.
    let Typist { session: Attached { output, input, size }, out, err } = program;
    drop(input);
    let (input, _) = tokio::sync::mpsc::channel(1);
    let mut program = Typist { session: Attached { output, input, size }, out, err };
    assert_eq!(program.ends().await, 3);
    assert_eq!(program.err, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_has_enough_ends_and_its_last_words_are_not_lost() {
    let device = device().await;
    for _ in 0..20 {
        let mut program = Typist::start(&device, &["sh", "-c", "busybox head -c 5; echo; exit 4"], None).await;
        let input = program.session.input.clone();
        let typing = tokio::spawn(async move {
            // Far more than all pipes and sockets hold; it ends when nobody takes it any more.
            while input.send(Bytes::from(vec![b'x'; 16 * 1024])).await.is_ok() {}
        });
        assert_eq!(program.ends().await, 4);
        assert_eq!((program.out.as_str(), program.err.as_str()), ("xxxxx\n", ""));
        drop(program);
        tokio::time::timeout(PATIENCE, typing).await.expect("nobody takes it any more").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_waits() {
    let device = device().await;
    let program = Typist::start(&device, &["sleep", "1000"], None).await;
    let mut sent = 0;
    let filling = async {
        loop {
            program.session.input.send(Bytes::from(vec![b'x'; 16 * 1024])).await.unwrap();
            sent += 16;
        }
    };
    // Pipes and sockets between here and there hold some; then there is no way on.
    assert!(tokio::time::timeout(Duration::from_secs(3), filling).await.is_err());
    assert!(sent <= 128, "{sent} KiB were taken of what nobody reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_goes_with_its_listener_and_so_does_what_it_started() {
    let device = device().await;
    // No other test sleeps so long.
    let sleeps = || count("sleep 98765");
    let mut shell = Typist::start(&device, &["sh"], terminal(80, 24)).await;
    shell.sees("# ").await;
    shell.type_in("trap '' HUP; sleep 98765 & (sleep 98765) & echo st''arted; sleep 98765\r").await;
    shell.sees("started").await;
    let mut piped = Typist::start(&device, &["sh", "-c", "sleep 98765 & echo started; sleep 98765"], None).await;
    piped.sees("started").await;
    until("five of them to run", || sleeps() == 5).await;
    drop(shell);
    drop(piped);
    until("none of them to run", || sleeps() == 0).await;
    // The app itself was not touched.
    assert_eq!(device.report("web").unwrap().containers[0].restarts, 0);
    let (code, _) = device.exec("web", "main", &["true"]).await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_named() {
    let device = device().await;
    let mut wrong = Typist::start(&device, &["no-such-program"], terminal(80, 24)).await;
    wrong.sees("`no-such-program` not found").await;
    assert_eq!(wrong.ends().await, 127);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_behind_is_ended_by_the_next_and_a_persons_own_is_not() {
    let mut device = device().await;
    let id = device.report("web").unwrap().containers[0].id.clone();
    // What an agent before this one has begun, and can end no more.
    let earlier = Podman::new(device.podman.socket());
    let command = vec!["sh".to_owned(), "-c".to_owned(), "sleep 98764".to_owned()];
    let spec = ExecSpec { command, attach: Attach::Terminal(80, 24), ..ExecSpec::default() };
    let session = earlier.exec_create(&id, &spec).await.unwrap();
    let ends = earlier.exec_attach(&session, spec.attach).await.unwrap();
    let by_hand = device.podman_command().args(["exec", "--detach", &id, "sleep", "98763"]).output().unwrap();
    assert!(by_hand.status.success(), "{by_hand:?}");
    until("both to run", || count("sleep 98764") == 1 && count("sleep 98763") == 1).await;
    device.restart_agent().await;
    until("the first to be gone", || count("sleep 98764") == 0).await;
    assert_eq!(count("sleep 98763"), 1, "somebody at the device runs this one");
    drop(ends);
}
