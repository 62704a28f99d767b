//! Clients that leave before they are answered.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::{ask, connect, ended, handshake};
use crate::support::{Database, Service, eventually};

/// Tickets are redeemed together. Whoever asks for several and is gone before the answer uses up their own alone.
#[tokio::test]
async fn who_leaves_while_tickets_are_redeemed_takes_nobodys_with_them() {
    let database = Database::new().await;
    let service = Service::start_with(&database.url(), |config| {
        config.limits.max_sockets = 4;
        config.limits.max_sockets_per_address = 3;
    })
    .await;
    eventually("the service listens", || service.is_ready()).await;
    let to = service.address;
    let mut tickets = Vec::new();
    for _ in 0..4 {
        let request = reqwest::Client::new().post(format!("http://{to}/api/ws-ticket")).bearer_auth("7");
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let ticket = answer["ticket"].as_str().unwrap().to_owned();
        tickets.push((digest(&SHA256, &URL_SAFE_NO_PAD.decode(&ticket).unwrap()).as_ref().to_vec(), ticket));
    }
    // They are locked in this order: who holds up the last one has the others locked.
    tickets.sort();
    let [own, one, two, last] = <[_; 4]>::try_from(tickets).unwrap();
    let (first, second) = (database.superuser().await, database.superuser().await);
    for (holder, hashes) in [(&first, [&one.0, &two.0]), (&second, [&last.0, &last.0])] {
        holder.batch_execute("begin").await.unwrap();
        let hold = "select from notifier.ticket where hash in ($1, $2) for update";
        holder.query(hold, &[hashes[0], hashes[1]]).await.unwrap();
    }
    let waiting = async |count: i64| {
        eventually("they wait for a lock", || async { database.waiting_in("redeem_tickets").await == count }).await;
    };
    let (strangers, at_home) = ([127, 0, 12, 1], [127, 0, 12, 2]);
    let refused = async |status: u16| {
        eventually("so many wait for an answer", || async {
            handshake(strangers, to, "me", "").await.1.status == status
        })
        .await;
    };
    let query = |ticket: &str| format!("me/?ticket={ticket}&after=");

    // Two questions are under way; the third stranger waits, and then somebody else.
    let mut asking = Vec::new();
    for (n, ticket) in [one, two].into_iter().enumerate() {
        let mut stream = connect(strangers, to).await;
        asking.push(tokio::spawn(
            async move { ask(&mut stream, &query(&ticket.1), "").await.map(|answer| answer.status) },
        ));
        waiting(n as i64 + 1).await;
    }
    let (mut leaving, mut writing) = connect(strangers, to).await.into_split();
    let path = query(&last.1);
    let request = format!(
        "GET /ws/notifications/{path}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    writing.write_all(request.as_bytes()).await.unwrap();
    refused(429).await;
    let mut stream = connect(at_home, to).await;
    let own = tokio::spawn(async move { ask(&mut stream, &query(&own.1), "").await.map(|answer| answer.status) });
    refused(503).await;

    first.batch_execute("commit").await.unwrap();
    for stranger in asking {
        assert_eq!(stranger.await.unwrap(), Some(101));
    }
    // The third one asks for both of them now, and leaves.
    waiting(1).await;
    drop(writing);
    assert_eq!(ended(&mut leaving).await, b"");
    second.batch_execute("commit").await.unwrap();
    assert_eq!(own.await.unwrap(), Some(101));
    service.stop().await;
}
