//! What the web side answers to requests that are not quite right.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{Database, Service, Socket, eventually};

async fn status_of(service: &Service, method: reqwest::Method, path: &str) -> (u16, String) {
    let response =
        reqwest::Client::new().request(method, format!("http://{}{path}", service.address)).send().await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_right_are_told_what_is_wrong() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let problem = "application/problem+json".to_owned();
    for (method, path, status) in [
        (reqwest::Method::GET, "/", 404),
        (reqwest::Method::GET, "/nope", 404),
        (reqwest::Method::GET, "/ws", 404),
        (reqwest::Method::GET, "/ws/notifications/7/more", 404),
        (reqwest::Method::GET, "/ws/notifications/%00/", 404),
        (reqwest::Method::GET, "/ws/notifications/%ff/", 404),
        (reqwest::Method::POST, "/demo/actions/booking.created", 404),
        (reqwest::Method::POST, "/healthz", 405),
        (reqwest::Method::GET, "/ws/notifications/7/", 426),
        (reqwest::Method::GET, "/ws/notifications/7", 426),
        (reqwest::Method::GET, "/ws/notifications/me/", 426),
    ] {
        assert_eq!(status_of(&service, method, path).await, (status, problem.clone()), "{path}");
    }
    assert_eq!(status_of(&service, reqwest::Method::GET, "/healthz").await.0, 200);
    assert_eq!(status_of(&service, reqwest::Method::GET, "/readyz").await.0, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        let head = reqwest::Client::new().head(format!("http://{}{path}", service.address)).send().await.unwrap();
        assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0), "{path}");
    }
    let upgrade = reqwest::get(format!("http://{}/ws/notifications/7/", service.address)).await.unwrap();
    assert_eq!(upgrade.headers()["upgrade"], "websocket");
}

#[tokio::test(flavor = "multi_thread")]
async fn me_is_whom_the_credential_names_and_nobody_else() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let attempt = |path: &str, bearer: Option<&str>| {
        let mut request = format!("ws://{}/ws/notifications/{path}/", service.address).into_client_request().unwrap();
        if let Some(bearer) = bearer {
            request.headers_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        connect_async(request)
    };
    let mut socket = Socket::open_with(service.address, "me", "", &[("authorization", "Bearer 7")]).await;
    assert_eq!(socket.hello["user"], "7");
    database.write("update payment set status = 'verified' where id = 201").await;
    assert_eq!(socket.frame().await["event"], "payment.verified");

    for (path, bearer, status) in [("me", None, 401), ("8", Some("7"), 403)] {
        let tokio_tungstenite::tungstenite::Error::Http(response) = attempt(path, bearer).await.unwrap_err() else {
            panic!("no answer")
        };
        assert_eq!(response.status(), status);
    }
}

/// Connections that say nothing, or not enough, are closed; those that ended well leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn silent_and_endless_requests_are_closed() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut connections = Vec::new();
    for begin in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut connection = TcpStream::connect(service.address).await.unwrap();
        connection.write_all(begin.as_bytes()).await.unwrap();
        connections.push(connection);
    }
    let mut endless = TcpStream::connect(service.address).await.unwrap();
    let _ = endless.write_all(format!("GET /healthz HTTP/1.1\r\nX-Large: {}", "x".repeat(64 * 1024)).as_bytes()).await;
    connections.push(endless);
    for (n, mut connection) in connections.into_iter().enumerate() {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(crate::support::LIMIT, connection.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "connection {n} was never closed");
    }
}

/// A connection serves requests of whoever asks, one after the other, each by its own credential, and a socket in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_for_more_requests_and_remembers_none() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.run("select notifier.send('7', 'info', 'for seven')").await;
    let mut connection = TcpStream::connect(service.address).await.unwrap();
    let mut read = Vec::new();
    let ask = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let count = "/api/notifications/unread-count";
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // The last two come at once.
    let both = [ask(count, "Authorization: Bearer 7\r\n"), ask("/nothing", "")].concat();
    for (requests, answers) in [
        (ask(count, "Authorization: Bearer 7\r\n"), &[(200, "{\"unread\":1}")][..]),
        (ask(count, "Authorization: Bearer 8\r\n"), &[(200, "{\"unread\":0}")]),
        (ask(count, ""), &[(401, "needs a credential")]),
        (ask("/ws/notifications/7/", ""), &[(426, "WebSocket")]),
        (ask("/ws/notifications/7/", upgrade), &[(426, "WebSocket")]),
        (both, &[(200, "{\"unread\":1}"), (404, "nothing at this path")]),
    ] {
        connection.write_all(requests.as_bytes()).await.unwrap();
        for (status, says) in answers {
            let begins = format!("HTTP/1.1 {status} ");
            let answer = loop {
                let text = String::from_utf8_lossy(&read).into_owned();
                if let Some((head, rest)) = text.split_once("\r\n\r\n")
                    && let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: "))
                    && rest.len() >= length.parse().unwrap()
                {
                    let whole = head.len() + 4 + length.parse::<usize>().unwrap();
                    break String::from_utf8(read.drain(..whole).collect()).unwrap();
                }
                let got = tokio::time::timeout(crate::support::LIMIT, connection.read_buf(&mut read)).await;
                assert!(got.expect("no answer").unwrap() > 0, "it was closed: {requests}");
            };
            assert!(answer.starts_with(&begins) && answer.contains(says), "{requests}\n{answer}");
        }
    }
    let upgrade = format!("Connection: keep-alive, Upgrade\r\n{upgrade}");
    connection.write_all(ask("/ws/notifications/7/", &upgrade).as_bytes()).await.unwrap();
    eventually("it is a socket", || async { service.metric("notifier_sockets").await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_database() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    database.go_away().await;
    eventually("not ready without its database", || async { !service.is_ready().await }).await;
    eventually("and says why", || async {
        service.get("/readyz").await.unwrap().text().await.unwrap().contains("not currently accepting connections")
    })
    .await;
    assert_eq!(service.get("/healthz").await.unwrap().status(), 200);
    database.come_back().await;
    eventually("ready again", || service.is_ready()).await;
    let superuser = database.superuser().await;
    // Whoever does that beside a service may meet a deadlock with it.
    eventually("its tables are dropped", || async {
        superuser.batch_execute("drop schema notifier cascade").await.is_ok()
    })
    .await;
    eventually("not ready without its tables, and says so", || async {
        let answer = service.get("/readyz").await.unwrap();
        let ready = answer.status() == 200;
        let why = answer.text().await.unwrap();
        assert!(ready || why.contains("does not exist"), "{why}");
        !ready
    })
    .await;
}
