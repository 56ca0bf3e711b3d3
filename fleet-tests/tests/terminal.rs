//! Programs inside apps, with what somebody types: the real command line in a real terminal, the whole way to a shell in a
//! container and back, and everything that can end it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::path::Path;
use std::time::Duration;

use bramble_contracts::api::{AuditEvent, Outcome, Page};
use bramble_contracts::bytes::Sha256;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::process::kill_pid;
use bramble_fleet_tests::pty::Pty;
use bramble_fleet_tests::{Device, Fleet, Watch, manifest, soon};
use serde_json::{Value, json};
use xtask::run::Cmd;

const SIZE: (u16, u16) = (101, 33);

/// A fleet with a device on which app `box` has a shell.
fn scene(name: &str) -> (Fleet, Device) {
    let fleet = Fleet::start(name);
    let pi = fleet.device("pi-1");
    let root = fleet.case().subdir("busybox");
    for dir in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "stty", "echo", "head", "tty", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let tar = fleet.case().dir().join("busybox.tar");
    Cmd::new("tar").args(["--create", "--file"]).arg(&tar).arg("--directory").arg(&root).arg(".").check().unwrap();
    pi.podman().args(["import", "--quiet"]).arg(&tar).arg("localhost/busybox:1").check().unwrap();
    let script = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let container = json!({ "name": "box", "image": "localhost/busybox:1", "command": ["sh", "-c", script] });
    fleet.apply(&manifest::deployment("box", &[container]));
    fleet.settled("box", &pi);
    (fleet, pi)
}

fn shell(fleet: &Fleet, more: &[&str]) -> Pty {
    let pty = Pty::start(fleet, &[&["exec", "-it"], more, &["pi-1", "box", "--", "sh"]].concat(), SIZE);
    pty.sees("# ");
    pty
}

/// Does a process with this command line run anywhere on this machine?
fn runs(line: &str) -> bool {
    let words = line.replace(' ', "\0") + "\0";
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.path().join("cmdline")).any(|file| std::fs::read_to_string(file).is_ok_and(|l| l == words))
}

fn sleeps(line: &str) {
    soon("the program in the container to run", || if runs(line) { Ok(()) } else { Err(line.to_owned()) });
}

fn is_gone(line: &str) {
    soon("the program in the container to be gone", || if runs(line) { Err(line.to_owned()) } else { Ok(()) });
}

fn uses(fleet: &Fleet) -> Vec<AuditEvent> {
    let trail: Page<AuditEvent> = fleet.api().get("/api/v1/audit?limit=1000").unwrap();
    trail.items.into_iter().filter(|event| event.action == "device.exec").collect()
}

/// The newest use's event after it.
fn outcome(fleet: &Fleet, count: usize) -> AuditEvent {
    soon("the event after the use", || {
        let after: Vec<_> = uses(fleet).into_iter().filter(|event| event.outcome != Outcome::Intent).collect();
        if after.len() == count { Ok(after[0].clone()) } else { Err(format!("{after:?}")) }
    })
}

#[test]
fn a_shell_on_a_device_is_like_one_here() {
    let (fleet, _pi) = scene("terminal");
    let mut pty = shell(&fleet, &[]);
    assert!(!pty.is_usual(), "keys go through as they are typed");
    pty.type_in("stty size; tty; echo $TERM\r");
    pty.sees("33 101\r\n/dev/");
    pty.sees("vt220\r\n");
    pty.resize(120, 40);
    pty.type_in("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo now lar''ger\r");
    pty.sees("now larger\r\n");
    pty.type_in("echo 'grüß dich, 世界 🍓'\r");
    pty.sees("\ngrüß dich, 世界 🍓\r\n");
    pty.type_in("sleep 54321\r");
    sleeps("sleep 54321");
    pty.type_in("\x03");
    pty.sees("# ");
    is_gone("sleep 54321");
    let mut echoes: Vec<u128> = (0..100)
        .map(|_| {
            let watch = Watch::start();
            pty.type_in("x");
            pty.sees("x");
            watch.elapsed().as_micros()
        })
        .collect();
    echoes.sort_unstable();
    println!("from a key to its echo: {} µs p50, {} µs p99", echoes[50], echoes[98]);
    pty.type_in("\x03");
    // A terminal answers where its cursor is, when a shell asks. That is no beginning of a line.
    pty.type_in("\r");
    pty.sees("# \x1b[6n");
    pty.type_in("\x1b[7;5R");
    // The help, a tilde, and a tilde that is none of our ways.
    pty.type_in("~?");
    pty.sees("~.  end the program");
    pty.type_in("\r~~\x7fecho ~/x\r");
    pty.sees("/x\r\n");
    pty.type_in("exit 42\r");
    assert_eq!(pty.ends(), 42);
    assert!(pty.is_usual(), "the terminal is as it was");

    let after = outcome(&fleet, 1);
    let before = uses(&fleet).into_iter().find(|event| event.outcome == Outcome::Intent).unwrap();
    for event in [&before, &after] {
        assert_eq!((event.who.as_str(), event.object.as_str()), ("admin", "device/pi-1/box"));
        let told = json!({ "program": "sh", "arguments": 0, "container": null, "input": "terminal" });
        assert_eq!(event.before, Some(told));
    }
    assert!(after.detail.starts_with("ended with 42 after "), "{}", after.detail);
    let numbers = after.after.unwrap();
    assert!(numbers["bytesIn"].as_u64().unwrap() > 100 && numbers["bytesOut"].as_u64().unwrap() > 100, "{numbers}");
    assert!(!fleet.coordinator().proc().log().contains("grüß"), "nothing of what was typed is logged");
    let said = fleet.bramble().ok(&["audit"]);
    assert!(said.contains("device.exec") && said.contains("ended with 42 after "), "{said}");
}

