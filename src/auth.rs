//! Credential -> user: who a socket or a request belongs to, and until when.

mod credential;
pub mod jwt;
mod sql;
mod tickets;
mod together;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use clap::ValueEnum;
use tokio::time::Instant;
use tracing::{info, warn};
use warp::http::{HeaderMap, Method, StatusCode};

use crate::config::AuthConfig;
use crate::metrics::Reason;
use crate::protocol::{CloseCode, Revocation, UserId};
use crate::registry::Registry;
use crate::seldom::Seldom;
use crate::store::Store;

pub use crate::protocol::Token;
pub use credential::{Carriers, Origin, Presented, Query, subprotocols};
use jwt::Jwt;
use sql::SqlTokens;
use tickets::Tickets;

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
    /// They are JSON Web Tokens, signed with a key that --jwt-secret-file, --jwt-public-key-file or --jwks knows.
    Jwt,
    /// They are tokens that a function of the database knows, which --auth-function names.
    Sql,
    /// Not at all, for development: the path, or a token that is the user's id, is taken at its word.
    None,
}

/// Why somebody may not connect.
#[derive(Debug)]
pub struct Refusal {
    /// 401 or 403; 503 where nobody knows yet.
    pub status: StatusCode,
    /// What to do about it.
    pub detail: Cow<'static, str>,
    /// What it is counted as.
    pub reason: Reason,
}

impl Refusal {
    pub(crate) fn unauthorized(detail: &'static str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, detail: detail.into(), reason: Reason::Unauthorized }
    }

    fn foreign_origin() -> Self {
        let detail =
            "a cookie counts only from pages of the origins that --allowed-origin names, and this is none of them";
        Self { status: StatusCode::FORBIDDEN, detail: detail.into(), reason: Reason::Origin }
    }

    fn somebody_else() -> Self {
        let detail = "the credential is another user's than the one the path names";
        Self { status: StatusCode::FORBIDDEN, detail: detail.into(), reason: Reason::Forbidden }
    }

    fn revoked() -> Self {
        Self::unauthorized("the credential was revoked: sign in again")
    }

    /// What a socket is closed with, where that says the same.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self.status {
            StatusCode::UNAUTHORIZED => Some(CloseCode::Unauthorized),
            StatusCode::FORBIDDEN => Some(CloseCode::Forbidden),
            _ => None,
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Refused(why) => Self::unauthorized(why),
            Invalid::Unknown => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                detail: "whoever knows this credential does not answer, try again".into(),
                reason: Reason::Unknown,
            },
        }
    }
}

/// Who a socket or a request is from.
#[derive(Debug)]
pub struct Identity {
    /// Whose notifications it gets.
    pub user: UserId,
    /// Whose the credential is, where that is somebody else: staff who listen as the user. They only look on: what they are told, the
    /// user was not told.
    pub staff: Option<UserId>,
    /// How long that holds.
    pub standing: Standing,
}

/// How long a credential holds.
#[derive(Clone, Debug)]
pub struct Standing {
    /// See [`Grant::expires`].
    pub expires: Option<Instant>,
    /// See [`Grant::issued`].
    pub issued: Option<f64>,
    /// What has to be looked at again now and then, where nothing else says when it ends.
    pub token: Option<Token>,
}

impl Standing {
    /// Whether a revocation of its user, in seconds since 1970, ends it.
    pub fn is_ended_by(&self, revoked: f64) -> bool {
        Revocation::ends(revoked, self.issued)
    }
}

/// Who checks credentials.
pub struct Auth {
    scheme: Scheme,
    carriers: Carriers,
    tickets: Tickets,
    registry: Arc<Registry>,
    store: Store,
    recheck: Duration,
    failures: Seldom,
}

enum Scheme {
    Jwt(Box<Jwt>),
    Sql(Box<SqlTokens>),
    None,
}

