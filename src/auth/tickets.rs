//! Tickets: good for one socket, for half a minute. A page gets one with a request that carries its credential, and puts it into the
//! socket's address, where it may end up in a log: by then it is used.
//!
//! The database keeps a hash of it, so that any instance can redeem it and whoever reads the table can not. Where a socket's token
//! has to be looked at again later, the table holds that as well, sealed with the ticket.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::together::Together;
use super::{Grant, Invalid, ListensAs, Standing, Token, ends_in, sha256};
use crate::protocol::UserId;
use crate::seldom::Seldom;
use crate::store::{Store, Ticket};

/// How long whoever has a ticket waits for an answer: for those who came before, and for the database.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Tickets {
    store: Store,
    together: Together<[u8; 32], Result<Option<Ticket>, Failed>>,
    failures: Seldom,
}

/// The database did not answer.
#[derive(Clone, Copy)]
struct Failed;

impl Tickets {
    /// Kept in this database.
    pub fn new(store: Store) -> Self {
        Self { store, together: Together::new(), failures: Seldom::default() }
    }

    /// Asks the database what is to be asked. Nobody is answered without it. Never returns. Cancel safe.
    pub async fn serve(&self) {
        let serve = || self.together.serve(Duration::ZERO, |hashes| self.redeem_all(hashes));
        let _: (Infallible, _) = tokio::join!(serve(), serve());
    }

    /// A ticket for whoever holds a credential, and for how many seconds it is good.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn issue(&self, user: &UserId, standing: &Standing) -> Result<(String, f64)> {
        let mut secret = [0; 16];
        aws_lc_rs::rand::fill(&mut secret)?;
        let ticket = Ticket {
            user: user.clone(),
            issued: standing.issued,
            expires_in: standing.expires.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
            sealed: standing.token.as_ref().map(|token| seal(&secret, token)).transpose()?,
        };
        let good_for = self.store.issue_ticket(&sha256(&secret), &ticket).await?;
        Ok((URL_SAFE_NO_PAD.encode(secret), good_for))
    }

    /// What a ticket stands for, once.
    ///
    /// # Errors
    /// It is worth nothing any more, or the database does not answer; it may be used then all the same.
    pub async fn redeem(&self, ticket: &Token) -> Result<(Grant, Option<Token>), Invalid> {
        const WORTHLESS: Invalid = Invalid::Refused("the ticket is not known, too old, or was used: ask for another");
        let secret: [u8; 16] =
            URL_SAFE_NO_PAD.decode(ticket.as_str()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(WORTHLESS)?;
        let redeemed =
            timeout(ANSWER_LIMIT, self.together.ask(sha256(&secret))).await.ok().flatten().unwrap_or(Err(Failed));
        let Ticket { user, issued, expires_in, sealed } =
            redeemed.map_err(|Failed| Invalid::Unknown)?.ok_or(WORTHLESS)?;
        let expires = expires_in.and_then(ends_in);
        let token = sealed.map(|sealed| open(&secret, sealed).ok_or(WORTHLESS)).transpose()?;
        Ok((Grant { user, expires, issued, listens_as: ListensAs::Nobody }, token))
    }

    async fn redeem_all(&self, hashes: Vec<[u8; 32]>) -> Vec<Result<Option<Ticket>, Failed>> {
        let hashes: Vec<_> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
        match self.store.redeem_tickets(&hashes).await {
            Ok(tickets) => tickets.into_iter().map(Ok).collect(),
            Err(error) => {
                if let Some(times) = self.failures.again() {
                    warn!(error = format!("{error:#}"), times, "tickets could not be redeemed");
                }
                vec![Err(Failed); hashes.len()]
            }
        }
    }
}

/// A key for each ticket, which nobody learns from its hash. It seals once, so its nonce need not differ.
fn key(secret: &[u8; 16]) -> Option<LessSafeKey> {
    let mut key = Context::new(&SHA256);
    key.update(b"parkmate-notifier: what a ticket seals");
    key.update(secret);
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.finish().as_ref()).ok()?))
}

fn seal(secret: &[u8; 16], token: &Token) -> Result<Vec<u8>> {
    let mut sealed = token.as_str().as_bytes().to_vec();
    let key = key(secret).ok_or(aws_lc_rs::error::Unspecified)?;
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::empty(), &mut sealed)?;
    Ok(sealed)
}

fn open(secret: &[u8; 16], mut sealed: Vec<u8>) -> Option<Token> {
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let opened = key(secret)?.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
    Token::new(std::str::from_utf8(opened).ok()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ticket_opens_what_it_sealed() {
        let (secret, token) = ([7; 16], Token::new("canary").unwrap());
        let sealed = seal(&secret, &token).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(open(&secret, sealed.clone()), Some(token));
        assert_eq!(open(&[8; 16], sealed.clone()), None);
        assert_eq!(open(&secret, sealed[1..].to_vec()), None);
        assert_ne!(sha256(&secret).as_slice(), sealed);
    }
}
