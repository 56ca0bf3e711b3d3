//! The fleet's own certificate authority and the server certificates it issues.
//!
//! Decides: names, life times and usages. Deliberately does not: serve TLS; broker and HTTP do, with these files.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

const CA_NAME: &str = "Bramble fleet CA";
const CA_LIFE: time::Duration = time::Duration::days(365 * 30);
/// How long a server certificate lasts; it is renewed from half-life on.
pub const SERVER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A certificate could not be made: a wrong name, or a damaged CA key.
#[derive(Debug, thiserror::Error)]
#[error("cannot issue a certificate{}", names_text(names))]
pub struct CaError {
    /// The names asked for.
    pub names: Vec<String>,
    /// Why.
    #[source]
    pub err: rcgen::Error,
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
        let fail = |err| CaError { names: vec![], err };
        let key = KeyPair::generate().map_err(fail)?;
        let cert = ca_params(now).self_signed(&key).map_err(fail)?;
        Ok((cert.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// The authority with this certificate and key. The issuer's name and key id follow from the parameters.
    pub fn load(pem: String, key_pem: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key_pem).map_err(|err| CaError { names: vec![], err })?;
        Ok(Self { pem, issuer: Issuer::new(ca_params(OffsetDateTime::UNIX_EPOCH), key) })
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these host names and addresses; `localhost` and loopback are always in it.
    pub fn server(&self, names: &[String], now: OffsetDateTime) -> Result<ServerCert, CaError> {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        all.extend(names.iter().filter(|n| !n.is_empty()).cloned());
        all.sort_unstable();
        all.dedup();
        let fail = |err| CaError { names: all.clone(), err };
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
