//! The clients: thousands of sockets in one thread, cheap enough not to be what is measured.
//!
//! All sockets read into one buffer, count frames, and answer pings with a pong as every browser does. Of a frame only the
//! header is looked at, except while frames are timed.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What is spoken on the socket.
#[derive(Clone, Copy, PartialEq)]
pub enum Dialect {
    /// The user is in the path. The first frame says hello, each other one is a notification.
    Plain,
    /// Engine.IO and socket.io: text that begins with a digit or two for what it is, with pings of its own.
    SocketIo,
}

/// Open sockets.
pub struct Crowd {
    thread: Handle,
    tally: Arc<Tally>,
    dialect: Dialect,
    port: u16,
    /// How many handshakes are under way at once.
    at_once: usize,
    open: Vec<AbortHandle>,
}

/// What the sockets saw.
#[derive(Default)]
struct Tally {
    hellos: AtomicUsize,
    frames: AtomicU64,
    /// When the newest hello or frame came; see [`now`].
    newest: AtomicU64,
    timing: AtomicBool,
    /// The number in a notification, and when it came.
    times: Mutex<Vec<(u64, u64)>>,
    /// Sockets that ended by themselves, and why the last one did.
    ended: Mutex<(usize, String)>,
}

/// Nanoseconds of a clock that other processes read as well.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

