//! The program itself: run, status, check, and the lock that keeps two agents apart.

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
    fn new(coordinator: &Coordinator) -> Self {
        let new = Self { dir: tempfile::tempdir().unwrap() };
        let path = |name: &str| new.dir.path().join(name).display().to_string();
        // Nobody listens there: what is proven here needs no container.
        let text = format!(
            "name = \"pi-1\"\ncoordinator = {:?}\ntoken_file = {:?}\nstate_dir = {:?}\napps_dir = {:?}\nheartbeat_secs = 1\n\
             [podman]\nrun_dir = {:?}\nsocket = {:?}\n[clock]\nservers = []\n",
            coordinator.url,
            path("token"),
            path("state"),
            path("apps"),
            path("run"),
            path("podman.sock"),
        );
        std::fs::write(path("agent.toml"), text).unwrap();
        new
    }

    fn start(&self) -> Running {
        let args = ["run".to_owned(), "--config".to_owned(), self.config()];
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
    use std::os::unix::fs::PermissionsExt as _;
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
