//! Serves a set of keys over HTTP, counts who asks, and fails on demand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct KeyServer {
    pub address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn on(listener: TcpListener) -> Self {
        let (answer, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let address = listener.local_addr().unwrap();
        let (to_give, count) = (answer.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (to_give, count) = (to_give.clone(), count.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                            return;
                        }
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = to_give.lock().unwrap().clone();
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        let server = Self { address, answer, asked, serving };
        server.serve(&[]);
        server
    }

    /// Answers with a set of these keys from now on.
    pub fn serve(&self, keys: &[Value]) {
        self.answer("200 OK", &json!({"keys": keys}).to_string());
    }

    /// Answers with this from now on.
    pub fn answer(&self, status: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
