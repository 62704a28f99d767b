//! A user's socket: the plain client of a frontend, or one that keeps cursors.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;

use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Response;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Database, LIMIT};

/// What a client that keeps cursors offers.
pub const V1: (&str, &str) = ("sec-websocket-protocol", "notifier.v1");

pub struct Socket {
    pub user: String,
    pub hello: Value,
    /// The answer to the upgrade.
    pub answer: Response<Option<Vec<u8>>>,
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that arrived while something else was waited for.
    arrived: VecDeque<Value>,
}

/// What ended a socket, as the client saw it.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    Closed(u16),
    Reset,
}

impl Socket {
    /// Connects and takes the hello.
    pub async fn open(address: SocketAddr, user: &str) -> Self {
        let mut socket = Self::connect(address, user).await;
        socket.hello = socket.frame().await;
        assert_eq!(socket.hello["connected"], true, "{}", socket.hello);
        socket
    }

    /// Connects and reads nothing yet.
    pub async fn connect(address: SocketAddr, user: &str) -> Self {
        Self::connect_with(address, user, "", &[]).await
    }

    /// Connects with a query and headers, and takes the hello.
    pub async fn open_with(address: SocketAddr, user: &str, query: &str, headers: &[(&'static str, &str)]) -> Self {
        let mut socket = Self::connect_with(address, user, query, headers).await;
        socket.hello = socket.frame().await;
        assert_eq!(socket.hello["connected"], true, "{}", socket.hello);
        socket
    }

    /// A device that keeps the cookie it was given, if it was given one.
    pub async fn open_device(address: SocketAddr, user: &str, cookie: Option<&str>) -> Self {
        let headers: Vec<_> = cookie.map(|cookie| ("cookie", cookie)).into_iter().collect();
        Self::open_with(address, user, "", &headers).await
    }

    /// A client that keeps cursors.
    pub async fn open_at(address: SocketAddr, user: &str, cursor: Option<&str>) -> Self {
        let query = cursor.map(|cursor| format!("?after={cursor}")).unwrap_or_default();
        let socket = Self::open_with(address, user, &query, &[V1]).await;
        assert_eq!(socket.answer.headers()["sec-websocket-protocol"], "notifier.v1");
        socket
    }

    /// Connects with a query and headers, and reads nothing yet.
    pub async fn connect_with(address: SocketAddr, user: &str, query: &str, headers: &[(&'static str, &str)]) -> Self {
        Self::try_connect(address, user, query, headers).await.expect("connecting a socket")
    }

    /// The same, or the status that refuses it.
    pub async fn try_connect(
        address: SocketAddr,
        user: &str,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let url = format!("ws://{address}/ws/notifications/{user}/{query}");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((stream, answer)) => {
                Ok(Self { user: user.to_owned(), hello: Value::Null, answer, stream, arrived: VecDeque::new() })
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("connecting a socket: {error}"),
        }
    }

    /// The cookie it was given, as it is to be sent back.
    pub fn cookie(&self) -> String {
        let cookie = self.answer.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// The next frame. Answers pings on the way, as every client does.
    pub async fn frame(&mut self) -> Value {
        match timeout(LIMIT, self.next()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(ending)) => panic!("the socket of {} ended: {ending:?}", self.user),
            Err(_) => panic!("no frame for {}", self.user),
        }
    }

    /// The first frame of a kind, whatever comes before it; beats come for ever.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let user = self.user.clone();
        let reading = async {
            loop {
                let frame = self.frame().await;
                if wanted(&frame) {
                    return frame;
                }
            }
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("what {user} waits for never came"))
    }

    /// The same by its `op`.
    pub async fn until_op(&mut self, op: &str) -> Value {
        self.until(|frame| frame["op"] == op).await
    }

    /// Waits for something else, and answers pings meanwhile as every client does.
    pub async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = std::pin::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return done,
                frame = self.read() => match frame {
                    Ok(frame) => self.arrived.push_back(frame),
                    Err(ending) => panic!("the socket of {} ended: {ending:?}", self.user),
                },
            }
        }
    }

    /// The same for several.
    pub async fn meanwhile_all<T>(
        sockets: impl IntoIterator<Item = &mut Self>,
        something: impl Future<Output = T>,
    ) -> T {
        let reading = sockets.into_iter().map(|socket| socket.meanwhile(pending::<Infallible>()));
        let mut reading = FuturesUnordered::from_iter(reading);
        tokio::select! {
            done = something => done,
            // (Of none this is nothing at once.)
            Some(never) = reading.next() => match never {},
        }
    }

    /// The next frame, or what ended the socket.
    pub async fn next(&mut self) -> Result<Value, Ending> {
        match self.arrived.pop_front() {
            Some(frame) => Ok(frame),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Value, Ending> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).expect("a frame is JSON"));
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    // To the end, so that the handshake is complete.
                    while let Some(Ok(_)) = self.stream.next().await {}
                    return Err(Ending::Closed(code));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Ending::Reset),
            }
        }
    }

    /// Reads to the end and says what it was; frames on the way are left unread.
    pub async fn ending(&mut self) -> Ending {
        timeout(LIMIT, async {
            loop {
                if let Err(ending) = self.next().await {
                    return ending;
                }
            }
        })
        .await
        .expect("the socket never ended")
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Message) {
        self.stream.send(message).await.unwrap();
    }

    /// Shows that nothing is on its way to this socket: a notification sent now is the very next one.
    pub async fn nothing_but_a_marker(&mut self, database: &Database) {
        let user = self.user.clone();
        self.nothing_but_a_marker_to(database, &user).await;
    }

    /// The same, where the path says `me`.
    pub async fn nothing_but_a_marker_to(&mut self, database: &Database, user: &str) {
        let marker = format!("marker {}", fastrand::u64(..));
        database.run(&format!("select notifier.send('{user}', 'info', '{marker}')")).await;
        // What a client that keeps cursors is told beside notifications comes when it comes.
        let frame = self.until(|frame| frame["op"].is_null()).await;
        assert_eq!(frame["message"], marker, "user {user} was told something else: {frame}");
    }
}
