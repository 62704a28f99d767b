//! The accept loop: from a TCP connection to HTTP, with a limit on everything that a client may take its time for.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use warp::reply::Response;

use super::address::{
    Introduced, PROXY_V1_MAX, PROXY_V1_SIGNATURE, PROXY_V2_HEAD, PROXY_V2_MAX, PROXY_V2_SIGNATURE, Visitor, introduced,
};
use super::limits::Visit;
use super::{Context, demo, routes};
use crate::metrics::Reason;
use crate::seldom::Seldom;
use crate::session::UNREAD_LIMIT;

/// How much room an answer may take, in bytes: hyper gives it to each connection when that begins, whatever it is asked then.
const MOST_ROOM: usize = 1024;

/// Accepts connections until the context's stop comes.
pub async fn serve(listener: TcpListener, context: Arc<Context>, demo: Option<Arc<demo::Demo>>) {
    let service = warp::service(routes(context.clone(), demo));
    // Accepted connections inherit it: an answer that nobody reads holds nothing for longer.
    if let Err(error) = SockRef::from(&listener).set_tcp_user_timeout(Some(UNREAD_LIMIT)) {
        warn!(%error, "the system has no TCP_USER_TIMEOUT: answers that nobody reads are held until the client is gone");
    }
    let mut hangups = context.tls.is_some().then(|| signal(SignalKind::hangup())).and_then(Result::ok);
    let failures = Seldom::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = hangup(&mut hangups) => {
                if let Some(tls) = context.tls.clone() {
                    context.tasks.spawn(tls.reload());
                }
                continue;
            }
            () = context.stop.cancelled() => return context.session.registry.stop(),
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = peer.ip().to_canonical();
                // A proxy brings everybody's connections.
                let counted = (!context.proxies.trusts(peer)).then_some(peer);
                match context.limits.visit(counted) {
                    Ok(visit) => {
                        let service = TowerToHyperService::new(service.clone());
                        context.tasks.spawn(connection(stream, peer, visit, service, context.clone()));
                    }
                    // Without a word: this is what costs the least.
                    Err(full) => context.session.metrics.refused(full.reason()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of file descriptors, most likely: those that end give some back.
            Err(error) => {
                if let Some(times) = failures.again() {
                    warn!(%error, times, "accepting a connection failed");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The next SIGHUP; never, where nobody is to be told.
async fn hangup(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => {
            signals.recv().await;
        }
        None => pending().await,
    }
}

/// Finds out whose connection it is and secures it, if it is to be; then serves it. `visit` is its place until it ends or becomes a socket.
async fn connection<S>(mut stream: TcpStream, peer: IpAddr, mut visit: Visit, service: S, context: Arc<Context>)
where
    S: hyper::service::Service<hyper::Request<hyper::body::Incoming>, Error = Infallible> + Send,
    S::Future: Send + 'static,
    S::Response: Into<Response>,
{
    let metrics = &context.session.metrics;
    let _ = stream.set_nodelay(true);
    let mut from = peer;
    if context.proxies.introduces(peer) {
        // An end of the service waits for nobody here.
        let introduced = tokio::select! {
            introduced = timeout(context.head_time, introduction(&mut stream)) => introduced,
            () = context.stop.cancelled() => return,
        };
        match introduced {
            Ok(Ok(Introduced::Client(client))) => {
                from = client.ip().to_canonical();
                if let Err(full) = visit.claim_address(from) {
                    return metrics.refused(full.reason());
                }
            }
            Ok(Ok(Introduced::Nobody)) => {}
            Ok(Err(error)) => {
                debug!(%peer, %error, "a trusted proxy's connection without the PROXY protocol");
                return metrics.refused(Reason::Proxy);
            }
            Err(_) => {
                debug!(%peer, "a trusted proxy said nothing");
                return metrics.refused(Reason::Proxy);
            }
        }
    }
    let Some(tls) = &context.tls else {
        // Of thousands that come at once each would have its buffers before one is answered. Looked at, since a stream that was
        // just accepted says of itself that it is readable. The pause counts, but for what a head needs at least.
        let begun = Instant::now();
        let spoken = tokio::select! {
            spoken = timeout(context.head_time, async { stream.peek(&mut [0]).await }) => spoken,
            () = context.stop.cancelled() => return,
        };
        return match spoken {
            Ok(Ok(1..)) => {
                let left = context.head_time.saturating_sub(begun.elapsed()).max(context.head_time / 5);
                http(TokioIo::new(stream), from, false, service, &context, left).await
            }
            Ok(_) | Err(_) => debug!(%from, "a connection said nothing"),
        };
    };
    let secured = tokio::select! {
        secured = timeout(context.handshake_time, tls.acceptor().accept(stream)) => secured,
        () = context.stop.cancelled() => return,
    };
    match secured {
        // In a box: a connection without TLS has no need for its room.
        Ok(Ok(stream)) => Box::pin(http(TokioIo::new(stream), from, true, service, &context, context.head_time)).await,
        Ok(Err(error)) => {
            debug!(%from, %error, "TLS handshake failed");
            metrics.refused(Reason::Tls);
        }
        Err(_) => {
            debug!(%from, "TLS handshake took too long");
            metrics.refused(Reason::Tls);
        }
    }
    drop(visit);
}

async fn http<I, S>(io: I, from: IpAddr, secure: bool, service: S, context: &Arc<Context>, head_time: Duration)
where
    I: Read + Write + Unpin + Send + 'static,
    S: hyper::service::Service<hyper::Request<hyper::body::Incoming>, Error = Infallible> + Send,
    S::Future: Send + 'static,
    S::Response: Into<Response>,
{
    const { assert!(size_of::<S::Future>() <= MOST_ROOM, "put what is large in a box: see MOST_ROOM") };
    let service = hyper::service::service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let address = context.proxies.client(from, request.headers());
        request.extensions_mut().insert(Visitor { address, secure });
        let answer = service.call(request);
        async move { answer.await.map(Into::into) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(context.max_head_bytes)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = context.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// Reads what a trusted proxy says first, and not a byte more: what follows is the client's.
async fn introduction(stream: &mut TcpStream) -> io::Result<Introduced> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut header = vec![0; PROXY_V2_SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == PROXY_V2_SIGNATURE {
        header.resize(PROXY_V2_HEAD, 0);
        stream.read_exact(&mut header[PROXY_V2_SIGNATURE.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([header[PROXY_V2_HEAD - 2], header[PROXY_V2_HEAD - 1]]));
        if length > PROXY_V2_MAX {
            return Err(invalid("its header is too long"));
        }
        header.resize(PROXY_V2_HEAD + length, 0);
        stream.read_exact(&mut header[PROXY_V2_HEAD..]).await?;
    } else if header.starts_with(PROXY_V1_SIGNATURE) {
        // Byte by byte, since only its end says how long it is.
        while !header.ends_with(b"\r\n") {
            if header.len() >= PROXY_V1_MAX {
                return Err(invalid("its header is too long"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(invalid("it begins with something else"));
    }
    introduced(&header).ok_or_else(|| invalid("its header cannot be read"))
}
