//! The service as a process of its own, to be killed, stopped and restarted.

use std::net::SocketAddr;

use tokio::process::Child;
use tokio::time::timeout;

use super::{LIMIT, eventually};
use crate::command;

/// Killed when dropped.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts one at an address and waits until it listens. Its sockets are told as much as it can be asked to tell.
    pub async fn start(url: &str, address: SocketAddr) -> Self {
        let mut binary = command::binary();
        binary.args(["serve", "--database-url", url, "--listen", &address.to_string()]);
        binary.args(["--auth", "none", "--replay-limit", "200"]);
        let (child, address, mut log) = command::serve(binary).await;
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let process = Self { address, child };
        eventually("the service listens", || async {
            reqwest::get(format!("http://{address}/readyz")).await.is_ok_and(|response| response.status() == 200)
        })
        .await;
        process
    }

    /// Sends a signal, as `-STOP`.
    pub fn signal(&self, name: &str) {
        command::signal(&self.child, name);
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
