//! One WebSocket as a session uses it: messages go in, what was heard comes out, and it ends so that the other side learns why.
//!
//! What waits to be written is one buffer, which goes when it is written; what was heard is read on the stack. So an idle socket
//! holds neither.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{self, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};

use super::inbound::{Inbound, Incoming};
use crate::protocol::CloseCode;

/// How long a write may make no progress.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many pongs of ours may wait to be written: a client that pings and does not read is closed.
const MAX_UNWRITTEN_PONGS: u32 = 32;
/// How long the other side may take to close.
pub const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client may acknowledge nothing of what it is sent, or keep its window closed, before the kernel ends the connection.
pub const UNREAD_LIMIT: Duration = Duration::from_secs(20);
/// How much TLS may take of what is written before the kernel does, in bytes: what it takes looks like progress, and is memory.
const TLS_AHEAD: usize = 4 * 1024;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 2 * 1024;

/// What a socket can run over.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// What carries it.
    fn tcp(&self) -> &TcpStream;

    /// Takes no more from whoever writes than about so many bytes ahead of the kernel.
    fn write_ahead(&mut self, _bytes: usize) {}
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Connection for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn write_ahead(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

/// See the module.
pub struct Wire<S> {
    stream: S,
    inbound: Inbound,
    /// How large a message may be.
    max_bytes: usize,
    /// Fed, and up to `written` written.
    out: Vec<u8>,
    written: usize,
    /// Since when something waits to be written and no byte was.
    unflushed: Option<Instant>,
    /// Whether the kernel did not take all at once of what is being written.
    blocked: bool,
    /// Whether it has then taken a byte since that was asked last.
    progressed: bool,
    /// Whether our last frame is fed.
    closing: bool,
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
    Pong(Vec<u8>),
    /// Something that is dealt with.
    Nothing,
    /// The other side has closed, or the connection broke.
    Gone,
    /// What came is no WebSocket, too large, or too much: to be closed with this.
    Refused(CloseCode),
}

impl<S: Connection> Wire<S> {
    /// The server's side of a connection whose handshake is done; `read` are bytes that came with it. A message may have
    /// `max_bytes`.
    pub fn new(mut stream: S, read: &[u8], max_bytes: usize) -> Self {
        // The kernel's clock for a closed window runs on while a slow reader opens it a little at a time; PATIENCE does not.
        let _ = SockRef::from(stream.tcp()).set_tcp_user_timeout(None);
        stream.write_ahead(TLS_AHEAD);
        let mut inbound = Inbound::default();
        inbound.extend(read);
        Self {
            stream,
            inbound,
            max_bytes,
            out: Vec::new(),
            written: 0,
            unflushed: None,
            blocked: false,
            progressed: false,
            closing: false,
            unwritten_pongs: 0,
        }
    }

    /// Whether nothing fed waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.unflushed.is_none()
    }

    /// Puts a message into the buffer, which takes any amount; [`Self::step`] writes it. After a close nothing may follow, and
    /// nothing does.
    pub fn feed(&mut self, opcode: OpCode, payload: &[u8]) {
        if self.closing {
            return;
        }
        self.closing = opcode == OpCode::Control(Control::Close);
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        // Writing to a Vec cannot fail.
        let _ = header.format(payload.len() as u64, &mut self.out);
        self.out.extend_from_slice(payload);
        self.unflushed.get_or_insert_with(Instant::now);
    }

    /// Writes while something is unwritten, and reads all the while. Cancel safe: both are polled, nothing is held between.
    pub async fn step(&mut self) -> Heard {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    fn poll_step(&mut self, cx: &mut task::Context<'_>) -> Poll<Heard> {
        if self.unflushed.is_some()
            && let Poll::Ready(flushed) = self.poll_flush(cx)
        {
            return Poll::Ready(if flushed.is_ok() { Heard::Flushed } else { Heard::Gone });
        }
        loop {
            match self.inbound.next(self.max_bytes) {
                Ok(Some(incoming)) => return Poll::Ready(self.heard(incoming)),
                Ok(None) => {}
                Err(code) => return Poll::Ready(Heard::Refused(code)),
            }
            let mut room = [MaybeUninit::uninit(); READ_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(Heard::Gone);
            }
            self.inbound.extend(room.filled());
        }
    }

    fn heard(&mut self, incoming: Incoming) -> Heard {
        match incoming {
            Incoming::Text(text) => Heard::Text(text),
            Incoming::Binary(bytes) => Heard::Binary(bytes),
            Incoming::Pong(echo) => Heard::Pong(echo),
            Incoming::Ping(payload) => {
                self.unwritten_pongs += 1;
                if self.unwritten_pongs > MAX_UNWRITTEN_PONGS {
                    return Heard::Refused(CloseCode::TooSlow);
                }
                self.feed(OpCode::Control(Control::Pong), &payload);
                Heard::Nothing
            }
            Incoming::Close(payload) => {
                self.feed(OpCode::Control(Control::Close), &payload);
                Heard::Gone
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) else {
                // Who makes us wait has no more of our memory than what waits.
                self.out.shrink_to_fit();
                self.blocked = true;
                return Poll::Pending;
            };
            match count? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
            self.progressed |= self.blocked;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.out, self.written) = (Vec::new(), 0);
        (self.unflushed, self.unwritten_pongs, self.blocked) = (None, 0, false);
        Poll::Ready(Ok(()))
    }

    /// Whether a connection that is slow has taken bytes since this was asked last, be it the last of them: it makes progress, and
    /// so neither it nor an answer to what it still carries is late.
    pub fn made_progress(&mut self, now: Instant) -> bool {
        let progressed = std::mem::take(&mut self.progressed);
        if progressed {
            self.unflushed = self.unflushed.map(|_| now);
        }
        progressed
    }

    /// When this is stuck, if no byte is written until then.
    pub fn stuck_at(&self) -> Option<Instant> {
        self.unflushed.map(|since| since + PATIENCE)
    }

    /// Ends the socket so that the other side learns why; without a code it was the other side that ended it. Takes
    /// two seconds at most.
    pub async fn close(&mut self, code: Option<CloseCode>) {
        // What the kernel still has then is not kept for long.
        let _ = SockRef::from(self.stream.tcp()).set_tcp_user_timeout(Some(UNREAD_LIMIT));
        let _ = timeout(FAREWELL, async {
            if let Some(code) = code {
                self.feed(OpCode::Control(Control::Close), &code.payload());
            }
            let _ = poll_fn(|cx| self.poll_flush(cx)).await;
            // Heard to the end, or the closing handshake stays half done. Then this side closes first, and what the other
            // side still sends is read away: closing over unread bytes is a reset, and the reason would be lost with it.
            while code.is_some() && !matches!(self.step().await, Heard::Gone | Heard::Refused(_)) {}
            let _ = self.stream.shutdown().await;
            let mut rest = [0; 512];
            while let Ok(1..) = self.stream.read(&mut rest).await {}
        })
        .await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// It would end a slow reader that PATIENCE waits for; without it what a dead one left would be kept for minutes.
    #[tokio::test]
    async fn the_kernels_limit_holds_before_and_after_a_socket_and_not_while_it_lives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&listener).set_tcp_user_timeout(Some(UNREAD_LIMIT)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let limit = |stream: &TcpStream| SockRef::from(stream).tcp_user_timeout().unwrap().unwrap_or_default();
        assert_eq!(limit(&stream), UNREAD_LIMIT);
        let mut wire = Wire::new(stream, &[], 4096);
        assert_eq!(limit(&wire.stream), Duration::ZERO);
        drop(client);
        wire.close(None).await;
        assert_eq!(limit(&wire.stream), UNREAD_LIMIT);
    }
}
