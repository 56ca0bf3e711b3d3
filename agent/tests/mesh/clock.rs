//! The clock guard: who tells the time, whom to believe, and what goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bramble_agent::core::sntp;
use bramble_contracts::signed::{Role, public_key};
use bramble_contracts::trust::TrustedKey;
use bramble_contracts::v1::{Health, RefusalKind};
use bramble_contracts::v2::ClockVerdict::{Disputed, Fit, Skewed, Unknown};
use tokio::net::UdpSocket;

use crate::coordinator::{Clock, Coordinator, Tls};
use crate::device::Device;
use crate::enrolment::{authority, certificate_of};
use crate::eventually;

/// A time server whose clock is off by so many seconds.
pub(crate) struct Ntp {
    pub(crate) address: String,
    off: Arc<AtomicI64>,
}

impl Ntp {
    pub(crate) async fn off_by(secs: i64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let new = Self { address: socket.local_addr().unwrap().to_string(), off: Arc::new(AtomicI64::new(secs)) };
        let off = new.off.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut question).await {
                assert_eq!(length, sntp::BYTES);
                let mut answer = [0; sntp::BYTES];
                (answer[0], answer[1]) = (0b00_100_100, 2);
                answer.copy_within(40..48, 24);
                answer[24..32].copy_from_slice(&question[40..48]);
                let now = i64::try_from(crate::unix_now()).unwrap() + off.load(Ordering::Relaxed) + 2_208_988_800;
                for at in [32, 40] {
                    answer[at..at + 4].copy_from_slice(&u32::try_from(now & 0xffff_ffff).unwrap().to_be_bytes());
                    answer[at + 4] = 0x80;
                }
                socket.send_to(&answer, asker).await.unwrap();
            }
        });
        new
    }

    fn set(&self, secs: i64) {
        self.off.store(secs, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn the_coordinators_time_alone_makes_it_fit_and_the_floor_is_kept() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    let clock = device.clock_is(Fit).await;
    assert_eq!((clock.sources.as_str(), clock.detail.as_str()), ("the coordinator", ""));
    assert!(clock.skew_ms.unwrap().abs() < 5_000);
    device.reports("the clock", |report| report.clock.verdict == Fit && report.alarms.is_empty()).await;
    let floor = device.dir.path().join("state/clock");
    eventually("the floor", || async { std::fs::read_to_string(&floor).is_ok_and(|f| f.contains("trusted_ms")) }).await;
    assert!(device.agent().board().clock_fit().is_ok());
}

#[tokio::test]
async fn a_wrong_clock_is_told_everything_goes_on_and_it_recovers_by_itself() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().clock = Clock::Off(3600);
    coordinator.state().jwt_secs = 8;
    let device = Device::connected(&coordinator).await;
    let said = device.clock_is(Skewed).await.detail;
    assert!(said.starts_with("clock skew -3600s;") && said.contains("systemd-timesyncd or chrony"), "{said}");
    assert_eq!(device.agent().board().clock_fit().unwrap_err().to_string(), said);
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    let report = device.reports("the alarm", |report| report.alarms == [said.clone()]).await;
    assert_eq!((report.health, report.clock.verdict), (Health::Degraded, Skewed));
    eventually("the heartbeat", || async { device.heartbeat().await.unwrap().health == Health::Degraded }).await;
    eventually("a renewal of the mesh's JWT", || async { coordinator.state().renewals > 0 }).await;
    assert_eq!(device.host.things().len(), 1, "apps run");
    coordinator.state().clock = Clock::Off(0);
    device.clock_is(Fit).await;
    device.reports("no alarm", |report| report.alarms.is_empty() && report.health == Health::Healthy).await;
}

#[tokio::test]
async fn ntp_and_the_coordinator_that_differ_are_disputed_until_they_agree() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let (ntp, same) = (Ntp::off_by(-100).await, Ntp::off_by(-100).await);
    let mut device = Device::new(&coordinator).await;
    device.ntp = vec![ntp.address.clone(), same.address.clone()];
    device.start();
    device.is_connected().await;
    let clock = device.clock_is(Disputed).await;
    assert!(clock.detail.contains("s from what NTP says"), "{clock:?}");
    assert_eq!(clock.sources, "the coordinator, 2 of 2 NTP servers");
    ntp.set(0);
    same.set(0);
    assert_eq!(device.clock_is(Fit).await.sources, "the coordinator, 2 of 2 NTP servers");
}

