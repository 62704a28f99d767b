//! Sockets far cheaper than the service that serves them: just enough of RFC 6455, one buffer for all sockets of a thread, and no
//! frame kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LIMIT;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// One open socket.
pub struct Socket {
    stream: TcpStream,
    /// The beginning of a frame whose rest is still to come.
    carried: Vec<u8>,
    /// The device that the service told this one to be.
    pub device: String,
}

impl Socket {
    /// Opens one for a user, as a device that was here before or as a new one. Returns when the handshake is done.
    ///
    /// # Errors
    /// The connection breaks, or the service refuses.
    pub async fn open(address: SocketAddr, user: u64, device: Option<&str>) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let cookie = device.map(|device| format!("Cookie: notifier_device={device}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /ws/notifications/{user}/ HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::with_capacity(512);
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let carried = read.split_off(end);
        let head = String::from_utf8_lossy(&read);
        if !head.starts_with("HTTP/1.1 101") {
            return Err(io::Error::other(head.into_owned()));
        }
        let device = head.split_once("notifier_device=").map_or("", |(_, rest)| &rest[..32]).to_owned();
        Ok(Self { stream, carried, device })
    }

    /// Waits until something arrives, answers pings, and gives each frame of text to `text`.
    ///
    /// # Errors
    /// The socket ended, in whatever way.
    pub async fn read(&mut self, mut text: impl FnMut(&[u8])) -> io::Result<()> {
        let pongs = poll_fn(|cx| self.poll_read(cx, &mut text)).await?;
        if !pongs.is_empty() {
            self.stream.write_all(&pongs).await?;
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, text: &mut impl FnMut(&[u8])) -> Poll<io::Result<Vec<u8>>> {
        let mut pongs = Vec::new();
        // Frames that came with the handshake.
        if let Some(used @ 1..) = self.carried.first().map(|_| frames(&self.carried, text, &mut pongs)).transpose()? {
            self.carried.drain(..used);
            return Poll::Ready(Ok(pongs));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut room = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            let read = room.filled();
            if read.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.carried.is_empty() {
                let used = frames(read, text, &mut pongs)?;
                self.carried = read[used..].to_vec();
            } else {
                self.carried.extend_from_slice(read);
                let used = frames(&self.carried, text, &mut pongs)?;
                // An idle socket keeps no memory.
                self.carried = self.carried[used..].to_vec();
            }
            Poll::Ready(Ok(pongs))
        })
    }
}

/// Goes through whole frames and says how many bytes they were.
fn frames(bytes: &[u8], text: &mut impl FnMut(&[u8]), pongs: &mut Vec<u8>) -> io::Result<usize> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let (head, length) = match rest {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            [_, 127, length @ ..] if length.len() >= 8 => {
                (10, u64::from_be_bytes(length[..8].try_into().unwrap()) as usize)
            }
            [_, length @ ..=125, ..] => (2, usize::from(*length)),
            _ => return Ok(at),
        };
        let Some(body) = rest.get(head..head + length) else { return Ok(at) };
        match rest[0] & 0x0f {
            0x1 => text(body),
            0x8 => return Err(io::Error::other(format!("closed: {}", String::from_utf8_lossy(body)))),
            0x9 => {
                // Masked, as a client's frames are, with a mask that changes nothing.
                pongs.extend([0x8a, 0x80 | length as u8, 0, 0, 0, 0]);
                pongs.extend(body);
            }
            _ => {}
        }
        at += head + length;
    }
}

/// How many frames all sockets have got, and when it were as many as expected.
#[derive(Default)]
struct Tally {
    frames: AtomicU64,
    expected: AtomicU64,
    reached: Mutex<Option<Instant>>,
    told: Notify,
}

impl Tally {
    fn add(&self, frames: u64) {
        let before = self.frames.fetch_add(frames, Ordering::SeqCst);
        self.look(before, before + frames);
    }

    fn look(&self, before: u64, now: u64) {
        let expected = self.expected.load(Ordering::SeqCst);
        if before < expected && expected <= now {
            *self.reached.lock().unwrap() = Some(Instant::now());
            self.told.notify_one();
        }
    }
}

/// Many sockets, each of which only counts.
pub struct Crowd {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
    /// Devices, in the order of the users.
    pub devices: Vec<String>,
}

impl Crowd {
    /// Opens one for each user and waits until all have had their hello.
    pub async fn open(address: SocketAddr, users: impl Iterator<Item = u64>) -> Self {
        let devices = users.map(|user| (user, None)).collect();
        Self::start(address, devices, 200, 1).await.0
    }

    /// Opens one for each user and device, `at_once` at a time. Returns when each has had so many frames, with the time of the last.
    pub async fn start(
        address: SocketAddr,
        devices: Vec<(u64, Option<String>)>,
        at_once: usize,
        frames: u64,
    ) -> (Self, Instant) {
        let tally = Arc::new(Tally::default());
        tally.expected.store(devices.len() as u64 * frames, Ordering::SeqCst);
        let mut crowd = Self { tally, tasks: JoinSet::new(), devices: vec![String::new(); devices.len()] };
        let limit = Arc::new(Semaphore::new(at_once));
        let (opened, mut all) = tokio::sync::mpsc::unbounded_channel();
        for (at, (user, device)) in devices.into_iter().enumerate() {
            let (tally, limit, opened) = (crowd.tally.clone(), limit.clone(), opened.clone());
            crowd.tasks.spawn(async move {
                let permit = limit.acquire().await.unwrap();
                let socket = Socket::open(address, user, device.as_deref()).await;
                let mut socket = socket.unwrap_or_else(|error| panic!("user {user}: {error}"));
                drop(permit);
                let _ = opened.send((at, std::mem::take(&mut socket.device)));
                drop(opened);
                loop {
                    let mut frames = 0;
                    if socket.read(|_| frames += 1).await.is_err() {
                        return;
                    }
                    if frames > 0 {
                        tally.add(frames);
                    }
                }
            });
        }
        drop(opened);
        while let Some((at, device)) = all.recv().await {
            crowd.devices[at] = device;
        }
        let reached = crowd.reached().await;
        (crowd, reached)
    }

    /// From now on so many more frames are expected.
    pub fn expect(&self, frames: u64) {
        // Nothing is on its way when this is called, so that nobody counts meanwhile.
        self.tally.expected.fetch_add(frames, Ordering::SeqCst);
    }

    /// Waits until as many frames have come as were expected, and says when that was.
    pub async fn reached(&self) -> Instant {
        let told = timeout(2 * LIMIT, async {
            loop {
                if let Some(at) = self.tally.reached.lock().unwrap().take() {
                    return at;
                }
                self.tally.told.notified().await;
            }
        });
        told.await.unwrap_or_else(|_| panic!("frames are missing: {} of {}", self.frames(), self.expected()))
    }

    /// How many frames have come.
    pub fn frames(&self) -> u64 {
        self.tally.frames.load(Ordering::SeqCst)
    }

    /// How many were expected.
    pub fn expected(&self) -> u64 {
        self.tally.expected.load(Ordering::SeqCst)
    }

    /// Whether all sockets are still open.
    pub fn is_whole(&mut self) -> bool {
        self.tasks.try_join_next().is_none()
    }

    /// Closes all.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}
