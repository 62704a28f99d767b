//! JSON Web Tokens: who signed one, when it ends, whose it is.
//!
//! What the service was started with decides which algorithms a key verifies, and never the token: it names the one it was signed
//! with, and is refused where no key here is for that. Keys that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.

mod jwks;
mod keys;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use jsonwebtoken::crypto::verify;
use jsonwebtoken::decode_header;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Grant, Invalid, ListensAs, Token};
use crate::protocol::UserId;
use jwks::{Jwks, Pace};
use keys::Keys;

/// How far clocks may be apart, in seconds: a token is good so much longer, and so much sooner.
const LEEWAY: f64 = 10.0;
/// Seconds since 1970 beyond this (the year 5138) are milliseconds that somebody took for seconds, and such a token would never end.
const LATEST: f64 = 1e11;
/// No credential is taken to last longer than this; a socket that does is closed and comes back.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How JSON Web Tokens are verified: one of the first three settings with `--auth jwt`.
#[derive(Args, Clone, Debug)]
pub struct JwtConfig {
    /// With --auth jwt: a file with the secret that tokens are signed with (HS256, HS384, HS512), 32 bytes or more. A newline at its
    /// end is not part of it. For djangorestframework-simplejwt this is its SIGNING_KEY, which is SECRET_KEY unless set.
    #[arg(long, env = "NOTIFIER_JWT_SECRET_FILE", value_name = "FILE", conflicts_with_all = ["jwt_public_key_file", "jwks"])]
    pub jwt_secret_file: Option<PathBuf>,
    /// With --auth jwt: a PEM file with the public key, or several, or certificates: RSA of 2048 bits or more (RS256, RS384, RS512),
    /// P-256 (ES256), P-384 (ES384) or Ed25519 (EdDSA). Of a certificate the key alone is used.
    #[arg(long, env = "NOTIFIER_JWT_PUBLIC_KEY_FILE", value_name = "FILE", conflicts_with = "jwks")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// With --auth jwt: a JSON Web Key Set, as a file or at an https URL (http on this machine alone). It is read at the start, every
    /// 10 minutes, and at most twice a minute when a token names a key that it does not have. The environment variable SSL_CERT_FILE
    /// names other certificate authorities than the system's.
    #[arg(long, env = "NOTIFIER_JWKS", value_name = "URL or FILE")]
    pub jwks: Option<String>,
    /// The claim that says whose a token is: the first of these that it has. Text or an integer.
    #[arg(
        long,
        env = "NOTIFIER_JWT_USER_CLAIM",
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "sub,user_id"
    )]
    pub jwt_user_claim: Vec<String>,
    /// Whom tokens must be for: their `aud` names one of these. Unset, a token with an `aud` is refused, since it is for somebody
    /// else.
    #[arg(long, env = "NOTIFIER_JWT_AUDIENCE", value_name = "NAMES", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Who must have issued tokens: their `iss` is one of these. Unset, it may be anybody who has the key.
    #[arg(long, env = "NOTIFIER_JWT_ISSUER", value_name = "NAMES", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// The claim by which staff may listen as others: true for anybody, or an array of users' ids. Unset, nobody may.
    #[arg(long, env = "NOTIFIER_JWT_STAFF_CLAIM", value_name = "NAME")]
    pub jwt_staff_claim: Option<String>,
}

impl JwtConfig {
    /// Whether one of the keys is set, and so JWTs are meant.
    pub fn has_key(&self) -> bool {
        self.jwt_secret_file.is_some() || self.jwt_public_key_file.is_some() || self.jwks.is_some()
    }
}

/// Verifies tokens.
pub struct Jwt {
    source: Source,
    user_claims: Vec<String>,
    audiences: Vec<String>,
    issuers: Vec<String>,
    staff_claim: Option<String>,
}

enum Source {
    /// The keys of a file that is read once.
    Fixed(Keys),
    /// Keys that change.
    Set(Jwks),
}

/// What a token says that is good at some moment.
#[derive(Debug, PartialEq)]
struct Claims {
    user: UserId,
    /// When it is worth nothing any more, in seconds since 1970.
    ends: f64,
    issued: Option<f64>,
    listens_as: ListensAs,
}

/// Why a token is worth nothing with the keys at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// With others neither.
    Refused(&'static str),
    /// It names a key that is not among them.
    UnknownKey,
}

impl Jwt {
    /// Reads the key, or the set of keys. Where that is at a URL that does not answer, tokens are [`Invalid::Unknown`] until
    /// [`Self::keep_fresh`] has it. Cancel safe.
    ///
    /// # Errors
    /// Not exactly one key is set; a file cannot be read or holds no key that is good enough; a URL is none that may be used.
    pub async fn load(config: &JwtConfig) -> Result<Self> {
        Self::load_with(config, Pace::default()).await
    }

