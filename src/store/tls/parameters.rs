//! What an address of a database says of TLS, taken out of its text: tokio-postgres refuses an address with parameters it does not
//! know, and knows three of the six words for `sslmode`.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;

/// What is taken out, in the order of [`Parameters`]' fields.
const OURS: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation", "channel_binding"];

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
        let rest = match ["postgresql://", "postgres://"].iter().any(|scheme| address.starts_with(scheme)) {
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
        let known = |c: char| c.is_ascii_lowercase() || c == '_';
        if name.starts_with("ssl") && name.len() < 32 && name.chars().all(known) {
            bail!("the database URL: {name} is not supported; of TLS these are: {}", OURS.join(", "));
        }
        Ok(false)
    }

    fn take_from_url(&mut self, url: &str) -> Result<String> {
        // Where tokio-postgres looks for it: behind the first @, since a password may hold a question mark.
        let after_credentials = url.find('@').unwrap_or(0);
        let Some(question) = url[after_credentials..].find('?').map(|at| after_credentials + at) else {
            return Ok(url.to_owned());
        };
        let (before, query) = (&url[..question], &url[question + 1..]);
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

    use super::Parameters;

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