#[tokio::test]
async fn ntp_alone_makes_it_fit_before_it_is_enrolled() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::new(&coordinator).await;
    let servers = [Ntp::off_by(0).await, Ntp::off_by(0).await, Ntp::off_by(86_400).await];
    device.ntp = servers.iter().map(|server| server.address.clone()).collect();
    std::fs::remove_file(device.token()).unwrap();
    device.start();
    assert_eq!(device.clock_is(Fit).await.sources, "2 of 3 NTP servers");
    assert!(device.agent().device().borrow().is_none());
}

#[tokio::test]
async fn servers_that_do_not_answer_make_nothing_unfit() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut device = Device::new(&coordinator).await;
    device.ntp = vec![silent.local_addr().unwrap().to_string(), "127.0.0.1:1".into()];
    device.start();
    device.is_connected().await;
    assert_eq!(device.clock_is(Fit).await.sources, "the coordinator");
}

#[tokio::test]
async fn a_recorded_time_is_refused_and_told() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    device.clock_is(Fit).await;
    device.stop().await;
    coordinator.state().clock = Clock::Replayed;
    device.start();
    device
        .reports("the refusal", |report| {
            report.refused.iter().any(|r| r.kind == RefusalKind::StaleCommand && r.detail.contains("recording"))
        })
        .await;
    assert_eq!(device.agent().view().clock.verdict, Unknown);
    coordinator.state().clock = Clock::Off(0);
    device.clock_is(Fit).await;
}

#[tokio::test]
async fn a_fleet_whose_trust_document_had_no_time_key_yet_learns_it() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.succeed(|doc| doc.keys.retain(|key| key.role != Role::Time));
    let device = Device::connected(&coordinator).await;
    device
        .reports("the refusal", |report| report.refused.iter().any(|refusal| refusal.detail.contains("as a Time key")))
        .await;
    assert_eq!(device.agent().view().clock.verdict, Unknown);
    let key = public_key(&coordinator.state().time);
    coordinator.succeed(|doc| doc.keys.push(TrustedKey { role: Role::Time, key }));
    device.clock_is(Fit).await;
}

#[tokio::test]
async fn a_damaged_floor_is_told_and_made_anew() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    let floor = device.dir.path().join("state/clock");
    eventually("the floor", || async { floor.exists() }).await;
    device.stop().await;
    coordinator.state().clock = Clock::Replayed;
    coordinator.state().recording.clear();
    std::fs::write(&floor, "rubbish").unwrap();
    device.start();
    device.reports("the damage", |report| report.alarms.iter().any(|a| a.contains("damaged"))).await;
    coordinator.state().clock = Clock::Off(0);
    device.clock_is(Fit).await;
    device.reports("that it is mended", |report| report.alarms.is_empty()).await;
    // The newest alone is damaged: the one before it counts, and the file is whole again as soon as the clock is fit.
    device.stop().await;
    std::fs::copy(&floor, floor.with_extension("prev")).unwrap();
    std::fs::write(&floor, "rubbish").unwrap();
    device.start();
    device.clock_is(Fit).await;
    eventually("the file to be whole", || async {
        std::fs::read_to_string(&floor).is_ok_and(|text| text.contains("trusted_ms"))
    })
    .await;
}

/// A device whose broker has a certificate that is valid between these years: connected while nobody tells the time, then
/// told. Also how many connections there had been before.
async fn told_late(years: (i32, i32)) -> (Coordinator, Device, u64) {
    let ours = authority();
    let (cert, key) = certificate_of(&ours, years);
    let coordinator = Coordinator::start(Tls::Broker((cert.pem(), key.serialize_pem()), ours.pem())).await;
    coordinator.state().clock = Clock::Replayed;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    assert_eq!(device.agent().view().clock.verdict, Unknown, "so dates are not looked at");
    let before = coordinator.broker.lock().await.connections().await;
    coordinator.state().clock = Clock::Off(0);
    device.clock_is(Fit).await;
    (coordinator, device, before)
}

#[tokio::test]
async fn once_the_clock_is_fit_a_certificate_shows_its_dates_on_a_new_connection() {
    let (coordinator, device, before) = told_late((2020, 2050)).await;
    let mut asked = 0;
    while coordinator.broker.lock().await.connections().await < before + asked + 2 {
        asked += 1;
        assert!(asked < 1_000, "no new connection");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    device.put(device.signed(&device.document(2, Some("web")))).await;
    device.reaches(2).await;
    assert!(device.agent().view().connected);
}

#[tokio::test]
async fn once_the_clock_is_fit_a_certificate_of_long_ago_is_believed_no_longer() {
    let (_coordinator, device, _) = told_late((2001, 2002)).await;
    eventually("the refusal", || async { device.agent().view().link.contains("certificate") }).await;
    assert!(!device.agent().view().connected);
    assert_eq!(device.host.things().len(), 1, "the app runs on");
}
