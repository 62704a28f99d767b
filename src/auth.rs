//! Credential -> user: who a socket or a request belongs to.

use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use tokio::time::Instant;
use warp::http::{HeaderMap, StatusCode, header};

use crate::protocol::UserId;

/// A credential as it was presented. It is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest token that is looked at, in bytes: a request's head has no more.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// `None` when it is empty, longer than [`Self::MAX_BYTES`], or has other characters than tokens have: visible ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// As it was presented.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a credential is worth.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Whose it is.
    pub user: UserId,
    /// When it ends; `None`: not by itself.
    pub expires: Option<Instant>,
    /// When it was issued, in seconds since 1970. What was issued before its user was revoked is worth nothing; without it a
    /// credential is taken to be older than every revocation.
    pub issued: Option<f64>,
    /// As whom else it may listen.
    pub listens_as: ListensAs,
}

/// As whom staff may listen besides themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListensAs {
    /// As themselves only: everybody but staff.
    Nobody,
    /// As these users.
    These(Vec<UserId>),
    /// As any user.
    Anybody,
}

/// Why a credential is worth nothing. The words are for whoever presented it, and hold nothing of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// It is no good, and will not become so.
    Refused(&'static str),
    /// Whoever knows (the database, the key server) does not answer: the same credential may be good in a moment.
    Unknown,
}

/// How credentials are checked. There is no default: an operator says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AuthMode {
    /// Not at all, for development: the path, or a bearer token that is the user's id, is taken at its word.
    None,
}

/// Why somebody may not connect.
#[derive(Debug)]
pub struct Refusal {
    /// 401 or 403.
    pub status: StatusCode,
    /// What to do about it.
    pub detail: &'static str,
}

impl AuthMode {
    /// The user a request belongs to. `named` is who its path names; `None` where it says `me`.
    ///
    /// # Errors
    /// No credential where one is needed (401), or one of somebody else (403).
    pub fn identify(self, headers: &HeaderMap, named: Option<UserId>) -> Result<UserId, Refusal> {
        match self {
            Self::None => {
                let bearer = headers
                    .get(header::AUTHORIZATION)
                    .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
                    .and_then(|token| token.trim().parse().ok());
                match (bearer, named) {
                    (Some(bearer), Some(named)) if bearer != named => Err(Refusal {
                        status: StatusCode::FORBIDDEN,
                        detail: "the credential is another user's than the one the path names",
                    }),
                    (Some(user), _) | (None, Some(user)) => Ok(user),
                    (None, None) => Err(Refusal {
                        status: StatusCode::UNAUTHORIZED,
                        detail: "this needs a credential; with --auth none that is `Authorization: Bearer <user id>` \
                                 (a socket may name the user in its path instead)",
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn identify(bearer: Option<&str>, named: Option<&str>) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        if let Some(bearer) = bearer {
            headers.insert(header::AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap());
        }
        AuthMode::None
            .identify(&headers, named.map(|named| named.parse().unwrap()))
            .map(|user| user.to_string())
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_path_that_names_somebody_else_is_refused() {
        assert_eq!(identify(None, Some("7")), Ok("7".into()));
        assert_eq!(identify(Some("7"), Some("7")), Ok("7".into()));
        assert_eq!(identify(Some("7"), None), Ok("7".into()));
        assert_eq!(identify(Some("8"), Some("7")), Err(403));
        assert_eq!(identify(None, None), Err(401));
    }
}
