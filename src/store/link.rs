//! One connection outside the pool, driven by whoever holds it: for LISTEN, and for advisory locks that live as long as their
//! session. It speaks the simple protocol only, which passes through poolers, so that a pooler can be told by name.

use std::collections::VecDeque;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::str::FromStr;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, SimpleQueryMessage, SimpleQueryRow, Socket};

use super::tls::{Connector, Stream};
use crate::protocol::{Cursor, Epoch, Position};

/// How long a new epoch may take to begin.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(600);

/// See the module. Nothing is read from the connection but inside [`Link::query`] and [`Link::next`].
pub struct Link {
    client: Client,
    connection: Connection<Socket, Stream>,
    /// What arrived while a statement ran.
    inbox: VecDeque<String>,
}

impl Link {
    /// Without a limit: the caller has one for all that it wants to know of the server.
    pub(super) async fn connect(config: &Config, connector: Connector) -> Result<Self> {
        let (client, connection) = config.connect(connector).await?;
        Ok(Self { client, connection, inbox: VecDeque::new() })
    }

    pub(super) fn into_parts(self) -> (Client, Connection<Socket, Stream>) {
        (self.client, self.connection)
    }

    /// Runs one or more statements and returns the rows of all. Payloads that arrive meanwhile are kept for [`Link::next`].
    /// Dropped half-way the link has to be dropped as well.
    ///
    /// # Errors
    /// The statement failed, the connection broke, or ten seconds passed.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        self.query_within(super::ANSWER_LIMIT, sql).await
    }

    async fn query_within(&mut self, limit: Duration, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        let mut query = pin!(timeout(limit, self.client.simple_query(sql)));
        let (connection, inbox) = (&mut self.connection, &mut self.inbox);
        let messages = poll_fn(|cx| {
            loop {
                match connection.poll_message(cx) {
                    Poll::Ready(Some(Ok(message))) => inbox.extend(payload(message)),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(anyhow::anyhow!("the server closed the connection")));
                    }
                    Poll::Pending => break,
                }
            }
            query.as_mut().poll(cx).map(|result| Ok(result.context("the server does not answer")??))
        })
        .await?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect())
    }

    /// The next payload of a channel this link listens to. Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<String> {
        if let Some(payload) = self.inbox.pop_front() {
            return Ok(payload);
        }
        loop {
            match poll_fn(|cx| self.connection.poll_message(cx)).await {
                Some(Ok(message)) => {
                    if let Some(payload) = payload(message) {
                        return Ok(payload);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the server closed the connection"),
            }
        }
    }

    /// The position the database is at.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn position(&mut self) -> Result<Position> {
        let rows = self.query("select pg_current_snapshot()").await?;
        rows.first().and_then(|row| row.get(0)).context("the database has no position")?.parse()
    }

    /// Which history of the database this is, and the position up to which it is the same as the last of those known. Begins another
    /// epoch where one is due.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn identify(&mut self, known: &[Epoch]) -> Result<Cursor> {
        let known = known.iter().map(Epoch::to_string).collect::<Vec<_>>().join(",");
        // Of a database that was restored it puts every notification right, once.
        let rows = self.query_within(IDENTIFY_LIMIT, &format!("select * from notifier.identify('{known}')")).await?;
        let column = |i| rows.first().and_then(|row| row.get(i)).context("the database has no epoch");
        Ok(Cursor::new(column(0)?.parse()?, column(1)?.parse()?))
    }

    /// Listens on the channel this database keeps secret, and returns its name. Committed when it returns.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn listen(&mut self) -> Result<String> {
        let rows = self.query("select value, quote_ident(value) from notifier.setting where name = 'channel'").await?;
        let row = rows.first().context("the database has no channel: run migrate")?;
        let (name, quoted) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
        // First this one: between two channels nothing must go by unheard.
        self.query(&format!("listen {quoted}")).await?;
        Ok(name.to_owned())
    }

    /// Listens on the channel of now, and then no more on another. What was announced between has to be read.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn listen_anew(&mut self, old: &str) -> Result<String> {
        let name = self.listen().await?;
        if name != old {
            self.query(&format!("unlisten \"{}\"", old.replace('"', "\"\""))).await?;
        }
        Ok(name)
    }

    /// Listens to nothing any more.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn unlisten(&mut self) -> Result<()> {
        self.query("unlisten *").await?;
        Ok(())
    }

    /// Has the server give up this session when the link dies without a word: it would hold up the NOTIFY queue of the cluster.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn prepare_to_listen(&mut self) -> Result<()> {
        self.query("set tcp_user_timeout = '10s'").await?;
        Ok(())
    }

    /// Bounds how long this session may be silent or hang: a frozen relay must lose its locks, not keep them for hours.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn prepare_to_lead(&mut self) -> Result<()> {
        self.query(
            // A relay beats each second: three beats missed, and another one leads within five seconds. Without synchronous commit
            // nobody waits for a disk behind its NOTIFYs; what they tell is in the table.
            "set idle_session_timeout = '3s'; set idle_in_transaction_session_timeout = '3s';
             set statement_timeout = '5s'; set lock_timeout = '4s'; set tcp_user_timeout = '5s';
             set synchronous_commit = off; set default_transaction_isolation = 'read committed'",
        )
        .await?;
        Ok(())
    }

    /// Tries to become the relay, for as long as this link lives. Returns the relay's generation if it is.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn become_relay(&mut self) -> Result<Option<i64>> {
        self.value("select notifier.become_relay()").await
    }

    /// Asks writers to NOTIFY. Returns a transaction id: once all before it have ended nobody is left who looked sooner. `None` when
    /// the bell could not be had at once.
    ///
    /// # Errors
    /// See [`Link::query`]; or another instance is the relay. The link has to be dropped then.
    pub async fn hang_bell(&mut self, generation: i64) -> Result<Option<u64>> {
        self.value(&format!("select notifier.hang_bell({generation})")).await
    }

    /// Asks writers no more to NOTIFY.
    ///
    /// # Errors
    /// See [`Link::hang_bell`].
    pub async fn take_down_bell(&mut self) -> Result<()> {
        self.query("select notifier.take_down_bell()").await?;
        Ok(())
    }

    /// Tells on the channel what was committed between what was read and now. Returns the new position, and how many rows there
    /// were.
    ///
    /// # Errors
    /// See [`Link::hang_bell`]; or another epoch has begun.
    pub async fn pass_on(
        &mut self,
        generation: i64,
        epoch: Epoch,
        told: &Position,
        read: &Position,
    ) -> Result<(Position, u64)> {
        let sql = format!("select * from notifier.pass_on({generation}, '{epoch}', '{told}', '{read}')");
        let rows = self.query(&sql).await?;
        let column = |i| rows.first().and_then(|row| row.get(i)).context("the relay's read has no answer");
        Ok((column(0)?.parse()?, column(1)?.parse()?))
    }

    /// Sends a beat. Returns how full the NOTIFY queue is, from 0 to 1, and the database's setting of the doorbell.
    ///
    /// # Errors
    /// See [`Link::hang_bell`].
    pub async fn tend(&mut self, generation: i64) -> Result<(f64, Doorbell)> {
        let rows = self.query(&format!("select * from notifier.tend({generation})")).await?;
        let column = |i| rows.first().and_then(|row| row.get(i)).context("the relay's beat has no answer");
        let doorbell = match column(1)? {
            "on" => Doorbell::On,
            "off" => Doorbell::Off,
            _ => Doorbell::Auto,
        };
        Ok((column(0)?.parse()?, doorbell))
    }

    /// How many transactions stand in line to commit behind one that has NOTIFYed.
    ///
    /// # Errors
    /// See [`Link::query`].
    pub async fn committing(&mut self) -> Result<u64> {
        self.value("select notifier.committing()").await.map(Option::unwrap_or_default)
    }

    async fn value<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self, sql: &str) -> Result<Option<T>> {
        let rows = self.query(sql).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::parse).transpose()?)
    }
}

/// The database's setting `notifier.doorbell`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doorbell {
    /// Writers NOTIFY while the relay asks for it.
    Auto,
    /// They always do.
    On,
    /// They never do.
    Off,
}

fn payload(message: AsyncMessage) -> Option<String> {
    match message {
        AsyncMessage::Notification(notification) => Some(notification.payload().to_owned()),
        AsyncMessage::Notice(notice) => {
            tracing::debug!(severity = notice.severity(), message = notice.message(), "notice of the database");
            None
        }
        _ => None,
    }
}
