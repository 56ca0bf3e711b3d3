//! Start first, under load: requests without an end on loopback, IPv4 and IPv6, from the device and from another
//! network namespace, while the app is upgraded again and again and the agent is killed in the middle of it. None fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bramble_contracts::v1::{Phase, Status};
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::{Watch, full, pause, wait_until};
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::{Device, Fleet, FleetSetup, manifest, soon};
use serde_json::{Value, json};

/// A client that is answered this late is still answered; the machine is shared.
const PATIENCE: Duration = Duration::from_secs(20);

fn start_first(mut manifest: Value, version: u32) -> Value {
    manifest["spec"]["lifecycle"]["handover"] = json!("startFirst");
    manifest["spec"]["containers"][0]["probe"] = json!({ "http": { "port": 80 }, "interval": "1s" });
    // Every version is another one to the device, also where two share an image.
    manifest["spec"]["containers"][0]["env"] = json!([{ "name": "ROUND", "value": version.to_string() }]);
    manifest
}

fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.starts_with("HTTP/1.1 200") && text.contains("version") {
        return Ok(text);
    }
    Err(std::io::Error::other(format!("half an answer: {text:?}")))
}

/// How many it asked, the slowest answer, and what failed.
type Client = JoinHandle<(usize, Duration, Vec<String>)>;

/// Clients that ask one request after the other.
struct Load {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<(String, Client)>,
}

