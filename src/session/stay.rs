//! How long a socket may stay: until its credential ends, is revoked, or is not known any more; and how it gets another.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::{Connection, End, Session};
use crate::auth::{Grant, Identity, Invalid, Refusal, Standing};
use crate::protocol::{CloseCode, Token, Told, UserId};

/// When nobody can say whether a credential still holds, it is asked again after this.
const AGAIN_SOON: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Stay {
    standing: Standing,
    /// Whose the credential is, where staff listen as the user.
    staff: Option<UserId>,
    /// When the credential is looked at again; `None` while it is, and where it need not be.
    next: Option<Instant>,
    /// Whether it was found to be worth nothing, and one that the client offers decides.
    ended: bool,
    /// What the client wants to stay with, and is not looked at yet: the last it sent.
    offered: Option<Token>,
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
        Self { standing, staff, next, ended: false, offered: None }
    }

    /// Whether the socket only looks on.
    pub fn observes(&self) -> bool {
        self.staff.is_some()
    }

    /// When there is something to do. `checking`: while something is being found out, which comes first.
    pub fn deadline(&self, checking: bool) -> Option<Instant> {
        [self.standing.expires, self.next.filter(|_| !checking)].into_iter().flatten().min()
    }

    /// Whether a revocation, in seconds since 1970, ends it.
    pub fn is_ended_by(&self, revoked: Option<f64>) -> bool {
        revoked.is_some_and(|revoked| self.standing.is_ended_by(revoked))
    }
}

impl<S: Connection> Session<S> {
    /// The credential has ended, or is looked at again.
    pub(super) fn stay(&mut self, now: Instant) -> Option<End> {
        if self.stay.standing.expires.is_some_and(|expires| expires <= now) {
            return Some(End::Close(CloseCode::Unauthorized));
        }
        self.look(now);
        None
    }

    /// Looks at what is to be looked at, one thing after the other: none takes the place of another, so that nobody who keeps sending
    /// tokens is kept from being looked at. The credential it has goes first when its time has come.
    fn look(&mut self, now: Instant) {
        if self.checking.is_some() {
            return;
        }
        let context = self.context.clone();
        let own = self.stay.standing.token.clone();
        if let Some(token) = own.filter(|_| self.stay.next.is_some_and(|next| next <= now)) {
            self.stay.next = None;
            self.checking = Some(Box::pin(async move { Checked::Again(context.auth.verify_again(&token).await) }));
        } else if let Some(token) = self.stay.offered.take() {
            let user = self.intake.user().clone();
            self.checking =
                Some(Box::pin(async move { Checked::Renewed(context.auth.introduce(&token, Some(&user)).await) }));
        }
    }

    /// The client has another credential. Of those that wait the last one counts.
    pub(super) fn renew(&mut self, token: Option<Token>) {
        let Some(token) = token else {
            return self.tell(&Told::Error { code: "unauthorized", message: "`token` is a credential, as text" });
        };
        self.stay.offered = Some(token);
        self.look(Instant::now());
    }

    pub(super) fn checked(&mut self, checked: Checked) -> Option<End> {
        self.checking = None;
        match checked {
            Checked::Again(Ok(grant)) => {
                if grant.user != *self.stay.staff.as_ref().unwrap_or(self.intake.user()) {
                    return Some(End::Close(CloseCode::Forbidden));
                }
                let token = self.stay.standing.token.take();
                self.stay.standing = Standing { expires: grant.expires, issued: grant.issued, token };
                self.stay.next = Some(Instant::now() + self.context.auth.recheck());
            }
            // The application may have given out the next one in its place.
            Checked::Again(Err(Invalid::Refused(_))) if self.stay.offered.is_some() => self.stay.ended = true,
            Checked::Again(Err(Invalid::Refused(_))) => return Some(End::Close(CloseCode::Unauthorized)),
            // The old one holds until somebody knows better.
            Checked::Again(Err(Invalid::Unknown)) => self.stay.next = Some(Instant::now() + AGAIN_SOON),
            Checked::Renewed(Ok(Identity { staff, standing, .. })) => {
                if staff != self.stay.staff {
                    return Some(End::Close(CloseCode::Forbidden));
                }
                let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs_f64();
                self.tell(&Told::Auth { expires_in: standing.expires.map(left) });
                let offered = self.stay.offered.take();
                self.stay = Stay { offered, ..Stay::new(standing, staff, self.context.auth.recheck()) };
            }
            Checked::Renewed(Err(refusal)) => match refusal.close_code() {
                Some(CloseCode::Forbidden) => return Some(End::Close(CloseCode::Forbidden)),
                _ if self.stay.ended => return Some(End::Close(CloseCode::Unauthorized)),
                Some(_) => self.tell(&Told::Error { code: "unauthorized", message: &refusal.detail }),
                None => self.tell(&Told::Error { code: "unavailable", message: &refusal.detail }),
            },
        }
        // A revocation may have been heard of while this was found out.
        if self.stay.is_ended_by(self.intake.mail().revoked()) {
            return Some(End::Close(CloseCode::Unauthorized));
        }
        self.look(Instant::now());
        None
    }
}
