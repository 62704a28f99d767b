//! TLS at the socket, for who has no proxy that does it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result, ensure};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

/// Where the certificate is, and what it was when it was read last.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files: a chain of certificates, its own first, and the private key, both PEM.
    ///
    /// # Errors
    /// One of them cannot be read, holds something else, or they do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self> {
        let current = RwLock::new(read(&certificate, &key)?);
        Ok(Self { certificate, key, current })
    }

    /// Reads them again. Connections that are there keep what they began with; when the files are no good, so do new ones.
    pub async fn reload(self: Arc<Self>) {
        let tls = self.clone();
        match spawn_blocking(move || read(&tls.certificate, &tls.key)).await {
            Ok(Ok(new)) => *self.current.write().unwrap_or_else(PoisonError::into_inner) = new,
            Ok(Err(error)) => {
                error!(error = format!("{error:#}"), "the certificate was not read again: the old one stays")
            }
            Err(error) => error!(%error, "the certificate was not read again: the old one stays"),
        }
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Arc<ServerConfig>> {
    let of_certificate = || format!("--tls-cert {}", certificate.display());
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(of_certificate)?;
    ensure!(!chain.is_empty(), "{}: no certificate in it (-----BEGIN CERTIFICATE-----)", of_certificate());
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("--tls-key {}: no private key in it", key.display()))?;
    let not_after = chain.first().and_then(|own| not_after(own)).unwrap_or_else(|| "unknown".to_owned());
    let certificates = chain.len();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} with --tls-key {}", of_certificate(), key.display()))?;
    // WebSockets over HTTP/2 are another protocol (RFC 8441), which we do not speak.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    info!(certificate = %certificate.display(), %not_after, certificates, "TLS certificate read");
    Ok(Arc::new(config))
}

/// Until when a certificate is valid: for the log, since nothing is decided by it. `None` if it is not built as X.509 has it.
fn not_after(certificate: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // An optional version, the serial number, the algorithm, the issuer; then the validity.
    let skipped = if fields.first() == Some(&VERSION) { 4 } else { 3 };
    for _ in 0..skipped {
        (_, _, fields) = element(fields)?;
    }
    let (tag, validity, _) = element(fields)?;
    let (_, _, after) = element(validity)?;
    let (kind, text, _) = element(after)?;
    let text = std::str::from_utf8(text).ok().filter(|text| tag == SEQUENCE && text.is_ascii())?;
    // UTCTime has two digits of the year, below 50 in this century; GeneralizedTime has four.
    let text = match kind {
        0x17 if text < "50" => format!("20{text}"),
        0x17 => format!("19{text}"),
        _ => text.to_owned(),
    };
    let part = |at: std::ops::Range<usize>| text.get(at);
    Some(format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(8..10)?,
        part(10..12)?,
        part(12..14)?
    ))
}

/// The first element of DER: its tag, what is in it, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (inside, after) = rest.split_at_checked(length)?;
    Some((*tag, inside, after))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (year, said) in [(2049, "2049-12-31T00:00:00Z"), (2050, "2050-12-31T00:00:00Z")] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 12, 31);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()).as_deref(), Some(said));
        }
    }

    #[test]
    fn files_that_are_no_good_are_called_by_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let certificate = write("one.pem", &one.cert.pem());
        let (key, foreign) = (
            write("one.key", &one.signing_key.serialize_pem()),
            write("other.key", &other.signing_key.serialize_pem()),
        );
        let (empty, missing) = (write("empty.pem", "hello\n"), folder.path().join("missing"));
        assert!(Tls::load(certificate.clone(), key.clone()).is_ok());
        for (certificate, key, says) in [
            (&missing, &key, "--tls-cert"),
            (&empty, &key, "no certificate in it"),
            (&certificate, &missing, "--tls-key"),
            (&certificate, &empty, "no private key in it"),
            (&certificate, &foreign, "other.key"),
        ] {
            let error = format!("{:#}", Tls::load(certificate.clone(), key.clone()).err().unwrap());
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            not_after(&bytes);
        }
    }
}