impl Auth {
    /// Reads what there is to read of keys.
    ///
    /// # Errors
    /// A file that cannot be used, or settings that do not go together.
    pub async fn new(config: &AuthConfig, store: Store, registry: Arc<Registry>) -> Result<Self> {
        let scheme = match config.auth {
            AuthMode::Jwt => Scheme::Jwt(Box::new(Jwt::load(&config.jwt).await?)),
            AuthMode::Sql => {
                let function = config.auth_function.clone().context("--auth sql needs --auth-function")?;
                Scheme::Sql(Box::new(SqlTokens::new(store.clone(), function, config.auth_cache)))
            }
            AuthMode::None => {
                warn!("--auth none: whoever reaches this port reads anybody's notifications");
                Scheme::None
            }
        };
        let tickets = Tickets::new(store.clone());
        Ok(Self {
            scheme,
            carriers: config.carriers(),
            tickets,
            registry,
            store,
            recheck: config.auth_recheck,
            failures: Seldom::default(),
        })
    }

    /// Makes sure that what the database is to say about credentials it can say. To be asked once it answers.
    ///
    /// # Errors
    /// Says what is wrong with --auth-function.
    pub async fn prepare(&self) -> Result<()> {
        if let Scheme::Sql(tokens) = &self.scheme {
            tokens.prepare().await.context("--auth-function")?;
        }
        Ok(())
    }

    /// Asks the database what is to be asked about credentials, and keeps the keys of others as they are there. Without it nobody is
    /// answered. Never returns. Cancel safe.
    pub async fn serve(&self) {
        let scheme = async {
            match &self.scheme {
                Scheme::Jwt(jwt) => jwt.keep_fresh().await,
                Scheme::Sql(tokens) => tokens.serve().await,
                Scheme::None => {}
            }
        };
        tokio::join!(scheme, self.tickets.serve());
    }

    /// Whether the path is taken at its word.
    pub fn trusts_the_path(&self) -> bool {
        matches!(self.scheme, Scheme::None)
    }

    /// How often a credential is looked at again of which only the database knows whether it holds.
    pub fn recheck(&self) -> Duration {
        self.recheck
    }

    /// The origins whose pages may use cookies and read answers.
    pub fn carriers(&self) -> &Carriers {
        &self.carriers
    }

    /// Who a socket's request is from. `named` is who its path names; `None` where it says `me`. `Ok(None)`: it brings no
    /// credential. Waits as long as the database does not answer, ten seconds at most.
    ///
    /// # Errors
    /// The credential is worth nothing (401), is somebody else's (403), or cannot be looked at (503).
    pub async fn identify(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
        named: Option<&UserId>,
    ) -> Result<Option<Identity>, Refusal> {
        let Some(presented) = self.carriers.find(method, headers, query)? else {
            return match named {
                Some(user) if self.trusts_the_path() => {
                    let Grant { user, expires, issued, .. } = named_grant(user.clone());
                    Ok(Some(Identity { user, staff: None, standing: Standing { expires, issued, token: None } }))
                }
                _ => Ok(None),
            };
        };
        let (grant, token) = match &presented {
            Presented::Token(token) => self.verify(token).await?,
            Presented::Ticket(ticket) => self.tickets.redeem(ticket).await?,
        };
        self.admit(grant, token, named).await.map(Some)
    }

