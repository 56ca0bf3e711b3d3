//! Host ports that the agent leads itself, on real Podman and real nftables. Needs root.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::TcpListener;
use std::time::Duration;

use bramble_contracts::v1::Status;
use common::{Device, container, deployment, free_port, http_get, http_until, nft, running};
use serde_json::{Value, json};

/// Answers its version at `/` on port 8080; its host port is led by the agent.
fn web(version: u32, port: u16) -> Value {
    let script = format!(
        "mkdir -p /www; echo v{version} > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
    );
    let mut app = deployment("web", &[], &[container("web", &script)]);
    app["spec"]["containers"][0]["ports"] = json!([{ "host": port, "container": 8080 }]);
    app["spec"]["containers"][0]["probe"] = json!({ "tcp": { "port": 8080 }, "interval": "1s" });
    app["spec"]["lifecycle"] = json!({ "handover": "startFirst", "gracePeriod": "2s" });
    app
}

fn stop_first(mut app: Value) -> Value {
    app["spec"]["lifecycle"]["handover"] = "stopFirst".into();
    app
}

async fn runs(device: &Device, revision: u64) -> bramble_contracts::v2::AppReport {
    let there = |r: &bramble_contracts::v2::AppReport| {
        running(r) && r.revision.0 == revision && r.running_revision == Some(r.revision)
    };
    device.until("web", there).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_follow_a_crash_a_flush_and_a_restart_and_end_with_the_app() {
    let mut device = Device::start().await;
    let port = free_port();
    device.want(&[(1, web(1, port))]);
    let before = runs(&device, 1).await;
    http_until(port, "v1\n").await;
    let tables = device.tables();
    assert_eq!(tables.len(), 1, "{tables:?}");

    device.kill_container(&before.containers[0].id).await;
    device.until("web", |r| running(r) && r.containers[0].restarts == 1).await;
    http_until(port, "v1\n").await;

    // As `systemctl restart nftables` does; nobody pokes the agent.
    nft(&["delete", "table", "inet", &tables[0]]);
    http_until(port, "v1\n").await;
    assert_eq!(device.tables(), tables);

    device.restart_agent().await;
    device.want(&[(1, web(1, port))]);
    let after = runs(&device, 1).await;
    assert_eq!(before.containers[0].id, after.containers[0].id);
    assert!(http_get(port).await.ends_with("v1\n"));

    device.reboot().await;
    device.want(&[(1, web(1, port))]);
    runs(&device, 1).await;
    http_until(port, "v1\n").await;

    device.want(&[]);
    device.until_gone("web").await;
    assert_eq!(device.tables(), Vec::<String>::new());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_that_changes_replaces_nothing_and_the_next_upgrade_goes_by_it() {
    let device = Device::start().await;
    let port = free_port();
    device.want(&[(1, stop_first(web(1, port)))]);
    let first = runs(&device, 1).await;
    http_until(port, "v1\n").await;
    device.want(&[(2, web(1, port))]);
    assert_eq!(runs(&device, 2).await.containers[0].id, first.containers[0].id);
    assert_eq!(device.tables(), Vec::<String>::new(), "Podman leads the port still");

    // Podman holds the port of the old container: that is no conflict.
    device.want(&[(3, web(3, port))]);
    let third = runs(&device, 3).await;
    assert_eq!(third.last_downtime_ms, Some(0));
    http_until(port, "v3\n").await;

    device.want(&[(4, stop_first(web(4, port)))]);
    runs(&device, 4).await;
    http_until(port, "v4\n").await;
    assert_eq!(device.tables(), Vec::<String>::new(), "Podman leads the port again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_or_a_foreign_address_is_named_and_the_old_one_serves_on() {
    let device = Device::start().await;
    let (port, other) = (free_port(), free_port());
    device.want(&[(1, web(1, port))]);
    runs(&device, 1).await;
    let squatter = TcpListener::bind(("127.0.0.1", other)).unwrap();
    device.want(&[(2, web(2, other))]);
    let failed = device.until("web", |r| r.status == Status::Failed).await;
    assert!(failed.reason.contains(&format!("port {other}/tcp is in use")), "{}", failed.reason);
    assert_eq!(failed.running_revision.map(|r| r.0), Some(1));
    http_until(port, "v1\n").await;
    drop(squatter);
    runs(&device, 2).await;
    http_until(other, "v2\n").await;

    let mut foreign = web(3, port);
    foreign["spec"]["containers"][0]["ports"][0]["hostIP"] = "192.0.2.77".into();
    device.want(&[(3, foreign)]);
    let failed = device.until("web", |r| r.status == Status::Failed).await;
    assert!(failed.reason.contains("192.0.2.77"), "{}", failed.reason);
    http_until(other, "v2\n").await;

    // A newer edit takes its place; on loopback alone it is not reached by other addresses.
    let mut local = web(4, port);
    local["spec"]["containers"][0]["ports"][0]["hostIP"] = "127.0.0.1".into();
    device.want(&[(4, local)]);
    runs(&device, 4).await;
    http_until(port, "v4\n").await;
    let gateway = device.gateway();
    assert!(std::net::TcpStream::connect((gateway.as_str(), port)).is_err(), "{gateway} is not 127.0.0.1");
    assert_eq!(device.podman_names().await.len(), 1, "nothing of revision 3 is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_stay_with_the_old_one_until_its_grace_is_over() {
    let device = Device::start().await;
    let port = free_port();
    let mut old = deployment("web", &[], &[container("web", "while :; do nc -l -p 8080 -e cat; done")]);
    old["spec"]["containers"][0]["ports"] = json!([{ "host": port, "container": 8080 }]);
    old["spec"]["lifecycle"] = json!({ "handover": "startFirst", "gracePeriod": "3s" });
    device.want(&[(1, old)]);
    runs(&device, 1).await;
    let mut open = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut echo = |text: &str| -> std::io::Result<()> {
        use std::io::{Read as _, Write as _};
        let mut answer = vec![0; text.len()];
        open.write_all(text.as_bytes())?;
        open.read_exact(&mut answer)
    };
    echo("before").unwrap();
    device.want(&[(2, web(2, port))]);
    http_until(port, "v2\n").await;
    echo("new ones are answered by the new one, this one by the old one").unwrap();
    runs(&device, 2).await;
    assert!(echo("its time is over").is_err(), "the old one is gone");
}

/// Netavark's table is there once for the whole machine, so this is in a network of its own, where the test's thread is.
#[test]
fn of_netavarks_forwardings_only_what_leads_to_nobody_is_deleted() {
    let test = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let done = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        done.block_on(stale_forwardings_go());
    };
    std::thread::spawn(test).join().unwrap();
}

async fn stale_forwardings_go() {
    use bramble_agent::host::dnat::nft::clear;
    use bramble_agent::host::podman::PortLine;
    const CAPTURED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/host/captured/nft_netavark.json");
    let port = |host_port| PortLine { host_ip: String::new(), host_port, range: 1, protocol: "tcp".into() };
    let podman_knows = async || Ok(vec!["10.88.0.2".parse().unwrap()]);
    let rules = || nft(&["list", "ruleset"]);

    clear(&[port(8080)], async { panic!("there is no table, so nothing to ask for") }).await;
    nft(&["-j", "-f", CAPTURED]);
    let whole = rules();
    assert!(whole.contains("tcp dport 8080 dnat ip to 10.88.0.2:"), "{whole}");
    clear(&[port(8081)], async { panic!("no rule is for this port") }).await;
    clear(&[port(8080)], async { Err("Podman does not answer".into()) }).await;
    clear(&[port(8080)], podman_knows()).await;
    assert_eq!(rules(), whole, "all of it is in use");

    let network = "nv_2f259bab_10_88_0_0_nm16_dnat";
    let cut_start = |port: u16| {
        let forwarding = format!(
            "insert rule inet netavark {network} tcp dport {port} dnat ip to 10.88.0.9:8080;
             add rule inet netavark {network} ip saddr 127.0.0.1 tcp dport {port} jump NETAVARK-HOSTPORT-SETMARK;
             add rule inet netavark NETAVARK-HOSTPORT-DNAT tcp dport {port} jump {network}"
        );
        nft(&[&forwarding]);
    };
    cut_start(8081);
    assert!(rules().contains("tcp dport 8081 dnat ip to 10.88.0.9:8080"));
    clear(&[port(8081)], podman_knows()).await;
    assert_eq!(rules(), whole);

    // Beside one that is in use its dead rule goes; what both have twice does no harm, and goes with the container.
    cut_start(8080);
    clear(&[port(8080)], podman_knows()).await;
    let left = rules();
    assert!(!left.contains("10.88.0.9") && left.contains("tcp dport 8080 dnat ip to 10.88.0.2:"), "{left}");
    clear(&[port(8080)], async { Ok(Vec::new()) }).await;
    assert!(!rules().contains("8080"), "{}", rules());
}
