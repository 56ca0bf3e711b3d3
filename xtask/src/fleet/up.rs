//! Brings the local fleet up, step by step; each step first looks whether there is anything left to do.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{API_PORT, APP_PORT, BROKER_PORT, DEVICE, EXAMPLE, Fleet, LABEL, app, short};
use crate::clock::until;
use crate::daemon::{Daemon, Ensured, hold_starts};
use crate::prepare::{self, Need, sha256, sha256_of};
use crate::run::Cmd;
use crate::{http, paths};

/// What happens after the fleet is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It stays when we go.
    Detached,
    /// We stay, and take it with us on Ctrl-C.
    Foreground,
}

const READY: Duration = Duration::from_secs(60);
const ONLINE: Duration = Duration::from_secs(60);

/// How long the example app may take.
pub(super) struct Patience {
    /// What `bramble apply --wait` is told.
    pub(super) applied_word: &'static str,
    /// For `bramble apply` to end.
    pub(super) applied: Duration,
    /// For the app to answer after that.
    pub(super) answers: Duration,
}

const PATIENCE: Patience =
    Patience { applied_word: "90s", applied: Duration::from_secs(120), answers: Duration::from_secs(20) };

/// Brings it up.
///
/// # Errors
/// With the step that failed, why, and what the programs said last.
pub fn up(stay: Stay) -> anyhow::Result<()> {
    let result = bring_up(&Fleet::here(), stay);
    if result.is_err() {
        // When a signal is taking the fleet down, that is why it failed: whoever does it also ends this program.
        drop(hold_starts());
    }
    result
}

fn bring_up(fleet: &Fleet, stay: Stay) -> anyhow::Result<()> {
    let build_first = !super::built_before_sudo();
    if !super::is_root() {
        build()?;
        return Err(super::again_as_root());
    }
    let signals = match stay {
        Stay::Foreground => Some(down_on_signal(fleet.clone())?),
        Stay::Detached => None,
    };
    prepare::packages(Need::Fleet)?;
    if build_first {
        build()?;
    }
    prepare::cgroups()?;
    let nats = prepare::nats_server()?;
    private_dir(&fleet.dir)?;
    start_coordinator(fleet, &nats)?;
    write_env(fleet)?;
    start_device(fleet)?;
    let answer = deploy(fleet, &fleet.agent(), &PATIENCE)?;
    tell(fleet, fleet.agent().log(), &answer, stay);
    match signals {
        Some(signals) => watch(fleet, &[fleet.coordinator(), fleet.agent()], &signals),
        None => Ok(()),
    }
}

/// Builds what runs, as whoever calls.
pub(super) fn build() -> anyhow::Result<()> {
    step("Building");
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "-p", "bramble-coordinator", "-p", "bramble-agent", "-p", "bramble-cli"])
        .dir(paths::checkout())
        .within(Duration::from_secs(3600))
        .show()?;
    prepare::hello_rootfs()?;
    Ok(())
}

pub(super) fn start_coordinator(fleet: &Fleet, nats: &Path) -> anyhow::Result<()> {
    let daemon = fleet.coordinator();
    if daemon.running().is_none() {
        free(API_PORT)?;
        // A broker that outlived a killed coordinator is that coordinator's to take over.
        if super::down::leftovers(&fleet.dir).is_empty() {
            free(BROKER_PORT)?;
        }
    }
    let program = paths::built("bramble-coordinator");
    let cmd = Cmd::new(&program)
        .args([
            "serve",
            "--listen",
            &fleet.api().to_string(),
            "--broker-listen",
            &fleet.broker().to_string(),
            "--nats-server",
        ])
        .arg(nats)
        .arg("--state")
        .arg(fleet.coordinator_state());
    let ensured = daemon.ensure(&cmd, &mark(&program, &cmd.line())?)?;
    report("coordinator with its broker", ensured);
    let ready = || {
        if !fleet.at.is_loopback() {
            let asked = fleet.bramble().and_then(|cmd| Ok(cmd.args(["get", "devices"]).check()?));
            return asked.map(drop).map_err(|err| format!("{err:#}"));
        }
        let answer = http::get(fleet.api(), "/ready").map_err(|err| err.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body.trim())) }
    };
    alive_until(&[&daemon], "the coordinator to be ready", READY, ready)
}

