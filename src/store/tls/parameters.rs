//! What an address of a database says of TLS, taken out of its text: tokio-postgres refuses an address with parameters it does not
//! know, and knows three of the six words for `sslmode`.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;

/// What is taken out, in the order of [`Parameters`]' fields.
const OURS: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation", "channel_binding"];

/// What tokio-postgres knows beside.
pub(super) const THEIRS: [&str; 16] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// The parameters' values, `None` where they are not given or empty. Of one that is given twice the last holds.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) mode: Option<String>,
    pub(super) roots: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) negotiation: Option<String>,
    pub(super) channel_binding: Option<String>,
}

impl Parameters {
    /// Takes them out of a URL or of `key=value` pairs, and returns the rest of it beside them.
    ///
    /// # Errors
    /// The pairs are malformed, or name a parameter of TLS that has no force here. Only that name is repeated.
    pub(super) fn take(address: &str) -> Result<(Self, String)> {
        let mut parameters = Self::default();
        let rest = match is_url(address) {
            true => parameters.take_from_url(address)?,
            false => parameters.take_from_pairs(address)?,
        };
        Ok((parameters, rest))
    }

    /// Keeps the value of a parameter that is ours; says whether it is.
    fn keep(&mut self, name: &str, value: Cow<'_, str>) -> Result<bool> {
        let [mode, roots, certificate, key, negotiation, channel_binding] = [
            &mut self.mode,
            &mut self.roots,
            &mut self.certificate,
            &mut self.key,
            &mut self.negotiation,
            &mut self.channel_binding,
        ];
        let fields = [mode, roots, certificate, key, negotiation, channel_binding];
        if let Some((_, field)) = OURS.iter().zip(fields).find(|(ours, _)| **ours == name) {
            *field = Some(value.into_owned()).filter(|value| !value.is_empty());
            return Ok(true);
        }
        if name.starts_with("ssl") && is_word(name) {
            bail!("the database URL: {name} is not supported; of TLS these are: {}", OURS.join(", "));
        }
        Ok(false)
    }

    fn take_from_url(&mut self, url: &str) -> Result<String> {
        let Some((before, query)) = split(url) else { return Ok(url.to_owned()) };
        let mut kept = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
            if !self.keep(&decoded(name), decoded(value))? {
                kept.push(pair);
            }
        }
        Ok(if kept.is_empty() { before.to_owned() } else { format!("{before}?{}", kept.join("&")) })
    }

    fn take_from_pairs(&mut self, pairs: &str) -> Result<String> {
        let mut rest = String::new();
        let mut text = pairs.trim_start();
        while !text.is_empty() {
            let (name, after) = text.split_once('=').context(super::MALFORMED)?;
            let (value, after) = unquoted(after.trim_start())?;
            text = after.trim_start();
            let name = name.trim_end();
            if !self.keep(name, Cow::Borrowed(&value))? {
                rest += &format!("{name}='{}' ", value.replace('\\', r"\\").replace('\'', r"\'"));
            }
        }
        Ok(rest)
    }
}

/// The name of a parameter of a URL that nobody knows, if that is why it cannot be read. Nothing that may be part of a password: one
/// that is not written as it has to be ends with the last @.
pub(super) fn unknown(address: &str) -> Option<&str> {
    let (_, query) = split(address).filter(|(_, query)| is_url(address) && !query.contains('@'))?;
    let mut names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    names.find(|name| is_word(name) && !THEIRS.contains(name))
}

fn is_url(address: &str) -> bool {
    ["postgresql://", "postgres://"].iter().any(|scheme| address.starts_with(scheme))
}

