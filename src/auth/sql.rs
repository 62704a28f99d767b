//! Tokens that the application keeps in its own tables: a function that the DBA named says whose they are.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::together::Together;
use super::{Grant, Invalid, ListensAs, Token, ends_in, sha256};
use crate::registry::Registry;
use crate::seldom::Seldom;
use crate::store::{Authenticated, Store, is_of_one};

/// How long whoever comes in waits for an answer: for those who came before, and for the database.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
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
        Self {
            store,
            function,
            name: OnceCell::new(),
            keep,
            kept: Mutex::default(),
            first: Together::new(),
            again: Together::new(),
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

    /// Asks the database what is to be asked. Nobody is answered without it. Never returns. Cancel safe.
    pub async fn serve(&self) {
        let all = |tokens| self.ask_all(tokens);
        let first = || self.first.serve(Duration::ZERO, all);
        let _: (Infallible, _, _) = tokio::join!(first(), first(), self.again.serve(GATHER, all));
    }

    /// What a token is worth, by an answer that was kept or by a new one. Waits for ten seconds at most.
    ///
    /// # Errors
    /// It is worth nothing, or the database does not answer.
    pub async fn verify(&self, token: &Token, registry: &Registry) -> Result<Grant, Invalid> {
        let kept = self.lock().get(&sha256(token.as_str().as_bytes())).cloned();
        let answer = match kept {
            Some(Kept { at, grant }) if at.elapsed() < self.keep && !is_over(grant.as_ref(), registry) => Ok(grant),
            _ => timeout(ANSWER_LIMIT, self.ask(token, &self.first)).await.unwrap_or(Err(Failed)),
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
        let answer = together.ask(token.clone()).await.unwrap_or(Err(Failed))?;
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            *kept = HashMap::new();
        }
        kept.insert(sha256(token.as_str().as_bytes()), Kept { at: Instant::now(), grant: answer.clone() });
        Ok(answer)
    }

    async fn ask_all(&self, tokens: Vec<Token>) -> Vec<Answer> {
        let texts: Vec<_> = tokens.iter().map(Token::as_str).collect();
        match self.ask_for(&texts).await {
            Ok(answers) => answers,
            Err(error) if texts.len() > 1 && is_of_one(&error) => {
                let mut answers = Vec::with_capacity(texts.len());
                for text in texts {
                    let answer = self.ask_for(&[text]).await.map(|mut one| one.pop().unwrap_or(Err(Failed)));
                    answers.push(answer.unwrap_or_else(|error| Err(self.failed(&error, &[text]))));
                }
                answers
            }
            // Asked one by one, each would wait as long for nothing.
            Err(error) => vec![Err(self.failed(&error, &texts)); texts.len()],
        }
    }

    async fn ask_for(&self, tokens: &[&str]) -> Result<Vec<Answer>> {
        let answers = self.store.authenticate(self.prepare().await?, tokens).await?;
        let grant = |Authenticated { user, expires_in, revoked_before }| Grant {
            user,
            expires: expires_in.and_then(ends_in),
            issued: revoked_before,
            listens_as: ListensAs::Nobody,
        };
        let answers = answers.into_iter().zip(tokens).map(|(answer, token)| match answer {
            Ok(authenticated) => Ok(authenticated.map(grant)),
            Err(wrong) => Err(self.failed(&anyhow::anyhow!("user_id: {wrong}"), &[token])),
        });
        Ok(answers.collect())
    }

    fn failed(&self, error: &anyhow::Error, tokens: &[&str]) -> Failed {
        if let Some(times) = self.failures.again() {
            // The function's own words may hold the token.
            let error = tokens.iter().fold(format!("{error:#}"), |error, token| error.replace(token, "(the token)"));
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
