//! A link between a client and the service that carries so many bytes a second to the client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::interval;

/// The address to connect to instead; for one connection.
pub async fn to(address: SocketAddr, bytes_per_second: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        // Small, so that the service feels how slow it is.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let service: TcpStream = socket.connect(address).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_service, mut to_service) = service.into_split();
        tokio::spawn(async move { copy(&mut from_client, &mut to_service).await });
        let mut tick = interval(Duration::from_millis(50));
        let mut buffer = vec![0; bytes_per_second / 20];
        loop {
            tick.tick().await;
            match from_service.read(&mut buffer).await {
                Ok(count @ 1..) if to_client.write_all(&buffer[..count]).await.is_ok() => {}
                _ => return,
            }
        }
    });
    own
}
