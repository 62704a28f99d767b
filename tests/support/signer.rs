//! Signs tokens, good ones and such as no library would: whatever header, whatever algorithm. Beside the code under test, which
//! does not sign.

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use parkmate_notifier::auth::Token;
use serde_json::{Value, json};

/// Every algorithm that there is.
pub const ALGORITHMS: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A private key.
pub enum Signer {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Making an RSA key takes a while.
pub static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);

impl Signer {
    pub fn secret(secret: &[u8]) -> Self {
        Self::Secret(secret.to_vec())
    }

    pub fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// What it can sign with.
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Self::Secret(_) => &ALGORITHMS[..3],
            Self::Rsa(_) => &ALGORITHMS[3..9],
            Self::P256(_) => &ALGORITHMS[9..10],
            Self::P384(_) => &ALGORITHMS[10..11],
            Self::Ed25519(_) => &ALGORITHMS[11..],
        }
    }

    /// A token of whatever header, signed with an algorithm of this key's whatever the header says.
    pub fn sign_as(&self, algorithm: &str, header: &Value, claims: &Value) -> Token {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let bytes = message.as_bytes();
        let signature = match (self, algorithm) {
            (Self::Secret(secret), _) => {
                let algorithm = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    other => panic!("{other}"),
                };
                hmac::sign(&hmac::Key::new(algorithm, secret), bytes).as_ref().to_vec()
            }
            (Self::Rsa(pair), _) => {
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    other => panic!("{other}"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), bytes, &mut signature).unwrap();
                signature
            }
            (Self::P256(pair) | Self::P384(pair), _) => {
                pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec()
            }
            (Self::Ed25519(pair), _) => pair.sign(bytes).as_ref().to_vec(),
        };
        Token::new(&format!("{message}.{}", encode(signature))).unwrap()
    }

    /// A token as an issuer makes it.
    pub fn sign(&self, id: Option<&str>, claims: &Value) -> Token {
        let algorithm = self.algorithms()[0];
        let mut header = json!({"typ": "JWT", "alg": algorithm});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        self.sign_as(algorithm, &header, claims)
    }

    /// SubjectPublicKeyInfo. There is none of a secret.
    pub fn public_der(&self) -> Vec<u8> {
        match self {
            Self::Secret(_) => panic!("a secret has no public key"),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    /// The public key as a PEM file has it.
    pub fn public_pem(&self) -> String {
        let text = BASE64_STANDARD.encode(self.public_der());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public key as a set has it; of a secret, the secret.
    pub fn jwk(&self, id: &str) -> Value {
        let point = |curve: &str, pair: &EcdsaKeyPair| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        let mut jwk = match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
            Self::Rsa(pair) => {
                let parts = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encode(parts.n), "e": encode(parts.e)})
            }
            Self::P256(pair) => point("P-256", pair),
            Self::P384(pair) => point("P-384", pair),
            Self::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())}),
        };
        jwk["kid"] = id.into();
        jwk
    }
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
