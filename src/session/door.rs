//! A socket that brought no credential: it has a moment to send one, and hears nothing before.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::End;
use super::pace::Pace;
use super::wire::{Connection, Heard, Wire};
use crate::protocol::{Asked, CloseCode, Token};

/// How long it may take to send its credential.
const PATIENCE: Duration = Duration::from_secs(5);

/// The token of a client's first message, which is `{"op":"auth","token":".."}`. It may say no more before than afterwards.
///
/// # Errors
/// What the socket is to be closed with; `None`: it is gone. It sent something else first, or nothing for five seconds.
pub async fn first_message<S: Connection>(wire: &mut Wire<S>, mut pace: Pace) -> Result<Token, Option<CloseCode>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout_at(end, wire.step()).await {
            Err(_) => return Err(Some(CloseCode::Unauthorized)),
            Ok(Heard::Text(text)) => {
                return match Asked::decode(&text) {
                    Some(Asked::Auth(Some(token))) => Ok(token),
                    Some(_) => Err(Some(CloseCode::Unauthorized)),
                    None => Err(Some(CloseCode::BadFrame)),
                };
            }
            Ok(Heard::Binary(_)) => return Err(Some(CloseCode::BadFrame)),
            Ok(Heard::Gone) => return Err(None),
            Ok(Heard::Refused(code)) => return Err(Some(code)),
            Ok(Heard::Flushed) => {}
            Ok(Heard::Pong(_) | Heard::Nothing) => {
                if let Some(End::Close(code)) = pace.step(Instant::now()) {
                    return Err(Some(code));
                }
            }
        }
    }
}
