//! Clients that ask and never read.

use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::support::process::Process;
use crate::support::service::metric;
use crate::support::{Database, eventually};

/// A page of the inbox has up to a MiB. Whoever asks for one and never reads it costs that, and no longer than half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_costs_a_page_and_is_given_up() {
    const CLIENTS: u64 = 30;
    let database = Database::new().await;
    database.run("select notifier.send('7', 'info', repeat('x', 8000)) from generate_series(1, 150)").await;
    let service = Process::start(&database.url(), "127.0.0.1:0".parse().unwrap()).await;
    // As many again as have been asked for at once: what answering takes is not held by anybody.
    let page = || async {
        let request = reqwest::Client::new().get(format!("http://{}/api/notifications?limit=200", service.address));
        request.bearer_auth("7").send().await.unwrap().bytes().await.unwrap().len()
    };
    assert!(page().await > 1_000_000);
    let files = metric(service.address, "process_open_fds").await;
    let before = service.memory();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 10, 1), 0).into()).unwrap();
        let mut stream = socket.connect(service.address).await.unwrap();
        let request = "GET /api/notifications?limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 7\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        clients.push(stream);
    }
    eventually("all are being answered", || async {
        let mut waiting = 0;
        for client in &clients {
            waiting += u64::from(client.readable().await.is_ok());
        }
        waiting == CLIENTS
    })
    .await;
    // The page, its rows as they were read, and what allocating them leaves over.
    let each = service.memory().saturating_sub(before) / CLIENTS;
    assert!(each <= 4 * 1024, "{each} KiB for each of them");
    // (The connection of the page before may have been one of the files.)
    let held = metric(service.address, "process_open_fds").await;
    assert!(held >= files + CLIENTS - 1, "they are held for now: {held} files, before them {files}");
    eventually("they are given up", || async {
        metric(service.address, "process_open_fds").await <= files + CLIENTS / 2
    })
    .await;
    drop(clients);
}
