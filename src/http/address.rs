//! Whose connection it is, where proxies stand before the service. Pure.
//!
//! What a proxy tells is believed only of one that the operator named, and only as far as it goes: from the right, each hop is
//! believed when the one after it is a proxy of ours. So whatever a client writes into these headers itself stands to the left of
//! what is looked at.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ipnet::IpNet;
use warp::http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// An operator is told so often that a proxy seems to be missing.
const HINT_EVERY: Duration = Duration::from_secs(600);

/// How a trusted proxy tells a client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ClientAddress {
    /// There is no proxy: it is where the connection comes from.
    Peer,
    /// By the header X-Forwarded-For, to which each proxy appends where its connection came from.
    XForwardedFor,
    /// By the header Forwarded of RFC 7239.
    Forwarded,
    /// By the PROXY protocol, version 1 or 2, before the first request.
    ProxyProtocol,
}

/// A network whose proxies are believed: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrustedProxy(IpNet);

impl FromStr for TrustedProxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| "an address or a network, as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32")
    }
}

/// Who a request comes from. An extension of each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The client's address.
    pub address: IpAddr,
    /// Whether the connection to this service is TLS.
    pub secure: bool,
}

/// The proxies before the service.
pub struct Proxies {
    told_by: ClientAddress,
    trusted: Vec<IpNet>,
    hinted: Mutex<Option<Instant>>,
}

impl Proxies {
    /// `told_by` is what all of them use.
    pub fn new(told_by: ClientAddress, trusted: &[TrustedProxy]) -> Self {
        Self { told_by, trusted: trusted.iter().map(|proxy| proxy.0.trunc()).collect(), hinted: Mutex::default() }
    }

    /// Whether an address is a proxy of ours.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// Whether a connection from there begins with the PROXY protocol.
    pub fn introduces(&self, peer: IpAddr) -> bool {
        self.told_by == ClientAddress::ProxyProtocol && self.trusts(peer)
    }

    /// The client of a request that came over a connection from `peer`, which is already the client's address where the PROXY
    /// protocol told it. What cannot be read ends the walk: then it is the last hop that can be trusted.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        match self.told_by {
            ClientAddress::Peer | ClientAddress::ProxyProtocol => peer,
            ClientAddress::XForwardedFor => self.walk(peer, headers, &X_FORWARDED_FOR, hop),
            ClientAddress::Forwarded => self.walk(peer, headers, &header::FORWARDED, forwarded_for),
        }
    }

    fn walk(&self, peer: IpAddr, headers: &HeaderMap, name: &HeaderName, read: fn(&str) -> Option<IpAddr>) -> IpAddr {
        let mut last = peer;
        // Several lines are one list. Each is looked at by itself, so that a quote that a client leaves open swallows nothing.
        let lines: Vec<_> = headers.get_all(name).iter().collect();
        for line in lines.into_iter().rev().map(HeaderValue::as_bytes) {
            let mut rest = Some(line);
            while let Some(list) = rest {
                if !self.trusts(last) {
                    return last;
                }
                let (before, element) = split_last(list);
                let read = std::str::from_utf8(element).ok().and_then(|element| read(element.trim()));
                let Some(address) = read else { return last };
                last = address;
                rest = before;
            }
        }
        last
    }

    /// Whether a request looks as if it came through a proxy that was not named; it is said once in ten minutes.
    pub fn may_be_missing(&self, address: IpAddr, headers: &HeaderMap) -> bool {
        let told = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED);
        if !told || self.told_by != ClientAddress::Peer || !is_nearby(address) {
            return false;
        }
        let Ok(mut hinted) = self.hinted.lock() else { return false };
        let due = hinted.is_none_or(|at| at.elapsed() >= HINT_EVERY);
        if due {
            *hinted = Some(Instant::now());
        }
        due
    }
}

