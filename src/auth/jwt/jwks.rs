//! A JSON Web Key Set: read at the start, again when it is old, and again when a token names a key that it does not have.
//!
//! One task reads ([`Jwks::keep_fresh`]), and whoever wants to know waits for it: so a crowd of unknown keys is one request, and
//! a caller that goes away, as connections of strangers do, breaks none off.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Url, redirect};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::keys::Keys;

/// How long the server may take to answer with all of it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How large a set may be, in bytes: a hundred RSA keys with their certificates have a fifth of it.
const MAX_BYTES: usize = 1024 * 1024;

/// How often a set is read.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// After this long in any case: a key that was taken out is good for so much longer at most, while its set can be read.
    pub refresh: Duration,
    /// At most once in this time because of keys that are not in it.
    pub rest: Duration,
    /// While none could be read.
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(600), rest: Duration::from_secs(30), retry: Duration::from_secs(3) }
    }
}

/// See the module.
pub(super) struct Jwks {
    place: Place,
    pace: Pace,
    state: watch::Sender<State>,
}

enum Place {
    Url(Client, Url),
    File(PathBuf),
}

struct State {
    /// As they were last read; `None` before the first time.
    keys: Option<Arc<Keys>>,
    /// How many readings have ended.
    ended: u64,
    /// Whether the last of them failed.
    failed: bool,
    /// When the last one ended.
    at: Instant,
    /// A token named a key that is not there, and a reading is to begin or has begun.
    wanted: bool,
    /// When that was last.
    wanted_at: Option<Instant>,
}

impl Jwks {
    /// Reads it for the first time. A URL may fail for now.
    pub async fn load(at: &str, pace: Pace) -> Result<Self> {
        let place = Place::parse(at)?;
        let state = State { keys: None, ended: 0, failed: false, at: Instant::now(), wanted: false, wanted_at: None };
        let jwks = Self { place, pace, state: watch::Sender::new(state) };
        let read = jwks.place.read().await;
        if matches!(jwks.place, Place::File(_)) {
            let keys = read.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            ensure!(!keys.is_empty(), "there is no key in it that verifies signatures");
        }
        jwks.note(read);
        Ok(jwks)
    }

    /// The keys as they were last read.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.state.borrow().keys.clone()
    }

    /// Has them read again because one is missing, or waits while they are. `None` when that was so lately, or fails.
    pub async fn read_again(&self) -> Option<Arc<Keys>> {
        let mut watch = self.state.subscribe();
        let mut ended = None;
        self.state.send_if_modified(|state| {
            let rested = state.wanted_at.is_none_or(|at| at.elapsed() >= self.pace.rest);
            let begins = !state.wanted && rested;
            if begins {
                (state.wanted, state.wanted_at) = (true, Some(Instant::now()));
            }
            ended = state.wanted.then_some(state.ended);
            begins
        });
        let ended = ended?;
        let read = timeout(ANSWER_LIMIT + Duration::from_secs(1), watch.wait_for(|state| state.ended != ended)).await;
        let state = read.ok()?.ok()?;
        state.keys.clone().filter(|_| !state.failed)
    }

    /// How many readings have ended.
    #[cfg(test)]
    pub fn readings(&self) -> u64 {
        self.state.borrow().ended
    }

    /// Reads whenever it is time. Cancel safe.
    pub async fn keep_fresh(&self) {
        let mut watch = self.state.subscribe();
        loop {
            let due = {
                let state = watch.borrow_and_update();
                state.at + if state.keys.is_some() { self.pace.refresh } else { self.pace.retry }
            };
            tokio::select! {
                () = sleep_until(due) => {}
                _ = watch.wait_for(|state| state.wanted) => {}
            }
            self.note(self.place.read().await);
        }
    }

    /// What a reading found is what holds from here on; when it failed, what was read before.
    fn note(&self, read: Result<Keys>) {
        self.state.send_modify(|state| {
            match read {
                Ok(keys) => {
                    if state.failed || state.keys.as_ref().is_none_or(|old| old.ids() != keys.ids()) {
                        info!(ids = ?keys.ids(), "read the set of keys that sign tokens");
                    }
                    (state.keys, state.failed) = (Some(Arc::new(keys)), false);
                }
                Err(error) => {
                    // Once for each time that it begins to fail.
                    if !state.failed {
                        let has =
                            if state.keys.is_some() { "those read before go on" } else { "no token is good without" };
                        warn!(error = format!("{error:#}"), "cannot read the set of keys that sign tokens; {has}");
                    }
                    state.failed = true;
                }
            }
            (state.ended, state.at, state.wanted) = (state.ended + 1, Instant::now(), false);
        });
    }
}

impl Place {
    fn parse(at: &str) -> Result<Self> {
        if !at.contains("://") {
            return Ok(Self::File(at.into()));
        }
        // The address is not quoted: it may hold a password.
        let url = Url::parse(at).context("this is no URL")?;
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "a set of keys is public: its URL has no password"
        );
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let client = Client::builder().timeout(ANSWER_LIMIT).redirect(redirect::Policy::none());
        let client = match url.scheme() {
            "https" => client,
            // Not by way of a proxy: that would be another machine.
            "http" if here => client.no_proxy(),
            // Whoever sits between could put in a key of their own.
            "http" => bail!("a set of keys on another machine needs https"),
            _ => bail!("a set of keys is at an https URL, or in a file"),
        };
        Ok(Self::Url(client.build().context("preparing to fetch the set of keys")?, url))
    }

    async fn read(&self) -> Result<Keys> {
        match self {
            Self::File(file) => {
                let path = file.clone();
                let bytes = timeout(ANSWER_LIMIT, spawn_blocking(move || std::fs::read(path))).await;
                let bytes =
                    bytes.context("the file cannot be read in 5 s")??.with_context(|| file.display().to_string())?;
                Keys::from_jwks(&bytes, true).with_context(|| file.display().to_string())
            }
            Self::Url(client, url) => {
                let mut answer = client.get(url.clone()).send().await.map_err(reqwest::Error::without_url)?;
                ensure!(answer.status() == 200, "it answered {} and not 200 with the set itself", answer.status());
                let mut bytes = Vec::new();
                while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
                    ensure!(bytes.len() + part.len() <= MAX_BYTES, "it is larger than {MAX_BYTES} bytes");
                    bytes.extend_from_slice(&part);
                }
                Keys::from_jwks(&bytes, false)
            }
        }
    }
}
