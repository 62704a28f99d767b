//! TLS to Postgres. The parameters of an address mean what they mean to libpq; where this is stricter the functions say so.
//!
//! Nothing but the address is looked at: no variables such as `PGSSLMODE`, no files in `~/.postgresql`. Files are read again for
//! each new connection, so that certificates may be renewed beside a service that runs.

mod parameters;
mod verifier;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, fs, io};

use anyhow::{Context, Result, bail, ensure};
use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, CertificateError, RootCertStore};
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use parameters::Parameters;
use verifier::Verifier;

const MALFORMED: &str = "the database URL is malformed: it reads postgresql://user:password@host:port/database";

/// What an address that cannot be read is answered with: the parser's own message repeats parts of it.
pub(super) fn malformed(address: &str) -> String {
    match parameters::unknown(address) {
        Some(name) => {
            format!("the database URL: there is no parameter {name}; there are {}", parameters::THEIRS.join(", "))
        }
        None => MALFORMED.to_owned(),
    }
}

/// What a connection's bytes go through when they are encrypted.
pub(super) type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// libpq's `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// libpq's `sslrootcert`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Roots {
    File(PathBuf),
    System,
}

/// How connections to an address are encrypted, and who is believed to be the server. Holds names of files and nothing of what is
/// in them.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    mode: Mode,
    roots: Option<Roots>,
    /// The certificate that is shown to the server, and its key.
    identity: Option<(PathBuf, PathBuf)>,
    negotiation: SslNegotiation,
    channel_binding: ChannelBinding,
}

impl Tls {
    /// Takes what is said of TLS out of an address; returns what is left, for tokio-postgres. The files are looked at once, so that
    /// whoever starts the program learns at once what is wrong with them.
    ///
    /// # Errors
    /// A word that libpq does not know either, parameters that must not come together, a file that cannot be used.
    pub(super) fn take(address: &str) -> Result<(Self, String)> {
        let (given, rest) = Parameters::take(address)?;
        let roots = given.roots.map(|roots| match roots.as_str() {
            "system" => Roots::System,
            _ => Roots::File(roots.into()),
        });
        let mode = match given.mode.as_deref() {
            // As libpq has it: an authority of the system signs for everybody, so that without the name it says nothing.
            None if roots == Some(Roots::System) => Mode::VerifyFull,
            None => Mode::Prefer,
            Some("disable") => Mode::Disable,
            Some("allow") => Mode::Allow,
            Some("prefer") => Mode::Prefer,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some(_) => bail!("the database URL: sslmode is disable, allow, prefer, require, verify-ca or verify-full"),
        };
        if roots == Some(Roots::System) && mode != Mode::VerifyFull {
            bail!(
                "the database URL: sslrootcert=system needs sslmode=verify-full: such authorities sign for everybody"
            );
        }
        if mode >= Mode::VerifyCa && roots.is_none() {
            bail!(
                "the database URL: sslmode={mode} needs sslrootcert: the PEM file of the authority that signed the server's \
                 certificate, or `system` for those this system trusts"
            );
        }
        let identity = match (given.certificate, given.key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => bail!("the database URL: sslcert needs sslkey, the PEM file of its private key"),
            (None, Some(_)) => bail!("the database URL: sslkey needs sslcert, the PEM file of its certificate"),
        };
        let negotiation = match given.negotiation.as_deref() {
            None | Some("postgres") => SslNegotiation::Postgres,
            Some("direct") if mode >= Mode::Require => SslNegotiation::Direct,
            Some("direct") => bail!("the database URL: sslnegotiation=direct needs sslmode=require or a stronger one"),
            Some(_) => bail!("the database URL: sslnegotiation is postgres or direct"),
        };
        let channel_binding = match given.channel_binding.as_deref() {
            None | Some("prefer") => ChannelBinding::Prefer,
            Some("disable") => ChannelBinding::Disable,
            Some("require") if mode == Mode::Disable => {
                bail!("the database URL: channel_binding=require needs TLS, and sslmode=disable has none")
            }
            Some("require") => ChannelBinding::Require,
            Some(_) => bail!("the database URL: channel_binding is disable, prefer or require"),
        };
        if mode < Mode::Require && (roots.is_some() || identity.is_some()) {
            warn!(
                "sslmode={mode} goes on without TLS where that fails, and without certificates: better sslmode=verify-full"
            );
        }
        let tls = Self { mode, roots, identity, negotiation, channel_binding };
        tls.client(Arc::default()).context("the database URL")?;
        Ok((tls, rest))
    }

    /// Tells the driver, all but how to connect to a host: [`Self::ways`] says that.
    pub(super) fn apply(&self, config: &mut Config) {
        config.ssl_negotiation(self.negotiation).channel_binding(self.channel_binding);
    }