/// Whether an address is one that proxies have: anybody can send such headers from elsewhere.
fn is_nearby(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// The last element of a list with commas, and what stands before it. Read from the right, since the right is what our proxy
/// wrote: a comma inside quotes is none, and neither is a quote behind a backslash.
fn split_last(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        match byte {
            b'"' if list[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 => quoted = !quoted,
            b',' if !quoted => return (Some(&list[..at]), &list[at + 1..]),
            _ => {}
        }
    }
    (None, list)
}

/// One hop: an address, with a port or without. `None` for whatever hides it or is none.
fn hop(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let port = port.strip_prefix(':').map_or(port.is_empty(), is_port);
            IpAddr::V6(address.parse::<Ipv6Addr>().ok().filter(|_| port)?)
        }
        None => match text.split_once(':') {
            Some((address, port)) if address.contains('.') && is_port(port) => IpAddr::V4(address.parse().ok()?),
            _ => text.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// A port, or what hides one (RFC 7239, section 6).
fn is_port(text: &str) -> bool {
    let hidden = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    text.parse::<u16>().is_ok() || text.strip_prefix('_').is_some_and(hidden)
}

/// The hop of one element of Forwarded: `for=192.0.2.1;proto=https`, `For="[2001:db8::1]:4711"`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = value_of(value)?;
        if name.trim().eq_ignore_ascii_case("for") {
            // Said twice it says nothing.
            if found.is_some() {
                return None;
            }
            found = Some(hop(&value)?);
        }
        match after.trim_start() {
            "" => return found,
            after => rest = after.strip_prefix(';')?,
        }
    }
}

/// A token or a quoted string at the beginning, without its quotes, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', '"']).unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// What the PROXY protocol says of a connection.
#[derive(PartialEq, Eq, Debug)]
pub enum Introduced {
    /// It is this client's.
    Client(SocketAddr),
    /// It is the proxy's own, or that of somebody it cannot name.
    Nobody,
}

/// The length of the beginning of a version 2 header, with its signature, that says how long the rest is.
pub const PROXY_V2_HEAD: usize = 16;
/// What a header of version 2 begins with.
pub const PROXY_V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
pub const PROXY_V1_SIGNATURE: &[u8] = b"PROXY ";
/// The longest header of version 1, with its line end.
pub const PROXY_V1_MAX: usize = 107;
/// The longest header of version 2 that is read: proxies add fields, and certificates are none of our business.
pub const PROXY_V2_MAX: usize = 4 * 1024;