    /// Who a request to the inbox is from. Unlike a socket, which is told of it when it opens, it has to ask by itself whether its
    /// user was revoked.
    ///
    /// # Errors
    /// As [`Self::identify`]; without a credential 401.
    pub async fn identify_request(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<Identity, Refusal> {
        let identity = self.identify(method, headers, query, None).await?.ok_or_else(|| self.nobody())?;
        if let Scheme::None = self.scheme {
            return Ok(identity);
        }
        self.ask_whether_revoked(&identity.user, identity.standing.issued).await?;
        Ok(identity)
    }

    /// Asks the table, which knows of more than this instance has heard of.
    async fn ask_whether_revoked(&self, user: &UserId, issued: Option<f64>) -> Result<(), Refusal> {
        match self.store.revoked(user).await {
            Ok(Some(revoked)) if Revocation::ends(revoked, issued) => {
                self.registry.revoke(user, revoked);
                Err(Refusal::revoked())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                if let Some(times) = self.failures.again() {
                    warn!(error = format!("{error:#}"), times, "whether a user was revoked is unknown");
                }
                Err(Invalid::Unknown.into())
            }
        }
    }

    /// What to answer to who brings no credential.
    pub fn nobody(&self) -> Refusal {
        Refusal::unauthorized(match self.scheme {
            Scheme::None => {
                "this needs a credential; with --auth none that is `Authorization: Bearer <user id>` (a socket may name the user in \
                 its path instead)"
            }
            Scheme::Jwt(_) | Scheme::Sql(_) => {
                "this needs a credential: `Authorization: Bearer`, the subprotocol `notifier.bearer.<base64url>`, or a ticket of \
                 POST /api/ws-ticket"
            }
        })
    }

    /// Whether what a token is worth now lets its holder listen as `named`, or as themselves.
    ///
    /// # Errors
    /// As [`Self::identify`].
    pub async fn introduce(&self, token: &Token, named: Option<&UserId>) -> Result<Identity, Refusal> {
        let (grant, token) = self.verify(token).await?;
        self.admit(grant, token, named).await
    }

    async fn admit(&self, grant: Grant, token: Option<Token>, named: Option<&UserId>) -> Result<Identity, Refusal> {
        if self.registry.is_revoked(&grant.user, grant.issued) {
            return Err(Refusal::revoked());
        }
        let standing = Standing { expires: grant.expires, issued: grant.issued, token };
        match named {
            Some(named) if *named != grant.user => {
                let may = match &grant.listens_as {
                    ListensAs::Nobody => false,
                    ListensAs::These(users) => users.contains(named),
                    ListensAs::Anybody => true,
                };
                if !may {
                    return Err(Refusal::somebody_else());
                }
                // What the socket asks when it opens is about its user.
                self.ask_whether_revoked(&grant.user, grant.issued).await?;
                info!(staff = %grant.user, user = %named, "staff listens as a user");
                Ok(Identity { user: named.clone(), staff: Some(grant.user), standing })
            }
            _ => Ok(Identity { user: grant.user, staff: None, standing }),
        }
    }

    /// What a token is worth, and what of it has to be looked at again.
    async fn verify(&self, token: &Token) -> Result<(Grant, Option<Token>), Invalid> {
        match &self.scheme {
            Scheme::Jwt(jwt) => Ok((jwt.verify(token).await?, None)),
            Scheme::Sql(tokens) => Ok((tokens.verify(token, &self.registry).await?, Some(token.clone()))),
            Scheme::None => match token.as_str().parse() {
                Ok(user) => Ok((named_grant(user), None)),
                Err(wrong) => Err(Invalid::Refused(wrong)),
            },
        }
    }

    /// What a token that has to be looked at again is worth now.
    ///
    /// # Errors
    /// Nothing any more, or nobody answers.
    pub async fn verify_again(&self, token: &Token) -> Result<Grant, Invalid> {
        match &self.scheme {
            Scheme::Sql(tokens) => tokens.verify_again(token).await,
            Scheme::Jwt(_) | Scheme::None => self.verify(token).await.map(|(grant, _)| grant),
        }
    }

    /// A ticket for who a request is from, and for how many seconds it is good.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn issue_ticket(&self, identity: &Identity) -> Result<(String, f64)> {
        self.tickets.issue(&identity.user, &identity.standing).await
    }
}

/// Whoever says so. The word is as young as the connection.
fn named_grant(user: UserId) -> Grant {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Grant { user, expires: None, issued: Some(now), listens_as: ListensAs::Nobody }
}

/// What a credential is known by where it must not be kept.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// When something ends that ends in so many seconds; `None` when that is beyond all measure.
pub(crate) fn ends_in(seconds: f64) -> Option<Instant> {
    let left = Duration::try_from_secs_f64(seconds.max(0.0)).ok()?;
    Instant::now().checked_add(left)
}