#[test]
fn whatever_ends_a_session_ends_its_program_and_restores_the_terminal() {
    let (fleet, pi) = scene("terminal-ends");
    let busy = |seconds: u32, more: &[&str]| {
        let pty = shell(&fleet, more);
        pty.type_in(&format!("sleep {seconds}\r"));
        sleeps(&format!("sleep {seconds}"));
        pty
    };

    let mut left = busy(61001, &[]);
    left.type_in("\r~.");
    left.sees("left by ~. and the program on pi-1 was ended");
    assert_eq!((left.ends(), left.is_usual()), (1, true));
    is_gone("sleep 61001");
    assert!(outcome(&fleet, 1).detail.starts_with("nobody listened any more"));

    let mut idle = busy(61002, &["--idle", "4s"]);
    idle.sees("nothing was typed or printed for 4s, so the program was ended: --idle sets this time");
    assert_eq!((idle.ends(), idle.is_usual()), (1, true));
    is_gone("sleep 61002");
    assert!(outcome(&fleet, 2).detail.contains("nothing was typed or printed for 4s"));

    let mut total = busy(61003, &["--timeout", "10s"]);
    total.sees("its time of 10s is over");
    assert_eq!((total.ends(), total.is_usual()), (1, true));
    is_gone("sleep 61003");

    let mut told = busy(61004, &[]);
    Cmd::new("kill").args(["-TERM", &told.pid().to_string()]).check().unwrap();
    assert_eq!((told.ends(), told.is_usual()), (143, true));
    is_gone("sleep 61004");

    // Nobody can restore anything after SIGKILL; the program goes all the same.
    let mut killed = busy(61005, &[]);
    kill_pid(killed.pid());
    assert_eq!(killed.ends(), -9);
    is_gone("sleep 61005");
    assert!(outcome(&fleet, 5).detail.starts_with("nobody listened any more"));

    let mut stopped = busy(61006, &[]);
    fleet.coordinator().stop();
    stopped.sees("the coordinator is stopping");
    assert_eq!((stopped.ends(), stopped.is_usual()), (1, true));
    is_gone("sleep 61006");
    fleet.coordinator().start();
    fleet.online_agent(&pi);

    let mut lost = busy(61007, &[]);
    pi.kill_agent();
    lost.sees("pi-1: it is not connected");
    assert_eq!((lost.ends(), lost.is_usual()), (1, true));
    let after = outcome(&fleet, 7);
    assert_eq!((after.outcome, after.detail.contains("it is not connected")), (Outcome::Failed, true), "{after:?}");
    pi.start_agent();
    fleet.online_agent(&pi);
    is_gone("sleep 61007");
}