    async fn load_with(config: &JwtConfig, pace: Pace) -> Result<Self> {
        let source = match (&config.jwt_secret_file, &config.jwt_public_key_file, &config.jwks) {
            (Some(file), None, None) => Source::Fixed(fixed(file, "--jwt-secret-file", Keys::from_secret)?),
            (None, Some(file), None) => Source::Fixed(fixed(file, "--jwt-public-key-file", Keys::from_pem)?),
            (None, None, Some(at)) => Source::Set(Jwks::load(at, pace).await.context("--jwks")?),
            (None, None, None) => bail!(
                "--auth jwt needs to know who signs tokens: --jwt-secret-file FILE, --jwt-public-key-file FILE or --jwks URL-or-FILE"
            ),
            _ => bail!("--jwt-secret-file, --jwt-public-key-file and --jwks exclude each other: keep one"),
        };
        ensure!(
            config.jwt_user_claim.iter().any(|name| !name.is_empty()),
            "--jwt-user-claim names no claim, so no token would say whose it is: leave it out for `sub` or `user_id`"
        );
        let named = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect();
        Ok(Self {
            source,
            user_claims: named(&config.jwt_user_claim),
            audiences: named(&config.jwt_audience),
            issuers: named(&config.jwt_issuer),
            staff_claim: config.jwt_staff_claim.clone().filter(|name| !name.is_empty()),
        })
    }

    /// Reads a set of keys again when it is time, or when a token names a key that is not in it: without this running, keys stay as
    /// they were loaded. Never returns where there is a set, and at once where keys are fixed. Cancel safe.
    pub async fn keep_fresh(&self) {
        if let Source::Set(jwks) = &self.source {
            jwks.keep_fresh().await;
        }
    }

    /// What a token is worth now. Takes as long as a set of keys takes to be read, if the token names a key that may be new: 5 s at
    /// most. Cancel safe.
    ///
    /// # Errors
    /// It is worth nothing, or the set of keys is not to be had.
    pub async fn verify(&self, token: &Token) -> Result<Grant, Invalid> {
        let mut checked = match &self.source {
            Source::Fixed(keys) => self.check(token, keys, now()),
            Source::Set(jwks) => {
                let keys = jwks.keys().ok_or(Invalid::Unknown)?;
                match self.check(token, &keys, now()) {
                    Err(Fault::UnknownKey) => {
                        // Too soon, or not to be had: the key may be there in a moment.
                        let keys = jwks.read_again().await.ok_or(Invalid::Unknown)?;
                        self.check(token, &keys, now())
                    }
                    checked => checked,
                }
            }
        };
        checked = checked.and_then(|claims| if claims.ends > now() { Ok(claims) } else { Err(EXPIRED) });
        match checked {
            Ok(claims) => Ok(claims.grant()),
            Err(Fault::Refused(why)) => Err(Invalid::Refused(why)),
            Err(Fault::UnknownKey) => Err(Invalid::Refused("the token is signed with a key that is not known here")),
        }
    }

    /// What a token says, if it is good at a moment given in seconds since 1970.
    fn check(&self, token: &Token, keys: &Keys, now: f64) -> Result<Claims, Fault> {
        let claims = signed(token, keys)?;
        self.entitled(&claims)?;
        let (ends, issued) = lifetime(&claims, now)?;
        let user = self.user_claims.iter().find_map(|name| present(&claims, name));
        let user =
            user.ok_or(Fault::Refused("the token does not say whose it is: it has no claim for the user's id"))?;
        let user = user_id(user).ok_or(Fault::Refused("the token's claim for the user's id holds no id"))?;
        Ok(Claims { user, ends, issued, listens_as: self.listens_as(&claims) })
    }

    /// Whether a token is one to listen with, and meant for this service.
    fn entitled(&self, claims: &Map<String, Value>) -> Result<(), Fault> {
        // djangorestframework-simplejwt says what a token is for; its refresh tokens have the same key and last for weeks. Others say
        // with it that it is a bearer token.
        match present(claims, "token_type").map(Value::as_str) {
            None => {}
            Some(Some(kind)) if ["access", "sliding", "bearer"].iter().any(|good| kind.eq_ignore_ascii_case(good)) => {}
            Some(_) => return Err(Fault::Refused("the token is no access token, by its `token_type`: send that one")),
        }
        let named = |claim: Option<&Value>, ours: &[String]| match claim {
            Some(Value::String(name)) => ours.contains(name),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).any(|name| ours.iter().any(|our| our == name))
            }
            _ => false,
        };
        let audience = present(claims, "aud");
        if (audience.is_some() || !self.audiences.is_empty()) && !named(audience, &self.audiences) {
            return Err(Fault::Refused(
                "the token is not for this service, by its `aud`: --jwt-audience names whom it may be for",
            ));
        }
        let issuer = present(claims, "iss").filter(|issuer| issuer.is_string());
        if !self.issuers.is_empty() && !named(issuer, &self.issuers) {
            return Err(Fault::Refused("the token is not from an issuer that this service trusts, by its `iss`"));
        }
        Ok(())
    }

    fn listens_as(&self, claims: &Map<String, Value>) -> ListensAs {
        let claim = self.staff_claim.as_ref().and_then(|name| claims.get(name));
        match claim {
            Some(Value::Bool(true)) => ListensAs::Anybody,
            // With something in it that is no id it is another claim than the operator thought.
            Some(Value::Array(ids)) => {
                ids.iter().map(user_id).collect::<Option<_>>().map_or(ListensAs::Nobody, ListensAs::These)
            }
            _ => ListensAs::Nobody,
        }
    }
}

