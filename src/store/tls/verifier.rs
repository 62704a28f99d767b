//! How much of a server's certificate is believed: nothing, who signed it, or that and the name in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// For one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: whoever it is.
    pub(super) roots: Option<RootCertStore>,
    /// The very certificates that `roots` was made of: a server may show one of them as its own.
    pub(super) trusted: Vec<CertificateDer<'static>>,
    /// Whether the name must be in the certificate.
    pub(super) named: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Set as soon as a server has shown a certificate that is believed.
    pub(super) met: Arc<AtomicBool>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let parsed = ParsedCertificate::try_from(certificate)?;
            match verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, self.algorithms.all) {
                // A certificate that a server signed for itself says of itself, as `openssl req -x509` makes it, that it is an
                // authority. Found in sslrootcert it is trusted as it is; that it has not expired was looked at before.
                Err(error) if is_authority(&error) => {
                    if !self.trusted.iter().any(|trusted| trusted == certificate) {
                        return Err(CertificateError::UnknownIssuer.into());
                    }
                }
                verified => verified?,
            }
            if self.named {
                verify_server_name(&parsed, name)?;
            }
        }
        self.met.store(true, Ordering::Relaxed);
        Ok(ServerCertVerified::assertion())
    }

    // That the server holds the certificate's key is looked at in every mode: without that, channel binding would bind nothing.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => verify_tls13_signature(message, certificate, signed, &self.algorithms),
            Err(_) => verify_tls13_signature_with_raw_key(message, &public_key(certificate)?, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether all that is wrong with a certificate is that it is an authority's.
fn is_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

/// The public key of a certificate of any version: those made by Postgres' own manual are of X.509 version 1, which cannot be
/// verified, and whose key a server can hold all the same.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let mut one = RootCertStore::empty();
    one.add(certificate.clone().into_owned())?;
    let content = one.roots.first().map(|root| root.subject_public_key_info.to_vec()).unwrap_or_default();
    // The crate leaves out the head of the SEQUENCE.
    let mut der = vec![0x30];
    match content.len() {
        length @ ..0x80 => der.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            der.push(0x80 | bytes.len() as u8);
            der.extend(bytes);
        }
    }
    der.extend(content);
    Ok(der.into())
}
