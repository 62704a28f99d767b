//! Sockets: clients that log every frame, and come back by themselves whatever ends them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::ledger::Ledger;

/// Where a socket connects to now, by its number.
pub type Door = Arc<dyn Fn(usize) -> SocketAddr + Send + Sync>;

/// How long a handshake and the hello may take before the client tries again. A browser waits longer; a test need not.
const HELLO_LIMIT: Duration = Duration::from_secs(20);

/// One client. Lives until its task is aborted; offline while `online` is false.
pub async fn run(number: usize, user: i64, door: Door, ledger: Arc<Ledger>, mut online: watch::Receiver<bool>) {
    loop {
        if online.wait_for(|online| *online).await.is_err() {
            return;
        }
        let connected = timeout(HELLO_LIMIT, connect(door(number), user)).await;
        if let Ok(Some(mut socket)) = connected {
            let connection = ledger.opened(user);
            loop {
                tokio::select! {
                    next = socket.next() => match next {
                        Some(Ok(Message::Text(text))) => {
                            ledger.frame(number, connection, &serde_json::from_str(&text).expect("a frame is JSON"));
                        }
                        // Pings are answered below; a close is read to its end.
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => break,
                    },
                    _ = online.wait_for(|online| !*online) => break,
                }
            }
            ledger.closed(connection);
        }
        sleep(Duration::from_millis(20 + fastrand::u64(..180))).await;
    }
}

/// Connects and takes the hello.
async fn connect(address: SocketAddr, user: i64) -> Option<WebSocketStream<TcpStream>> {
    let url = format!("ws://{address}/ws/notifications/{user}/");
    let stream = TcpStream::connect(address).await.ok()?;
    // The default buffer of 128 KiB would be a gigabyte for ten thousand clients.
    let config = WebSocketConfig::default().read_buffer_size(1024);
    let (mut socket, _) = client_async_with_config(url.into_client_request().ok()?, stream, Some(config)).await.ok()?;
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => {
                let hello: Value = serde_json::from_str(&text).expect("a frame is JSON");
                assert_eq!(hello["connected"], true, "the first frame is the hello: {hello}");
                return Some(socket);
            }
            Ok(_) => {}
            Err(Error::ConnectionClosed | _) => return None,
        }
    }
}
