//! `serve`: the service.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::config::ServeConfig;
use crate::server;

/// The kernel's send buffer of a socket, in bytes. A socket that stops reading pins this much and not megabytes.
const SEND_BUFFER: u32 = 32 * 1024;
/// How many connections may wait to be accepted: all that come back after a restart.
const BACKLOG: u32 = 4096;

pub(super) async fn run(config: ServeConfig, stop: CancellationToken) -> Result<()> {
    config.check()?;
    let listener = bind(config.listen)?;
    server::run(config, listener, None, stop).await
}

pub(super) fn bind(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("listening on {address}"))
}
