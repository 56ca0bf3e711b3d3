//! Who this device is to its fleet, how long that lasts, and whether the broker can be reached now.
//!
//! Decides what to do about each. Ages are counted by the clock that nobody sets where there is one.

use std::time::Duration;

use bramble_contracts::smoke::{Check, CheckResult, CheckState, no_answer, no_connection};
use bramble_contracts::trust::TrustDocument;
use futures::future::join_all;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::certificate::{Validity, validity};
use super::{Answer, DIAL, bounded, failed, look, ok, on_disk};
use crate::config::Config;
use crate::host::clock;
use crate::mesh::identity::{Identity, Span, identity_file, trust_file};

/// A certificate that ends sooner is to be renewed by people.
const ENDS_SOON: time::Duration = time::Duration::days(30);

/// What the files of enrolment say.
struct Found {
    identity: Result<Option<Identity>, String>,
    trust: Result<TrustDocument, String>,
}

pub(super) async fn who(config: &Config) -> Vec<CheckResult> {
    let state = config.state_dir.clone();
    let holds = |what: &str, (state, words): Answer| CheckResult::new(Check::holds(what), state, words);
    let read = tokio::time::timeout(super::ANSWER_MAX, on_disk(move || read(&state))).await;
    let Ok(Some(Found { identity, trust })) = read else {
        return vec![holds("identity", failed(no_answer(super::ANSWER_MAX)))];
    };
    let identity = match identity {
        Ok(Some(identity)) => identity,
        Ok(None) => return vec![holds("identity", not_enrolled(config))],
        Err(why) => return vec![holds("identity", failed(format!("cannot be used: {why}")))],
    };
    let name = format!("is {} ({})", identity.device, identity.name);
    let mut lines = vec![holds("identity", ok(name)), holds("jwt", jwt(&identity))];
    match trust {
        Ok(document) => {
            lines.push(holds("trust", ok(format!("document has version {}", document.version))));
            lines.push(holds("CA", certificates(&document.ca_bundle, now())));
            lines.extend(join_all(document.brokers.iter().map(|broker| reach(broker))).await);
        }
        Err(why) => lines.push(holds("trust", failed(format!("document: {why}; enrol this device again")))),
    }
    lines
}

fn now() -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock::wall_ms()) * 1_000_000).ok()
}

fn read(state: &std::path::Path) -> Found {
    let identity = identity_file(state).load_json().map_err(|err| err.to_string());
    let trust = trust_file(state).load().map_err(|err| err.to_string());
    let trust = trust.and_then(|loaded| loaded.value().ok_or_else(|| "it is missing".to_owned()));
    Found {
        identity: identity.map(crate::host::state::Loaded::value),
        trust: trust.and_then(|bytes| TrustDocument::open_stored(&bytes).map_err(|err| err.to_string())),
    }
}

fn not_enrolled(config: &Config) -> Answer {
    match &config.token_file {
        Some(path) if path.exists() => look("is none: not enrolled yet; the agent enrols when it runs"),
        Some(path) => failed(format!(
            "is none: not enrolled, and {} is not there: `bramble enroll-token create` makes a token",
            path.display()
        )),
        None => failed("is none: not enrolled, and agent.toml names no token_file"),
    }
}

fn days(time: Duration) -> u64 {
    time.as_secs() / 86_400
}

fn jwt(identity: &Identity) -> Answer {
    let Some(span) = Span::of(&identity.jwt) else {
        return look("cannot be read; it is renewed when the agent runs");
    };
    let Some(length) = span.length() else { return ok("has no end") };
    match identity.received.age() {
        Some(age) if age > length => {
            look("is older than it is valid: the agent asks the coordinator for a new one over HTTP")
        }
        Some(age) => ok(format!("is {} days old and valid for {}", days(age), days(length))),
        None => {
            ok(format!("is from before this boot and valid for {} days; renewed at the next connection", days(length)))
        }
    }
}

/// Every certificate that servers must chain to.
fn certificates(bundle: &str, now: Option<OffsetDateTime>) -> Answer {
    let all: Vec<Option<Validity>> =
        CertificateDer::pem_slice_iter(bundle.as_bytes()).map(|der| validity(der.ok()?.as_ref())).collect();
    let Some(all) = all.into_iter().collect::<Option<Vec<_>>>() else {
        return failed("certificates cannot be read: the trust document is not what it should be");
    };
    let (Some(first), Some(now)) = (all.iter().map(|one| one.to).min(), now) else {
        return ok("certificates are none: coordinator and broker are on this machine, without TLS");
    };
    let of = |count: usize| if count == 1 { "certificate".to_owned() } else { format!("{count} certificates") };
    let (what, until) = (of(all.len()), first.date());
    if all.iter().any(|one| one.from > now) {
        return look(format!("{what} not valid yet by this device's clock: set the clock"));
    }
    match first - now {
        left if left.is_negative() => failed(format!(
            "{what} ended on {until}, by this device's clock: nothing can be reached until the fleet's CA is renewed"
        )),
        left if left < ENDS_SOON => look(format!("{what} ends on {until}: renew the fleet's CA")),
        left => ok(format!("{what} valid for {} days, until {until}", left.whole_days())),
    }
}

async fn reach(broker: &str) -> CheckResult {
    let Ok(address) = broker.parse::<async_nats::ServerAddr>() else {
        return CheckResult::new(Check::TcpReachable { at: broker.to_owned() }, CheckState::Failed, "is no address");
    };
    let at = format!("{}:{}", address.host(), address.port());
    let dial = async {
        let words =
            match tokio::time::timeout(DIAL, tokio::net::TcpStream::connect((address.host(), address.port()))).await {
                Ok(Ok(_)) => return ok("takes connections"),
                Ok(Err(err)) => no_connection(&err),
                Err(_) => no_answer(DIAL),
            };
        look(format!("{words}; apps run on without it"))
    };
    bounded(Check::TcpReachable { at }, dial).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_judged_by_the_one_that_ends_first() {
        let pem = |from: i32, to: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["x".into()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let now = Some(rcgen::date_time_ymd(2030, 1, 1));
        let judge = |bundle: &str| certificates(bundle, now);
        assert_eq!(judge("").0, CheckState::Passed);
        assert_eq!(judge(&pem(2025, 2040)).1, "certificate valid for 3652 days, until 2040-01-01");
        assert_eq!(judge(&(pem(2025, 2040) + &pem(2025, 2029))).0, CheckState::Failed);
        assert_eq!(judge(&pem(2031, 2040)).0, CheckState::Look);
        let soon = certificates(&pem(2025, 2031), Some(rcgen::date_time_ymd(2030, 12, 20)));
        assert_eq!(soon, look("certificate ends on 2031-01-01: renew the fleet's CA"));
    }
}
