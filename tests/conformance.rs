//! The Autobahn test suite (247 cases of RFC 6455) against the code that every socket runs on, as an echo.
//!
//! Its Python driver is installed by `make test-conformance`, which tells where it is; a plain `cargo test` without it says so.

use std::collections::BTreeMap;
use std::process::Stdio;

use parkmate_notifier::session::{Heard, Wire};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_cases_pass_and_every_close_is_clean() {
    let Some(driver) = std::env::var_os("AUTOBAHN_DRIVER") else {
        println!("not run: AUTOBAHN_DRIVER is not set; `make test-conformance` installs the driver and runs this");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(stream));
        }
    });
    let reports = tempfile::tempdir().unwrap();
    let mut driver = Command::new(driver);
    // 9: megabytes, which no client of ours sends; 12 and 13: compression, which is not offered.
    driver.args(["-m", "fuzzingclient", "-p", "2", "-x", "9.*", "-x", "12.*", "-x", "13.*", "-o"]).arg(reports.path());
    let ran = driver.arg(address.to_string()).stdout(Stdio::null()).kill_on_drop(true).status();
    timeout(5 * LIMIT, ran).await.expect("the driver ended").expect("the driver started");

    let report = std::fs::read_to_string(reports.path().join("index.json")).expect("a report");
    let agents: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&report).unwrap();
    let cases = agents.into_values().next().expect("results");
    assert!(cases.len() >= 240, "only {} cases ran", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(_, case)| {
            let fine = |key: &str| matches!(case[key].as_str(), Some("OK" | "NON-STRICT" | "INFORMATIONAL"));
            !(fine("behavior") && fine("behaviorClose"))
        })
        .map(|(name, case)| format!("{name}: {} and {}", case["behavior"], case["behaviorClose"]))
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases: {wrong:#?}", wrong.len(), cases.len());
}

/// Answers each message with itself until the other side closes.
async fn echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    let end = loop {
        match stream.read_buf(&mut head).await {
            Ok(1..) => {}
            _ => return,
        }
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let key =
        text.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| line[18..].trim()));
    let accept = derive_accept_key(key.unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut wire = Wire::new(stream, &head[end..], 16 << 20);
    let code = loop {
        match wire.step().await {
            Heard::Text(text) => wire.feed(OpCode::Data(Data::Text), text.as_bytes()),
            Heard::Binary(bytes) => wire.feed(OpCode::Data(Data::Binary), &bytes),
            Heard::Flushed | Heard::Pong(_) | Heard::Nothing => {}
            Heard::Gone => break None,
            Heard::Refused(code) => break Some(code),
        }
    };
    wire.close(code).await;
}
