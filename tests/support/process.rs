//! The service as a process of its own, to be killed, stopped and restarted.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::{LIMIT, eventually};

/// Killed when dropped.
pub struct Process {
    pub address: SocketAddr,
    pub child: Child,
}

impl Process {
    /// Starts one at an address and waits until it listens. Its sockets are told as much as it can be asked to tell.
    pub async fn start(url: &str, address: SocketAddr) -> Self {
        Self::start_with(url, address, &["--replay-limit", "200"]).await
    }

    /// Starts one with settings of its own and waits until it listens.
    pub async fn start_with(url: &str, address: SocketAddr, settings: &[&str]) -> Self {
        let mut binary = binary();
        binary
            .args(["serve", "--auth", "none", "--database-url", url, "--listen", &address.to_string()])
            .args(settings);
        let (child, address, mut log) = serve(binary).await;
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let process = Self { address, child };
        eventually("the service listens", || is_ready(address)).await;
        process
    }

    /// Sends a signal, as `-STOP`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// How much memory it has, in KiB.
    pub fn memory(&self) -> u64 {
        let process = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal that ends it, and waits for the end.
    pub async fn end(mut self, signal: &str) {
        self.signal(signal);
        timeout(LIMIT, self.child.wait()).await.expect("it never ended").unwrap();
    }
}

/// The binary, without what this process has in its environment. All clients of a test come from one address, and often as one user:
/// a test of limits sets them by flags, which go before the environment.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parkmate-notifier"));
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["DATABASE_URL", "LISTEN", "AUTH", "LOG"] {
        command.env_remove(format!("NOTIFIER_{name}"));
    }
    for name in ["SOCKETS_PER_USER", "SOCKETS_PER_ADDRESS", "NEW_SOCKETS_PER_ADDRESS"] {
        command.env(format!("NOTIFIER_MAX_{name}"), "100000");
    }
    command
}

/// A running `serve`, its address, and its log.
pub async fn serve(mut command: Command) -> (Child, SocketAddr, Lines<BufReader<ChildStderr>>) {
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = timeout(LIMIT, async {
        loop {
            let line = log.next_line().await.unwrap().expect("it ended");
            if let Some((_, address)) = line.split_once("serving address=") {
                break address.trim().parse().unwrap();
            }
        }
    })
    .await
    .expect("it never served");
    (child, address, log)
}

/// Whether a service at an address listens and reads.
pub async fn is_ready(address: SocketAddr) -> bool {
    reqwest::get(format!("http://{address}/readyz")).await.is_ok_and(|answer| answer.status() == 200)
}

/// Sends a signal, as `-TERM`.
pub fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill").args([name, &child.id().unwrap().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Lets this process and those it starts have as many open files as it may.
pub fn allow_many_files() {
    let process = std::process::id().to_string();
    let hard = std::process::Command::new("prlimit")
        .args(["--pid", &process, "--nofile", "--noheadings", "--output", "HARD"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let _ =
        std::process::Command::new("prlimit").args(["--pid", &process, &format!("--nofile={hard}:{hard}")]).status();
}
