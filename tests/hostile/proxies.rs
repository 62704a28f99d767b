//! Who a client is when proxies stand before the service. An address may have one socket here: that shows whose one is.

use std::time::{Duration, Instant};

use parkmate_notifier::http::address::ClientAddress;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{answer, ask, connect, ended, handshake};
use crate::support::{Database, Service, eventually};

const PROXY: [u8; 4] = [127, 0, 3, 1];
const STRANGER: [u8; 4] = [127, 0, 4, 1];

async fn behind(database: &Database, told_by: ClientAddress) -> Service {
    let service = Service::start_with(&database.url(), |config| {
        config.limits.max_sockets_per_address = 1;
        config.limits.head_time = Duration::from_millis(1_500);
        config.door.client_address = told_by;
        config.door.trusted_proxy = vec!["127.0.3.0/24".parse().unwrap(), "2001:db8:ffff::/48".parse().unwrap()];
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    service
}

/// The first of each line gets a socket, and so nobody else of that address.
async fn are_one(service: &Service, from: [u8; 4], ways: &[&str]) {
    let mut open = Vec::new();
    for (n, headers) in ways.iter().enumerate() {
        let (stream, answer) = handshake(from, service.address, &format!("u{n}"), headers).await;
        assert_eq!(answer.status, if n == 0 { 101 } else { 429 }, "{headers:?} beside {:?}", ways[0]);
        open.push(stream);
    }
    drop(open);
    eventually("they are gone", || async { service.metric("notifier_sockets").await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_a_header_names_the_client() {
    let database = Database::new().await;
    let service = behind(&database, ClientAddress::XForwardedFor).await;
    are_one(
        &service,
        PROXY,
        &[
            "X-Forwarded-For: 198.51.100.7\r\n",
            "X-Forwarded-For: 198.51.100.7:4711\r\n",
            "x-forwarded-for: 1.1.1.1, 198.51.100.7\r\n",
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 198.51.100.7, 127.0.3.9\r\n",
            "X-Forwarded-For: 198.51.100.7\r\nForwarded: for=1.1.1.1\r\n",
        ],
    )
    .await;
    are_one(
        &service,
        PROXY,
        &["X-Forwarded-For: 2001:db8::7\r\n", "X-Forwarded-For: [2001:db8::8]:4711, 2001:db8:ffff::1\r\n"],
    )
    .await;
    // What cannot be read is the proxy's own, and so one address.
    are_one(&service, PROXY, &["", "X-Forwarded-For: unknown\r\n", "X-Forwarded-For: 1.1.1.1, \r\n"]).await;
    service.stop().await;

    let service = behind(&database, ClientAddress::Forwarded).await;
    are_one(
        &service,
        PROXY,
        &[
            "Forwarded: for=198.51.100.7\r\n",
            "Forwarded: For=\"198.51.100.7:4711\";proto=https\r\n",
            "Forwarded: for=1.1.1.1, for=198.51.100.7\r\n",
            "Forwarded: for=\"1.1.1.1\r\nForwarded: by=_me;for=198.51.100.7, for=127.0.3.9\r\n",
            "Forwarded: for=198.51.100.7\r\nX-Forwarded-For: 1.1.1.1\r\n",
        ],
    )
    .await;
    are_one(
        &service,
        PROXY,
        &[
            "Forwarded: for=\"[2001:db8::7]\"\r\n",
            "Forwarded: for=\"[2001:db8::9]:_port\", for=\"[2001:db8:ffff::1]\"\r\n",
        ],
    )
    .await;
    are_one(&service, PROXY, &["Forwarded: for=unknown\r\n", "Forwarded: for=_hidden\r\n", ""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_forges_changes_nothing() {
    let database = Database::new().await;
    for told_by in
        [ClientAddress::Peer, ClientAddress::XForwardedFor, ClientAddress::Forwarded, ClientAddress::ProxyProtocol]
    {
        let service = behind(&database, told_by).await;
        are_one(
            &service,
            STRANGER,
            &["", "X-Forwarded-For: 1.1.1.1\r\n", "Forwarded: for=1.1.1.2\r\n", "X-Forwarded-For: 127.0.3.1\r\n"],
        )
        .await;
        for header in [&b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n"[..], &v2(0x21, 0x11, [198, 51, 100, 7])] {
            let mut stream = connect(STRANGER, service.address).await;
            stream.write_all(header).await.unwrap();
            let answer = ask(&mut stream, "7", "").await;
            assert!(answer.is_none_or(|answer| answer.status == 400), "{told_by:?}");
        }
        assert_eq!(service.metric("notifier_sockets").await, 0);
        service.stop().await;
    }
}

/// A header of version 2 with an IPv4 client.
fn v2(command: u8, family: u8, client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family, 0, 12 + 7]);
    header.extend(client);
    header.extend([10, 0, 0, 1, 0x12, 0x67, 1, 187]);
    // A field that nobody needs.
    header.extend([0x04, 0, 4, 0, 0, 0, 0]);
    header
}

async fn introduced(service: &Service, header: &[u8]) -> TcpStream {
    let mut stream = connect(PROXY, service.address).await;
    stream.write_all(header).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_names_the_client_in_both_versions() {
    let database = Database::new().await;
    let service = behind(&database, ClientAddress::ProxyProtocol).await;
    let mut open = Vec::new();
    for (n, header) in [
        b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n".to_vec(),
        b"PROXY TCP4 198.51.100.7 10.0.0.1 4712 443\r\n".to_vec(),
        v2(0x21, 0x11, [198, 51, 100, 7]),
    ]
    .iter()
    .enumerate()
    {
        let mut stream = introduced(&service, header).await;
        assert_eq!(ask(&mut stream, "7", "").await.unwrap().status, if n == 0 { 101 } else { 429 });
        open.push(stream);
    }
    for header in [&b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"[..], &v2(0x21, 0x11, [198, 51, 100, 8])] {
        let mut stream = introduced(&service, header).await;
        assert_eq!(ask(&mut stream, "7", "").await.unwrap().status, 101);
        open.push(stream);
    }
    // It may come in pieces, with the client's first bytes in the last of them.
    let mut stream = introduced(&service, b"PROXY TCP4 198.51.10").await;
    stream.set_nodelay(true).unwrap();
    tokio::task::yield_now().await;
    stream.write_all(b"0.9 10.0.0.1 4711 443\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    // A proxy's own health checks.
    for header in [&v2(0x20, 0x00, [0; 4])[..], b"PROXY UNKNOWN\r\n"] {
        let mut stream = introduced(&service, header).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_the_protocol_is_closed() {
    let database = Database::new().await;
    let service = behind(&database, ClientAddress::ProxyProtocol).await;
    let long = format!("PROXY TCP4 {}", "1".repeat(200));
    let too_long = [b"\r\n\r\n\0\r\nQUIT\n", &[0x21, 0x11, 0xff, 0xff][..], &[0; 512]].concat();
    let headers: [&[u8]; 7] = [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROXY TCP4 nonsense\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        long.as_bytes(),
        &v2(0x21, 0x12, [198, 51, 100, 7]),
        &too_long,
        // These two are closed for what they do not say.
        b"PROXY TCP4 198.51.100.7 10.0",
        b"",
    ];
    for (n, header) in headers.iter().enumerate() {
        let begun = Instant::now();
        let mut stream = introduced(&service, header).await;
        assert_eq!(ended(&mut stream).await, b"", "{header:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{header:?}");
        assert_eq!(service.metric("notifier_refused_total{reason=\"proxy\"}").await, n as u64 + 1, "{header:?}");
    }
}
