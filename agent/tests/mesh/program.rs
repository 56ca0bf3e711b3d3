//! The program itself: run, status, check, and the lock that keeps two agents apart.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use bramble_agent::host::cmd::{self, Bounds, Finished};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::coordinator::{Coordinator, Tls};
use crate::{PATIENCE, eventually};

struct Program {
    dir: tempfile::TempDir,
}

/// A running agent that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.start_kill().ok();
    }
}

impl Running {
    fn pid(&self) -> u32 {
        self.0.id().unwrap()
    }

    async fn ends(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.0.wait()).await.unwrap().unwrap()
    }

    async fn told_to_end(mut self) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), Signal::SIGTERM).unwrap();
        self.ends().await
    }
}

impl Program {
    /// Nobody listens on its Podman's socket: what is proven by it needs no container.
    fn new(coordinator: &Coordinator) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let podman = format!("socket = {:?}", dir.path().join("podman.sock"));
        Self::of(dir, coordinator, &podman)
    }

    /// As under systemd: `bramble-agent podman` is a unit beside it.
    fn beside_podman(coordinator: &Coordinator) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let podman = format!("separate = true\nprogram = {:?}", dir.path().join("podman"));
        let new = Self::of(dir, coordinator, &podman);
        new.let_podman("exec podman \"$@\"");
        new
    }

    /// What Podman does when it is started the next time.
    fn let_podman(&self, what: &str) {
        let (path, beside) = (self.dir.path().join("podman"), self.dir.path().join("podman.new"));
        std::fs::write(&beside, format!("#!/bin/sh\n{what}\n")).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    fn of(dir: tempfile::TempDir, coordinator: &Coordinator, podman: &str) -> Self {
        let new = Self { dir };
        let path = |name: &str| new.dir.path().join(name).display().to_string();
        let text = format!(
            "name = \"pi-1\"\ncoordinator = {:?}\ntoken_file = {:?}\nstate_dir = {:?}\napps_dir = {:?}\nheartbeat_secs = 1\n\
             [podman]\nrun_dir = {:?}\n{podman}\n[clock]\nservers = []\n",
            coordinator.url,
            path("token"),
            path("state"),
            path("apps"),
            path("run"),
        );
        std::fs::write(path("agent.toml"), text).unwrap();
        new
    }

    fn start(&self) -> Running {
        self.start_as("run")
    }

    fn start_as(&self, command: &str) -> Running {
        let args = [command.to_owned(), "--config".to_owned(), self.config()];
        Running(cmd::start_service(Path::new(env!("CARGO_BIN_EXE_bramble-agent")), &args, &[]).unwrap())
    }

    fn config(&self) -> String {
        self.dir.path().join("agent.toml").display().to_string()
    }

    async fn say(&self, command: &str) -> Finished {
        let program = Path::new(env!("CARGO_BIN_EXE_bramble-agent"));
        Box::pin(cmd::run(program, &[command, "--config", &self.config()], Bounds::default())).await.unwrap()
    }

    /// Starts it and waits until it says that it is connected.
    async fn connected(&self) -> Running {
        let running = self.start();
        let pid = format!("pid {}", running.pid());
        eventually("the program to be connected", || async {
            let said = self.say("status").await.stdout;
            said.contains(&pid) && said.contains(" connected")
        })
        .await;
        running
    }

    async fn says(&self, command: &str, wanted: &str) {
        eventually(&format!("{command} to say {wanted}"), || async { self.say(command).await.stdout.contains(wanted) })
            .await;
    }
}

fn write_token(program: &Program, text: &str) {
    let path = program.dir.path().join("token");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn the_program_enrols_tells_how_it_is_and_stops_in_good_order() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let program = Program::new(&coordinator);
    assert!(program.say("check").await.stdout.contains("not enrolled"));
    let text = coordinator.state().token.reveal();
    write_token(&program, &text);
    let first = program.connected().await;
    assert!(!program.start().ends().await.success(), "two agents never act on one state");
    program.says("check", "takes connections").await;
    let begun = tokio::time::Instant::now();
    assert!(first.told_to_end().await.success());
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    let after = program.say("status").await;
    assert!(!after.status.success() && after.stdout.contains("not running"), "{}", after.stdout);
    let mut third = program.connected().await;
    third.0.kill().await.unwrap();
    let fourth = program.connected().await;
    assert!(fourth.told_to_end().await.success(), "a killed agent leaves no lock behind");
    assert_eq!(coordinator.state().devices.len(), 1);
}

#[tokio::test]
async fn wrong_settings_end_it_with_the_field_named() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let program = Program::new(&coordinator);
    let text = std::fs::read_to_string(program.config()).unwrap();
    std::fs::write(program.config(), format!("coordinater = \"x\"\n{text}")).unwrap();
    let said = program.say("run").await;
    assert!(!said.status.success() && said.stderr.contains("coordinater"), "{}", said.stderr);
}

#[tokio::test]
async fn the_agent_says_when_podmans_service_beside_it_is_down() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let program = Program::beside_podman(&coordinator);
    write_token(&program, &coordinator.state().token.reveal());
    let podman = program.start_as("podman");
    let agent = program.connected().await;
    program.says("check", "answers, and stores images at").await;
    let second = program.start_as("podman").ends().await;
    assert!(!second.success(), "two would end each other's service");

    program.let_podman("echo Error: no disk left >&2; exit 1");
    let service = format!("unix://{}", program.dir.path().join("run/podman.sock").display());
    let ended = cmd::run(Path::new("pkill"), &["-f", &service], Bounds::default()).await.unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    program.says("status", "no disk left").await;

    program.let_podman("exec podman \"$@\"");
    eventually("Podman to be well again", || async { !program.say("status").await.stdout.contains("no disk left") })
        .await;
    assert!(podman.told_to_end().await.success());
    assert!(agent.told_to_end().await.success());
}
