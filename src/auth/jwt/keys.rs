//! The keys that verify tokens, and what each is for: from a secret, from PEM, from a JSON Web Key Set.

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::server::ParsedCertificate;
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

/// Shorter secrets can be guessed from one token: HS256 has no more strength than its key has bits (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;
const MIN_RSA_BITS: usize = 2048;
/// How many keys of a set are looked at.
const MAX_KEYS: usize = 100;
/// How many keys are tried for a token that does not say which one signed it.
const MAX_TRIES: usize = 8;

const HS: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RS: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const PS: &[Algorithm] = &[Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const ES256: &[Algorithm] = &[Algorithm::ES256];
const ES384: &[Algorithm] = &[Algorithm::ES384];
const EDDSA: &[Algorithm] = &[Algorithm::EdDSA];

/// One key.
#[derive(Clone)]
pub(super) struct Key {
    /// What tokens call it.
    id: Option<String>,
    /// What it is for, whatever a token says.
    algorithms: Vec<Algorithm>,
    pub verifies: DecodingKey,
}

impl Key {
    fn new(algorithms: &[Algorithm], verifies: DecodingKey) -> Self {
        Self { id: None, algorithms: algorithms.to_vec(), verifies }
    }
}

/// Several keys.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// The secret that a file holds. Its bytes are taken as they are, but for one newline at their end, which editors put there.
    pub fn from_secret(bytes: &[u8]) -> Result<Self> {
        let secret = bytes.strip_suffix(b"\n").map_or(bytes, |bytes| bytes.strip_suffix(b"\r").unwrap_or(bytes));
        // A public key as a secret: anybody could sign.
        ensure!(
            !secret.trim_ascii_start().starts_with(b"-----BEGIN"),
            "this is a PEM file and no secret: give a public key as --jwt-public-key-file"
        );
        ensure!(
            secret.len() >= MIN_SECRET_BYTES,
            "the secret has {} bytes and needs {MIN_SECRET_BYTES}, or it can be guessed from a token: make one with \
             `openssl rand -base64 48`, and sign with it",
            secret.len()
        );
        Ok(Self(vec![Key::new(HS, DecodingKey::from_secret(secret))]))
    }

    /// The public keys of a PEM file, and those of its certificates.
    pub fn from_pem(bytes: &[u8]) -> Result<Self> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            // What the parser says may quote the file.
            let Ok((kind, der)) = section else { bail!("this is no PEM file, or a broken one") };
            keys.push(match kind {
                SectionKind::PublicKey => public(&der)?,
                SectionKind::Certificate => {
                    let der = CertificateDer::from(der);
                    let certificate = ParsedCertificate::try_from(&der).ok().context(
                        "the certificate cannot be read: give its key alone, `openssl x509 -in FILE -pubkey -noout`",
                    )?;
                    public(&certificate.subject_public_key_info())?
                }
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => bail!(
                    "this is a private key, which only whoever issues tokens should have: give the public one, \
                     `openssl pkey -in FILE -pubout`"
                ),
                _ => bail!("this is neither a public key nor a certificate"),
            });
        }
        ensure!(
            !keys.is_empty(),
            "there is no public key (BEGIN PUBLIC KEY) in it; `openssl rsa -RSAPublicKey_in -in FILE -pubout` makes one of \
             BEGIN RSA PUBLIC KEY"
        );
        Ok(Self(keys))
    }

    /// A JSON Web Key Set. Keys in it that cannot be used are left out, and said once for all of them: sets have keys of other
    /// purposes, and of kinds that came later. Secrets (`oct`) are taken where `has_secrets`, and not from what the network serves:
    /// whoever can read that could sign.
    pub fn from_jwks(text: &[u8], has_secrets: bool) -> Result<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        // What the parser says may quote the text.
        let Ok(Set { keys: found }) = serde_json::from_slice(text) else {
            bail!(r#"this is no JSON Web Key Set: {{"keys":[...]}}"#)
        };
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for jwk in found.into_iter().take(MAX_KEYS) {
            match Jwk::deserialize(jwk).map_err(|_| "is no key").and_then(|jwk| jwk.key(has_secrets)) {
                Ok(key) => keys.push(key),
                Err(why) => left_out.push(why),
            }
        }
        if keys.is_empty() {
            warn!(?left_out, "the set of keys has none that can be used: no token is good");
        }
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one has this id.
    pub fn have(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The ids, to be logged.
    pub fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|key| key.id.as_deref().unwrap_or_default()).collect()
    }

    /// Those that may have signed a token that names this key, or none, and this algorithm. Keys without an id may have signed any.
    pub fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let named = move |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        self.0.iter().filter(move |key| key.algorithms.contains(&algorithm)).filter(named).take(MAX_TRIES)
    }
}

