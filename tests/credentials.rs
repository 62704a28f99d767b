//! Who may connect, with what, and for how long: tokens of the application's own tables, cookies, tickets, first messages, renewal,
//! revocation. JWTs are in `jwt`, the SQL of it in `credentials_sql`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parkmate_notifier::auth::AuthMode;
use parkmate_notifier::config::ServeConfig;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::jwt::{self, SECRET};
use crate::support::process::{binary, is_ready, serve, signal};
use crate::support::socket::{Ending, V1};
use crate::support::{Database, Service, Socket, eventually};

const ORIGIN: &str = "https://app.example";

/// An application that keeps tokens in a table: of user 7 and of user 8.
async fn application() -> Database {
    let database = Database::new().await;
    database
        .run(
            "create schema app;
             create table app.token (token text primary key, user_id text not null, expires_at timestamptz);
             insert into app.token values ('seven', '7'), ('again', '7'), ('eight', '8');
             create function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
             language sql stable security definer set search_path = pg_catalog, pg_temp as
               $$ select t.user_id, t.expires_at from app.token t where t.token = authenticate.token $$",
        )
        .await;
    database
}

fn by_sql(config: &mut ServeConfig) {
    config.auth.auth = AuthMode::Sql;
    config.auth.auth_function = Some("app.authenticate".to_owned());
}

fn with_cookies(config: &mut ServeConfig) {
    config.auth.auth_cookie = Some("session".to_owned());
    config.auth.allowed_origin = vec![ORIGIN.parse().unwrap()];
}

async fn service(database: &Database) -> Service {
    service_with(database, |_| {}).await
}

