//! The application that writes: SQL on one connection, or Django's ORM in a process of its own.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_postgres::{Client, NoTls, Statement};

use crate::crowd::now;

/// One writer; it writes one row after the other.
pub enum Writer {
    Sql(Client, Statement),
    Django { process: Child, orders: ChildStdin, answers: Lines<BufReader<ChildStdout>> },
}

impl Writer {
    /// One that inserts into `happening`.
    pub async fn sql(url: &str) -> Result<Self> {
        let client = connect(url).await?;
        let insert = client.prepare("insert into happening (user_id, n) values ($1, $2)").await?;
        Ok(Self::Sql(client, insert))
    }

    /// One that saves through the ORM. It makes the tables.
    pub async fn django(python: &str, folder: &Path, variables: &[(&str, String)]) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg("writer.py").current_dir(folder).envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("not installed")?;
        let orders = process.stdin.take().context("piped")?;
        let mut answers = BufReader::new(process.stdout.take().context("piped")?).lines();
        answers.next_line().await?.context("the writer ended")?;
        Ok(Self::Django { process, orders, answers })
    }

    /// The process, where it is one of its own.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Sql(..) => None,
            Self::Django { process, .. } => process.id(),
        }
    }

    /// Writes one row and says when its commit was acknowledged.
    pub async fn write(&mut self, user: &str, number: i64) -> Result<u64> {
        match self {
            Self::Sql(client, insert) => {
                client.execute(&*insert, &[&user, &number]).await?;
                Ok(now())
            }
            Self::Django { orders, answers, .. } => {
                orders.write_all(format!("{user} {number}\n").as_bytes()).await?;
                Ok(answers.next_line().await?.context("the writer ended")?.parse()?)
            }
        }
    }

    /// Writes rows 0, 1, ... for users in turn, as fast as it can, and says when it sent what makes the first of them seen: the
    /// COMMIT of a transaction with all of them, or, where the ORM tells of each by itself, the first.
    pub async fn flood(&mut self, users: &[String], count: usize) -> Result<u64> {
        match self {
            Self::Sql(client, _) => {
                let rows = "insert into happening (user_id, n)
                            select ($1::text[])[1 + n % cardinality($1::text[])], n from generate_series(0, $2::bigint - 1) n";
                let transaction = client.transaction().await?;
                transaction.execute(rows, &[&users, &i64::try_from(count)?]).await?;
                let begun = now();
                transaction.commit().await?;
                Ok(begun)
            }
            Self::Django { orders, answers, .. } => {
                let begun = now();
                let lines: String = (0..count).map(|n| format!("{} {n}\n", users[n % users.len()])).collect();
                let answered = async {
                    for _ in 0..count {
                        answers.next_line().await?.context("the writer ended")?;
                    }
                    anyhow::Ok(())
                };
                let (written, answered) = tokio::join!(orders.write_all(lines.as_bytes()), answered);
                written?;
                answered?;
                Ok(begun)
            }
        }
    }
}

/// A connection; it ends with its client.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