fn start_device(fleet: &Fleet) -> anyhow::Result<()> {
    private_dir(&fleet.device())?;
    let conf = fleet.containers_conf();
    prepare::podman_env(conf.parent().expect("invariant: the file lies in a folder"))?;
    step("Loading the demo image into the device's own Podman store");
    for version in [1, 2] {
        prepare::hello_image(&fleet.store(), version)?;
    }
    let token = fleet.device().join("enroll.token");
    if known(fleet)?.is_none() {
        let args = ["enroll-token", "create", "--auto-approve", "--label", LABEL, "-o", "json"];
        let answer = fleet.bramble()?.args(args).check().context("cannot make an enrolment token")?;
        private_file(&token, token_of(&answer)?)?;
    }
    let config = fleet.device().join("agent.toml");
    let text = agent_toml(fleet, &token);
    private_file(&config, &text)?;
    let program = paths::built("bramble-agent");
    let cmd = Cmd::new(&program).arg("supervise").arg("--config").arg(&config).env("CONTAINERS_CONF", conf);
    let daemon = fleet.agent();
    let ensured = daemon.ensure(&cmd, &mark(&program, &text)?)?;
    report(&format!("agent of the device {DEVICE}"), ensured);
    let online = || match known(fleet).map_err(|err| format!("{err:#}"))? {
        Some(connection) if connection == "online" => Ok(()),
        Some(connection) => Err(format!("it is {connection}")),
        None => Err("it has not enrolled yet".into()),
    };
    alive_until(&[&daemon, &fleet.coordinator()], &format!("{DEVICE} to be online"), ONLINE, online)
}

pub(super) fn deploy(fleet: &Fleet, agent: &Daemon, patience: &Patience) -> anyhow::Result<String> {
    step(&format!("Applying {EXAMPLE}"));
    let apply = fleet.bramble()?.args(["apply", "-f", EXAMPLE, "--wait", "--timeout", patience.applied_word]);
    apply.within(patience.applied).check().context("the example app did not come up")?;
    let answers = || {
        let answer = http::get(app(), "/").map_err(|err| err.to_string())?;
        if answer.status == 200 { Ok(answer.body.trim().to_string()) } else { Err(answer.status.to_string()) }
    };
    let daemons = [agent, &fleet.coordinator()];
    alive_until(&daemons, &format!("the app on port {APP_PORT} to answer"), patience.answers, answers)
}

/// What the coordinator knows of the device's connection; `None` while it does not know the device.
pub(super) fn known(fleet: &Fleet) -> anyhow::Result<Option<String>> {
    /// The command line's exit code for something that does not exist.
    const NOT_FOUND: i32 = 3;
    let get = fleet.bramble()?.args(["get", "devices", DEVICE, "-o", "json"]);
    if get.output()?.status.code() == Some(NOT_FOUND) {
        return Ok(None);
    }
    let device: serde_json::Value =
        serde_json::from_str(&get.check()?).context("`bramble get -o json` gave no JSON")?;
    let connection = device["connection"].as_str().context("the device's JSON has no connection")?;
    Ok(Some(connection.into()))
}

pub(super) fn token_of(json: &str) -> anyhow::Result<&str> {
    // Read by hand so that the secret is not copied about: it is the only string that begins like a token.
    let start = json.find("bramble1.").context("the answer to `enroll-token create` holds no token")?;
    let end = json[start..].find('"').context("the answer to `enroll-token create` is cut short")?;
    Ok(&json[start..start + end])
}

fn agent_toml(fleet: &Fleet, token: &Path) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        "# Made by `cargo xtask up`; made anew at every start.\n\
         name = \"{DEVICE}\"\n\
         coordinator = \"{}\"\n\
         token_file = {}\n\
         state_dir = {}\n\
         apps_dir = {}\n\n\
         [podman]\nprogram = \"podman\"\nrun_dir = {}\n\n\
         # Nobody outside this machine is asked: the coordinator tells the time.\n\
         [clock]\nservers = []\n",
        fleet.url(),
        quoted(token),
        quoted(&fleet.device().join("state")),
        quoted(&fleet.apps_dir()),
        quoted(&fleet.run_dir),
    )
}

/// What a person's shell needs to talk to this fleet; there as soon as the coordinator is.
pub(super) fn write_env(fleet: &Fleet) -> anyhow::Result<()> {
    let ca = if fleet.at.is_loopback() {
        "unset BRAMBLE_CA".into()
    } else {
        format!("export BRAMBLE_CA='{}'", fleet.ca().display())
    };
    let text = format!(
        "# For your shell: . {}\nexport BRAMBLE_API={}\nexport BRAMBLE_TOKEN=\"$(cat '{}')\"\n{ca}\n\
         export PATH=\"{}:$PATH\"\n",
        fleet.env.display(),
        fleet.url(),
        fleet.admin_token().display(),
        paths::built("").display(),
    );
    private_file(&fleet.env, &text)
}

