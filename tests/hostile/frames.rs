//! Bytes that are no frames, or too many of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::handshake;
use crate::support::{Database, LIMIT, Service, eventually};

/// A frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Whether bytes end in a close with this code: its head, the code, and what it says beside.
pub fn closes_with(bytes: &[u8], code: u16) -> bool {
    let is_close = |at: &usize| bytes[*at] == 0x88 && bytes[at + 2..].starts_with(&code.to_be_bytes());
    (0..bytes.len().saturating_sub(3))
        .find(is_close)
        .is_some_and(|at| usize::from(bytes[at + 1]) == bytes.len() - at - 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_message_closes_with_the_code_that_says_so() {
    let database = Database::new().await;
    let service = Service::on(&database).await;
    let gigabyte = [&[0x82, 0x80 | 127][..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat();
    let endless = [&[0x81, 0x80 | 127][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let in_parts = [frame(0x01, &[b'x'; 3_000]), frame(0x00, &[b'x'; 3_000])].concat();
    let empty_parts =
        [frame(0x01, b"")].into_iter().chain((0..2_000).map(|_| frame(0x00, b""))).collect::<Vec<_>>().concat();
    let split_character = [frame(0x01, &[0xc3]), frame(0x80, b"x")].concat();
    for (what, bytes, code) in [
        ("a message of 4,097 bytes", frame(0x81, &[b'x'; 4_097]), 1009),
        ("the head of a message of a gigabyte", gigabyte, 1009),
        ("the head of a message without end", endless, 1009),
        ("a message that is too large in parts", in_parts, 1009),
        ("a message of two thousand empty fragments", empty_parts, 1009),
        ("text that is not UTF-8", frame(0x81, &[b'{', 0xff, b'}']), 1007),
        ("a character that breaks between two fragments", split_character, 1007),
        ("a reason for closing that is not UTF-8", frame(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("a frame that is not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("a ping that is not masked", vec![0x89, 0], 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a ping in fragments", frame(0x09, b""), 1002),
        ("a bit of an extension that nobody agreed on", frame(0xc1, b"{}"), 1002),
        ("an opcode that nobody knows", frame(0x83, b""), 1002),
        ("a fragment of nothing", frame(0x80, b"{}"), 1002),
    ] {
        let (mut stream, answer) = handshake([127, 0, 0, 1], service.address, "7", "").await;
        assert_eq!(answer.status, 101);
        let _ = stream.write_all(&bytes).await;
        let mut all = answer.rest;
        while !closes_with(&all, code) {
            let read = timeout(LIMIT, stream.read_buf(&mut all)).await.unwrap_or(Ok(0));
            assert!(read.is_ok_and(|count| count > 0), "{what}: {all:x?}");
        }
    }
    eventually("their sessions ended", || async { service.metric("notifier_sockets").await == 0 }).await;
}