/// A key from its SubjectPublicKeyInfo. What takes it tells its kind.
fn public(der: &[u8]) -> Result<Key> {
    if let Ok(key) = rsa::PublicKey::from_der(der) {
        let bits = key.modulus_len() * 8;
        ensure!(bits >= MIN_RSA_BITS, "the RSA key has {bits} bits and needs {MIN_RSA_BITS}, or it can be computed");
        return Ok(Key::new(RS, DecodingKey::from_rsa_der(der)));
    }
    if ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).is_ok() {
        return Ok(Key::new(ES256, DecodingKey::from_ec_der(der)));
    }
    if ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, der).is_ok() {
        return Ok(Key::new(ES384, DecodingKey::from_ec_der(der)));
    }
    if ParsedPublicKey::new(&ED25519, der).is_ok() {
        return Ok(Key::new(EDDSA, DecodingKey::from_ed_der(der)));
    }
    bail!("the key is of a kind that is not known here: RSA, P-256, P-384 and Ed25519 are")
}

/// A JSON Web Key (RFC 7517). Certificates that it holds or points to are not looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
}

impl Jwk {
    /// The key, or why it is left out.
    fn key(self, has_secrets: bool) -> Result<Key, &'static str> {
        const BROKEN: &str = "is broken";
        let verifies = self.key_ops.as_ref().is_none_or(|uses| uses.iter().any(|one| one == "verify"));
        if !verifies || self.r#use.as_ref().is_some_and(|one| one != "sig") {
            return Err("is not for signatures");
        }
        let part = |text: &Option<String>| {
            text.as_ref().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()).ok_or(BROKEN)
        };
        // Uncompressed, as SEC 1 has it: coordinates have the length of the curve.
        let point = |length: usize| {
            let (x, y) = (part(&self.x)?, part(&self.y)?);
            if x.len() == length && y.len() == length { Ok([&[4], x.as_slice(), &y].concat()) } else { Err(BROKEN) }
        };
        let mut key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (part(&self.n)?, part(&self.e)?);
                let first = n.iter().position(|byte| *byte != 0).ok_or(BROKEN)?;
                let n = &n[first..];
                if n.len() * 8 - (n[0].leading_zeros() as usize) < MIN_RSA_BITS {
                    return Err("is an RSA key of less than 2048 bits");
                }
                Key::new(&[RS, PS].concat(), DecodingKey::from_rsa_raw_components(n, &e))
            }
            ("EC", Some("P-256")) => {
                let point = point(32)?;
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| BROKEN)?;
                Key::new(ES256, DecodingKey::from_ec_der(&point))
            }
            ("EC", Some("P-384")) => {
                let point = point(48)?;
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).map_err(|_| BROKEN)?;
                Key::new(ES384, DecodingKey::from_ec_der(&point))
            }
            ("OKP", Some("Ed25519")) => {
                let point = part(&self.x)?;
                ParsedPublicKey::new(&ED25519, &point).map_err(|_| BROKEN)?;
                Key::new(EDDSA, DecodingKey::from_ed_der(&point))
            }
            ("oct", _) if !has_secrets => return Err("is a secret that the network was told"),
            ("oct", _) => {
                let secret = part(&self.k)?;
                if secret.len() < MIN_SECRET_BYTES {
                    return Err("is a secret of less than 32 bytes");
                }
                Key::new(HS, DecodingKey::from_secret(&secret))
            }
            _ => return Err("is of a kind that is not known here"),
        };
        match self.alg {
            // Its own word, where that is one for a key of its kind.
            Some(named) => {
                let algorithm = named.parse().ok().filter(|algorithm| key.algorithms.contains(algorithm));
                key.algorithms =
                    vec![algorithm.ok_or("is for an algorithm that is not known here, or not for such keys")?];
            }
            // PSS only where the key says so.
            None => key.algorithms.retain(|algorithm| !PS.contains(algorithm)),
        }
        key.id = self.kid;
        Ok(key)
    }
}