pub(super) fn tell(fleet: &Fleet, agent_log: &Path, answer: &str, stay: Stay) {
    println!(
        "\nThe fleet is up.\n\
         \x20 API          {api}       (its description: /api/v1/openapi.json)\n\
         \x20 app hello    http://{app}       {answer}\n\
         \x20 admin token  {token}\n\
         \x20 logs         {log}, {agent_log}\n\n\
         Next:\n\
         \x20 . {env}                  # puts bramble, the API and the token into this shell\n\
         \x20 bramble get devices\n\
         \x20 bramble describe deployment hello\n",
        api = fleet.url(),
        app = app(),
        token = short(&fleet.admin_token()),
        log = short(fleet.coordinator().log()),
        agent_log = short(agent_log),
        env = short(&fleet.env),
    );
    match stay {
        Stay::Detached => println!("It stays until `cargo xtask down`."),
        Stay::Foreground => println!("Ctrl-C takes it down (or let it stay with `cargo xtask up --detach`)."),
    }
}

/// Stays until a signal has taken everything down, or a program has ended by itself.
pub(super) fn watch(fleet: &Fleet, daemons: &[Daemon], signals: &mpsc::Receiver<()>) -> anyhow::Result<()> {
    loop {
        match signals.recv_timeout(Duration::from_secs(1)) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        for daemon in daemons {
            if let Err(why) = daemon.must_run() {
                // Waits for ever when a signal is taking everything down: that one ends this program.
                let _no_more_starts = hold_starts();
                super::down::take_down(fleet, super::Left::Data)?;
                return Err(why.context("a program of the fleet ended by itself, so the rest was taken down"));
            }
        }
    }
}

/// From here on Ctrl-C, at any step, takes down what there is and ends this program.
pub(super) fn down_on_signal(fleet: Fleet) -> anyhow::Result<mpsc::Receiver<()>> {
    // By a handler, not by a mask: what is started here would inherit a mask and could not be stopped.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _no_more_starts = hold_starts();
            println!("\nTaking the fleet down");
            let code = match super::down::take_down(&fleet, super::Left::Data) {
                Ok(()) => 0,
                Err(err) => {
                    eprintln!("{err:#}");
                    1
                }
            };
            std::process::exit(code);
        }
        drop(tx);
    });
    Ok(rx)
}

/// Waits for a condition, but not for one that can no longer come true because a program has ended.
pub(super) fn alive_until<T>(
    daemons: &[&Daemon],
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let answer = until(what, limit, || {
        if daemons.iter().any(|d| d.running().is_none()) {
            return Ok(None);
        }
        attempt().map(Some)
    });
    let words = || daemons.iter().map(|d| d.last_words()).collect::<Vec<_>>().join("\n");
    match answer {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => {
            daemons.iter().try_for_each(|d| d.must_run())?;
            bail!("a program ended while waiting for {what}. {}", words())
        }
        Err(vain) => Err(anyhow::Error::new(vain).context(words())),
    }
}

fn mark(program: &Path, settings: &str) -> anyhow::Result<String> {
    Ok(sha256(format!("{} {settings}", sha256_of(program)?).as_bytes()))
}

pub(super) fn free(port: u16) -> anyhow::Result<()> {
    if std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_err() {
        bail!(
            "port {port} is in use by a program this checkout did not start (another checkout's fleet?): stop it, \
             then run `cargo xtask up` again"
        );
    }
    Ok(())
}

pub(super) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).with_context(|| format!("cannot make {}", dir.display()))
}

pub(super) fn private_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let beside: PathBuf = file.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        out.write_all(text.as_bytes())?;
        fs::rename(&beside, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

pub(super) fn step(what: &str) {
    println!("{what} …");
}

fn report(what: &str, ensured: Ensured) {
    match ensured {
        Ensured::Kept => println!("The {what} runs already"),
        Ensured::Started => println!("Started the {what}"),
        Ensured::Restarted => println!("Restarted the {what}: it had changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_the_answer() {
        let json = "{\n  \"id\": \"t-1\",\n  \"token\": \"bramble1.a.b.c\",\n  \"uses\": 1\n}\n";
        assert_eq!(token_of(json).unwrap(), "bramble1.a.b.c");
        assert!(token_of("{}").is_err());
        assert!(token_of("bramble1.abc").is_err());
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep").join("token");
        private_dir(file.parent().unwrap()).unwrap();
        private_file(&file, "secret").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(&file).unwrap(), "secret");
    }
}
