//! TLS towards coordinator and broker: chain and name against the pinned CA, dates only by a clock that is fit.
//!
//! Boards boot in 1970. While the clock is not fit, a certificate's dates are judged at a time within its own validity:
//! chain, name and signatures count as always. Decides how a server is checked. Does not decide which CA is trusted:
//! that is the trust document's word; nor what the clock is worth: that is the clock guard's. Nothing here reads the
//! system's own list of authorities.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::board::Board;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The trust document has none.
    #[error(
        "the trust document lists no CA certificate, so https and tls addresses cannot be checked; use loopback addresses or a coordinator with TLS"
    )]
    NoCa,
    /// It lists something that is none.
    #[error("the trust document's CA bundle cannot be read: {0}")]
    BadCa(String),
    /// rustls refuses the setting.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// How far the last handshake of a connection went. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dates(Arc<AtomicBool>);

impl Dates {
    /// Was a certificate believed whose dates nobody could judge?
    pub(crate) fn unchecked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A client that trusts exactly `ca_bundle` (PEM), and dates as far as the clock on `board` allows.
pub(crate) fn pinned(ca_bundle: &str, board: &Board, dates: &Dates) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_bundle.as_bytes()) {
        let cert = cert.map_err(|err| TlsError::BadCa(err.to_string()))?;
        roots.add(cert).map_err(|err| TlsError::BadCa(err.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoCa);
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|err| TlsError::BadCa(err.to_string()))?;
    config(Arc::new(Pinned { inner, board: board.clone(), dates: dates.clone() }))
}

/// Did a connection fail because its certificate was not believed?
pub(crate) fn is_about_certificate(err: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(err);
    while let Some(err) = next {
        // An input/output error does not name what it carries as its source.
        let carried = err.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if carried.and_then(|err| err.downcast_ref()).is_some_and(|err| matches!(err, Error::InvalidCertificate(_))) {
            return true;
        }
        next = err.source();
    }
    false
}

/// A client that trusts anybody. Only for the very first fetch of the trust document, whose own signature and the
/// token's pin say whether it is right; nothing secret is ever sent over it.
pub(crate) fn unverified() -> Result<ClientConfig, TlsError> {
    config(Arc::new(Anybody(provider())))
}

fn config(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    board: Board,
    dates: Dates,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = |time| self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time);
        let mut verdict = at(now);
        let fit = self.board.clock_fit();
        self.dates.0.store(fit.is_err(), Ordering::Relaxed);
        if fit.is_ok() {
            return verdict;
        }
        // A chain has few certificates; each try moves into the validity of one more of them.
        for _ in 0..4 {
            verdict = match verdict {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                    at(not_before)
                }
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => at(not_after),
                other => return other,
            };
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v2::ClockVerdict::{self, Disputed, Fit, Skewed, Unknown};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use rustls::pki_types::ServerName;

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn certificate(ca: &CertifiedIssuer<'_, KeyPair>, years: (i32, i32)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["fleet.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        params.signed_by(&KeyPair::generate().unwrap(), ca).unwrap().der().clone()
    }

    /// Does a device in the year 2026 whose clock is so believe that certificate?
    fn believes(ca: &CertifiedIssuer<'_, KeyPair>, cert: &CertificateDer<'_>, name: &str, clock: ClockVerdict) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_767_225_601));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let (board, dates) = (Board::default(), Dates::default());
        board.update(|view| view.clock.verdict = clock);
        let said = Pinned { inner, board, dates: dates.clone() }.verify_server_cert(cert, &[], &name, &[], now);
        assert_eq!(dates.unchecked(), clock != Fit);
        said.is_ok()
    }

    #[test]
    fn dates_count_only_when_the_clock_is_fit_and_the_rest_always() {
        let (ours, other) = (authority(), authority());
        for (years, valid) in [((2025, 2030), true), ((2001, 2002), false), ((2040, 2050), false)] {
            let cert = certificate(&ours, years);
            assert_eq!(believes(&ours, &cert, "fleet.example", Fit), valid, "{years:?}");
            for clock in [Unknown, Skewed, Disputed] {
                assert!(believes(&ours, &cert, "fleet.example", clock), "{years:?} {clock:?}");
            }
            for clock in [Fit, Unknown, Skewed, Disputed] {
                assert!(!believes(&ours, &cert, "evil.example", clock), "another name");
                assert!(!believes(&other, &cert, "fleet.example", clock), "another CA");
            }
        }
    }

    #[test]
    fn a_refused_certificate_is_told_from_a_broken_cable() {
        let refused = std::io::Error::other(Error::InvalidCertificate(CertificateError::Expired));
        assert!(is_about_certificate(&async_nats::ConnectError::from(refused)));
        assert!(!is_about_certificate(&std::io::Error::other(Error::DecryptError)));
        assert!(!is_about_certificate(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
    }

    #[test]
    fn no_ca_is_never_any_ca() {
        let client = |bundle: &str| pinned(bundle, &Board::default(), &Dates::default());
        assert!(matches!(client(""), Err(TlsError::NoCa)));
        assert!(client("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----").is_err());
        assert!(client(&authority().pem()).is_ok());
    }
}
