//! Any bytes into every reader. `cargo +nightly fuzz run messages` in `contracts/`; seeds: the golden files.
#![no_main]

use bramble_contracts::{
    bytes::Sha256,
    envelope::{decode, encode},
    signed::{self, Role},
    token::EnrollmentToken,
    trust::TrustDocument,
    v1::{Command, Deployment, DesiredDocument, Heartbeat, Manifest, RenewReply, RenewRequest, ReplyFrame, SignedTime, TimeRequest},
    v2::{CommandInput, Report},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(document) = decode::<DesiredDocument>(bytes) {
        let again = encode(&document).and_then(|b| Ok(decode::<DesiredDocument>(&b)));
        assert_eq!(again, Ok(Ok(document)));
    }
    if let Ok(report) = decode::<Report>(bytes) {
        let again = encode(&report).and_then(|b| Ok(decode::<Report>(&b)));
        assert_eq!(again, Ok(Ok(report)));
    }
    let _ = decode::<Heartbeat>(bytes);
    let _ = decode::<Command>(bytes);
    let _ = decode::<CommandInput>(bytes);
    let _ = decode::<ReplyFrame>(bytes);
    let _ = decode::<TrustDocument>(bytes);
    let _ = decode::<RenewRequest>(bytes);
    let _ = decode::<RenewReply>(bytes);
    let _ = decode::<TimeRequest>(bytes);
    let _ = signed::open::<SignedTime>(bytes, Role::Time, |_, _| None);
    let _ = signed::open::<DesiredDocument>(bytes, Role::Fleet, |_, _| None);
    let _ = TrustDocument::open_stored(bytes);
    let _ = TrustDocument::open_pinned(bytes, &Sha256::of(b""));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<EnrollmentToken>();
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let deployment = Deployment::from(manifest);
        let _ = (deployment.problems(), deployment.unsupported(), deployment.spec_hash());
    }
});
