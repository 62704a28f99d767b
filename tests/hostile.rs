//! A network that means harm: too many, too slow, too large, broken, or with forged papers. Clients come from addresses of their own
//! within 127.0.0.0/8, which is all this machine's.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::LIMIT;

mod crowds;
mod deserters;
mod frames;
mod proxies;
mod tls;
mod unread;

/// A connection from an address.
async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// An answer's status, headers and what of the body came with them.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    rest: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Reads the head of an answer. `None` when the connection ends without one.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let got = timeout(LIMIT, stream.read_buf(&mut read)).await.expect("no answer and no end");
        if !got.is_ok_and(|count| count > 0) {
            return None;
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answer { status, head, rest: read.split_off(end + 4) })
}

/// Sends a handshake with headers of one's own, each with its line end.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), user: &str, headers: &str) -> Option<Answer> {
    let request = format!(
        "GET /ws/notifications/{user}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    answer(stream).await
}

/// Opens a socket from an address: the stream, and what was answered.
async fn handshake(from: [u8; 4], to: SocketAddr, user: &str, headers: &str) -> (TcpStream, Answer) {
    let mut stream = connect(from, to).await;
    let answer = ask(&mut stream, user, headers).await.expect("an answer");
    (stream, answer)
}

/// Reads until the connection ends, in whatever way.
async fn ended(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut read)).await.expect("the connection never ended");
    read
}
