//! The supervisor on real Podman: its own store, its own service, tiny images. Needs root and Podman.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use bramble_agent::core::app::AppKey;
use bramble_agent::supervise::{Chunk, ExecWish};
use bramble_contracts::v1::{ContainerState, Phase, Status};
use common::{Device, container, deployment, init, running};

/// Prints its version for ever and leaves on SIGTERM within a second.
const LOOP: &str = "trap 'echo bye; exit 0' TERM; echo up $V; while :; do sleep 0.1; done";

fn web(version: u32) -> serde_json::Value {
    deployment("web", &[], &[container("web", LOOP).env("V", &version.to_string())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_is_upgraded_and_removed() {
    let device = Device::start().await;
    device.want(&[(1, web(1))]);
    let v1 = device.until("web", running).await;
    assert_eq!((v1.status, v1.reason.as_str()), (Status::Confirmed, ""));
    assert_eq!(device.logs("web").await, ["up 1"]);

    device.want(&[(2, web(2))]);
    let v2 = device.until("web", |r| running(r) && r.revision.0 == 2 && r.running_revision == Some(r.revision)).await;
    assert_ne!(v1.containers[0].id, v2.containers[0].id);
    assert_eq!(device.logs("web").await, ["up 1", "bye", "up 2"], "its log goes on");
    assert!(v2.last_downtime_ms.is_some_and(|ms| ms < 10_000), "{:?}", v2.last_downtime_ms);

    device.want(&[]);
    device.until_gone("web").await;
    assert_eq!(device.podman_names().await, Vec::<String>::new());
}

/// Answers with its version at `/` on port 8080, published on `port`.
fn server(version: u32, port: u16) -> serde_json::Value {
    let script = format!(
        "mkdir -p /www; echo v{version} > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
    );
    let mut app = deployment("server", &[], &[container("server", &script)]);
    app["spec"]["containers"][0]["ports"] =
        serde_json::json!([{ "host": port, "hostIP": "127.0.0.1", "container": 8080 }]);
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_hand_over_the_host_port_again_and_again() {
    let device = Device::start().await;
    let port = common::free_port();
    for version in 1..=4 {
        let asked = device.uptime();
        device.want(&[(u64::from(version), server(version, port))]);
        common::http_until(port, &format!("v{version}\n")).await;
        let took = device.uptime() - asked;
        let revision = u64::from(version);
        let report =
            device.until("server", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == revision)).await;
        println!("v{version}: apply to answer {} ms, down {:?} ms", took.as_millis(), report.last_downtime_ms);
        assert_eq!(report.reason, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_touches_nothing() {
    let mut device = Device::start().await;
    device.want(&[(1, web(1))]);
    let before = device.until("web", running).await;
    device.restart_agent().await;
    device.want(&[(1, web(1))]);
    let after = device.until("web", running).await;
    assert_eq!(before.containers[0].id, after.containers[0].id);
    assert_eq!(before.containers[0].started_at_ms, after.containers[0].started_at_ms);
    assert_eq!(device.logs("web").await, ["up 1"]);
    device.kill_podman_service().await;
    // A new revision with the same containers touches nothing either, and needs the service to be back.
    device.want(&[(2, web(1))]);
    let renamed = device.until("web", |r| running(r) && r.revision.0 == 2).await;
    assert_eq!(renamed.containers[0].id, before.containers[0].id);
    assert_eq!(device.logs("web").await, ["up 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_healed_at_once_and_a_crash_loop_is_named() {
    let device = Device::start().await;
    device.want(&[(1, web(1))]);
    let before = device.until("web", running).await;
    device.kill_container(&before.containers[0].id).await;
    let after = device.until("web", |r| running(r) && r.containers[0].restarts == 1).await;
    assert_eq!(before.containers[0].id, after.containers[0].id, "restarted, not remade");

    let doomed = deployment("doomed", &[], &[container("main", "echo no luck; exit 7")]);
    device.want(&[(1, web(1)), (1, doomed)]);
    let report = device.until("doomed", |r| r.phase == Phase::CrashLoop).await;
    assert_eq!(report.status, Status::Failed);
    assert!(report.reason.contains("exit code 7") && report.reason.contains("no luck"), "{}", report.reason);
    assert_eq!(report.containers[0].exit_code, Some(7));
    assert!(report.containers[0].last_lines.contains(&"no luck".to_owned()));
    assert_eq!(device.report("web").unwrap().containers[0].restarts, 1, "another app's loop disturbs nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_in_order_and_not_after_a_crash() {
    let mut device = Device::start().await;
    let inits = [init("one", "echo one >> /data/log"), init("two", "echo two >> /data/log")];
    let main = container("main", "echo main >> /data/log; trap 'exit 0' TERM; while :; do sleep 0.1; done");
    let app = || {
        deployment("app", &inits.clone().map(|c| c.volume("data", "/data")), &[main.clone().volume("data", "/data")])
    };
    device.want(&[(1, app())]);
    let report = device.until("app", running).await;
    assert_eq!(device.volume_file("app", "data", "log"), "one\ntwo\nmain\n");

    let id = report.containers.last().unwrap().id.clone();
    device.kill_container(&id).await;
    device.until("app", |r| running(r) && r.containers[2].restarts == 1).await;
    assert_eq!(device.volume_file("app", "data", "log"), "one\ntwo\nmain\nmain\n");

    device.reboot().await;
    device.want(&[(1, app())]);
    let after = device.until("app", running).await;
    assert_ne!(after.containers[2].id, id, "remade in the new boot");
    assert_eq!(device.volume_file("app", "data", "log"), "one\ntwo\nmain\nmain\none\ntwo\nmain\n");

    device.want(&[]);
    device.until_gone("app").await;
    assert!(device.volume_file("app", "data", "log").starts_with("one"), "volumes survive removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_and_hanging_init_containers_are_named() {
    let device = Device::start().await;
    let bad = deployment("bad", &[init("seed", "echo no disk; exit 3")], &[container("main", LOOP)]);
    let mut hang = deployment("hang", &[init("slow", "echo waiting; sleep 600")], &[container("main", LOOP)]);
    hang["spec"]["initContainers"][0]["timeout"] = "1s".into();
    device.want(&[(1, bad), (1, hang)]);
    let report = device.until("bad", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains("seed ended with exit code 3: no disk"), "{}", report.reason);
    assert_eq!(report.containers[0].exit_code, Some(3));
    assert_eq!(report.containers[1].state, ContainerState::Created, "made, never started");
    let report = device.until("hang", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains("slow did not end within 1 s and was killed: waiting"), "{}", report.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_mains_share_a_pod() {
    let device = Device::start().await;
    let serve = container("web", "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www");
    let mut pair = deployment("pair", &[], &[serve, container("side", "while :; do sleep 0.1; done")]);
    let port = common::free_port();
    pair["spec"]["containers"][0]["ports"] =
        serde_json::json!([{ "host": port, "hostIP": "127.0.0.1", "container": 8080 }]);
    pair["spec"]["containers"][0]["probe"] =
        serde_json::json!({ "http": { "port": 8080, "path": "/" }, "interval": "200ms" });
    pair["spec"]["lifecycle"] = serde_json::json!({ "gracePeriod": "1s" });
    device.want(&[(1, pair)]);
    let report = device.until("pair", running).await;
    assert_eq!(report.containers[0].healthy, Some(true));
    assert!(common::http_get(port).await.ends_with("hello\n"));
    let (code, output) = device.exec("pair", "side", &["cat", "/etc/hosts"]).await;
    assert_eq!(code, Some(0));
    assert!(output.lines().any(|l| l.starts_with("127.0.0.1") && l.ends_with("web")), "{output}");
    device.want(&[]);
    device.until_gone("pair").await;
    assert_eq!(device.podman_names().await, Vec::<String>::new());
    assert_eq!(device.podman.pod_list(&[]).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_container_is_never_touched() {
    let device = Device::start().await;
    let name = device.podman_name(&web(1), "web");
    let stranger = device.make_stranger(&name).await;
    device.want(&[(1, web(1))]);
    let report = device.until("web", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains(&name) && report.reason.contains("podman rm"), "{}", report.reason);
    assert!(device.podman.inspect(&stranger).await.unwrap().is_some());
    device.podman.remove(&stranger).await.unwrap();
    device.until("web", running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_local_image_leaves_the_old_app_running() {
    let device = Device::start().await;
    device.want(&[(1, web(1))]);
    let before = device.until("web", running).await;
    let mut next = web(2);
    next["spec"]["containers"][0]["image"] = "localhost/nope:1".into();
    device.want(&[(2, next)]);
    let report = device.until("web", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains("localhost/nope:1") && report.reason.contains("never pulled"), "{}", report.reason);
    assert_eq!(report.containers[0].id, before.containers[0].id);
    device.kill_container(&before.containers[0].id).await;
    device.until("web", |r| r.containers[0].restarts == 1 && r.containers[0].state == ContainerState::Running).await;
    // A newer edit supersedes the stuck one.
    device.want(&[(3, web(3))]);
    device.until("web", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ignores_its_signal_is_killed_after_its_grace() {
    let device = Device::start().await;
    let stubborn = |v: u32| {
        let main = container("main", "trap '' TERM; while :; do sleep 0.1; done").env("V", &v.to_string());
        let mut app = deployment("stubborn", &[], &[main]);
        app["spec"]["lifecycle"] = serde_json::json!({ "gracePeriod": "1s", "sigkillFallback": v != 2 });
        app
    };
    device.want(&[(1, stubborn(1))]);
    let v1 = device.until("stubborn", running).await;
    device.want(&[(2, stubborn(2))]);
    let report = device.until("stubborn", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains("did not stop within 1 s"), "{}", report.reason);
    assert!(device.podman.inspect(&v1.containers[0].id).await.unwrap().is_some(), "it runs on");
    device.want(&[(3, stubborn(3))]);
    device.until("stubborn", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_give_their_exit_code() {
    let device = Device::start().await;
    device.want(&[(1, web(1))]);
    device.until("web", running).await;
    let (code, output) =
        device.exec("web", "web", &["sh", "-c", "echo $BRAMBLE_DEVICE $BRAMBLE_DEPLOYMENT; exit 4"]).await;
    assert_eq!((code, output.as_str()), (Some(4), "pi-1 web\n"));
    let app = AppKey::parse("default.web").unwrap();
    let missing = ExecWish {
        app: app.clone(),
        container: Some("nope".into()),
        argv: vec!["true".into()],
        timeout: Duration::from_secs(9),
    };
    let err = device.agent().exec(missing).await.unwrap_err();
    assert!(err.to_string().contains("has no container nope here; it has web"), "{err}");
}

/// Processes on this machine that run `sleep` for that long.
fn sleepers(seconds: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let line = format!("sleep\0{seconds}\0");
    all.filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes())).count()
}

async fn until_so_many_sleep(seconds: &str, count: usize) {
    let gone = async {
        while sleepers(seconds) != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok(), "never {count} sleepers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_time_and_with_its_listener() {
    let device = Device::start().await;
    device.want(&[(1, web(1))]);
    let before = device.until("web", running).await;
    let seconds = std::process::id().to_string();
    let begin = |seconds: &str, timeout| {
        // The program is a child of the command: both are to end.
        let argv = vec!["sh".into(), "-c".into(), format!("sleep {seconds} & echo on; wait")];
        let wish = ExecWish { app: AppKey::parse("default.web").unwrap(), container: None, argv, timeout };
        device.agent().exec(wish)
    };
    let mut timed = begin(&seconds, Duration::from_secs(3)).await.unwrap();
    assert!(matches!(timed.recv().await, Some(Chunk::Output { .. })));
    until_so_many_sleep(&seconds, 1).await;
    let last = timed.recv().await;
    assert!(matches!(&last, Some(Chunk::Broken { why }) if why.contains("did not end within 3 s")), "{last:?}");
    until_so_many_sleep(&seconds, 0).await;

    let mut left = begin(&seconds, Duration::from_secs(3600)).await.unwrap();
    assert!(matches!(left.recv().await, Some(Chunk::Output { .. })));
    until_so_many_sleep(&seconds, 1).await;
    drop(left);
    until_so_many_sleep(&seconds, 0).await;
    let after = device.report("web").unwrap();
    assert_eq!((&after.containers[0].id, after.containers[0].restarts), (&before.containers[0].id, 0), "nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_loses_its_network_is_made_anew() {
    let device = Device::start().await;
    let part = |name: &str| container(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    device.want(&[(1, deployment("pair", &[], &[part("a"), part("b")]))]);
    let before = device.until("pair", running).await;
    let pods = device.podman.pod_list(&[]).await.unwrap();
    device.kill_container(&pods[0].infra_id).await;
    let other = |report: &bramble_contracts::v2::AppReport| {
        running(report) && report.containers.iter().zip(&before.containers).all(|(new, old)| new.id != old.id)
    };
    device.until("pair", other).await;
    let anew = device.podman.pod_list(&[]).await.unwrap();
    assert_eq!(anew.len(), 1);
    assert_ne!(anew[0].id, pods[0].id);
}
