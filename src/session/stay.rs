//! How long a socket may stay: until its credential ends, is revoked, or is not known any more; and how it gets another.

use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{End, Session};
use crate::auth::{Grant, Identity, Invalid, Refusal, Standing};
use crate::protocol::{CloseCode, Token, Told, UserId};

/// When nobody can say whether a credential still holds, it is asked again after this.
const AGAIN_SOON: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Stay {
    standing: Standing,
    /// Whose the credential is, where staff listen as the user.
    staff: Option<UserId>,
    /// When the credential is looked at again.
    next: Option<Instant>,
}

/// What was found out about a credential.
pub(super) enum Checked {
    /// Of the one this socket has.
    Again(Result<Grant, Invalid>),
    /// Of another one that the client sent.
    Renewed(Result<Identity, Refusal>),
}

pub(super) type Checking = Pin<Box<dyn Future<Output = Checked> + Send>>;

impl Stay {
    /// `recheck` is how often a credential is looked at again of which only the database knows.
    pub fn new(standing: Standing, staff: Option<UserId>, recheck: Duration) -> Self {
        let next = standing.token.is_some().then(|| Instant::now() + recheck);
        Self { standing, staff, next }
    }

    /// Whether the socket only looks on.
    pub fn observes(&self) -> bool {
        self.staff.is_some()
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.standing.expires, self.next].into_iter().flatten().min()
    }

    /// Whether a revocation, in seconds since 1970, ends it.
    pub fn is_ended_by(&self, revoked: Option<f64>) -> bool {
        revoked.is_some_and(|revoked| self.standing.is_ended_by(revoked))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// The credential has ended, or is looked at again.
    pub(super) fn stay(&mut self, now: Instant) -> Option<End> {
        if self.stay.standing.expires.is_some_and(|expires| expires <= now) {
            return Some(End::Close(CloseCode::Unauthorized));
        }
        if self.stay.next.is_some_and(|next| next <= now) {
            self.stay.next = None;
            // One that is being looked at for the client says it as well.
            if let (None, Some(token)) = (&self.checking, self.stay.standing.token.clone()) {
                let context = self.context.clone();
                self.checking = Some(Box::pin(async move { Checked::Again(context.auth.verify_again(&token).await) }));
            }
        }
        None
    }

    /// The client has another credential. One that is sent while one is looked at takes its place.
    pub(super) fn renew(&mut self, token: Option<Token>) {
        let Some(token) = token else {
            return self.tell(&Told::Error { code: "unauthorized", message: "`token` is a credential, as text" });
        };
        let (context, user) = (self.context.clone(), self.intake.user().clone());
        self.checking =
            Some(Box::pin(async move { Checked::Renewed(context.auth.introduce(&token, Some(&user)).await) }));
    }

    pub(super) fn checked(&mut self, checked: Checked) -> Option<End> {
        self.checking = None;
        let soon = || Some(Instant::now() + AGAIN_SOON);
        match checked {
            Checked::Again(Ok(grant)) => {
                if grant.user != *self.stay.staff.as_ref().unwrap_or(self.intake.user()) {
                    return Some(End::Close(CloseCode::Forbidden));
                }
                let token = self.stay.standing.token.take();
                self.stay.standing = Standing { expires: grant.expires, issued: grant.issued, token };
                self.stay.next = Some(Instant::now() + self.context.auth.recheck());
            }
            Checked::Again(Err(Invalid::Refused(_))) => return Some(End::Close(CloseCode::Unauthorized)),
            // The old one holds until somebody knows better.
            Checked::Again(Err(Invalid::Unknown)) => self.stay.next = soon(),
            Checked::Renewed(Ok(Identity { staff, standing, .. })) => {
                if staff != self.stay.staff {
                    return Some(End::Close(CloseCode::Forbidden));
                }
                let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs_f64();
                self.tell(&Told::Auth { expires_in: standing.expires.map(left) });
                self.stay = Stay::new(standing, staff, self.context.auth.recheck());
            }
            Checked::Renewed(Err(refusal)) => {
                if self.stay.standing.token.is_some() {
                    self.stay.next = soon();
                }
                match refusal.close_code() {
                    Some(CloseCode::Forbidden) => return Some(End::Close(CloseCode::Forbidden)),
                    Some(_) => self.tell(&Told::Error { code: "unauthorized", message: &refusal.detail }),
                    None => self.tell(&Told::Error { code: "unavailable", message: &refusal.detail }),
                }
            }
        }
        None
    }
}
