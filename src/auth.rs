//! Credential -> user: who a socket or a request belongs to.

use clap::ValueEnum;
use warp::http::{HeaderMap, StatusCode, header};

use crate::protocol::UserId;

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