/// Whether a text may be a parameter's name, and is no secret.
fn is_word(name: &str) -> bool {
    (1..32).contains(&name.len()) && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// A URL's parameters, and what stands before them. They begin where tokio-postgres looks for them: behind the first @, since a password
/// may hold a question mark.
fn split(url: &str) -> Option<(&str, &str)> {
    let after_credentials = url.find('@').unwrap_or(0);
    let (_, query) = url[after_credentials..].split_once('?')?;
    Some((&url[..url.len() - query.len() - 1], query))
}

/// The value a text begins with, which may stand in quotes and may hold backslashes before what is meant as it is; and what is
/// behind it.
fn unquoted(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut rest = text.chars();
    if quoted {
        rest.next();
    }
    loop {
        let before = rest.as_str();
        match rest.next() {
            Some('\\') => value.extend(rest.next()),
            Some('\'') if quoted => return Ok((value, rest.as_str())),
            Some(c) if c.is_whitespace() && !quoted => return Ok((value, before)),
            Some(c) => value.push(c),
            None if quoted => bail!(super::MALFORMED),
            None => return Ok((value, before)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Parameters, unknown};

    #[test]
    fn what_is_of_tls_is_taken_out_of_urls_and_of_pairs() {
        for (address, mode, roots, rest) in [
            ("postgresql://h/d", None, None, "postgresql://h/d"),
            ("postgresql://h/d?sslmode=require", Some("require"), None, "postgresql://h/d"),
            ("postgresql://u:a?b@h/d?sslmode=require", Some("require"), None, "postgresql://u:a?b@h/d"),
            (
                "postgres://u@a:1,b:2/d?application_name=x%26y&sslrootcert=%2Fa%20b.pem&sslmode=allow&sslmode=verify-ca",
                Some("verify-ca"),
                Some("/a b.pem"),
                "postgres://u@a:1,b:2/d?application_name=x%26y",
            ),
            ("postgresql://h/d?ssl%6Dode=verify-full&sslrootcert=", Some("verify-full"), None, "postgresql://h/d"),
            (
                r"host=h password='it\'s a \\ secret' sslmode = verify-full sslrootcert='/a b.pem' user=u\ v",
                Some("verify-full"),
                Some("/a b.pem"),
                r"host='h' password='it\'s a \\ secret' user='u v' ",
            ),
            ("host=h sslmode=''", None, None, "host='h' "),
        ] {
            let (parameters, left) = Parameters::take(address).unwrap();
            assert_eq!(parameters.mode.as_deref(), mode, "{address}");
            assert_eq!(parameters.roots.as_deref(), roots, "{address}");
            assert_eq!(left, rest, "{address}");
        }
    }

    #[test]
    fn what_has_no_force_is_named_and_nothing_else_is() {
        for (address, name) in [
            ("postgresql://u:geheim@h/d?sslcrl=/geheim", "sslcrl is not supported"),
            ("host=h password=geheim sslpassword=geheim", "sslpassword is not supported"),
            ("host=h password='geheim", "malformed"),
            ("geheim", "malformed"),
        ] {
            let error = Parameters::take(address).map(|(_, rest)| rest).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn what_nobody_knows_is_named_and_no_part_of_a_password() {
        for (address, name) in [
            ("postgresql://u@h/d?connect_timeout=1&gssencmode=disable", Some("gssencmode")),
            ("postgresql://u@h/d?passfile=geheim&host=h", Some("passfile")),
            ("postgresql://u@h/d?gssencmode", Some("gssencmode")),
            ("postgresql://u:ge?heim=x@h/d?host=h", None),
            ("postgresql://u:g@e?heim=x@h/d", None),
            ("postgresql://u:p@h/d?", None),
            ("host=h password=ge?heim=x", None),
        ] {
            assert_eq!(unknown(address), name, "{address}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_left_has_nothing_of_ours(
            scheme in "(postgresql://|postgres://|)",
            text in "([a-z@:/?&= '\\\\%]|sslmode=|sslcert=|host=|\\PC){0,40}",
        ) {
            if let Ok((_, rest)) = Parameters::take(&format!("{scheme}{text}")) {
                let (again, same) = Parameters::take(&rest).unwrap();
                assert_eq!((again.mode, again.certificate, same), (None, None, rest));
            }
        }
    }
}