/// Reads a whole header of the PROXY protocol, of either version. `None` if it is none, or not of a stream.
pub fn introduced(header: &[u8]) -> Option<Introduced> {
    let config = proxy_header::ParseConfig { include_tlvs: false, ..proxy_header::ParseConfig::default() };
    let (parsed, length) = proxy_header::ProxyHeader::parse(header, config).ok()?;
    if length != header.len() {
        return None;
    }
    match parsed.proxied_address() {
        None => Some(Introduced::Nobody),
        Some(address) if address.protocol == proxy_header::Protocol::Stream => Some(Introduced::Client(address.source)),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn proxies(told_by: ClientAddress) -> Proxies {
        let trusted = ["10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.200"].map(|text| text.parse().unwrap());
        Proxies::new(told_by, &trusted)
    }

    fn client(told_by: ClientAddress, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for name in [X_FORWARDED_FOR, header::FORWARDED] {
            for line in lines {
                headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
        }
        proxies(told_by).client(peer.parse().unwrap(), &headers).to_string()
    }

    fn x(lines: &[&str]) -> String {
        client(ClientAddress::XForwardedFor, PROXY, lines)
    }

    fn f(lines: &[&str]) -> String {
        client(ClientAddress::Forwarded, PROXY, lines)
    }

    #[test]
    fn x_forwarded_for_is_walked_from_the_right_over_our_proxies() {
        assert_eq!(x(&["198.51.100.7"]), "198.51.100.7");
        assert_eq!(x(&["1.1.1.1, 198.51.100.7"]), "198.51.100.7", "what the client wrote itself");
        assert_eq!(x(&["1.1.1.1, 198.51.100.7, 10.0.0.9,192.0.2.200"]), "198.51.100.7");
        assert_eq!(x(&["1.1.1.1", "198.51.100.7, 10.0.0.9", "10.0.0.8"]), "198.51.100.7", "several lines are one list");
        assert_eq!(x(&["10.0.0.9, 10.0.0.8"]), "10.0.0.9", "one of us");
        assert_eq!(x(&["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(x(&["2001:db8::7"]), "2001:db8::7");
        assert_eq!(x(&["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(x(&["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(x(&["198.51.100.7, 2001:db8:ffff::1"]), "198.51.100.7");
        assert_eq!(x(&["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(x(&["198.51.100.7, ::ffff:10.0.0.9"]), "198.51.100.7");
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk_at_the_last_hop_that_can_be_trusted() {
        for garbage in [
            "",
            " ",
            "unknown",
            "_x",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4:99999",
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "ü",
            "fe80::1%eth0",
        ] {
            assert_eq!(x(&[garbage]), PROXY, "{garbage:?}");
            assert_eq!(x(&[&format!("1.1.1.1, {garbage}")]), PROXY, "{garbage:?}");
            assert_eq!(x(&[&format!("1.1.1.1, {garbage}, 10.0.0.9")]), "10.0.0.9", "{garbage:?}");
            assert_eq!(x(&[&format!("{garbage}, 198.51.100.7")]), "198.51.100.7", "{garbage:?}");
        }
        assert_eq!(x(&[]), PROXY);
        assert_eq!(
            x(&["1.1.1.1,"]),
            PROXY,
            "an empty element is not passed over: what stands left of it may be forged"
        );
    }

    #[test]
    fn nobody_but_a_trusted_proxy_is_believed() {
        for told_by in [ClientAddress::XForwardedFor, ClientAddress::Forwarded] {
            assert_eq!(client(told_by, "198.51.100.9", &["1.1.1.1"]), "198.51.100.9");
            assert_eq!(client(told_by, "198.51.100.9", &["for=1.1.1.1"]), "198.51.100.9");
            assert_eq!(client(told_by, "198.51.100.9", &["10.0.0.1"]), "198.51.100.9");
        }
        for told_by in [ClientAddress::Peer, ClientAddress::ProxyProtocol] {
            assert_eq!(client(told_by, PROXY, &["1.1.1.1"]), PROXY);
        }
        assert_eq!(client(ClientAddress::XForwardedFor, "::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert!(!Proxies::new(ClientAddress::XForwardedFor, &[]).trusts(PROXY.parse().unwrap()));
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        assert_eq!(f(&["for=198.51.100.7"]), "198.51.100.7");
        assert_eq!(f(&["For=\"198.51.100.7:4711\";proto=https;by=10.0.0.1"]), "198.51.100.7");
        assert_eq!(f(&["by=_me ; FOR=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(f(&["for=\"[2001:db8:cafe::17]\""]), "2001:db8:cafe::17");
        assert_eq!(f(&["for=\"[2001:db8::1]:_port\""]), "2001:db8::1");
        assert_eq!(f(&["for=1.1.1.1, for=198.51.100.7;host=\"a,b;c\", for=10.0.0.9"]), "198.51.100.7");
        assert_eq!(f(&["for=1.1.1.1", "for=198.51.100.7", "for=10.0.0.9"]), "198.51.100.7");
        assert_eq!(f(&["for=\"198.51.100.\\7\""]), "198.51.100.7", "a backslash in quotes");
        for hidden in [
            "for=unknown",
            "for=_hidden",
            "for=\"_hidden:_port\"",
            "proto=https",
            "198.51.100.7",
            "for=198.51.100.7;for=1.1.1.1",
            "for=\"198.51.100.7",
            "for=198.51.100.7\"",
            "for=\"198.51.100.7\"x",
            "for=\"198.51.100.7\\",
            "for==1.1.1.1",
            "",
        ] {
            assert_eq!(f(&[hidden]), PROXY, "{hidden:?}");
            assert_eq!(f(&[&format!("{hidden}, for=198.51.100.7")]), "198.51.100.7", "{hidden:?}");
        }
    }

    /// Read from the left, an open quote of the client's would swallow what the proxy appended, and everybody who does so would
    /// be the proxy.
    #[test]
    fn a_quote_that_a_client_leaves_open_swallows_nothing() {
        for forged in ["for=\"1.1.1.1", "for=\"\\", "for=\"a\\\"", "\"", "for=\"1.1.1.1, for=\"2.2.2.2"] {
            assert_eq!(f(&[&format!("{forged}, for=\"[2001:db8::7]:1\"")]), "2001:db8::7", "{forged:?}");
            assert_eq!(f(&[forged, "for=198.51.100.7"]), "198.51.100.7", "{forged:?}");
        }
    }

    #[test]
    fn the_proxy_protocol_is_read_whole_or_not_at_all() {
        let v1 = b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n";
        assert_eq!(introduced(v1), Some(Introduced::Client("198.51.100.7:4711".parse().unwrap())));
        let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
        assert_eq!(introduced(v1), Some(Introduced::Client("[2001:db8::7]:4711".parse().unwrap())));
        assert_eq!(introduced(b"PROXY UNKNOWN\r\n"), Some(Introduced::Nobody));
        assert_eq!(introduced(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Some(Introduced::Nobody));
        for none in [&b"PROXY TCP4 a b c d\r\n"[..], b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\nGET", b"", b"GET /"]
        {
            assert_eq!(introduced(none), None, "{none:?}");
        }
        let v2 = |command: u8, family: u8, addresses: &[u8]| {
            let length = addresses.len() as u16;
            introduced(&[PROXY_V2_SIGNATURE, &[command, family], &length.to_be_bytes(), addresses].concat())
        };
        let addresses = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187];
        assert_eq!(v2(0x21, 0x11, &addresses), Some(Introduced::Client("198.51.100.7:4711".parse().unwrap())));
        assert_eq!(v2(0x20, 0x00, &[]), Some(Introduced::Nobody), "a health check");
        assert_eq!(v2(0x20, 0x11, &addresses), Some(Introduced::Nobody));
        assert_eq!(v2(0x21, 0x12, &addresses), None, "datagrams");
        assert_eq!(v2(0x21, 0x11, &addresses[..11]), None);
        assert_eq!(v2(0x31, 0x11, &addresses), None, "version 3");
    }

    #[test]
    fn a_proxy_that_was_not_named_is_noticed_and_said_once() {
        let mut headers = HeaderMap::new();
        let missing = |proxies: &Proxies, address: &str, headers: &HeaderMap| {
            proxies.may_be_missing(address.parse().unwrap(), headers)
        };
        let none = Proxies::new(ClientAddress::Peer, &[]);
        assert!(!missing(&none, PROXY, &headers));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"));
        assert!(!missing(&none, "198.51.100.9", &headers), "anybody can send it");
        assert!(!missing(&proxies(ClientAddress::Forwarded), PROXY, &headers));
        assert!(missing(&none, PROXY, &headers));
        assert!(!missing(&none, PROXY, &headers), "again");
    }

    #[test]
    fn networks_are_said_by_operators() {
        let trusted = |text: &str| text.parse::<TrustedProxy>().is_ok();
        assert!(trusted("10.0.0.0/8") && trusted("::1") && trusted(" 2001:db8::/32 ") && trusted("10.1.2.3/8"));
        assert!(!trusted("10.0.0.0/33") && !trusted("proxy.example") && !trusted(""));
        let proxies = Proxies::new(ClientAddress::XForwardedFor, &["10.1.2.3/8".parse().unwrap()]);
        assert!(proxies.trusts("10.200.0.1".parse().unwrap()), "a network with bits of a host is that network");
    }

    proptest! {
        /// Whatever stands in a header, it is the address that our proxy appended.
        #[test]
        fn what_our_proxy_appends_is_believed_whatever_stands_before(junk in "[ -~]{0,60}") {
            prop_assert_eq!(x(&[&format!("{junk}, 198.51.100.7")]), "198.51.100.7");
            prop_assert_eq!(f(&[&format!("{junk}, for=198.51.100.7")]), "198.51.100.7");
            prop_assert_eq!(f(&[&format!("{junk}, for=\"[2001:db8::7]:1\"")]), "2001:db8::7");
        }

        #[test]
        fn nothing_that_a_proxy_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), lead in 0..3_usize) {
            let begin = [&b""[..], PROXY_V1_SIGNATURE, PROXY_V2_SIGNATURE][lead];
            introduced(&[begin, &bytes].concat());
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.append(X_FORWARDED_FOR, value.clone());
                headers.append(header::FORWARDED, value);
            }
            for told_by in [ClientAddress::XForwardedFor, ClientAddress::Forwarded] {
                proxies(told_by).client(PROXY.parse().unwrap(), &headers);
            }
        }
    }
}
