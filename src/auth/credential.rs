//! Where a request carries its credential. Pure.
//!
//! A cookie is sent by the browser whoever wrote the page, so it counts only where the page's origin is one that the operator named.
//! Everything else a page has to know before it can send it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headers::{Cookie, HeaderMapExt};
use warp::http::{HeaderMap, HeaderValue, Method, header};

use super::{Refusal, Token};
use crate::protocol::BEARER_SUBPROTOCOL;

/// Where credentials may be, beside `Authorization` and the subprotocol, which are always looked at.
#[derive(Clone, Debug, Default)]
pub struct Carriers {
    /// The cookie that may hold a token.
    pub cookie: Option<String>,
    /// The pages whose cookies count.
    pub origins: Vec<Origin>,
    /// Whether `?token=` counts.
    pub in_url: bool,
}

/// A credential, and what kind it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Presented {
    /// To be verified.
    Token(Token),
    /// To be redeemed, once.
    Ticket(Token),
}

/// What the address of a socket brings beside the path.
#[derive(Default, serde::Deserialize)]
pub struct Query {
    /// The cursor of a client that keeps them.
    pub after: Option<String>,
    ticket: Option<String>,
    token: Option<String>,
}

impl Query {
    /// What the address of a request brings: tickets are for sockets.
    pub fn of_request(pairs: &[(String, String)]) -> Self {
        let token = pairs.iter().find(|(key, _)| key == "token").map(|(_, value)| value.clone());
        Self { token, ..Self::default() }
    }
}

impl Carriers {
    /// The credential of a request: the first of `Authorization`, subprotocol, ticket, `?token=` and cookie that it brings.
    ///
    /// # Errors
    /// It brings one that cannot be one, or a cookie from a page that may not use it.
    pub fn find(&self, method: &Method, headers: &HeaderMap, query: &Query) -> Result<Option<Presented>, Refusal> {
        let mut authorizations = headers.get_all(header::AUTHORIZATION).into_iter();
        if let Some(value) = authorizations.next() {
            if authorizations.next().is_some() {
                return Err(Refusal::unauthorized("there are two `Authorization` headers: whose credential counts?"));
            }
            let value = value.to_str().unwrap_or_default().trim();
            // Other schemes are for somebody else: a proxy that asks for a password, perhaps.
            if let Some((scheme, token)) = value.split_once(' ').or((value.len() == 6).then_some((value, "")))
                && scheme.eq_ignore_ascii_case("bearer")
            {
                return token_of(token.trim()).map(Some);
            }
        }
        if let Some(offer) = subprotocols(headers).find_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL)) {
            let decoded = URL_SAFE_NO_PAD.decode(offer.trim_end_matches('=')).ok();
            return token_of(decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default().trim())
                .map(Some);
        }
        if let Some(ticket) = &query.ticket {
            return match Token::new(ticket) {
                Some(ticket) => Ok(Some(Presented::Ticket(ticket))),
                None => Err(Refusal::unauthorized("the ticket is none")),
            };
        }
        if let Some(token) = &query.token {
            if !self.in_url {
                return Err(Refusal::unauthorized(
                    "a token in the address ends up in logs, so it is not looked at: send `Authorization: Bearer`, the \
                     subprotocol `notifier.bearer.<base64url>`, or a ticket of POST /api/ws-ticket",
                ));
            }
            return token_of(token).map(Some);
        }
        let cookies = headers.typed_get::<Cookie>();
        let cookie = self.cookie.as_deref().and_then(|name| cookies.as_ref()?.get(name));
        let Some(cookie) = cookie else { return Ok(None) };
        if !self.may_use_cookies(method, headers) {
            return Err(Refusal::foreign_origin());
        }
        token_of(cookie.trim_matches('"')).map(Some)
    }

    /// Whether the page that sends this may use the browser's cookies: an exact match. `null` and an absent origin are no match, but
    /// for a request that only reads and of which the browser itself says that it comes from this very origin: it sends no `Origin`
    /// with those.
    fn may_use_cookies(&self, method: &Method, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).into_iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => self.allows(origin),
            (None, None) => {
                // A socket is opened with GET as well, and always brings an origin.
                *method == Method::GET
                    && headers.get(header::UPGRADE).is_none()
                    && headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin")
            }
            _ => false,
        }
    }

    /// Whether this is one of the origins that the operator named.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|allowed| allowed.0 == origin))
    }
}

fn token_of(text: &str) -> Result<Presented, Refusal> {
    Token::new(text).map(Presented::Token).ok_or(Refusal::unauthorized("the token is none: empty, too long or garbled"))
}

/// The subprotocols that a client offers.
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).map(str::trim)
}

