//! What is asked of the database about credentials: those that the application's own function knows, tickets, and revocations.

use anyhow::{Result, ensure};
use tokio_postgres::Row;

use super::Store;
use crate::protocol::{Position, Revocation, UserId};

/// What the application's function says of a token.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Whose it is.
    pub user: UserId,
    /// In how many seconds it ends; `None`: not by itself.
    pub expires_in: Option<f64>,
    /// The user's latest revocation that was visible before the token was looked at, in seconds since 1970.
    pub revoked_before: Option<f64>,
}

/// What a ticket stands for.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Whose it is.
    pub user: UserId,
    /// When the credential was issued that it was given for, in seconds since 1970.
    pub issued: Option<f64>,
    /// In how many seconds that credential ends; `None`: not by itself.
    pub expires_in: Option<f64>,
    /// That credential itself, which only the ticket opens, where it is to be asked for again.
    pub sealed: Option<Vec<u8>>,
}

/// Whether an error is what the database says of a question, which may be wrong in a part of it alone: not that it is away, stops, or
/// has no more time for it.
pub fn is_of_one(error: &anyhow::Error) -> bool {
    // Class 57: an intervention by the operator.
    super::sqlstate(error).is_some_and(|code| !code.code().starts_with("57"))
}

impl Store {
    /// The name of the function `name(text)` as SQL writes it.
    ///
    /// # Errors
    /// Says what is wrong with the function and what one looks like; or the database cannot be asked.
    pub async fn auth_function(&self, name: &str) -> Result<String> {
        Ok(self.one("select notifier.auth_function($1)", &[&name]).await?.try_get(0)?)
    }

    /// What a function says of each of the tokens, in order; `None` of those it does not know. Of a user that no path could name, and
    /// who so cannot listen, it is what is wrong with the id.
    ///
    /// # Errors
    /// The function failed for one of them ([`is_of_one`]), or the database cannot be asked.
    pub async fn authenticate(
        &self,
        function: &str,
        tokens: &[&str],
    ) -> Result<Vec<Result<Option<Authenticated>, &'static str>>> {
        let sql = "select user_id, expires_in, revoked_before from notifier.authenticate($1, $2)";
        let authenticated = |row: &Row| {
            let Some(user) = row.try_get::<_, Option<&str>>(0)? else { return Ok(Ok(None)) };
            let (expires_in, revoked_before) = (row.try_get(1)?, row.try_get(2)?);
            Ok(user.parse().map(|user| Some(Authenticated { user, expires_in, revoked_before })))
        };
        self.each(tokens.len(), sql, &[&function, &tokens], authenticated).await
    }

    /// Keeps a ticket by its hash; returns for how many seconds it is good.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn issue_ticket(&self, hash: &[u8], ticket: &Ticket) -> Result<f64> {
        let sql = "select notifier.issue_ticket($1, $2, $3, $4, $5)";
        let Ticket { user, issued, expires_in, sealed } = ticket;
        let row = self.one(sql, &[&hash, &user.as_str(), issued, expires_in, sealed]).await?;
        Ok(row.try_get(0)?)
    }

    /// What each of the tickets stands for, in order; `None` where it is unknown, late, or was used. They are used now.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn redeem_tickets(&self, hashes: &[&[u8]]) -> Result<Vec<Option<Ticket>>> {
        let sql = "select user_id, issued_at, expires_in, sealed from notifier.redeem_tickets($1)";
        let ticket = |row: &Row| {
            let Some(user) = row.try_get::<_, Option<String>>(0)? else { return Ok(None) };
            let user = user.parse().map_err(|wrong: &str| anyhow::anyhow!(wrong))?;
            Ok(Some(Ticket { user, issued: row.try_get(1)?, expires_in: row.try_get(2)?, sealed: row.try_get(3)? }))
        };
        self.each(hashes.len(), sql, &[&hashes], ticket).await
    }

    /// When a user was revoked last, in seconds since 1970.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn revoked(&self, user: &UserId) -> Result<Option<f64>> {
        let row = self.one("select notifier.revoked(array[$1])", &[&user.as_str()]).await?;
        Ok(row.try_get(0)?)
    }

    /// Who was revoked since a position of an epoch, and where this looked.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn revocations(&self, after: &Position) -> Result<(Position, Vec<Revocation>)> {
        let sql = "select * from notifier.revocations($1::text::pg_snapshot)";
        let row = self.one(sql, &[&after.to_string()]).await?;
        let (users, times): (Vec<&str>, Vec<f64>) = (row.try_get(1)?, row.try_get(2)?);
        ensure!(users.len() == times.len(), "a revocation has a user and a time");
        // Whom no path can name has no socket.
        let revocation = |(user, at): (&str, f64)| Some(Revocation { user_id: user.parse().ok()?, at });
        Ok((row.try_get::<_, &str>(0)?.parse()?, users.into_iter().zip(times).filter_map(revocation).collect()))
    }
}
