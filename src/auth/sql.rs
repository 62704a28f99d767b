//! Tokens that the application keeps in its own tables: a function that the DBA named says whose they are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::warn;

use super::together::Together;
use super::{Grant, Invalid, ListensAs, Token, ends_in};
use crate::registry::Registry;
use crate::seldom::Seldom;
use crate::store::{Authenticated, Store};

/// How many questions are under way at once.
const TURNS: usize = 2;
/// How long a question about open sockets waits for more of them: ten thousand are a hundred or two a second.
const GATHER: Duration = Duration::from_secs(1);
/// How many answers are kept. When there are more, all are forgotten: it costs a question each.
const MAX_KEPT: usize = 20_000;

/// See the module.
pub struct SqlTokens {
    store: Store,
    /// As the operator wrote it.
    function: String,
    /// As SQL writes it, once the database has said so.
    name: OnceCell<String>,
    keep: Duration,
    /// By the token's hash: nothing holds a token longer than its socket lives.
    kept: Mutex<HashMap<[u8; 32], Kept>>,
    /// Of those who come in.
    first: Together<Token, Answer>,
    /// Of those who are in: nobody waits for these.
    again: Together<Token, Answer>,
    failures: Seldom,
}

/// An answer and when it was given.
#[derive(Clone)]
struct Kept {
    at: Instant,
    grant: Option<Grant>,
}

type Answer = Result<Option<Grant>, Failed>;

/// The function failed, or the database did not answer.
#[derive(Clone, Copy)]
struct Failed;

impl SqlTokens {
    /// Answers are kept for so long.
    pub fn new(store: Store, function: String, keep: Duration) -> Self {
        let (first, again) = (Together::new(TURNS, Duration::ZERO), Together::new(1, GATHER));
        Self {
            store,
            function,
            name: OnceCell::new(),
            keep,
            kept: Mutex::default(),
            first,
            again,
            failures: Seldom::default(),
        }
    }

    /// Makes sure that the function is one.
    ///
    /// # Errors
    /// Says what is wrong with it; or the database cannot be asked.
    pub async fn prepare(&self) -> Result<&str> {
        let name = self.name.get_or_try_init(|| self.store.auth_function(&self.function)).await?;
        Ok(name)
    }

    /// What a token is worth, by an answer that was kept or by a new one.
    ///
    /// # Errors
    /// It is worth nothing, or the database does not answer.
    pub async fn verify(&self, token: &Token, registry: &Registry) -> Result<Grant, Invalid> {
        let kept = self.lock().get(&hash(token)).cloned();
        let answer = match kept {
            Some(Kept { at, grant }) if at.elapsed() < self.keep && !is_over(grant.as_ref(), registry) => Ok(grant),
            _ => self.ask(token, &self.first).await,
        };
        match answer {
            Ok(Some(grant)) => Ok(grant),
            Ok(None) => Err(Invalid::Refused("the token is not known, or not any more")),
            Err(Failed) => Err(Invalid::Unknown),
        }
    }

    /// What a token is worth now.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_again(&self, token: &Token) -> Result<Grant, Invalid> {
        match self.ask(token, &self.again).await {
            Ok(Some(grant)) => Ok(grant),
            Ok(None) => Err(Invalid::Refused("the token is not known any more")),
            Err(Failed) => Err(Invalid::Unknown),
        }
    }

    async fn ask(&self, token: &Token, together: &Together<Token, Answer>) -> Answer {
        let answer = together.ask(token.clone(), |tokens| self.ask_all(tokens)).await?;
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            *kept = HashMap::new();
        }
        kept.insert(hash(token), Kept { at: Instant::now(), grant: answer.clone() });
        Ok(answer)
    }

    async fn ask_all(&self, tokens: Vec<Token>) -> Vec<Answer> {
        let texts: Vec<_> = tokens.iter().map(Token::as_str).collect();
        match self.ask_for(&texts).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            // It may have failed for one of them alone.
            Err(_) if texts.len() > 1 => {
                let mut answers = Vec::with_capacity(texts.len());
                for text in texts {
                    answers.push(match self.ask_for(&[text]).await {
                        Ok(mut one) => Ok(one.pop().flatten()),
                        Err(error) => Err(self.failed(&error, text)),
                    });
                }
                answers
            }
            Err(error) => vec![Err(self.failed(&error, texts[0]))],
        }
    }

    async fn ask_for(&self, tokens: &[&str]) -> Result<Vec<Option<Grant>>> {
        let answers = self.store.authenticate(self.prepare().await?, tokens).await?;
        let grant = |Authenticated { user, expires_in, revoked_before }| Grant {
            user,
            expires: expires_in.and_then(ends_in),
            issued: revoked_before,
            listens_as: ListensAs::Nobody,
        };
        Ok(answers.into_iter().map(|answer| answer.map(grant)).collect())
    }

    fn failed(&self, error: &anyhow::Error, token: &str) -> Failed {
        if let Some(times) = self.failures.again() {
            // The function's own words may hold the token.
            let error = format!("{error:#}").replace(token, "(the token)");
            warn!(error, function = self.function, times, "tokens could not be checked");
        }
        Failed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Kept>> {
        // Nothing in here panics half-way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer that was kept has been overtaken.
fn is_over(grant: Option<&Grant>, registry: &Registry) -> bool {
    grant.is_some_and(|grant| {
        grant.expires.is_some_and(|expires| expires <= Instant::now()) || registry.is_revoked(&grant.user, grant.issued)
    })
}

fn hash(token: &Token) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_str().as_bytes()).as_ref());
    hash
}
