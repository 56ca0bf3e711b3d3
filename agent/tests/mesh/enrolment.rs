//! From a token to a place in the fleet.

use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::Uid;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::token::EnrollmentToken;
use rcgen::date_time_ymd;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::coordinator::{Coordinator, Tls};
use crate::device::Device;
use crate::eventually;

#[tokio::test]
async fn a_device_enrols_connects_and_says_how_it_is() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    assert!(!device.token().exists(), "a spent token is removed");
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    let report = device
        .reports("the app in the report", |report| {
            report.generation.0 == 1 && report.apps.iter().any(|app| app.containers.iter().any(|c| !c.id.is_empty()))
        })
        .await;
    assert_eq!((report.session, report.trust_version), (device.agent().session(), 1));
    eventually("a heartbeat of generation 1", || async {
        device.heartbeat().await.is_some_and(|beat| beat.generation.0 == 1 && beat.uptime_ms > 0)
    })
    .await;
    assert_eq!(device.heartbeat().await.unwrap().session, device.agent().session());
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().lose_answers = 2;
    let device = Device::connected(&coordinator).await;
    let state = coordinator.state();
    assert_eq!(state.devices.len(), 1, "one key, one device");
    let tries = state.asked.iter().filter(|what| *what == "POST /api/v1/enroll").count();
    assert_eq!(tries, 3);
    assert_eq!(state.devices.values().next(), Some(&device.id()));
}

#[tokio::test]
async fn a_pending_device_asks_again_until_it_is_approved() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().pending = 2;
    let device = Device::connected(&coordinator).await;
    assert!(device.generation() == 0 && !device.token().exists());
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_that_the_token_does_not_name() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::new(&coordinator).await;
    let wrong = EnrollmentToken::new(Uid::from_entropy([5; 13]), [6; 20], Sha256::of(b"another fleet"));
    device.write_token(&wrong.reveal());
    device.start();
    eventually("the refusal", || async { device.agent().view().link.contains("wrong server") }).await;
    let asked = coordinator.state().asked.clone();
    assert!(asked.iter().all(|what| what == "GET /api/v1/enroll/trust"), "{asked:?}");
    assert!(device.token().exists(), "the token is not spent");
}

/// A certificate for 127.0.0.1 and its key.
fn certificate(ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>) -> (rcgen::Certificate, rcgen::KeyPair) {
    certificate_of(ca, (2020, 2050))
}

/// The same, valid between these years.
pub(crate) fn certificate_of(
    ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
    years: (i32, i32),
) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    (params.signed_by(&key, ca).unwrap(), key)
}

fn acceptor(ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>) -> TlsAcceptor {
    let (cert, key) = certificate(ca);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn authority() -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn enrolment_over_tls_believes_only_the_pinned_ca() {
    let (ours, other) = (authority(), authority());
    let coordinator = Coordinator::start(Tls::Http(acceptor(&ours), ours.pem())).await;
    let device = Device::connected(&coordinator).await;
    drop(device);
    // The trust document is right, the server's certificate is another CA's: somebody sits in between.
    let between = Coordinator::start(Tls::Http(acceptor(&other), ours.pem())).await;
    let mut device = Device::new(&between).await;
    device.start();
    eventually("the refusal", || async { device.agent().view().link.contains("TLS") }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = between.state().asked.clone();
    assert!(asked.iter().all(|what| what == "GET /api/v1/enroll/trust"), "{asked:?}");
}

#[tokio::test]
async fn a_broker_over_tls_is_believed_by_the_pinned_ca_only() {
    let (ours, other) = (authority(), authority());
    let pem = |ca| {
        let (cert, key) = certificate(ca);
        (cert.pem(), key.serialize_pem())
    };
    let coordinator = Coordinator::start(Tls::Broker(pem(&ours), ours.pem())).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
    let between = Coordinator::start(Tls::Broker(pem(&other), ours.pem())).await;
    let mut device = Device::new(&between).await;
    device.start();
    eventually("the refusal", || async { device.agent().view().link.contains("certificate") }).await;
    assert!(!device.agent().view().connected);
}
