//! One WebSocket as a session uses it: messages go in, what was heard comes out, and it ends so that the other side learns why.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes, error::ProtocolError};

use super::metered::Metered;
use crate::protocol::CloseCode;

/// How long a write may make no progress.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many pongs of ours may wait to be written: a client that pings and does not read is closed.
const MAX_UNWRITTEN_PONGS: u32 = 32;
/// How long the other side may take to close.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// See the module.
pub struct Wire<S> {
    socket: WebSocketStream<Metered<S>>,
    /// Since when something waits in the socket's buffer and no byte was written.
    unflushed: Option<Instant>,
    /// How many bytes were written when that was looked at last.
    written: u64,
    unwritten_pongs: u32,
}

/// What [`Wire::step`] brought.
#[derive(Debug)]
pub enum Heard {
    /// All that was fed is written.
    Flushed,
    /// A message of text.
    Text(Utf8Bytes),
    /// A message of bytes.
    Binary(Bytes),
    /// An answer to a ping.
    Pong(Bytes),
    /// Something that is dealt with.
    Nothing,
    /// The other side has closed, or the connection broke.
    Gone,
    /// What came is no WebSocket, too large, or too much: to be closed with this.
    Refused(CloseCode),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The server's side of a connection whose handshake is done; `read` are bytes that came with it. A message may have
    /// `max_bytes`.
    pub async fn new(stream: S, read: Vec<u8>, max_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            // What an idle socket costs most of.
            .read_buffer_size(512)
            .write_buffer_size(16 * 1024)
            // A notification may be larger than any fixed limit; the session bounds what it feeds before it flushes.
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(max_bytes))
            .max_frame_size(Some(max_bytes));
        let stream = Metered::new(stream);
        let socket = if read.is_empty() {
            drop(read);
            WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
        } else {
            WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await
        };
        Self { socket, unflushed: None, written: 0, unwritten_pongs: 0 }
    }

    /// Whether something fed waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.unflushed.is_none()
    }

    /// Puts a message into the socket's buffer, which takes any amount; [`Self::step`] writes it.
    pub fn feed(&mut self, message: Message) {
        // An error here comes again with the flush.
        let _ = self.socket.start_send_unpin(message);
        self.unflushed.get_or_insert_with(Instant::now);
    }

    /// Writes while something is unwritten, and reads all the while. Cancel safe: both are polled, nothing is held between.
    pub async fn step(&mut self) -> Heard {
        let (socket, unflushed) = (&mut self.socket, self.unflushed.is_some());
        let step = poll_fn(|cx| {
            if unflushed && let Poll::Ready(flushed) = socket.poll_flush_unpin(cx) {
                return Poll::Ready(Err(flushed));
            }
            socket.poll_next_unpin(cx).map(Ok)
        });
        match step.await {
            Err(Ok(())) => {
                self.unflushed = None;
                self.unwritten_pongs = 0;
                Heard::Flushed
            }
            Err(Err(_)) | Ok(None) => Heard::Gone,
            Ok(Some(Ok(message))) => match message {
                Message::Text(text) => Heard::Text(text),
                Message::Binary(bytes) => Heard::Binary(bytes),
                Message::Pong(echo) => Heard::Pong(echo),
                Message::Close(_) => Heard::Gone,
                Message::Ping(_) => {
                    // The answer is in the buffer already.
                    self.unflushed.get_or_insert_with(Instant::now);
                    self.unwritten_pongs += 1;
                    if self.unwritten_pongs > MAX_UNWRITTEN_PONGS {
                        Heard::Refused(CloseCode::TooSlow)
                    } else {
                        Heard::Nothing
                    }
                }
                Message::Frame(_) => Heard::Nothing,
            },
            Ok(Some(Err(error))) => match error {
                Error::Capacity(_) => Heard::Refused(CloseCode::TooBig),
                Error::Utf8(_) => Heard::Refused(CloseCode::NotUtf8),
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Heard::Gone,
                Error::Protocol(_) => Heard::Refused(CloseCode::Malformed),
                _ => Heard::Gone,
            },
        }
    }

    /// Whether the connection has taken bytes since this was asked last: a slow link makes progress, and so neither it nor an
    /// answer to what it still carries is late.
    pub fn made_progress(&mut self, now: Instant) -> bool {
        let written = self.socket.get_ref().written();
        if written == self.written || self.unflushed.is_none() {
            self.written = written;
            return false;
        }
        self.written = written;
        self.unflushed = Some(now);
        true
    }

    /// When this is stuck, if no byte is written until then.
    pub fn stuck_at(&self) -> Option<Instant> {
        self.unflushed.map(|since| since + PATIENCE)
    }

    /// Ends the socket so that the other side learns why; without a code it was the other side that ended it. Takes
    /// two seconds at most.
    pub async fn close(&mut self, code: Option<CloseCode>) {
        let _ = timeout(FAREWELL, async {
            if let Some(code) = code {
                let _ = self.socket.close(Some(code.frame())).await;
            }
            // Polled to the end, or the closing handshake stays half done. Then this side closes first, and what the other
            // side still sends is read away: closing over unread bytes is a reset, and the reason would be lost with it.
            while let Some(Ok(_)) = self.socket.next().await {}
            let stream = self.socket.get_mut();
            let _ = stream.shutdown().await;
            let mut rest = [0; 512];
            while let Ok(1..) = stream.read(&mut rest).await {}
        })
        .await;
    }
}
