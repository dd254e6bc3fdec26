//! The dialler's check of a server's certificate: that of webpki, against the cluster's CA and
//! the fixed name of a role. It adds one thing, the memory of why a certificate was refused,
//! because QUIC reports only an alert.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::hello::Role;

/// The check of one dial.
pub(super) struct Recorder {
    inner: Arc<WebPkiServerVerifier>,
    expect: Role,
    /// Who checks.
    role: Role,
    trusted_ca: String,
    refused: Mutex<Option<String>>,
}

impl Recorder {
    /// `role` is who dials, `trusted_ca` the [`fingerprint`] of the CA behind `inner`.
    pub(super) fn new(
        inner: Arc<WebPkiServerVerifier>,
        expect: Role,
        role: Role,
        trusted_ca: String,
    ) -> Arc<Self> {
        Arc::new(Self { inner, expect, role, trusted_ca, refused: Mutex::new(None) })
    }

    /// Why the certificate was refused, to follow "the server at ADDRESS"; none if it was not.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, e: &Error, presented_ca: Option<&CertificateDer<'_>>) {
        use CertificateError as Bad;
        let why = match e {
            Error::InvalidCertificate(
                Bad::NotValidForName | Bad::NotValidForNameContext { .. },
            ) => {
                format!("presents a certificate that is not issued to {}", self.expect.dns_name())
            }
            Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
                "presents a certificate that has expired".to_owned()
            }
            Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
                "presents a certificate that is not valid yet by this machine's clock".to_owned()
            }
            _ => format!(
                "presents a certificate of CA {}, this {} trusts CA {}",
                presented_ca.map_or_else(|| "unknown".to_owned(), fingerprint),
                self.role,
                self.trusted_ca
            ),
        };
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("expect", &self.expect).finish_non_exhaustive()
    }
}

/// A short name for a CA: the first bytes of SHA-256 over its certificate.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate);
    let hex: Vec<String> = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}…", hex.join(":"))
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|e| self.record(e, intermediates.last()))
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
