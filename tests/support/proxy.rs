//! A TCP proxy that misbehaves when told to: drops what passes without a word, cuts, or leads elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Pass,
    /// Takes everything and passes nothing on. Connections of this time never pass anything again, as those of a link that has
    /// lost bytes; new ones are accepted and hear nothing.
    Swallow,
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    target: SocketAddr,
    /// Raised to cut all connections.
    cut: u64,
}

/// Runs as long as the test's runtime.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State { mode: Mode::Pass, target, cut: 0 });
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(client, seen.clone()));
            }
        });
        Self { address, state: Arc::new(state) }
    }

    /// From now on nothing passes, and nobody is told.
    pub fn swallow(&self) {
        self.state.send_modify(|state| state.mode = Mode::Swallow);
    }

    /// New connections pass again; those that lost bytes stay dead.
    pub fn pass(&self) {
        self.state.send_modify(|state| state.mode = Mode::Pass);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut += 1);
    }

    /// Leads new connections to another place, and cuts those there are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| (state.target, state.cut) = (target, state.cut + 1));
    }
}

async fn carry(client: TcpStream, mut state: watch::Receiver<State>) {
    let State { mode, target, cut } = *state.borrow_and_update();
    let dead = Arc::new(AtomicBool::new(mode == Mode::Swallow));
    let mut cuts = state.clone();
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let carried = async {
        if mode == Mode::Swallow {
            pump(from_client, None, &state, &dead).await;
            return;
        }
        let Ok(server) = TcpStream::connect(target).await else { return };
        let _ = server.set_nodelay(true);
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            pump(from_client, Some(to_server), &state, &dead),
            pump(from_server, Some(to_client), &state, &dead)
        );
    };
    tokio::select! {
        () = carried => {}
        _ = cuts.wait_for(|state| state.cut != cut) => {}
    }
}

/// Carries one direction to its end. A dead one takes everything, passes nothing on, and tells nobody of the end.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: Option<OwnedWriteHalf>,
    state: &watch::Receiver<State>,
    dead: &AtomicBool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if state.borrow().mode == Mode::Swallow {
            dead.store(true, Ordering::Relaxed);
        }
        match (dead.load(Ordering::Relaxed), count, &mut to) {
            (true, 0, _) | (_, 0, None) => std::future::pending().await,
            (true, _, _) | (_, _, None) => {}
            (false, 0, Some(to)) => {
                let _ = to.shutdown().await;
                return;
            }
            (false, count, Some(to)) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
