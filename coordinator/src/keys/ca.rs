//! The fleet's own certificate authority and the server certificates it issues.
//!
//! Decides: names, life times and usages. Deliberately does not: serve TLS; broker and HTTP do, with these files.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Keys;
use crate::clock;

const CA_NAME: &str = "Bramble fleet CA";
const CA_LIFE: time::Duration = time::Duration::days(365 * 30);
/// How long a server certificate lasts; it is renewed from half-life on.
pub const SERVER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between two looks whether it is due.
const RENEW_CHECK: Duration = Duration::from_secs(3600);

/// This program was not there before: an earlier clock is wrong, and so would be every date in a certificate.
const FIT_FROM: i64 = 1_767_225_600; // 2026-01-01

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A wrong name, or a damaged CA key.
    #[error("cannot issue a certificate{}", names_text(names))]
    Issue {
        /// The names asked for.
        names: Vec<String>,
        /// Why.
        #[source]
        err: rcgen::Error,
    },
    /// The dates in it would be wrong.
    #[error(
        "the clock of this machine says {says}: set it, then start again (certificates made now would be of no use)"
    )]
    Clock {
        /// The clock's date.
        says: time::Date,
    },
}

/// Is it late enough for dates in certificates?
fn fit(now: OffsetDateTime) -> Result<(), CaError> {
    if now.unix_timestamp() < FIT_FROM { Err(CaError::Clock { says: now.date() }) } else { Ok(()) }
}

fn names_text(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) }
}

/// Certificate and key of a server. `Debug` hides the key.
#[derive(Clone)]
pub struct ServerCert {
    /// PEM.
    pub cert: String,
    /// PEM. Never logged.
    pub key: Zeroizing<String>,
    /// Seconds since 1970: replace it from here on.
    pub renew_at: u64,
}

impl std::fmt::Debug for ServerCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCert(renew at {}, key hidden)", self.renew_at)
    }
}

/// The authority: its certificate and its key.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + CA_LIFE;
    params
}

impl Ca {
    /// A new authority: `(certificate, key)` in PEM.
    pub fn generate(now: OffsetDateTime) -> Result<(String, Zeroizing<String>), CaError> {
        fit(now)?;
        let fail = |err| CaError::Issue { names: vec![], err };
        let key = KeyPair::generate().map_err(fail)?;
        let cert = ca_params(now).self_signed(&key).map_err(fail)?;
        Ok((cert.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// The authority with this certificate and key. The issuer's name and key id follow from the parameters.
    pub fn load(pem: String, key_pem: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key_pem).map_err(|err| CaError::Issue { names: vec![], err })?;
        Ok(Self { pem, issuer: Issuer::new(ca_params(OffsetDateTime::UNIX_EPOCH), key) })
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these host names and addresses; `localhost` and loopback are always in it.
    pub fn server(&self, names: &[String], now: OffsetDateTime) -> Result<ServerCert, CaError> {
        fit(now)?;
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        all.extend(names.iter().filter(|n| !n.is_empty()).cloned());
        all.sort_unstable();
        all.dedup();
        let fail = |err| CaError::Issue { names: all.clone(), err };
        let mut params = CertificateParams::new(all.clone()).map_err(fail)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "bramble");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = now - time::Duration::days(1);
        params.not_after = now + SERVER_LIFE;
        let key = KeyPair::generate().map_err(fail)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(fail)?;
        let renew_at = u64::try_from((now + SERVER_LIFE / 2).unix_timestamp()).unwrap_or(0);
        Ok(ServerCert { cert: cert.pem(), key: Zeroizing::new(key.serialize_pem()), renew_at })
    }
}

/// A server's certificate that is issued anew when it is due, for servers that run for years.
///
/// Each served connection takes what the receiver holds at that moment; after `changed()` there is a new one. The task
/// ends with the last receiver. A certificate that cannot be renewed is tried again: the old one lasts half its life more.
pub fn renewing(keys: Arc<Keys>, names: Vec<String>) -> Result<watch::Receiver<ServerCert>, CaError> {
    let (tell, current) = watch::channel(keys.ca().server(&names, clock::now())?);
    tokio::spawn(async move {
        loop {
            tokio::select! { () = tell.closed() => return, () = tokio::time::sleep(RENEW_CHECK) => {} }
            let due = tell.borrow().renew_at;
            match renewed(keys.ca(), &names, due, clock::now()) {
                Ok(Some(cert)) => {
                    tell.send_replace(cert);
                    tracing::info!("the API has a new server certificate");
                }
                Ok(None) => {}
                Err(err) => tracing::error!(%err, "the API's certificate cannot be renewed; trying again in an hour"),
            }
        }
    });
    Ok(current)
}

/// A new certificate, if the one that is `due` at this second is.
fn renewed(ca: &Ca, names: &[String], due: u64, now: OffsetDateTime) -> Result<Option<ServerCert>, CaError> {
    let is_due = u64::try_from(now.unix_timestamp()).is_ok_and(|now| now >= due);
    if is_due { ca.server(names, now).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(unix).unwrap()
    }

    #[test]
    fn a_clock_before_this_program_makes_no_certificate() {
        for (unix, says) in [(0, "1970-01-01"), (FIT_FROM - 1, "2025-12-31")] {
            let err = Ca::generate(at(unix)).unwrap_err();
            assert!(matches!(err, CaError::Clock { .. }) && err.to_string().contains(says), "{err}");
        }
        let (cert, key) = Ca::generate(at(FIT_FROM)).unwrap();
        let ca = Ca::load(cert, &key).unwrap();
        assert!(matches!(ca.server(&[], at(5)), Err(CaError::Clock { .. })));
    }

    #[test]
    fn a_server_certificate_is_renewed_at_half_its_life() {
        let (cert, key) = Ca::generate(at(FIT_FROM)).unwrap();
        let ca = Ca::load(cert, &key).unwrap();
        let first = ca.server(&[], at(FIT_FROM)).unwrap();
        let due = i64::try_from(first.renew_at).unwrap();
        assert!(renewed(&ca, &[], first.renew_at, at(due - 1)).unwrap().is_none());
        let second = renewed(&ca, &[], first.renew_at, at(due)).unwrap().expect("it is due");
        assert!(second.cert != first.cert && second.renew_at > first.renew_at);
    }
}
