//! Numbers of JSON that browsers read as others.

use std::ops::Range;

use serde_json::value::RawValue;

/// The largest integer that a double holds with all those below it: JavaScript's `Number.MAX_SAFE_INTEGER`, 2^53 - 1.
const LARGEST: &[u8] = b"9007199254740991";

/// A JSON value with each number beyond 2^53, either way and at any depth, as a text of its digits. It is the same value where there is
/// none, which costs one look at each byte.
///
/// Shape: what Postgres writes for `jsonb`, which has no exponents.
pub fn readable(json: Box<RawValue>) -> Box<RawValue> {
    let text = json.get();
    let mut quoted = String::new();
    let mut copied = 0;
    let numbers = Numbers { text: text.as_bytes(), at: 0 };
    for number in numbers.filter(|number| is_large(&text.as_bytes()[number.clone()])) {
        quoted.push_str(&text[copied..number.start]);
        quoted.push('"');
        quoted.push_str(&text[number.clone()]);
        quoted.push('"');
        copied = number.end;
    }
    if copied == 0 {
        return json;
    }
    quoted.push_str(&text[copied..]);
    // A number became a text where any value may stand.
    RawValue::from_string(quoted).unwrap_or(json)
}

fn is_large(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    let whole = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    (whole, &digits[..whole]) > (LARGEST.len(), LARGEST)
}

/// Where the numbers of a JSON text are.
struct Numbers<'a> {
    text: &'a [u8],
    at: usize,
}

impl Iterator for Numbers<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    while *self.text.get(self.at)? != b'"' {
                        self.at += if self.text[self.at] == b'\\' { 2 } else { 1 };
                    }
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let start = self.at;
                    let rest = &self.text[start..];
                    let ends = |byte: &u8| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                    self.at += rest.iter().position(ends).unwrap_or(rest.len());
                    return Some(start..self.at);
                }
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(json: &str) -> String {
        readable(RawValue::from_string(json.to_owned()).unwrap()).get().to_owned()
    }

    #[test]
    fn what_a_double_cannot_hold_becomes_a_text() {
        assert_eq!(
            read(
                r#"{"a": 9007199254740992, "b": [-9007199254740992, {"c": 12345678901234567890.5}], "d": 10000000000000000}"#
            ),
            r#"{"a": "9007199254740992", "b": ["-9007199254740992", {"c": "12345678901234567890.5"}], "d": "10000000000000000"}"#
        );
        assert_eq!(read("9007199254740992"), r#""9007199254740992""#);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for json in [
            "{}",
            r#"{"a": 9007199254740991, "b": -9007199254740991, "c": 0.12345678901234567890, "d": 7, "e": true, "f": null}"#,
            r#"{"12345678901234567890": "12345678901234567890", "q\"12345678901234567890": "\\"}"#,
            r#"["ü 12345678901234567890", ""]"#,
        ] {
            assert_eq!(read(json), json);
        }
    }
}