    /// How to connect to a host, and how else where it refuses that. `allow` and `prefer` are two ways, as a server may insist on
    /// either of them for a role. A socket's path is never encrypted.
    pub(super) fn ways(&self, host: &Host) -> (SslMode, Option<SslMode>) {
        match (self.mode, host) {
            (_, Host::Unix(_)) | (Mode::Disable, _) => (SslMode::Disable, None),
            (Mode::Allow, _) => (SslMode::Disable, Some(SslMode::Require)),
            (Mode::Prefer, _) => (SslMode::Prefer, Some(SslMode::Disable)),
            (Mode::Require | Mode::VerifyCa | Mode::VerifyFull, _) => (SslMode::Require, None),
        }
    }

    /// What connects, in a way of [`Self::ways`].
    pub(super) fn connector(&self, config: &Config) -> Connector {
        let tls = (config.get_ssl_mode() != SslMode::Disable).then(|| self.clone());
        Connector { tls, met: Arc::default() }
    }

    /// Reads the files. Who is believed sets `met`.
    fn client(&self, met: Arc<AtomicBool>) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (roots, trusted) = match &self.roots {
            None => (None, Vec::new()),
            Some(roots) => {
                let trusted = roots.read()?;
                let mut store = RootCertStore::empty();
                let (usable, _) = store.add_parsable_certificates(trusted.iter().cloned());
                ensure!(usable > 0, "sslrootcert: no certificate of {roots} can be read");
                (Some(store), trusted)
            }
        };
        let verifier = Verifier {
            roots,
            trusted,
            named: self.mode == Mode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
            met,
        };
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut client = match &self.identity {
            None => client.with_no_client_auth(),
            Some((certificate, key)) => {
                let identity = identity(certificate, key, &provider)?;
                client.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
        };
        // Where TLS begins without a word of Postgres before it, a server wants to see that it is meant.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(client)
    }

    /// What a failed connection says, in words that say what to do where TLS is what failed.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if let Some(unusable) = error.chain().find_map(|cause| cause.downcast_ref::<Unusable>()) {
            return unusable.clone().into();
        }
        let words = match error.chain().find_map(handshake_error) {
            Some(failed) => self.explain_handshake(failed),
            None => self.explain_other(&error),
        };
        words.map_or(error, |words| Refused(words).into())
    }

    fn explain_handshake(&self, failed: &rustls::Error) -> Option<String> {
        let roots = self.roots.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(match failed {
            rustls::Error::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                    "the server's certificate is not signed by an authority of {roots}: name the file of the one that signed it as \
                     sslrootcert"
                ),
                CertificateError::NotValidForNameContext { expected, presented } => {
                    let presented = match presented.as_slice() {
                        [] => "names no host (only a subjectAltName counts, the common name does not)".to_owned(),
                        names => format!("is {}'s", names.join(", ")),
                    };
                    format!(
                        "the server's certificate {presented}, not {}'s: connect to a name that it has, or have one issued with \
                         this name; sslmode=verify-ca does without the name",
                        expected.to_str()
                    )
                }
                CertificateError::ExpiredContext { .. } | CertificateError::Expired => {
                    "the server's certificate has expired: renew it there".to_owned()
                }
                CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet => {
                    "the server's certificate is not valid yet: are the clocks right?".to_owned()
                }
                why => {
                    format!("the server's certificate cannot be verified ({why:?}): have one issued of X.509 version 3")
                }
            },
            rustls::Error::AlertReceived(alert) if self.identity.is_some() && is_of_certificates(*alert) => format!(
                "the server refuses the certificate of sslcert ({alert:?}): it has to be signed by an authority of the server's \
                 ssl_ca_file, and must not have expired"
            ),
            rustls::Error::AlertReceived(alert) => format!("the server breaks off TLS ({alert:?}): its log says why"),
            failed => format!("TLS with the server fails: {failed}"),
        })
    }

    fn explain_other(&self, error: &anyhow::Error) -> Option<String> {
        let says = |text: &str| error.chain().any(|cause| cause.to_string() == text);
        if says("server does not support TLS") {
            return Some(format!(
                "sslmode={}, and the server does not speak TLS: set ssl = on there, with a certificate; on a private network \
                 sslmode=disable does without",
                self.mode
            ));
        }
        if says("server did not use channel binding") || says("server does not use channel binding") {
            return Some(
                "channel_binding=require, and the server does not bind the password to the connection: that takes TLS, a password \
                 stored as scram-sha-256, that method in its pg_hba.conf, and a certificate that is not signed with Ed25519"
                    .to_owned(),
            );
        }
        let hung_up = |cause: &(dyn std::error::Error + 'static)| {
            use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            cause
                .downcast_ref::<io::Error>()
                .is_some_and(|e| matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
        };
        if self.mode < Mode::Require || !error.chain().any(hung_up) {
            return None;
        }
        if self.negotiation == SslNegotiation::Direct {
            return Some(
                "the server hung up: sslnegotiation=direct needs Postgres 17 or newer, with ssl = on".to_owned(),
            );
        }
        let refused = "the server hung up while TLS began: it may refuse the certificate of sslcert; its log says why";
        self.identity.is_some().then(|| refused.to_owned())
    }
}

