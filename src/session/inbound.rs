//! What a client says, from bytes to messages: the reading half of RFC 6455. Pure.
//!
//! Between two messages it holds no memory: tungstenite's own reader keeps a buffer for each socket, and most sockets only ever
//! answer a ping in half a minute.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode as Status, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};

use crate::protocol::CloseCode;

/// The largest payload of a control frame.
const MAX_CONTROL_BYTES: u64 = 125;

/// So many fragments a message may have: empty ones never make it too large, and each costs more than it weighs.
const MAX_FRAGMENTS: u32 = 1_024;

/// See the module.
#[derive(Default)]
pub struct Inbound {
    /// Has come and is not dealt with.
    bytes: Vec<u8>,
    /// A message whose last fragment has not come, and how many have.
    message: Option<Box<(Data, Vec<u8>, u32)>>,
}

/// One message, or what travels between messages.
#[derive(PartialEq, Debug)]
pub enum Incoming {
    /// A message of text.
    Text(Utf8Bytes),
    /// A message of bytes.
    Binary(Bytes),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong(Vec<u8>),
    /// The other side closes; to be answered with this payload.
    Close(Vec<u8>),
}

impl Inbound {
    /// Bytes have come.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if all of it has come; one may have `max_bytes`.
    ///
    /// # Errors
    /// What came is no WebSocket, or too large; with this the socket is to be closed. It is said as soon as the head of a frame
    /// shows it.
    pub fn next(&mut self, max_bytes: usize) -> Result<Option<Incoming>, CloseCode> {
        while let Some((header, mut payload)) = self.frame(max_bytes)? {
            let data = match header.opcode {
                OpCode::Control(Control::Ping) => return Ok(Some(Incoming::Ping(payload))),
                OpCode::Control(Control::Pong) => return Ok(Some(Incoming::Pong(payload))),
                OpCode::Control(_) => return closing(payload).map(Some),
                OpCode::Data(data) => data,
            };
            let mut fragments = 1;
            let data = match (data, self.message.take()) {
                (Data::Continue, Some(begun)) => {
                    let (data, mut whole, before) = *begun;
                    fragments = before + 1;
                    if whole.len() + payload.len() > max_bytes || fragments > MAX_FRAGMENTS {
                        return Err(CloseCode::TooBig);
                    }
                    whole.append(&mut payload);
                    payload = whole;
                    data
                }
                (Data::Text | Data::Binary, None) => data,
                // A message goes on that never began, or another begins inside it.
                _ => return Err(CloseCode::Malformed),
            };
            if !header.is_final {
                self.message = Some(Box::new((data, payload, fragments)));
            } else if data == Data::Text {
                let text = String::from_utf8(payload).map_err(|_| CloseCode::NotUtf8)?;
                return Ok(Some(Incoming::Text(text.into())));
            } else {
                return Ok(Some(Incoming::Binary(payload.into())));
            }
        }
        Ok(None)
    }

    /// The next frame, if all of it has come, with its payload unmasked.
    fn frame(&mut self, max_bytes: usize) -> Result<Option<(FrameHeader, Vec<u8>)>, CloseCode> {
        let mut head = Cursor::new(&self.bytes);
        let Some((header, length)) = FrameHeader::parse(&mut head).map_err(|_| CloseCode::Malformed)? else {
            return Ok(None);
        };
        let start = head.position() as usize;
        let is_control = matches!(header.opcode, OpCode::Control(_));
        // No extension was agreed on that gives these bits a meaning.
        let reserved = header.rsv1 || header.rsv2 || header.rsv3;
        if reserved || (is_control && (!header.is_final || length > MAX_CONTROL_BYTES)) {
            return Err(CloseCode::Malformed);
        }
        // What a client sends is masked, or it is no client.
        let Some(mask) = header.mask else { return Err(CloseCode::Malformed) };
        let length = usize::try_from(length).ok().filter(|length| is_control || *length <= max_bytes);
        let Some(length) = length else { return Err(CloseCode::TooBig) };
        let Some(payload) = self.bytes.get(start..start + length) else { return Ok(None) };
        let payload = payload.iter().zip(0_usize..).map(|(byte, nth)| byte ^ mask[nth % 4]).collect();
        if self.bytes.len() == start + length {
            // An idle socket holds no buffer.
            self.bytes = Vec::new();
        } else {
            self.bytes.drain(..start + length);
        }
        Ok(Some((header, payload)))
    }
}

