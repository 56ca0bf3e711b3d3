//! The broker's life: started, killed, adopted, replaced, stopped.

use std::time::Duration;

use bramble_coordinator::{
    broker::{Broker, BrokerError, Origin, Status, external_text},
    keys::{Addresses, Keys},
    mesh::{Endpoint, Link, Mesh, Security},
    store::{JetStream, Replicas},
};

use crate::common::{Device, Fleet, PATIENCE, broker_pid, kill};

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_started_again_and_connections_come_back() {
    let up = Fleet::new().up().await;
    let before = broker_pid(&up.fleet).unwrap();
    let mut status = up.broker.as_ref().unwrap().status();
    assert_eq!(*status.borrow(), Status::Running { pid: before, origin: Origin::Started });
    let mut link = up.mesh.link();
    kill(&up.fleet);
    let back = |s: &Status| matches!(s, Status::Running { pid, .. } if *pid != before);
    tokio::time::timeout(PATIENCE, status.wait_for(back)).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, link.wait_for(|l| matches!(l, Link::Up(2)))).await.unwrap().unwrap();
    let after = broker_pid(&up.fleet).unwrap();
    up.down().await;
    assert!(!alive(after), "a graceful shutdown stops the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_left_by_a_killed_coordinator_is_adopted_and_devices_stay_connected() {
    let mut up = Fleet::new().up().await;
    let mut device = up.device(1).await;
    let pid = broker_pid(&up.fleet).unwrap();
    up.broker.take().unwrap().abandon().await;
    assert!(alive(pid));
    let again = up.fleet.broker(&up.keys).await;
    assert_eq!(*again.status().borrow(), Status::Running { pid, origin: Origin::Adopted });
    device.client.flush().await.unwrap();
    assert!(!device.heard().iter().any(|e| e.contains("disconnected")));
    // An adopted broker that dies is started again, too.
    let mut status = again.status();
    kill(&up.fleet);
    let started = |s: &Status| matches!(s, Status::Running { origin: Origin::Started, .. });
    tokio::time::timeout(PATIENCE, status.wait_for(started)).await.unwrap().unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_never_run_two_brokers_in_one_folder() {
    let up = Fleet::new().up().await;
    let second = Broker::start(up.keys.clone(), up.fleet.options()).await;
    assert!(matches!(second, Err(BrokerError::Locked { .. })), "{second:?}");
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_left_broker_with_another_setup_is_replaced() {
    let mut up = Fleet::new().up().await;
    let pid = broker_pid(&up.fleet).unwrap();
    up.broker.take().unwrap().abandon().await;
    up.fleet.listen = crate::common::free_port();
    let again = up.fleet.broker(&up.keys).await;
    assert!(!alive(pid), "the old one is gone");
    assert!(matches!(*again.status().borrow(), Status::Running { origin: Origin::Started, .. }));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_left_broker_without_a_record_is_found_and_stopped() {
    let mut up = Fleet::new().up().await;
    let pid = broker_pid(&up.fleet).unwrap();
    up.broker.take().unwrap().abandon().await;
    std::fs::remove_file(up.fleet.dir.path().join("broker/process.json")).unwrap();
    let again = up.fleet.broker(&up.keys).await;
    assert!(!alive(pid));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_the_broker_runs_as_somebody_who_cannot_read_the_keys() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give processes to others.
    }
    let fleet = Fleet::new();
    let state = fleet.dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(fleet.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    // The program must be reachable for that user, too.
    let program = fleet.dir.path().join("nats-server");
    std::fs::copy(crate::common::nats_server(), &program).unwrap();
    let addresses = Addresses { coordinators: vec![], brokers: vec![] };
    let keys = std::sync::Arc::new(Keys::load_or_create(&state.join("keys"), &addresses).unwrap());
    let options = || bramble_coordinator::broker::Options {
        program: program.clone(),
        dir: state.join("broker"),
        ..fleet.options()
    };
    let broker = Broker::start(keys.clone(), options()).await.unwrap();
    let record = std::fs::read_to_string(state.join("broker/process.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&record).unwrap()["pid"].as_i64().unwrap();
    let uid = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_ne!(uid, 0, "the broker does not run as root");
    let meta = |p: &str| std::fs::metadata(state.join(p)).unwrap();
    assert_eq!((meta("keys").uid(), meta("keys").permissions().mode() & 0o777), (0, 0o700));
    assert_eq!((meta("broker").uid(), meta("broker/process.json").uid(), meta("broker/nats.conf").uid()), (0, 0, 0));
    assert_eq!(meta("broker/jetstream").uid(), uid);
    assert_eq!(meta("").permissions().mode() & 0o777, 0o711, "passing through, not looking in");
    let mesh = Mesh::connect(keys.clone(), broker.endpoint(), Some(broker.config_file())).await.unwrap();
    JetStream::open(mesh.fleet(), Replicas::One).await.unwrap();
    broker.abandon().await;
    let again = Broker::start(keys, options()).await.unwrap();
    assert!(matches!(*again.status().borrow(), Status::Running { origin: Origin::Adopted, .. }));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said_in_words() {
    let fleet = Fleet::new();
    let keys = fleet.keys();
    let _taken = std::net::TcpListener::bind(fleet.listen).unwrap();
    match Broker::start(keys, fleet.options()).await {
        Err(BrokerError::Died { words }) => assert!(words.contains("address already in use"), "{words}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_the_broker_speaks_tls_with_the_fleets_own_ca() {
    let mut fleet = Fleet::new();
    fleet.listen.set_ip("0.0.0.0".parse().unwrap());
    fleet.names = vec!["broker.test".into()];
    let addresses =
        Addresses { coordinators: vec![], brokers: vec![format!("tls://broker.test:{}", fleet.listen.port())] };
    let keys = std::sync::Arc::new(Keys::load_or_create(&fleet.dir.path().join("keys"), &addresses).unwrap());
    let broker = fleet.broker(&keys).await;
    let mesh = Mesh::connect(keys.clone(), broker.endpoint(), Some(broker.config_file())).await.unwrap();
    mesh.fleet().client.flush().await.unwrap();
    let plain = async_nats::ConnectOptions::new().connection_timeout(Duration::from_secs(2));
    assert!(plain.connect(format!("nats://127.0.0.1:{}", fleet.listen.port())).await.is_err(), "no way around TLS");
    let stranger = Fleet::new().keys();
    let mut other_ca = broker.endpoint().clone();
    other_ca.security = Security::FleetCa(stranger.ca().pem().to_owned());
    assert!(Mesh::connect(keys.clone(), &other_ca, None).await.is_err(), "another CA's certificate is refused");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_files_are_private_and_credentials_of_another_fleet_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let up = Fleet::new().up().await;
    let mode = |p: &str| std::fs::metadata(up.fleet.dir.path().join(p)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("broker") & 0o066, mode("broker/nats.conf") & 0o137, mode("broker/jetstream")), (0, 0, 0o700));
    let conf = std::fs::read_to_string(up.fleet.dir.path().join("broker/nats.conf")).unwrap();
    assert!(!conf.contains("SO") || !conf.lines().any(|l| l.trim().starts_with("SO")), "no seeds in the file");
    let stranger = Fleet::new().keys();
    let refused = Mesh::connect(stranger, up.broker.as_ref().unwrap().endpoint(), None).await;
    assert!(refused.is_err());
    up.down().await;
}

/// A server that an operator runs, with nothing but what we print for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_server_serves_with_the_text_we_print() {
    let fleet = Fleet::new();
    let keys = fleet.keys();
    let place = fleet.dir.path().join("theirs");
    std::fs::create_dir(&place).unwrap();
    let printed = external_text(&keys, 1).replace("/var/lib/nats", &place.display().to_string());
    let config = place.join("nats.conf");
    std::fs::write(&config, format!("listen: \"{}\"\n{printed}", fleet.listen)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "this server is the operator's, not the coordinator's child")]
    let mut server = tokio::process::Command::new(crate::common::nats_server());
    let log = std::fs::File::create(place.join("log")).unwrap();
    let mut server = server.arg("-c").arg(&config).stderr(log).kill_on_drop(true).spawn().unwrap();
    let endpoint = Endpoint { urls: vec![format!("nats://{}", fleet.listen)], security: Security::Plain };
    crate::common::until("the server listens", async || tokio::net::TcpStream::connect(fleet.listen).await.is_ok())
        .await;
    let mesh = Mesh::connect(keys.clone(), &endpoint, None).await.unwrap();
    let store = JetStream::open(mesh.fleet(), Replicas::One).await.unwrap();
    store.check().await.unwrap();
    let mut device = Device::connect(&keys, fleet.listen, 1, Duration::from_secs(60)).await.unwrap();
    mesh.set_quarantined(&[(device.key.public_key(), 1)].into()).await.unwrap();
    device.hears("disconnected").await;
    server.kill().await.unwrap();
}