impl Load {
    fn start(places: &[(&str, Option<Arc<NetNs>>, SocketAddr)]) -> Self {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = places.iter().map(|(name, net, at)| {
            let (over, asked, net, at) = (Arc::clone(&over), Arc::clone(&asked), net.clone(), *at);
            let client = std::thread::spawn(move || {
                if let Some(net) = net {
                    net.enter();
                }
                let (mut count, mut slowest, mut failed) = (0, Duration::ZERO, vec![]);
                while !over.load(Ordering::Relaxed) {
                    let watch = Watch::start();
                    if let Err(err) = get(at) {
                        failed.push(format!("request {count}: {err} after {} ms", watch.elapsed().as_millis()));
                    }
                    slowest = slowest.max(watch.elapsed());
                    count += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                    // Load enough, and something is left of the machine for who is tested.
                    pause(Duration::from_millis(1));
                }
                (count, slowest, failed)
            });
            ((*name).to_owned(), client)
        });
        Self { over: over.clone(), asked: asked.clone(), clients: clients.collect() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// So many more are asked meanwhile.
    fn go_on(&self, more: usize) {
        let from = self.asked();
        wait_until("more requests", Duration::from_secs(120), || {
            if self.asked() >= from + more { Ok(()) } else { Err(format!("{} so far", self.asked() - from)) }
        });
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let (mut all, mut wrong) = (0, vec![]);
        for (name, client) in self.clients {
            let (count, slowest, failed) = client.join().unwrap();
            println!("{name}: {count} requests, {} failed, the slowest took {} ms", failed.len(), slowest.as_millis());
            assert!(count > 500, "{name} was hardly asked");
            wrong.extend(failed.into_iter().map(|why| format!("{name}: {why}")));
            all += count;
        }
        println!("{all} requests in all, {} failed", wrong.len());
        assert!(all >= 10_000, "only {all} requests");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// How often the agent has said that it does a step.
fn done(pi: &Device, step: &str) -> usize {
    pi.agent().log().lines().filter(|line| line.contains("doing") && line.contains(&format!("step={step}"))).count()
}

#[test]
fn nobody_notices_an_upgrade_with_start_first_not_even_when_the_agent_is_killed_in_the_switch() {
    let case = Case::new("handover");
    let net = Arc::new(NetNs::new(&case));
    // Where bridged packets go through iptables, ::1 cannot be led to a container: see docs/guide/upgrades.md.
    net.cmd(&["sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0"]).output().unwrap();
    let fleet = Fleet::start_in(case, &FleetSetup { listen: net.host(), ..FleetSetup::default() });
    let mut setup = fleet.device_setup("pi-1");
    setup.net = Some(Arc::clone(&net));
    let pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    fleet.online_agent(&pi);
    let port = fleet.port();
    let apply = |version: u32| fleet.apply(&start_first(manifest::hello("web", port, 1 + version % 2), version));
    apply(0);
    fleet.settled("web", &pi);

    let load = Load::start(&[
        ("127.0.0.1", Some(Arc::clone(&net)), (Ipv4Addr::LOCALHOST, port).into()),
        ("::1", Some(Arc::clone(&net)), (Ipv6Addr::LOCALHOST, port).into()),
        ("the device's own address", Some(Arc::clone(&net)), (net.inside(), port).into()),
        ("another namespace, IPv4", None, (net.inside(), port).into()),
        ("another namespace, IPv6", None, (net.inside6(), port).into()),
    ]);
    load.go_on(500);
    apply(1);
    fleet.settled("web", &pi);
    // Killed when it has just begun to bring the new one up, when it switches, and when it lets go of the old one.
    let rounds = if full() { 12 } else { 3 };
    for round in 0..rounds {
        let step = ["start", "map", "retire"][round % 3];
        let version = 2 + u32::try_from(round).unwrap();
        let before = done(&pi, if step == "retire" { "map" } else { step });
        apply(version);
        soon(&format!("the agent to {step}"), || {
            let now = done(&pi, if step == "retire" { "map" } else { step });
            if now > before { Ok(()) } else { Err(pi.agent().last_words()) }
        });
        if step == "retire" {
            soon("the new one to be in charge", || {
                let target = fleet.target("web", "pi-1")?;
                if target.phase == Some(Phase::Stopping) || target.status == Some(Status::Confirmed) {
                    Ok(())
                } else {
                    Err(format!("{target:?}"))
                }
            });
        }
        pi.kill_agent();
        // Nobody steers now.
        load.go_on(800);
        pi.start_agent();
        fleet.settled("web", &pi);
    }
    load.go_on(10_000usize.saturating_sub(load.asked()).max(500));
    load.end();
    assert_eq!(pi.all_containers().len(), 1, "the old ones are gone");
    fleet.delete("web");
    soon("nothing to be left", || {
        let tables = net.cmd(&["nft", "list", "tables", "inet"]).output().map_err(|err| err.to_string())?;
        let left = pi.all_containers();
        if left.is_empty() && !tables.stdout.contains("bramble") { Ok(()) } else { Err(format!("{left:?} {tables:?}")) }
    });
}

#[test]
fn a_udp_client_that_never_pauses_finds_whoever_serves() {
    let fleet = Fleet::start("handover-udp");
    let pi = fleet.device("pi-1");
    let port = fleet.port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    client.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // Before anybody is there.
    client.send(b"who").unwrap();
    // One client with one port: to the kernel all its packets are one flow, which never ends.
    let answered = |with: &str| {
        soon(&format!("{with:?} by UDP"), || {
            let mut answer = [0; 64];
            // Refused, while nobody is there.
            let length = client.send(b"who").and_then(|_| client.recv(&mut answer)).map_err(|err| err.to_string())?;
            let text = String::from_utf8_lossy(&answer[..length]);
            if text == with { Ok(()) } else { Err(format!("{text:?}")) }
        });
    };
    for version in 1..=2 {
        let mut container = manifest::server("app", port, version);
        container["args"] = json!(["udp"]);
        container["ports"][0]["protocol"] = json!("udp");
        let mut manifest = manifest::deployment("app", &[container]);
        manifest["spec"]["lifecycle"] = json!({ "handover": "startFirst", "gracePeriod": "1s" });
        fleet.apply(&manifest);
        fleet.settled("app", &pi);
        answered(&format!("version {version}"));
    }
}