#[test]
fn pipes_carry_everything_and_only_who_may_comes_in() {
    let (fleet, _pi) = scene("terminal-pipes");
    let dir = fleet.case().dir();
    let script = |text: &str| {
        let path = bramble_fleet_tests::programs::programs().bramble.display().to_string();
        let text = text.replace("bramble", &path);
        let cmd = Cmd::new("bash").args(["-c", &text]).dir(dir).within(Duration::from_secs(600));
        let cmd = cmd.env("BRAMBLE_API", fleet.coordinator().url());
        let output = cmd.env("BRAMBLE_TOKEN", fleet.coordinator().admin_token()).output().unwrap();
        (output.status.code().unwrap(), output.stdout, output.stderr)
    };
    // The first 4 MiB of anything, and of the long run more than a broker carries in answer to one request.
    let megabytes = if full() { 100 } else { 4 };
    Cmd::new("dd")
        .args(["if=/dev/urandom", "of=sent", "bs=1M", &format!("count={megabytes}"), "status=none"])
        .dir(dir)
        .check()
        .unwrap();
    let watch = Watch::start();
    let (code, out, err) = script("bramble exec -i pi-1 box -- cat < sent > got && cmp sent got && echo same");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "same\n", ""));
    println!("{megabytes} MiB there and back in {} ms", watch.elapsed().as_millis());
    let (code, out, err) =
        script("printf 'a\\nb\\n' | bramble exec -i pi-1 box -- sh -c 'cat; echo aside >&2; exit 9'");
    assert_eq!((code, out.as_str(), err.as_str()), (9, "a\nb\n", "aside\n"));
    // A reader that has enough, a program that ends before its input, and one that never reads it.
    let (code, out, _) = script("bramble exec -i pi-1 box -- cat /dev/zero < /dev/null | head -c 5 | tr '\\0' 0");
    assert_eq!((code, out.as_str()), (0, "00000"));
    let (code, out, err) = script("bramble exec -i pi-1 box -- head -c 5 < sent | cmp -n 5 - sent && echo same");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "same\n", ""));
    let (code, _, err) = script("bramble exec -i --timeout 2s pi-1 box -- sleep 62001 < sent");
    assert_eq!((code, err.contains("its time of 2s is over")), (1, true), "{err}");
    is_gone("sleep 62001");
    let (code, _, err) = script("timeout --signal INT 2 bramble exec -i pi-1 box -- sleep 62002 < /dev/zero");
    assert_eq!((code, err.as_str()), (124, ""));
    is_gone("sleep 62002");
    // One without input goes with its reader, too.
    let (code, _, err) = script("timeout --signal INT 2 bramble exec --timeout 5m pi-1 box -- sleep 62003");
    assert_eq!((code, err.as_str()), (124, ""));
    is_gone("sleep 62003");

    let bramble = fleet.bramble();
    let said = bramble.fails(2, &["exec", "-it", "pi-1", "box", "--", "sh"]);
    assert!(said.contains("-t wants a terminal, and standard input is none"), "{said}");
    let said = bramble.fails(3, &["exec", "-i", "pi-1", "other", "--", "sh"]);
    assert!(said.contains("there is no deployment on this device other"), "{said}");
    let said = bramble.fails(127, &["exec", "-i", "pi-1", "box", "--", "no-such-program"]);
    assert!(said.contains("no-such-program"), "{said}");
    let said = bramble.fails(1, &["exec", "-i", "--container", "none", "pi-1", "box", "--", "sh"]);
    assert!(said.contains("default.box has no container none here; it has box"), "{said}");

    // Everything but this one right.
    let rights: Vec<&str> = ["devices:read", "devices:write", "devices:logs", "deployments:write", "audit:read"].into();
    let list = json!([{ "name": "ann", "sha256": Sha256::of(b"anns-token"), "rights": rights }]);
    fleet.coordinator().stop();
    write_tokens(fleet.coordinator().state(), &list);
    fleet.coordinator().start();
    let (code, _, err) = script("BRAMBLE_TOKEN=anns-token bramble exec -i pi-1 box -- sh < /dev/null");
    assert_eq!((code, err.contains("ann lacks the right devices:exec")), (4, true), "{err}");
    let (code, _, err) = script("BRAMBLE_TOKEN=anns-token bramble exec pi-1 box -- true");
    assert_eq!((code, err.contains("ann lacks the right devices:exec")), (4, true), "{err}");
    let trail: Page<AuditEvent> = fleet.api().get("/api/v1/audit?limit=20").unwrap();
    let refused = trail.items.iter().filter(|event| event.who == "ann" && event.outcome == Outcome::Refused);
    assert_eq!(refused.count(), 2);
}

fn write_tokens(state: &Path, list: &Value) {
    std::fs::write(state.join("api-tokens.json"), list.to_string()).unwrap();
}
