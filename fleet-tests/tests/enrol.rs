//! Enrolment and the life of a device's credentials: the wrong server, a lost answer, a token used twice, credentials
//! that ran out while the device was away, and those that run out while it is connected.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::api::{DeviceView, Page, TokenView};
use bramble_contracts::envelope;
use bramble_contracts::subjects::Bucket;
use bramble_contracts::v1::Heartbeat;
use bramble_fleet_tests::clock::{Watch, stays, unix_secs, wait_until};
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::mesh::Mesh;
use bramble_fleet_tests::proxy::{Mode, Proxy};
use bramble_fleet_tests::{Device, Fleet, FleetSetup, jwt, manifest, sample, soon, with_other_pin};

fn tokens(fleet: &Fleet) -> Vec<TokenView> {
    let page: Page<TokenView> = fleet.api().get("/api/v1/enrollment-tokens").unwrap();
    page.items
}

fn devices(fleet: &Fleet) -> Vec<DeviceView> {
    let page: Page<DeviceView> = fleet.api().get("/api/v1/devices").unwrap();
    page.items
}

#[test]
fn a_device_enrols_with_the_right_server_only_and_a_token_serves_one_key_only() {
    let fleet = Fleet::start("enrol");
    // Another CA or another root than the token names: the device says nothing to that server.
    let mut setup = fleet.device_setup("pi-1");
    let token = setup.token.clone().unwrap();
    setup.token = Some(with_other_pin(&token));
    let proxy = Proxy::to(fleet.coordinator().address());
    setup.coordinator = format!("http://{}", proxy.address());
    let mut pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    soon("the agent to refuse the server", || {
        let log = pi.agent().log();
        if log.contains("digest") { Ok(()) } else { Err(pi.agent().last_words()) }
    });
    stays("the token is not spent", Duration::from_secs(2), || {
        let used = tokens(&fleet)[0].used;
        if used == 0 && devices(&fleet).is_empty() { Ok(()) } else { Err(format!("used {used} times")) }
    });
    assert!(!pi.agent().log().contains(token.split('.').nth(2).unwrap()), "the secret is in the log");
    pi.kill_agent();

    // The answer is lost after the token was spent; the agent is killed, too. The same key asks again.
    pi.reconfigure(|setup| setup.token = Some(token.clone()));
    proxy.lose_answers_to("POST /api/v1/enroll ");
    proxy.set(Mode::LoseAnswers);
    pi.start_agent();
    soon("an answer to be lost", || if proxy.lost() > 0 { Ok(()) } else { Err(pi.agent().last_words()) });
    assert_eq!(tokens(&fleet)[0].used, 1, "the token is spent");
    let id = devices(&fleet)[0].id.clone();
    pi.kill_agent();
    proxy.set(Mode::Pass);
    pi.start_agent();
    fleet.online_agent(&pi);
    assert_eq!(devices(&fleet).into_iter().map(|d| d.id).collect::<Vec<_>>(), [id], "one device, the same");
    assert_eq!(tokens(&fleet)[0].used, 1);

    // Another key presents the same token.
    let mut thief = fleet.device_setup("pi-2");
    thief.token = Some(token);
    let thief = Device::new(fleet.case(), thief);
    thief.start_agent();
    soon("the thief to be refused", || {
        let refused = fleet
            .audit()
            .into_iter()
            .any(|e| e.action.contains("enroll") && e.outcome == bramble_contracts::api::Outcome::Refused);
        if refused { Ok(()) } else { Err(format!("{:?}; {}", fleet.audit(), thief.agent().last_words())) }
    });
    assert_eq!(devices(&fleet).len(), 1);
    assert!(!thief.state_dir().join("keys/identity").exists());
    let log = std::fs::read_to_string(fleet.case().logs().join("coordinator.log")).unwrap();
    assert!(!log.contains("bramble1."), "no token is ever logged");
}

/// Credentials that live this long.
const TTL_SECS: u64 = 14;

#[test]
fn credentials_run_out_live_and_away_and_nobody_notices() {
    if !sample::takes("credentials-run-out") {
        return;
    }
    let setup = FleetSetup { serve: vec!["--device-jwt-ttl".into(), format!("{TTL_SECS}s")], ..FleetSetup::default() };
    let fleet = Fleet::start_with("expiry", &setup);
    let pi = fleet.device("pi-1");
    fleet.apply(&manifest::hello("web", fleet.port(), 1));
    let before = fleet.settled("web", &pi);
    let identity = pi.identity();
    let id = identity["device"].as_str().unwrap().to_owned();
    let old = identity["jwt"].as_str().unwrap().to_owned();

    // Live: over two and a half lives of the JWT, no gap in the heartbeats.
    let stolen = Stolen::from(fleet.coordinator());
    let inside = stolen.connect(In::Fleet);
    let gap = longest_gap(&inside, &id, Duration::from_secs(TTL_SECS * 5 / 2));
    println!("the longest gap between heartbeats: {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(4), "{gap:?} without a heartbeat");
    let renewed = pi.identity()["jwt"].as_str().unwrap().to_owned();
    assert!(jwt::claims(&renewed)["exp"].as_u64() > jwt::claims(&old)["exp"].as_u64());
    assert!(unix_secs() > jwt::claims(&old)["exp"].as_u64().unwrap());
    let refused = Mesh::connect(fleet.coordinator().broker(), &old, &pi.seed(), None);
    assert!(refused.is_err(), "the first JWT has run out and still opens the broker");

    // Away: it comes back long after its JWT has run out, and asks over HTTP with its key.
    pi.kill_agent();
    let expires = jwt::claims(pi.identity()["jwt"].as_str().unwrap())["exp"].as_u64().unwrap();
    wait_until("its JWT to run out", Duration::from_secs(TTL_SECS + 5), || {
        if unix_secs() > expires + 1 { Ok(()) } else { Err("not yet".into()) }
    });
    pi.start_agent();
    soon("a heartbeat after it came back", || {
        let now = pi.identity()["jwt"].as_str().unwrap_or_default().to_owned();
        let fresh = jwt::claims(&now)["exp"].as_u64() > Some(expires);
        if fresh { Ok(()) } else { Err(pi.agent().last_words()) }
    });
    fleet.online_agent(&pi);
    assert_eq!(fleet.settled("web", &pi), before);
    assert_eq!(devices(&fleet).len(), 1);
}

fn longest_gap(inside: &Mesh, id: &str, time: Duration) -> Duration {
    let beats = inside.record(&[&Bucket::Liveness.subject(&format!("{id}.*"))]);
    soon("a first heartbeat", || if beats.heard().is_empty() { Err("none".into()) } else { Ok(()) });
    let watch = Watch::start();
    let (mut seen, mut last, mut longest) = (beats.heard().len(), Duration::ZERO, Duration::ZERO);
    while watch.elapsed() < time {
        let now = beats.heard().len();
        if now > seen {
            longest = longest.max(watch.elapsed() - last);
            (seen, last) = (now, watch.elapsed());
        }
        bramble_fleet_tests::clock::pause(Duration::from_millis(20));
    }
    // One session throughout: the agent was never restarted behind our back.
    let decoded: Vec<Heartbeat> = beats.heard().iter().filter_map(|m| envelope::decode(&m.payload).ok()).collect();
    assert!(decoded.windows(2).all(|w| w[0].session == w[1].session && w[0].seq < w[1].seq), "{decoded:?}");
    longest.max(watch.elapsed() - last)
}