/// The payload of a close, if it may be one, is what it is answered with.
fn closing(payload: Vec<u8>) -> Result<Incoming, CloseCode> {
    match payload.as_slice() {
        [] => {}
        [high, low, reason @ ..] => {
            if !Status::from(u16::from_be_bytes([*high, *low])).is_allowed() {
                return Err(CloseCode::Malformed);
            }
            std::str::from_utf8(reason).map_err(|_| CloseCode::NotUtf8)?;
        }
        _ => return Err(CloseCode::Malformed),
    }
    Ok(Incoming::Close(payload))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MAX: usize = 1000;

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 250];
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn all(inbound: &mut Inbound) -> Result<Vec<Incoming>, CloseCode> {
        let mut all = Vec::new();
        while let Some(incoming) = inbound.next(MAX)? {
            all.push(incoming);
        }
        Ok(all)
    }

    fn refused(bytes: &[u8]) -> CloseCode {
        let mut inbound = Inbound::default();
        inbound.extend(bytes);
        all(&mut inbound).unwrap_err()
    }

    #[test]
    fn messages_are_the_same_however_their_bytes_arrive() {
        let (long, part) = ("ü".repeat(450), "ü".as_bytes());
        let bytes = [
            frame(0x81, long.as_bytes()),
            frame(0x01, &part[..1]),
            frame(0x89, b"ping between"),
            frame(0x00, b""),
            frame(0x80, &part[1..]),
            frame(0x8a, b"pong"),
            frame(0x82, &[0, 255]),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = [
            Incoming::Text(long.into()),
            Incoming::Ping(b"ping between".to_vec()),
            Incoming::Text("ü".into()),
            Incoming::Pong(b"pong".to_vec()),
            Incoming::Binary(vec![0, 255].into()),
            Incoming::Close(b"\x03\xe8bye".to_vec()),
        ];
        for size in [1, 2, 3, 7, 100, bytes.len()] {
            let (mut inbound, mut came) = (Inbound::default(), Vec::new());
            for chunk in bytes.chunks(size) {
                inbound.extend(chunk);
                came.extend(all(&mut inbound).unwrap());
            }
            assert_eq!(came, expected, "{size} bytes at once");
            assert_eq!((inbound.bytes.capacity(), inbound.message), (0, None), "between messages it holds no memory");
        }
    }

    #[test]
    fn what_is_no_web_socket_is_refused_with_the_reason() {
        for malformed in [
            &[0x81, 0x02, b'{', b'}'][..],
            &frame(0xc1, b"a reserved bit"),
            &frame(0x83, b"a reserved opcode"),
            &frame(0x80, b"goes on and never began"),
            &[frame(0x01, b"begun"), frame(0x81, b"another")].concat(),
            &frame(0x09, b"half a ping"),
            &frame(0x89, &[0; 126]),
            &frame(0x88, b"\x03"),
            &frame(0x88, &1005_u16.to_be_bytes()),
        ] {
            assert_eq!(refused(malformed), CloseCode::Malformed, "{malformed:?}");
        }
        assert_eq!(refused(&frame(0x81, b"\xff")), CloseCode::NotUtf8);
        assert_eq!(refused(&frame(0x88, b"\x03\xe8\xff")), CloseCode::NotUtf8);
        assert_eq!(refused(&frame(0x81, &[b'x'; MAX + 1])[..8]), CloseCode::TooBig, "before its payload has come");
        assert_eq!(refused(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]), CloseCode::TooBig);
        assert_eq!(refused(&[frame(0x01, &[b'x'; MAX]), frame(0x80, b"x")].concat()), CloseCode::TooBig);
    }
}
