//! What a user has read, as a client says it.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// What a user has read: the body of `POST /api/notifications/read`, or a socket's `read`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// These: at least one, at most [`Read::MAX_IDS`].
    Ids(Vec<i64>),
    /// This one and all with smaller ids.
    Before(i64),
}

impl Read {
    /// How many ids may be named at once.
    pub const MAX_IDS: usize = 1000;
}

impl FromStr for Read {
    type Err = String;

    /// Parses a JSON object with either `ids` or `before`. Other keys are ignored, and null is as good as a missing key.
    ///
    /// # Errors
    /// Says what is wrong in words for whoever wrote the client.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        #[derive(Deserialize)]
        struct Body {
            ids: Option<Vec<Id>>,
            before: Option<Id>,
        }
        // serde takes an array for a struct as well.
        if !text.trim_start().starts_with('{') {
            return Err(r#"expected a JSON object: {"ids":["1","2"]} or {"before":"2"}"#.to_owned());
        }
        let body: Body = serde_json::from_str(text).map_err(|error| {
            // Where in the text it is says nothing to whoever's program wrote the text.
            let text = error.to_string();
            text.split(" at line ").next().unwrap_or_default().to_owned()
        })?;
        match (body.ids, body.before) {
            (Some(ids), None) if ids.is_empty() => Err("`ids` is empty: name at least one".to_owned()),
            (Some(ids), None) if ids.len() > Self::MAX_IDS => {
                Err(format!("`ids` has {} elements and may have {}: send several requests", ids.len(), Self::MAX_IDS))
            }
            (Some(ids), None) => Ok(Self::Ids(ids.into_iter().map(|Id(id)| id).collect())),
            (None, Some(Id(id))) => Ok(Self::Before(id)),
            (Some(_), Some(_)) => Err("both `ids` and `before` are given: send one of them".to_owned()),
            (None, None) => Err("neither `ids` nor `before` is given: send one of them".to_owned()),
        }
    }
}

/// Parses a notification's id: digits, at most 9223372036854775807.
///
/// # Errors
/// Says what an id is.
pub fn parse_id(text: &str) -> Result<i64, &'static str> {
    // The parser alone would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or("an id is a string of digits, as a notification's `id` has it")
}

/// An id in JSON: a string of digits, or an integer of a client that made one of it.
struct Id(i64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(u64),
            Other(serde::de::IgnoredAny),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => parse_id(&text),
            Written::Number(number) => parse_id(&number.to_string()),
            Written::Other(_) => parse_id(""),
        }
        .map(Self)
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_named_by_ids_or_by_the_newest() {
        let most = format!(r#"{{"ids":[{}"1"]}}"#, r#""9223372036854775807","#.repeat(Read::MAX_IDS - 1));
        assert!(matches!(most.parse(), Ok(Read::Ids(ids)) if ids.len() == Read::MAX_IDS));
        for (body, read) in [
            (r#"{"ids":["1",2]}"#, Read::Ids(vec![1, 2])),
            (r#" {"before":"9223372036854775807","ids":null,"op":"read"}"#, Read::Before(i64::MAX)),
            (r#"{"before":0}"#, Read::Before(0)),
        ] {
            assert_eq!(body.parse(), Ok(read), "{body}");
        }
        let many = format!(r#"{{"ids":[{}1]}}"#, "1,".repeat(Read::MAX_IDS));
        for (body, wrong) in [
            ("", "a JSON object"),
            (r#"[["1"],null]"#, "a JSON object"),
            ("{", "EOF"),
            ("{}", "neither"),
            (r#"{"ids":null}"#, "neither"),
            (r#"{"ids":["1"],"before":"1"}"#, "both"),
            (r#"{"before":"1","before":"2"}"#, "duplicate"),
            (r#"{"ids":[]}"#, "empty"),
            (&many, "1001"),
            (r#"{"ids":"1"}"#, "a sequence"),
            (r#"{"ids":["+1"]}"#, "digits"),
            (r#"{"ids":["-1"]}"#, "digits"),
            (r#"{"ids":[-1]}"#, "digits"),
            (r#"{"ids":[1.5]}"#, "digits"),
            (r#"{"ids":[null]}"#, "digits"),
            (r#"{"before":""}"#, "digits"),
            (r#"{"before":true}"#, "digits"),
            (r#"{"before":"9223372036854775808"}"#, "digits"),
            (r#"{"before":"1"} x"#, "trailing"),
        ] {
            let said = body.parse::<Read>().unwrap_err();
            assert!(said.contains(wrong), "{body}: {said}");
        }
    }
}