async fn service_with(database: &Database, set: impl FnOnce(&mut ServeConfig)) -> Service {
    let service = Service::start_with(&database.url(), |config| {
        by_sql(config);
        set(config);
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    service
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

async fn open(address: SocketAddr, user: &str, token: &str) -> Socket {
    let (name, value) = bearer(token);
    Socket::open_with(address, user, "", &[(name, &value)]).await
}

/// A socket that keeps cursors, past its hello and `live`.
async fn open_v1(address: SocketAddr, user: &str, token: &str) -> Socket {
    let (name, value) = bearer(token);
    let mut socket = Socket::open_with(address, user, "", &[V1, (name, &value)]).await;
    socket.until_op("live").await;
    socket
}

async fn say(socket: &mut Socket, message: Value) {
    socket.send(Message::text(message.to_string())).await;
}

/// What a request is answered with.
async fn request(
    service: &Service,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, Value, reqwest::header::HeaderMap) {
    let url = format!("http://{}{path}", service.address);
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default(), headers)
}

async fn ticket(service: &Service, token: &str) -> String {
    let (name, value) = bearer(token);
    let (status, answer, _) = request(service, "POST", "/api/ws-ticket", &[(name, &value)]).await;
    assert_eq!((status, &answer["expires_in"]), (200, &json!(30.0)), "{answer}");
    let ticket = answer["ticket"].as_str().unwrap().to_owned();
    assert_eq!(URL_SAFE_NO_PAD.decode(&ticket).unwrap().len(), 16, "128 bits");
    ticket
}

#[tokio::test]
async fn a_token_may_come_in_every_form() {
    let database = application().await;
    let service = service_with(&database, with_cookies).await;
    let address = service.address;

    let offer = format!("notifier.bearer.{}", URL_SAFE_NO_PAD.encode("seven"));
    let (both, cookie) = (format!("notifier.v1, {offer}"), ("cookie", "a=b; session=seven"));
    let headers: [&[(&'static str, &str)]; 5] = [
        &[("authorization", "Bearer seven")],
        &[("authorization", "Bearer seven"), V1],
        &[("sec-websocket-protocol", &offer)],
        &[("sec-websocket-protocol", &both)],
        &[cookie, ("origin", ORIGIN)],
    ];
    for headers in headers {
        for path in ["7", "me"] {
            let socket = Socket::open_with(address, path, "", headers).await;
            assert_eq!(socket.hello["user"], "7", "{headers:?}");
        }
    }
    let socket = Socket::open_with(address, "me", "", &[("sec-websocket-protocol", &offer)]).await;
    assert_eq!(socket.answer.headers()["sec-websocket-protocol"], offer, "or a browser ends the connection");

    let path = format!("?ticket={}", ticket(&service, "seven").await);
    assert_eq!(Socket::open_with(address, "me", &path, &[]).await.hello["user"], "7");

    for (path, headers) in [
        ("/api/notifications", vec![("authorization", "Bearer seven")]),
        ("/api/notifications", vec![cookie, ("origin", ORIGIN)]),
        ("/api/notifications/unread-count", vec![cookie, ("sec-fetch-site", "same-origin")]),
    ] {
        assert_eq!(request(&service, "GET", path, &headers).await.0, 200, "{path} {headers:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn without_a_good_credential_nobody_comes_in() {
    let database = application().await;
    let service = service_with(&database, with_cookies).await;
    let address = service.address;
    let cookie = ("cookie", "session=seven");
    type Headers<'a> = &'a [(&'static str, &'a str)];
    let refused: [(&str, Headers<'_>, u16, u16); 9] = [
        ("", &[("authorization", "Bearer nonsense")], 401, 4401),
        ("", &[("authorization", "Bearer '; drop table app.token; --")], 401, 4401),
        ("", &[("authorization", "Bearer eight")], 403, 4403),
        ("", &[cookie], 403, 4403),
        ("", &[cookie, ("origin", "null")], 403, 4403),
        ("", &[cookie, ("origin", "https://evil.example")], 403, 4403),
        ("", &[cookie, ("origin", "https://app.example.evil.example")], 403, 4403),
        ("?token=seven", &[], 401, 4401),
        ("?ticket=AAAAAAAAAAAAAAAAAAAAAA", &[], 401, 4401),
    ];
    for (query, headers, status, code) in refused {
        let plain = Socket::try_connect(address, "7", query, headers).await;
        assert_eq!(plain.err(), Some(status), "{query} {headers:?}");
        let headers = [headers, &[V1]].concat();
        let mut socket = Socket::connect_with(address, "7", query, &headers).await;
        assert_eq!(socket.next().await, Err(Ending::Closed(code)), "{query} {headers:?}");
    }
    assert_eq!(Socket::try_connect(address, "7", "", &[]).await.err(), Some(401));
    assert_eq!(Socket::try_connect(address, "me", "", &[]).await.err(), Some(401));
    for (method, path) in
        [("GET", "/api/notifications"), ("POST", "/api/notifications/read"), ("POST", "/api/ws-ticket")]
    {
        assert_eq!(request(&service, method, path, &[]).await.0, 401, "{path}");
        assert_eq!(request(&service, method, path, &[("authorization", "Bearer nonsense")]).await.0, 401, "{path}");
        assert_eq!(request(&service, method, path, &[cookie]).await.0, 403, "{path}: a cookie from anywhere");
        assert_eq!(request(&service, method, &format!("{path}?token=seven"), &[]).await.0, 401, "{path}");
    }
    // A page of the application writes from its own origin, but with an `Origin`.
    let own = [cookie, ("sec-fetch-site", "same-origin")];
    assert_eq!(request(&service, "POST", "/api/ws-ticket", &own).await.0, 403);
    service.stop().await;
}

#[tokio::test]
async fn a_first_message_may_be_the_credential() {
    let database = application().await;
    let service = service(&database).await;
    let mut socket = Socket::connect_with(service.address, "me", "", &[V1]).await;
    say(&mut socket, json!({"op": "auth", "token": "seven"})).await;
    let hello = socket.frame().await;
    assert_eq!((&hello["user"], &hello["protocol"]), (&json!("7"), &json!("notifier.v1")));
    socket.until_op("live").await;
    socket.nothing_but_a_marker_to(&database, "7").await;

    for (path, message, code) in [
        ("8", json!({"op": "auth", "token": "seven"}), 4403),
        ("me", json!({"op": "auth", "token": "nonsense"}), 4401),
        ("me", json!({"op": "auth"}), 4401),
        ("me", json!({"op": "ack", "cursor": "x"}), 4401),
        ("me", json!([]), 4400),
    ] {
        let mut socket = Socket::connect_with(service.address, path, "", &[V1]).await;
        say(&mut socket, message.clone()).await;
        assert_eq!(socket.next().await, Err(Ending::Closed(code)), "{message}");
    }
    // Who says nothing is told nothing, and has five seconds.
    let mut silent = Socket::connect_with(service.address, "7", "", &[V1]).await;
    database.run("select notifier.send('7', 'info', 'not for strangers')").await;
    // Nor may it keep the service busy meanwhile.
    let mut pinging = Socket::connect_with(service.address, "7", "", &[V1]).await;
    for _ in 0..60 {
        let _ = futures_util::SinkExt::send(&mut pinging.stream, Message::Ping("x".into())).await;
    }
    assert_eq!(pinging.ending().await, Ending::Closed(4429));
    assert_eq!(silent.next().await, Err(Ending::Closed(4401)));
    for (reason, times) in [("forbidden", 1), ("unauthorized", 4)] {
        let counted = service.metric(&format!("notifier_refused_total{{reason=\"{reason}\"}}")).await;
        assert_eq!(counted, times, "{reason}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_user_with_as_many_sockets_as_one_may_have_is_told_so_in_each_form() {
    let database = application().await;
    let service = service_with(&database, |config| config.limits.max_sockets_per_user = 2).await;
    let address = service.address;
    let mut open = vec![open(address, "7", "seven").await, open_v1(address, "7", "again").await];
    let credential: (&'static str, &str) = ("authorization", "Bearer seven");
    assert_eq!(Socket::try_connect(address, "me", "", &[credential]).await.err(), Some(429));
    let mut keeping = Socket::connect_with(address, "7", "", &[V1, credential]).await;
    assert_eq!(keeping.ending().await, Ending::Closed(4429));
    let mut late = Socket::connect_with(address, "7", "", &[V1]).await;
    say(&mut late, json!({"op": "auth", "token": "seven"})).await;
    assert_eq!(late.ending().await, Ending::Closed(4429));
    assert_eq!(service.metric("notifier_refused_total{reason=\"user\"}").await, 3);
    open[0].nothing_but_a_marker(&database).await;
    // Another user has room, and so has this one when a socket closes.
    Socket::open_with(address, "8", "", &[("authorization", "Bearer eight")]).await;
    open.pop();
    eventually("there is room again", || async { Socket::try_connect(address, "7", "", &[credential]).await.is_ok() })
        .await;
    service.stop().await;
}

#[tokio::test]
async fn a_socket_ends_with_its_credential_unless_it_is_renewed() {
    let database = application().await;
    let service = service(&database).await;
    let expire = "update app.token set expires_at = clock_timestamp() + interval '10 seconds' where token = 'seven'";
    database.run(expire).await;
    let mut ending = open(service.address, "7", "seven").await;
    let mut renewed = open_v1(service.address, "7", "seven").await;
    say(&mut renewed, json!({"op": "auth", "token": "nonsense"})).await;
    assert_eq!(renewed.until_op("error").await["code"], "unauthorized");
    say(&mut renewed, json!({"op": "auth", "token": "again"})).await;
    assert_eq!(renewed.until_op("auth").await["expires_in"], Value::Null);
    let mut other = open_v1(service.address, "7", "again").await;
    say(&mut other, json!({"op": "auth", "token": "eight"})).await;
    assert_eq!(other.ending().await, Ending::Closed(4403), "another user's");

    assert_eq!(renewed.meanwhile(ending.ending()).await, Ending::Closed(4401));
    let late: f64 = database
        .one("select extract(epoch from clock_timestamp() - expires_at)::float8 from app.token where token = 'seven'")
        .await;
    assert!(late > -0.2, "it ended {late} s after its credential");
    renewed.nothing_but_a_marker(&database).await;
    assert_eq!(
        Socket::try_connect(service.address, "7", "", &[("authorization", "Bearer seven")]).await.err(),
        Some(401)
    );
    service.stop().await;
}

#[tokio::test]
async fn tokens_are_looked_at_again_in_batches() {
    let database = application().await;
    database
        .run(
            "create table app.asked (transaction xid8, token text);
             create or replace function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
             language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
               insert into app.asked values (pg_current_xact_id(), authenticate.token);
               select t.user_id, t.expires_at from app.token t where t.token = authenticate.token $$;
             insert into app.token select 'token ' || i, 'user ' || i from generate_series(1, 40) i;
             update app.token set token = replace(token, ' ', '-')",
        )
        .await;
    let service = service_with(&database, |config| config.auth.auth_recheck = std::time::Duration::from_secs(1)).await;
    let mut sockets = Vec::new();
    for i in 1..=40 {
        sockets.push(open(service.address, "me", &format!("token-{i}")).await);
    }
    database.run("truncate app.asked; delete from app.token where token in ('token-1', 'token-2')").await;
    for gone in sockets.drain(..2) {
        let mut gone = gone;
        assert_eq!(gone.ending().await, Ending::Closed(4401), "{}", gone.hello);
    }
    let asked = "select count(*) filter (where token <> 'token-1' and token <> 'token-2'), count(distinct transaction) from app.asked";
    eventually("all were looked at again", || async {
        database.one::<i64>("select count(distinct token) from app.asked").await == 40
    })
    .await;
    let rows = database.rows(asked).await;
    let (tokens, questions): (i64, i64) = (rows[0].get(0), rows[0].get(1));
    assert!(questions * 4 < tokens, "{questions} questions for {tokens} tokens");
    // A database that is away ends nobody's socket.
    database.run("alter function app.authenticate(text) rename to away").await;
    database.run("truncate app.asked").await;
    sockets[0].nothing_but_a_marker_to(&database, "user 3").await;
    database.run("alter function app.away(text) rename to authenticate").await;
    let again = eventually("they are looked at again", || async {
        database.one::<i64>("select count(distinct token) from app.asked").await >= 38
    });
    sockets[0].meanwhile(again).await;
    sockets[0].nothing_but_a_marker_to(&database, "user 3").await;
    service.stop().await;
}

#[tokio::test]
async fn a_revoked_user_is_out_on_every_instance() {
    let database = application().await;
    let services = [service(&database).await, service(&database).await];
    let mut bystander = open(services[0].address, "8", "eight").await;
    // By NOTIFY, and without it by the read that comes each second.
    for doorbell in ["auto", "off"] {
        database.run(&format!("set notifier.doorbell = {doorbell}")).await;
        let mut sockets = Vec::new();
        for service in &services {
            sockets.push(open(service.address, "7", "seven").await);
            sockets.push(open_v1(service.address, "7", "again").await);
        }
        database.run("select notifier.revoke_user('7')").await;
        for mut socket in sockets {
            assert_eq!(socket.ending().await, Ending::Closed(4401));
        }
        bystander.nothing_but_a_marker(&database).await;
        // The function still knows the token, so its holder may come back: whoever revokes takes it out of the table as well.
        open(services[0].address, "7", "seven").await;
    }
    // In one transaction, which commits after a socket has opened with what it takes away.
    let admin = database.superuser().await;
    admin
        .batch_execute("begin; delete from app.token where user_id = '7'; select notifier.revoke_user('7')")
        .await
        .unwrap();
    let mut socket = open(services[1].address, "7", "again").await;
    admin.batch_execute("commit").await.unwrap();
    assert_eq!(socket.ending().await, Ending::Closed(4401));
    assert_eq!(
        Socket::try_connect(services[1].address, "7", "", &[("authorization", "Bearer again")]).await.err(),
        Some(401),
        "the answer that was kept is overtaken"
    );
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn a_ticket_opens_one_socket() {
    let database = application().await;
    let services = [service(&database).await, service(&database).await];
    let first = ticket(&services[0], "seven").await;
    let query = format!("?ticket={first}");
    let mut socket = Socket::open_with(services[1].address, "me", &query, &[]).await;
    assert_eq!(socket.hello["user"], "7");
    for service in &services {
        assert_eq!(Socket::try_connect(service.address, "me", &query, &[]).await.err(), Some(401), "a second time");
    }
    let foreign = format!("?ticket={}", ticket(&services[0], "seven").await);
    assert_eq!(Socket::try_connect(services[0].address, "8", &foreign, &[]).await.err(), Some(403));
    let late = format!("?ticket={}", ticket(&services[0], "seven").await);
    database.run("update notifier.ticket set expires_at = clock_timestamp() - interval '1 second'").await;
    assert_eq!(Socket::try_connect(services[0].address, "me", &late, &[]).await.err(), Some(401));
    assert_eq!(
        request(&services[0], "GET", &format!("/api/notifications{late}"), &[]).await.0,
        401,
        "for sockets alone"
    );

    let held = ticket(&services[0], "seven").await;
    let rows = database.rows("select to_jsonb(t)::text, sealed from notifier.ticket t").await;
    let (row, sealed): (String, Vec<u8>) = (rows[0].get(0), rows[0].get(1));
    assert!(!row.contains(&held) && !sealed.windows(5).any(|part| part == b"seven"), "{row}");

    // What the ticket stands for ends as it would by itself.
    database.run("select notifier.revoke_user('7')").await;
    assert_eq!(socket.ending().await, Ending::Closed(4401));
    match Socket::try_connect(services[0].address, "me", &format!("?ticket={held}"), &[]).await {
        Err(status) => assert_eq!(status, 401, "it was given before"),
        // This instance learns of it only when it looks.
        Ok(mut after) => assert_eq!(after.ending().await, Ending::Closed(4401), "it was given before"),
    }
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn ten_thousand_strangers_reach_nobody() {
    let database = application().await;
    let users = 2_000;
    database
        .run(&format!("insert into app.token select 'token-' || i, 'user-' || i from generate_series(1, {users}) i"))
        .await;
    let service = service(&database).await;
    let client = reqwest::Client::new();
    let mut accepted = 0;
    let mut tried = HashSet::new();
    while tried.len() < 10_000 {
        let (of, named) = (fastrand::u32(1..=users), fastrand::u32(1..=users));
        if of == named || !tried.insert((of, named)) {
            continue;
        }
        let url = format!("http://{}/ws/notifications/user-{named}/", service.address);
        let answer = client
            .get(url)
            .header("authorization", format!("Bearer token-{of}"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .send()
            .await
            .unwrap();
        accepted += u32::from(answer.status() != 403);
    }
    assert_eq!(accepted, 0);
    service.stop().await;
}

#[tokio::test]
async fn a_foreign_id_is_like_a_missing_one() {
    let database = application().await;
    let service = service(&database).await;
    database.run("select notifier.send('8', 'info', 'for eight alone')").await;
    let id: i64 = database.one("select id from notifier.notification").await;
    let url = format!("http://{}/api/notifications/read", service.address);
    let mut answers = Vec::new();
    for id in [id, id + 1_000_000] {
        let body = json!({"ids": [id.to_string()]});
        let answer = reqwest::Client::new().post(&url).bearer_auth("seven").json(&body).send().await.unwrap();
        answers.push((answer.status(), answer.text().await.unwrap()));
    }
    assert_eq!(answers[0], answers[1]);
    let (_, page, _) = request(&service, "GET", "/api/notifications", &[("authorization", "Bearer seven")]).await;
    assert_eq!(page["notifications"], json!([]));
    assert!(database.one::<bool>("select read_at is null from notifier.notification").await);
    service.stop().await;
}

#[tokio::test]
async fn pages_of_named_origins_may_read_answers() {
    let database = application().await;
    let service = service_with(&database, |config| {
        config.auth.allowed_origin = vec![ORIGIN.parse().unwrap()];
    })
    .await;
    let asks = [("access-control-request-method", "POST"), ("origin", ORIGIN)];
    let (status, _, headers) = request(&service, "OPTIONS", "/api/ws-ticket", &asks).await;
    assert_eq!((status, headers["access-control-allow-origin"].as_bytes()), (204, ORIGIN.as_bytes()));
    let own = [("origin", ORIGIN), ("authorization", "Bearer seven")];
    let (status, _, headers) = request(&service, "GET", "/api/notifications", &own).await;
    assert_eq!((status, headers["access-control-allow-credentials"].as_bytes()), (200, &b"true"[..]));
    let (_, _, headers) = request(&service, "GET", "/api/notifications", &[("origin", ORIGIN)]).await;
    assert!(headers.contains_key("access-control-allow-origin"), "the page may read why it was refused");
    for other in ["null", "https://evil.example"] {
        let (_, _, headers) = request(&service, "GET", "/api/notifications", &[("origin", other)]).await;
        assert!(!headers.contains_key("access-control-allow-origin"), "{other}");
        assert_eq!(headers["vary"], "Origin");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_socket_that_says_too_much_is_closed() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut plain = Socket::open(service.address, "7").await;
    let mut pinging = Socket::open(service.address, "7").await;
    for _ in 0..25 {
        let _ = futures_util::SinkExt::send(&mut plain.stream, Message::text("{}")).await;
        let _ = futures_util::SinkExt::send(&mut pinging.stream, Message::Ping("x".into())).await;
    }
    assert_eq!(plain.ending().await, Ending::Closed(4429));
    assert_eq!(pinging.ending().await, Ending::Closed(4429));

    // What confirms is never too much.
    let mut busy = Socket::open_at(service.address, "7", None).await;
    busy.until_op("live").await;
    for i in 0..100 {
        database.run(&format!("select notifier.send('7', 'info', '{i}')")).await;
        let frame = busy.until(|frame| frame["id"].is_string()).await;
        say(&mut busy, json!({"op": "ack", "cursor": frame["cursor"]})).await;
    }
    busy.nothing_but_a_marker(&database).await;
    let mut deep = Socket::open(service.address, "7").await;
    deep.send(Message::text(format!("{{\"op\":{}{}}}", "[".repeat(500), "]".repeat(500)))).await;
    assert_eq!(deep.ending().await, Ending::Closed(4400));
    service.stop().await;
}

#[tokio::test]
async fn what_an_operator_sets_is_what_clients_may_take() {
    let database = Database::new().await;
    let service = Service::start_with(&database.url(), |config| {
        config.limits.max_message_bytes = 512;
        config.limits.max_messages_per_second = 1;
        config.limits.message_burst = 3;
        config.limits.max_queued_frames = 1;
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    let text = |bytes: usize| Message::text(format!("{{\"op\":\"{}\"}}", "x".repeat(bytes - 9)));
    for (bytes, times, code) in [(513, 1, 1009), (512, 20, 4429)] {
        let mut socket = Socket::open(service.address, "7").await;
        for _ in 0..times {
            let _ = futures_util::SinkExt::send(&mut socket.stream, text(bytes)).await;
        }
        assert_eq!(socket.ending().await, Ending::Closed(code), "{times} of {bytes} bytes");
    }
    let mut socket = Socket::open(service.address, "7").await;
    for _ in 0..3 {
        socket.send(text(512)).await;
    }
    socket.nothing_but_a_marker(&database).await;
    // What does not fit into the queue is read from the table.
    database.run("select notifier.send('7', 'info', 'number ' || n) from generate_series(1, 50) n").await;
    let mut told = HashSet::new();
    while told.len() < 50 {
        assert!(told.insert(socket.frame().await["message"].to_string()), "told twice");
    }
    assert!(service.metric("notifier_lags_total").await > 0);
    service.stop().await;
}

#[tokio::test]
async fn forged_payloads_reach_nobody() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let mut socket = Socket::open(service.address, "7").await;
    // Whoever may connect may NOTIFY, but cannot learn the name.
    let refused = database.app.query("select value from notifier.setting where name = 'channel'", &[]).await;
    assert!(refused.is_err());
    database
        .write(
            r#"do $$ begin
                 for i in 1..10000 loop
                   perform pg_notify((array['notifier', 'notifications', 'parkmate', 'notifier_' || md5(i::text)])[1 + i % 4],
                     '{"id":"' || i || '","slot":0,"xid":"' || i || '","user_id":"7","event":"e","level":"info","message":"forged",'
                     '"data":{},"created_at":"2026-11-23T01:02:03.000000Z"}');
                 end loop;
               end $$"#,
        )
        .await;
    socket.nothing_but_a_marker(&database).await;
    assert_eq!(service.metric("notifier_malformed_payloads_total").await, 0, "they were not even heard");
    service.stop().await;
}

/// The binary once it listens, its address, and all that it logs until it ends.
async fn serve_and_log(command: Command) -> (Child, SocketAddr, JoinHandle<String>) {
    let (child, address, mut lines) = serve(command).await;
    let log = tokio::spawn(async move {
        let mut log = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            log += &line;
            log.push('\n');
        }
        log
    });
    eventually("the service listens", || is_ready(address)).await;
    (child, address, log)
}

/// A credential as it may be presented, in whatever form, is in nothing that is written down.
#[tokio::test]
async fn a_credential_is_never_written_down() {
    let database = application().await;
    database
        .run(
            "insert into app.token values ('canary-good', '7');
             create or replace function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
             language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$ begin
               if token like '%raise%' then raise exception 'no such token: %', token using detail = token; end if;
               return query select t.user_id, t.expires_at from app.token t where t.token = authenticate.token;
             end $$",
        )
        .await;
    let mut command = binary();
    command.env("NOTIFIER_LOG", "trace,tokio_postgres=trace,tokio_postgres::query=trace").args([
        "serve",
        "--auth=sql",
        "--auth-function=app.authenticate",
        "--auth-cookie=session",
        "--allowed-origin=https://app.example",
        "--allow-token-in-url",
        "--auth-recheck=1s",
        "--listen=127.0.0.1:0",
        &format!("--database-url={}", database.url()),
    ]);
    let (child, address, log) = serve_and_log(command).await;
    let mut answers = String::new();
    for token in ["canary-good", "canary-unknown", "canary-raise"] {
        let offer = format!("notifier.v1, notifier.bearer.{}", URL_SAFE_NO_PAD.encode(token));
        let (authorization, cookie) = (format!("Bearer {token}"), format!("session={token}"));
        let query = format!("?token={token}");
        let forms: [(&str, &[(&'static str, &str)]); 5] = [
            ("", &[("authorization", &authorization)]),
            ("", &[("sec-websocket-protocol", &offer)]),
            ("", &[("cookie", &cookie), ("origin", ORIGIN)]),
            (&query, &[]),
            (&query, &[V1]),
        ];
        for (query, headers) in forms {
            if let Ok(mut socket) = Socket::try_connect(address, "me", query, headers).await {
                answers += &format!("{:?}\n", socket.next().await);
            }
        }
        let mut late = Socket::connect_with(address, "me", "", &[V1]).await;
        say(&mut late, json!({"op": "auth", "token": token})).await;
        answers += &format!("{:?}\n", late.next().await);
        for path in
            ["/api/notifications", "/api/ws-ticket", "/api/notifications/read", "/nothing", "/ws/notifications/me/"]
        {
            for method in ["GET", "POST"] {
                let url = format!("http://{address}{path}?token={token}");
                let request = reqwest::Client::new().request(method.parse().unwrap(), url).bearer_auth(token);
                answers += &request.send().await.unwrap().text().await.unwrap();
            }
        }
    }
    let url = format!("http://{address}/api/ws-ticket");
    let ticket: Value =
        reqwest::Client::new().post(url).bearer_auth("canary-good").send().await.unwrap().json().await.unwrap();
    let ticket = ticket["ticket"].as_str().unwrap();
    assert_eq!(Socket::open_with(address, "me", &format!("?ticket={ticket}"), &[]).await.hello["user"], "7");
    assert_eq!(Socket::try_connect(address, "me", &format!("?ticket={ticket}"), &[]).await.err(), Some(401));
    // Past a look at the open sockets' tokens.
    let mut open = open(address, "7", "canary-good").await;
    database.run("delete from app.token where token = 'canary-good'").await;
    assert_eq!(open.ending().await, Ending::Closed(4401));
    answers += &reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let pid = child.id().unwrap();
    for file in ["cmdline", "environ", "comm", "status"] {
        answers += &String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap());
    }
    for table in ["ticket", "revocation", "notification", "fault_record", "device"] {
        let rows = format!("select coalesce(string_agg(to_jsonb(t)::text, ''), '') from notifier.{table} t");
        answers += &database.one::<String>(&rows).await;
    }
    signal(&child, "-TERM");
    let log = log.await.unwrap();
    assert!(log.contains("tokens could not be checked"), "the fault itself is told: {log}");
    assert!(!log.contains(ticket) && !answers.contains(&format!("={ticket}")), "a ticket is a credential as well");
    let encoded = URL_SAFE_NO_PAD.encode("canary");
    for written in [&answers, &log] {
        let found = written.lines().find(|line| line.contains("canary") || line.contains(&encoded[..6]));
        assert_eq!(found, None);
    }
}

async fn service_by_jwt(database: &Database, secret: &tempfile::NamedTempFile) -> Service {
    let service = Service::start_with(&database.url(), |config| {
        config.auth.auth = AuthMode::Jwt;
        config.auth.jwt.jwt_secret_file = Some(secret.path().to_owned());
        config.auth.jwt.jwt_staff_claim = Some("listen_as".to_owned());
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    service
}

/// A token of somebody, issued and ending so many seconds from now.
fn issue(claims: Value, issued: i64, ends: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut all = json!({"iat": now + issued, "exp": now + ends});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    encode(&Header::new(Algorithm::HS256), &all, &EncodingKey::from_secret(SECRET)).unwrap()
}

#[tokio::test]
async fn a_jwt_opens_sockets_and_the_inbox_until_it_ends() {
    let database = Database::new().await;
    let secret = jwt::file(SECRET);
    let service = service_by_jwt(&database, &secret).await;
    let address = service.address;
    let mut ending = open_v1(address, "7", &issue(json!({"user_id": 7}), 0, 10)).await;
    let mut renewed = open_v1(address, "me", &issue(json!({"sub": "7"}), 0, 10)).await;
    say(&mut renewed, json!({"op": "auth", "token": issue(json!({"sub": "7"}), 0, 3600)})).await;
    let left = renewed.until_op("auth").await["expires_in"].as_f64().unwrap();
    assert!((3500.0..3600.5).contains(&left), "{left}");
    let mut other = open_v1(address, "7", &issue(json!({"sub": "7"}), 0, 60)).await;
    say(&mut other, json!({"op": "auth", "token": issue(json!({"sub": "8"}), 0, 60)})).await;
    assert_eq!(other.ending().await, Ending::Closed(4403));
    let good = bearer(&issue(json!({"sub": "7"}), 0, 60)).1;
    assert_eq!(request(&service, "GET", "/api/notifications", &[("authorization", &good)]).await.0, 200);
    for (claims, issued, ends) in [
        (json!({"sub": "8"}), 0, 60),
        (json!({"sub": "7"}), -60, -30),
        (json!({"sub": "7", "nbf": 9_000_000_000_u64}), 0, 60),
        (json!({"sub": ""}), 0, 60),
        (json!({}), 0, 60),
    ] {
        let (name, value) = bearer(&issue(claims.clone(), issued, ends));
        let status = Socket::try_connect(address, "7", "", &[(name, &value)]).await.err();
        assert_eq!(status, Some(if claims["sub"] == "8" { 403 } else { 401 }), "{claims}");
    }
    assert_eq!(renewed.meanwhile(ending.ending()).await, Ending::Closed(4401));
    renewed.nothing_but_a_marker_to(&database, "7").await;
    service.stop().await;
}

#[tokio::test]
async fn a_jwt_of_before_a_revocation_is_worth_nothing_for_good() {
    let database = Database::new().await;
    let secret = jwt::file(SECRET);
    let service = service_by_jwt(&database, &secret).await;
    let (old, without) = (issue(json!({"sub": "7"}), -5, 3600), issue(json!({"sub": "7", "iat": null}), 0, 3600));
    let mut sockets = [open(service.address, "7", &old).await, open(service.address, "7", &without).await];
    database.run("select notifier.revoke_user('7')").await;
    for socket in &mut sockets {
        assert_eq!(socket.ending().await, Ending::Closed(4401));
    }
    // The second after: a JWT says only in which second it was issued.
    eventually("another second has begun", || async {
        let sql = "select floor(extract(epoch from clock_timestamp())) > max(extract(epoch from revoked_at)) from notifier.revocation";
        database.one(sql).await
    })
    .await;
    let new = issue(json!({"sub": "7"}), 0, 3600);
    // One that has just started has heard of nothing: it reads it.
    let started = service_by_jwt(&database, &secret).await;
    for service in [&service, &started] {
        for token in [&old, &without] {
            let (name, value) = bearer(token);
            let listing = request(service, "GET", "/api/notifications", &[(name, &value)]).await;
            assert_eq!(listing.0, 401, "{}", listing.1);
            assert_eq!(Socket::try_connect(service.address, "7", "", &[(name, &value)]).await.err(), Some(401));
        }
        let (name, value) = bearer(&new);
        assert_eq!(request(service, "GET", "/api/notifications", &[(name, &value)]).await.0, 200);
    }
    open(service.address, "7", &new).await.nothing_but_a_marker(&database).await;
    // Nor does it open a socket where nobody asked before.
    let third = service_by_jwt(&database, &secret).await;
    let (name, value) = bearer(&old);
    if let Ok(mut socket) = Socket::try_connect(third.address, "7", "", &[(name, &value)]).await {
        assert_eq!(socket.next().await, Err(Ending::Closed(4401)), "before it was told anything");
    }
    for service in [service, started, third] {
        service.stop().await;
    }
}

/// Who looked on is written down, and nothing of what they showed for it.
#[tokio::test]
async fn whom_staff_look_on_at_is_in_the_log() {
    let database = Database::new().await;
    let secret = jwt::file(SECRET);
    let mut command = binary();
    command.env("NOTIFIER_LOG", "trace").args([
        "serve",
        "--auth=jwt",
        &format!("--jwt-secret-file={}", secret.path().display()),
        "--jwt-staff-claim=listen_as",
        "--listen=127.0.0.1:0",
        &format!("--database-url={}", database.url()),
    ]);
    let (child, address, log) = serve_and_log(command).await;
    let (boss, own) = (issue(json!({"sub": "boss", "listen_as": true}), 0, 60), issue(json!({"sub": "7"}), 0, 60));
    open(address, "7", &boss).await;
    open(address, "7", &own).await;
    signal(&child, "-TERM");
    let log = log.await.unwrap();
    let said: Vec<_> = log.lines().filter(|line| line.contains("staff listens as a user")).collect();
    assert!(said.len() == 1 && said[0].contains("INFO") && said[0].contains("staff=boss user=7"), "{said:?}");
    let parts = [boss.as_str(), &own].into_iter().flat_map(|token| token.split('.').skip(1));
    for part in parts.chain([std::str::from_utf8(SECRET).unwrap()]) {
        assert!(!log.contains(part), "{part}");
    }
}

#[tokio::test]
async fn staff_look_on_and_leave_no_trace() {
    let database = Database::new().await;
    let secret = jwt::file(SECRET);
    let service = service_by_jwt(&database, &secret).await;
    let address = service.address;
    let anybody = issue(json!({"sub": "boss", "listen_as": true}), 0, 3600);
    let some = issue(json!({"sub": "clerk", "listen_as": ["7", 9]}), 0, 3600);
    for (token, user, allowed) in [(&some, "8", false), (&some, "9", true), (&anybody, "8", true)] {
        let (name, value) = bearer(token);
        let status = Socket::try_connect(address, user, "", &[(name, &value)]).await.err();
        assert_eq!(status, (!allowed).then_some(403), "{user}");
    }
    let mut plain = open(address, "7", &some).await;
    let mut keeping = open_v1(address, "7", &anybody).await;
    database.run("select notifier.send('7', 'info', 'for seven')").await;
    assert_eq!(plain.frame().await["message"], "for seven");
    let frame = keeping.frame().await;
    say(&mut keeping, json!({"op": "ack", "cursor": frame["cursor"]})).await;
    say(&mut keeping, json!({"op": "read", "ids": [frame["id"]]})).await;
    assert_eq!(keeping.until_op("error").await["code"], "forbidden");
    // Past the two seconds after which a user's own socket would have confirmed.
    keeping.until_op("beat").await;
    let mut own = open(address, "7", &issue(json!({"sub": "7"}), 0, 3600)).await;
    let told = own.frame().await;
    assert_eq!((&told["message"], &told["replayed"]), (&json!("for seven"), &json!(true)));
    assert!(database.one::<bool>("select read_at is null from notifier.notification").await);

    // A user's credential does not take over what staff opened, nor the other way round.
    say(&mut keeping, json!({"op": "auth", "token": issue(json!({"sub": "7"}), 0, 3600)})).await;
    assert_eq!(keeping.ending().await, Ending::Closed(4403));
    // They go with their own credential.
    let boss = issue(json!({"sub": "boss", "listen_as": true}), -5, 3600);
    let mut staff = open(address, "7", &boss).await;
    database.run("select notifier.revoke_user('boss')").await;
    assert_eq!(staff.ending().await, Ending::Closed(4401));
    own.nothing_but_a_marker(&database).await;
    service.stop().await;
}

#[tokio::test]
async fn who_hangs_up_leaves_no_question_behind() {
    use tokio::io::AsyncWriteExt;
    let database = application().await;
    database
        .run(
            "create or replace function app.authenticate(token text) returns table (user_id text, expires_at timestamptz)
             language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
             begin
               if token like 'slow%' then perform pg_advisory_lock(4711), pg_advisory_unlock(4711); end if;
               return query select t.user_id, t.expires_at from app.token t where t.token = authenticate.token;
             end $$",
        )
        .await;
    let service = service(&database).await;
    let lock = database.superuser().await;
    lock.batch_execute("select pg_advisory_lock(4711)").await.unwrap();
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted
                   and database = (select oid from pg_database where datname = current_database())";
    for i in 0..20 {
        let mut stranger = tokio::net::TcpStream::connect(service.address).await.unwrap();
        let request = format!(
            "GET /api/unknown HTTP/1.1\r\nHost: x\r\n\r\nGET /api/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer slow{i}\r\n\r\n"
        );
        stranger.write_all(request.as_bytes()).await.unwrap();
        if i < 2 {
            eventually("it is asked about", || async { database.one::<i64>(waiting).await > i }).await;
        } else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    assert_eq!(database.one::<i64>(waiting).await, 2, "two questions are under way, whoever waits for them");
    lock.batch_execute("select pg_advisory_unlock(4711)").await.unwrap();
    let mut socket = open(service.address, "7", "seven").await;
    socket.nothing_but_a_marker(&database).await;
    service.stop().await;
}

#[tokio::test]
async fn whoever_keeps_sending_tokens_is_looked_at_all_the_same() {
    let database = application().await;
    let service = service_with(&database, |config| config.auth.auth_recheck = std::time::Duration::from_secs(1)).await;
    let mut gone = open_v1(service.address, "7", "seven").await;
    let mut renewed = open_v1(service.address, "8", "eight").await;
    database.run("insert into app.token values ('eight again', '8')").await;
    let [nonsense, good] = ["nonsense", "eight again"].map(|token| json!({"op": "auth", "token": token}).to_string());
    // More often than a token is looked at again that waits for others, and no more often than it may.
    for round in 0..50 {
        for (socket, message) in [(&mut gone, &nonsense), (&mut renewed, &good)] {
            let _ = futures_util::SinkExt::send(&mut socket.stream, Message::text(message.as_str())).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(110)).await;
        if round == 0 {
            database.run("delete from app.token where token in ('seven', 'eight')").await;
        }
    }
    assert_eq!(gone.ending().await, Ending::Closed(4401));
    renewed.until_op("auth").await;
    database.run("select notifier.send('8', 'info', 'still here')").await;
    renewed.until(|frame| frame["message"] == "still here").await;
    service.stop().await;
}

#[tokio::test]
async fn staff_that_were_revoked_before_a_start_are_out_as_well() {
    let database = Database::new().await;
    let secret = crate::jwt::file(SECRET);
    let boss = issue(json!({"sub": "boss", "listen_as": true}), -5, 3600);
    database.run("select notifier.revoke_user('boss')").await;
    let service = service_by_jwt(&database, &secret).await;
    let (name, value) = bearer(&boss);
    assert_eq!(Socket::try_connect(service.address, "7", "", &[(name, &value)]).await.err(), Some(401));
    // That the user was revoked is no reason not to look on: the credential is not the user's.
    let clerk = issue(json!({"sub": "clerk", "listen_as": true}), -5, 3600);
    database.run("select notifier.revoke_user('7')").await;
    let mut staff = open(service.address, "7", &clerk).await;
    staff.nothing_but_a_marker(&database).await;
    database.run("select notifier.revoke_user('7')").await;
    staff.nothing_but_a_marker(&database).await;
    database.run("select notifier.revoke_user('clerk')").await;
    assert_eq!(staff.ending().await, Ending::Closed(4401));
    service.stop().await;
}

#[tokio::test]
async fn credentials_that_are_worth_nothing_cannot_be_tried_for_ever() {
    let database = application().await;
    let service = service_with(&database, |config| config.limits.max_new_sockets_per_address = 1).await;
    let (good, bad) = (bearer("seven"), bearer("nonsense"));
    // What is good is as often as it likes.
    for _ in 0..10 {
        assert_eq!(request(&service, "GET", "/api/notifications", &[(good.0, &good.1)]).await.0, 200);
    }
    let url = format!("http://{}/api/notifications", service.address);
    let asked = (0..40).map(|_| reqwest::Client::new().get(&url).header(bad.0, &bad.1).send());
    let refused: Vec<_> = futures_util::future::join_all(asked).await;
    let refused: Vec<_> = refused.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    assert!(refused.contains(&401) && refused.contains(&429), "{refused:?}");
    assert!(refused.iter().all(|status| matches!(status, 401 | 429)), "{refused:?}");
    assert!(service.metric("notifier_refused_total{reason=\"rate\"}").await > 0);
    service.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_nobody_in() {
    let database = application().await;
    let service = service(&database).await;
    // Of a server whose clock was ahead.
    database
        .run(
            "insert into notifier.revocation (user_id, revoked_at) values ('7', clock_timestamp() + interval '1 hour')",
        )
        .await;
    let mut socket = open(service.address, "7", "seven").await;
    database.run("select notifier.revoke_user('7')").await;
    assert_eq!(socket.ending().await, Ending::Closed(4401));
    service.stop().await;
}