/// Where a page comes from, as browsers write it: scheme, host, and port where it is not the scheme's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str =
            "an origin is scheme, host and perhaps port, as in https://app.example.com or http://localhost:3000";
        let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(SHAPE)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(is_host) || !matches!(scheme, "http" | "https") {
            return Err(SHAPE);
        }
        // Browsers leave out the port that the scheme implies.
        let implied = if scheme == "https" { ":443" } else { ":80" };
        Ok(Self(text.strip_suffix(implied).map_or(text.clone(), str::to_owned)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn carriers() -> Carriers {
        Carriers {
            cookie: Some("session".into()),
            origins: vec!["https://App.example:443/".parse().unwrap(), "http://localhost:3000".parse().unwrap()],
            in_url: false,
        }
    }

    fn found(carriers: &Carriers, headers: &[(&'static str, &str)], query: Query) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match carriers.find(&Method::GET, &map, &query) {
            Ok(Some(Presented::Token(token))) => Ok(token.as_str().to_owned()),
            Ok(Some(Presented::Ticket(ticket))) => Ok(format!("ticket {}", ticket.as_str())),
            Ok(None) => Ok(String::new()),
            Err(refusal) => Err(refusal.status.as_u16()),
        }
    }

    #[test]
    fn a_credential_is_found_wherever_it_may_be() {
        let (all, none) = (carriers(), Query::default);
        for value in ["Bearer abc", "bearer  abc", "BEARER abc "] {
            assert_eq!(found(&all, &[("authorization", value)], none()), Ok("abc".into()), "{value:?}");
        }
        for empty in ["Bearer", "Bearer ", "Bearer a\tb"] {
            assert_eq!(found(&all, &[("authorization", empty)], none()), Err(401), "{empty:?}");
        }
        let twice = [("authorization", "Bearer abc"), ("authorization", "Bearer def")];
        assert_eq!(found(&all, &twice, none()), Err(401));
        assert_eq!(found(&all, &[("authorization", "Basic eHk6eg==")], none()), Ok(String::new()));
        let offer = |token: &str| format!("notifier.v1, notifier.bearer.{}", URL_SAFE_NO_PAD.encode(token));
        assert_eq!(found(&all, &[("sec-websocket-protocol", &offer("abc"))], none()), Ok("abc".into()));
        for garbled in ["notifier.bearer.", "notifier.bearer.%%%", "notifier.bearer._w"] {
            assert_eq!(found(&all, &[("sec-websocket-protocol", garbled)], none()), Err(401), "{garbled:?}");
        }
        let ticket = Query { ticket: Some("t".into()), ..none() };
        assert_eq!(found(&all, &[], ticket), Ok("ticket t".into()));
        let token = || Query { token: Some("t".into()), ..none() };
        assert_eq!(found(&all, &[], token()), Err(401), "it ends up in logs");
        assert_eq!(found(&Carriers { in_url: true, ..carriers() }, &[], token()), Ok("t".into()));
    }

    #[test]
    fn a_cookie_counts_only_from_an_origin_that_was_named() {
        let all = carriers();
        let cookie = ("cookie", "a=b; session=abc; c=d");
        let from = |origins: &[&str]| {
            let mut headers = vec![cookie];
            headers.extend(origins.iter().map(|origin| ("origin", *origin)));
            found(&all, &headers, Query::default())
        };
        for allowed in ["https://app.example", "http://localhost:3000"] {
            assert_eq!(from(&[allowed]), Ok("abc".into()), "{allowed}");
        }
        for refused in [
            "null",
            "",
            "https://evil.example",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "https://xapp.example",
            "https://app.example/",
            "HTTPS://APP.EXAMPLE",
        ] {
            assert_eq!(from(&[refused]), Err(403), "{refused:?}");
        }
        assert_eq!(from(&[]), Err(403), "absent");
        assert_eq!(from(&["https://app.example", "https://app.example"]), Err(403), "twice");
        let own = ("sec-fetch-site", "same-origin");
        assert_eq!(found(&all, &[cookie, own], Query::default()), Ok("abc".into()), "a page reads from its own origin");
        assert_eq!(found(&all, &[cookie, ("sec-fetch-site", "same-site")], Query::default()), Err(403));
        assert_eq!(found(&all, &[cookie, own, ("upgrade", "websocket")], Query::default()), Err(403));
        assert_eq!(
            found(&Carriers::default(), &[cookie], Query::default()),
            Ok(String::new()),
            "no cookie is looked at"
        );
        let bearer = ("authorization", "Bearer own");
        assert_eq!(
            found(&all, &[cookie, bearer], Query::default()),
            Ok("own".into()),
            "what a page says itself goes first"
        );
    }

    #[test]
    fn an_origin_is_what_browsers_write() {
        assert_eq!("https://a.b:443".parse::<Origin>().unwrap().to_string(), "https://a.b");
        assert_eq!("http://[::1]:3000".parse::<Origin>().unwrap().to_string(), "http://[::1]:3000");
        for refused in
            ["", "*", "null", "app.example", "https://", "https://a/b", "ftp://a", "https://*.example", "https://a?b"]
        {
            assert!(refused.parse::<Origin>().is_err(), "{refused:?}");
        }
    }
}