/// Whether the other of [`Tls::ways`] may work: TLS failed, or the server lets nobody in this way.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    error.is::<Refused>() || super::sqlstate(error) == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::System => f.write_str("this system"),
        }
    }
}

impl Roots {
    /// Stricter than libpq, which under `require` takes a file that is not there for no wish to verify.
    fn read(&self) -> Result<Vec<CertificateDer<'static>>> {
        match self {
            Self::File(path) => certificates("sslrootcert", path),
            Self::System => {
                let found = rustls_native_certs::load_native_certs().certs;
                ensure!(
                    !found.is_empty(),
                    "sslrootcert=system: this system trusts no authority; install its certificates (Debian, Ubuntu: \
                     ca-certificates) or name a file"
                );
                Ok(found)
            }
        }
    }
}

/// Connects, with TLS or without.
#[derive(Clone)]
pub(super) struct Connector {
    /// `None`: never with TLS, and no file is read.
    tls: Option<Tls>,
    met: Arc<AtomicBool>,
}

impl Connector {
    /// Tells, when it has connected, whether with TLS.
    pub(super) fn met(&self) -> Arc<AtomicBool> {
        self.met.clone()
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = Unusable;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Unusable> {
        self.met.store(false, Ordering::Relaxed);
        let client = match &self.tls {
            Some(tls) => tls.client(self.met.clone()),
            // Asked for even where it is never used.
            None => Tls::NONE.client(self.met.clone()),
        };
        let client = client.map_err(|error| Unusable(format!("{error:#}")))?;
        let Ok(connect) = MakeTlsConnect::<Socket>::make_tls_connect(&mut MakeRustlsConnect::new(client), host);
        Ok(connect)
    }
}

impl Tls {
    const NONE: Self = Self {
        mode: Mode::Disable,
        roots: None,
        identity: None,
        negotiation: SslNegotiation::Postgres,
        channel_binding: ChannelBinding::Disable,
    };
}

/// A file of ours cannot be used.
#[derive(Clone, Debug)]
pub(super) struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// TLS with a server failed.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What rustls said, which comes inside an I/O error that does not count it among its causes.
fn handshake_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn is_of_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    )
}

/// Reads a certificate with those that lead from it to its authority, and its key.
fn identity(certificate: &Path, key: &Path, provider: &rustls::crypto::CryptoProvider) -> Result<CertifiedKey> {
    let chain = certificates("sslcert", certificate)?;
    let (text, of) = read("sslkey", key)?;
    // The rule of libpq: a key is its owner's, and root may keep one for a group.
    let others = if of.uid() == 0 { 0o037 } else { 0o077 };
    ensure!(
        of.mode() & others == 0,
        "sslkey: {} can be read or changed by others: chmod 600 it, or let root own it and 640",
        key.display()
    );
    let Ok(secret) = PrivateKeyDer::from_pem_slice(&text) else {
        ensure!(
            !String::from_utf8_lossy(&text).contains("ENCRYPTED"),
            "sslkey: {} is encrypted, and nobody is there to say its password: decrypt it (openssl pkey -in .. -out ..)",
            key.display()
        );
        bail!("sslkey: {} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)", key.display());
    };
    let signer =
        provider.key_provider.load_private_key(secret).ok().with_context(|| {
            format!("sslkey: the key in {} cannot be read: RSA, ECDSA and Ed25519 can", key.display())
        })?;
    let own = chain.first().map(verifier::public_key).transpose().ok().flatten();
    let own = own.with_context(|| format!("sslcert: the certificate in {} cannot be read", certificate.display()))?;
    ensure!(
        signer.public_key().is_none_or(|public| public == own),
        "sslkey: the key in {} is not that of the certificate in {}",
        key.display(),
        certificate.display()
    );
    Ok(CertifiedKey::new(chain, signer))
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let (text, _) = read(parameter, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    ensure!(
        !found.is_empty(),
        "{parameter}: {} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        path.display()
    );
    Ok(found)
}

fn read(parameter: &str, path: &Path) -> Result<(Vec<u8>, fs::Metadata)> {
    let read = || Ok::<_, io::Error>((fs::read(path)?, fs::metadata(path)?));
    read().with_context(|| format!("{parameter}: {} cannot be read", path.display()))
}