impl Claims {
    fn grant(self) -> Grant {
        // A clock that was set since changes nothing: the moment is taken into the monotonic one here, once.
        let left = Duration::try_from_secs_f64(self.ends - now()).unwrap_or_default().min(LONGEST);
        Grant {
            user: self.user,
            expires: Some(Instant::now() + left),
            issued: self.issued,
            listens_as: self.listens_as,
        }
    }
}

const EXPIRED: Fault = Fault::Refused("the token has expired");

/// The claims of a token that one of the keys has signed.
fn signed(token: &Token, keys: &Keys) -> Result<Map<String, Value>, Fault> {
    const NONE: Fault = Fault::Refused("the token is no JWT that is signed with an algorithm known here");
    let token = token.as_str();
    // `none`, in whatever spelling, is no algorithm.
    let header = decode_header(token).map_err(|_| NONE)?;
    if header.crit.is_some() {
        return Err(Fault::Refused("the token has a header that must be understood, by its `crit`, and is not"));
    }
    // A logout token or a proof of possession is signed with the same keys.
    let kinds = ["JWT", "at+jwt", "application/at+jwt"];
    if header.typ.is_some_and(|kind| !kinds.iter().any(|good| kind.eq_ignore_ascii_case(good))) {
        return Err(Fault::Refused("the token is of another kind than access tokens are, by its `typ`"));
    }
    let (message, signature) = token.rsplit_once('.').ok_or(NONE)?;
    for key in keys.fitting(header.kid.as_deref(), header.alg) {
        if verify(signature, message.as_bytes(), &key.verifies, header.alg).unwrap_or(false) {
            let claims = message.split_once('.').and_then(|(_, claims)| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
            return claims.and_then(|claims| serde_json::from_slice(&claims).ok()).ok_or(NONE);
        }
    }
    match &header.kid {
        Some(id) if !keys.have(id) => Err(Fault::UnknownKey),
        _ => Err(Fault::Refused(
            "the token is not signed with a key of this service and an algorithm that the key is for",
        )),
    }
}

/// When a token ends and when it was issued, in seconds since 1970, if it is good now.
fn lifetime(claims: &Map<String, Value>, now: f64) -> Result<(f64, Option<f64>), Fault> {
    let instant = |name: &str| match present(claims, name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if (0.0..LATEST).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(Fault::Refused("the token's times (`exp`, `nbf`, `iat`) are not all in seconds since 1970")),
        },
    };
    let Some(expires) = instant("exp")? else {
        // Lost once, it would be good for ever.
        return Err(Fault::Refused("the token does not say when it expires: it needs an `exp`"));
    };
    if now >= expires + LEEWAY {
        return Err(EXPIRED);
    }
    if instant("nbf")?.is_some_and(|begins| now + LEEWAY < begins) {
        return Err(Fault::Refused("the token is not valid yet, by its `nbf`"));
    }
    let issued = instant("iat")?;
    if issued.is_some_and(|issued| now + LEEWAY < issued) {
        // It would outlive a revocation of its user.
        return Err(Fault::Refused("the token was issued in the future, by its `iat`: compare the clocks"));
    }
    let ends = if expires > now { expires } else { expires + LEEWAY };
    Ok((ends, issued.map(|issued| issued.min(now))))
}

/// A claim that is there; null is not.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

/// Text, or an integer: applications whose users have numbers put those into tokens.
fn user_id(claim: &Value) -> Option<UserId> {
    match claim {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) if number.is_u64() || number.is_i64() => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The only place that reads the clock.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn fixed(file: &Path, flag: &str, read: impl Fn(&[u8]) -> Result<Keys>) -> Result<Keys> {
    // The value of the flag is said here since what goes wrong below does not know it.
    let at = || format!("{flag} {}", file.display());
    let bytes = std::fs::read(file).with_context(at)?;
    read(&bytes).with_context(at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
