//! A client that decides for itself which pings it answers; the usual one answers all. Just enough of RFC 6455 for that.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LIMIT;

/// Answers one ping in so many.
pub struct RawSocket {
    stream: BufReader<TcpStream>,
    one_in: u64,
    pub pings: u64,
}

impl RawSocket {
    /// Connects, and takes the hello.
    pub async fn open(address: SocketAddr, user: i64, one_in: u64) -> Self {
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let request = format!(
            "GET /ws/notifications/{user}/ HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let mut socket = Self { stream, one_in, pings: 0 };
        assert_eq!(socket.frame().await["connected"], true);
        socket
    }

    /// The next frame of text. Pings on the way are answered or not.
    pub async fn frame(&mut self) -> Value {
        timeout(LIMIT, self.next()).await.expect("no frame")
    }

    async fn next(&mut self) -> Value {
        loop {
            let kind = self.stream.read_u8().await.expect("the socket ended") & 0x0f;
            let length = match self.stream.read_u8().await.unwrap() {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                length => u64::from(length),
            };
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.unwrap();
            match kind {
                0x1 => return serde_json::from_slice(&body).expect("a frame is JSON"),
                0x9 => {
                    self.pings += 1;
                    if self.pings.is_multiple_of(self.one_in) {
                        // Masked, as a client's frames are, with a mask that changes nothing.
                        let mut pong = vec![0x8a, 0x80 | body.len() as u8, 0, 0, 0, 0];
                        pong.extend(body);
                        self.stream.write_all(&pong).await.unwrap();
                    }
                }
                0x8 => panic!("closed with {body:?}"),
                _ => {}
            }
        }
    }
}