/// The thread that all sockets live in.
pub fn thread() -> Handle {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

impl Crowd {
    /// Nobody yet.
    pub fn new(thread: &Handle, dialect: Dialect, port: u16, at_once: usize) -> Self {
        Self { thread: thread.clone(), tally: Arc::default(), dialect, port, at_once, open: Vec::new() }
    }

    /// Opens sockets, all at once, and says how long it took until each had its hello.
    pub async fn open(&mut self, users: impl Iterator<Item = String>) -> Result<Duration> {
        let gate = Arc::new(Semaphore::new(self.at_once));
        let begun = now();
        for user in users {
            let (tally, gate, dialect, port) = (self.tally.clone(), gate.clone(), self.dialect, self.port);
            let life = self.thread.spawn(async move {
                let end =
                    live(&tally, &gate, dialect, port, &user).await.expect_err("a socket lives until it is ended");
                let mut ended = tally.ended.lock().unwrap();
                *ended = (ended.0 + 1, format!("{end:#}"));
            });
            self.open.push(life.abort_handle());
        }
        self.wait("hellos", || self.tally.hellos.load(Relaxed) >= self.open.len()).await?;
        Ok(Duration::from_nanos(self.tally.newest.load(Relaxed).saturating_sub(begun)))
    }

    /// Closes all but the first.
    pub fn keep(&mut self, count: usize) {
        for socket in self.open.drain(count..) {
            socket.abort();
        }
        self.tally.hellos.store(count, Relaxed);
    }

    /// How many frames came so far, hellos aside.
    pub fn frames(&self) -> u64 {
        self.tally.frames.load(Relaxed)
    }

    /// Waits until so many frames have come, and says when the last did.
    pub async fn frames_reach(&self, wanted: u64) -> Result<u64> {
        self.wait("frames", || self.frames() >= wanted)
            .await
            .with_context(|| format!("{} of {wanted}", self.frames()))?;
        // Nothing comes twice and nothing comes late.
        sleep(Duration::from_millis(50)).await;
        ensure!(self.frames() == wanted, "{} frames and not {wanted}", self.frames());
        Ok(self.tally.newest.load(Relaxed))
    }

    /// Begins to time notifications by their number, or ends it and gives what there is.
    pub fn time(&self, timing: bool) -> Vec<(u64, u64)> {
        self.tally.timing.store(timing, Relaxed);
        std::mem::take(&mut self.tally.times.lock().unwrap())
    }

    async fn wait(&self, what: &str, reached: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !reached() {
            {
                let ended = self.tally.ended.lock().unwrap();
                ensure!(ended.0 == 0, "{} sockets ended, the last: {}", ended.0, ended.1);
            }
            ensure!(begun.elapsed() < LIMIT, "still waiting for {what} after {LIMIT:?}");
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// Opens a socket and reads it until it ends.
async fn live(tally: &Tally, gate: &Semaphore, dialect: Dialect, port: u16, user: &str) -> Result<()> {
    let turn = gate.acquire().await?;
    let mut socket =
        Socket { stream: connect(dialect, port, user).await?, rest: Vec::new(), dialect, user, greeted: false };
    timeout(LIMIT, async {
        while !socket.greeted {
            socket.read(tally).await?;
        }
        anyhow::Ok(())
    })
    .await
    .context("no hello")??;
    drop(turn);
    loop {
        socket.read(tally).await?;
    }
}

/// To the end of the answer 101, and not a byte further.
async fn connect(dialect: Dialect, port: u16, user: &str) -> Result<TcpStream> {
    let path = match dialect {
        Dialect::Plain => format!("/ws/notifications/{user}/"),
        Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Peeked at, so that frames which came with the answer stay.
        let mut bytes = [0; 1024];
        let count = stream.peek(&mut bytes).await?;
        ensure!(count > 0, "closed in the handshake");
        let end = bytes[..count].windows(4).position(|window| window == b"\r\n\r\n").map_or(count, |at| at + 4);
        answer.extend_from_slice(&bytes[..end]);
        stream.read_exact(&mut bytes[..end]).await?;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

struct Socket<'a> {
    stream: TcpStream,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    dialect: Dialect,
    user: &'a str,
    greeted: bool,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 * 1024]);
}

impl Socket<'_> {
    /// Waits for bytes and takes all frames in them.
    async fn read(&mut self, tally: &Tally) -> Result<()> {
        self.stream.readable().await?;
        BUFFER.with_borrow_mut(|buffer| {
            let kept = self.rest.len();
            buffer[..kept].copy_from_slice(&self.rest);
            let count = match self.stream.try_read(&mut buffer[kept..]) {
                Ok(0) => anyhow::bail!("closed by the server"),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut bytes = &buffer[..kept + count];
            let mut frames = 0;
            while let Some((opcode, payload, rest)) = split_frame(bytes) {
                frames += u64::from(self.take(opcode, payload, tally)?);
                bytes = rest;
            }
            self.rest.clear();
            self.rest.extend_from_slice(bytes);
            if self.rest.is_empty() {
                self.rest.shrink_to_fit();
            }
            if frames > 0 {
                tally.newest.store(now(), Relaxed);
                tally.frames.fetch_add(frames, Relaxed);
            }
            Ok(())
        })
    }

    /// Deals with a frame and says whether it is a notification.
    fn take(&mut self, opcode: u8, payload: &[u8], tally: &Tally) -> Result<bool> {
        let notification = match (opcode, self.dialect) {
            (1, Dialect::Plain) => self.greeted,
            (1, Dialect::SocketIo) => match payload {
                [b'0', ..] => return self.send(1, format!(r#"40{{"user":"{}"}}"#, self.user).as_bytes()),
                [b'2', ..] => return self.send(1, b"3"),
                [b'4', b'2', ..] => true,
                [b'4', b'0', ..] => false,
                other => anyhow::bail!("{}", String::from_utf8_lossy(other)),
            },
            (9, _) => return self.send(10, payload),
            (10, _) => return Ok(false),
            _ => anyhow::bail!("a frame with opcode {opcode}: {}", String::from_utf8_lossy(payload)),
        };
        if !notification {
            self.greeted = true;
            tally.newest.store(now(), Relaxed);
            tally.hellos.fetch_add(1, Relaxed);
        } else if tally.timing.load(Relaxed) {
            let number = number(payload).context("a notification without a number")?;
            tally.times.lock().unwrap().push((number, now()));
        }
        Ok(notification)
    }

    /// A masked frame of at most 125 bytes, for which there is always room. It is no notification.
    fn send(&self, opcode: u8, payload: &[u8]) -> Result<bool> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len())?];
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        ensure!(self.stream.try_write(&frame)? == frame.len(), "no room for a pong");
        Ok(false)
    }
}

/// The first frame, if all of it is there: opcode, payload, what follows.
fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], bytes) = bytes.split_first_chunk()?;
    let (length, bytes) = match second {
        126 => bytes.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => bytes.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        short => (u64::from(short), bytes),
    };
    let (payload, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    Some((first & 0x0f, payload, rest))
}

/// What follows `"n":`, the one key of `data`.
fn number(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, after) = text.split_once(r#""n":"#)?;
    let after = after.trim_start();
    after[..after.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}
