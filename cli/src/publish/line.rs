//! What a line of JSON says about its message: the class by a template, the key by a field. The
//! body is the line itself and is not touched. It promises that a number's text is taken as it is
//! written, and that every line that cannot be taken says why.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use ringway_proto::limits::MAX_TOKEN_LEN;
use ringway_proto::refusal::shorten;
use ringway_proto::{Class, Refusal};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::exit::Failure;

/// Where class and key of a line come from.
#[derive(Clone, Debug)]
pub struct Recipe {
    class: ClassFrom,
    key: KeyFrom,
    /// Each field that is looked at, once.
    fields: Vec<String>,
}

/// Where the class of a line comes from.
#[derive(Clone, Debug)]
enum ClassFrom {
    Fixed(Class),
    Template(Vec<Part>),
}

/// Where the key of a line comes from.
#[derive(Clone, Debug)]
enum KeyFrom {
    Fixed(Option<Bytes>),
    /// The field with this number.
    Field(usize),
}

/// A piece of a class template.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    /// The field with this number.
    Field(usize),
}

/// Why a line is no message; `text` follows the words "line N".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineError {
    /// What programs match on.
    pub code: &'static str,
    /// `is no JSON: …`.
    pub text: String,
}

impl LineError {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl Recipe {
    /// Every message has `class`; `key_field` names the field of the key, else all have `key`.
    #[must_use]
    pub fn fixed(class: Class, key_field: Option<&str>, key: Option<Bytes>) -> Self {
        let mut fields = Vec::new();
        let key = key_from(&mut fields, key_field, key);
        Self { class: ClassFrom::Fixed(class), key, fields }
    }

    /// The class is `template` with each `{field}` replaced by what the line has there.
    ///
    /// # Errors
    /// When a brace stays open, a field has no name, or what stands between the fields can never
    /// be part of a class.
    pub fn template(
        template: &str,
        key_field: Option<&str>,
        key: Option<Bytes>,
    ) -> Result<Self, Failure> {
        let mut fields = Vec::new();
        let parts = parts(template, &mut fields)?;
        let example: String = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Field(_) => "x",
            })
            .collect();
        Class::check(&example).map_err(|refusal| {
            let Refusal { code, text, hint } = refusal;
            Failure::from(Refusal {
                code,
                text: format!("the template {:?} makes no class: {text}", shorten(template)),
                hint,
            })
        })?;
        let key = key_from(&mut fields, key_field, key);
        Ok(Self { class: ClassFrom::Template(parts), key, fields })
    }

    /// Whether lines have to be JSON.
    #[must_use]
    pub fn reads_json(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Class and key of `line`.
    ///
    /// # Errors
    /// `invalid-line` when it is no JSON object or a field is missing or of the wrong kind,
    /// `invalid-class` when its values make no class, `invalid-message` for a key too long.
    pub fn read(&self, line: &[u8]) -> Result<(Class, Option<Bytes>), LineError> {
        let values = match self.reads_json() {
            true => values(line, &self.fields)?,
            false => Vec::new(),
        };
        let value = |field: usize| -> Result<(&str, &str), LineError> {
            let name = self.fields.get(field).map_or("", String::as_str);
            match values.get(field).copied().flatten() {
                Some(raw) => Ok((name, raw.get())),
                None => {
                    Err(LineError::new("invalid-line", format!("has no field {:?}", shorten(name))))
                }
            }
        };
        let class = match &self.class {
            ClassFrom::Fixed(class) => class.clone(),
            ClassFrom::Template(parts) => {
                let mut text = String::with_capacity(64);
                for part in parts {
                    match part {
                        Part::Text(fixed) => text.push_str(fixed),
                        Part::Field(field) => {
                            let (name, raw) = value(*field)?;
                            text.push_str(&token(name, raw)?);
                        }
                    }
                }
                Class::new(&text).map_err(|refusal| {
                    LineError::new("invalid-class", format!("makes no class: {}", refusal.text))
                })?
            }
        };
        let key = match &self.key {
            KeyFrom::Fixed(key) => key.clone(),
            KeyFrom::Field(field) => {
                let (name, raw) = value(*field)?;
                key(name, raw)?
            }
        };
        Ok((class, key))
    }
}

fn key_from(fields: &mut Vec<String>, field: Option<&str>, key: Option<Bytes>) -> KeyFrom {
    match field {
        Some(field) => KeyFrom::Field(number(fields, field)),
        None => KeyFrom::Fixed(key),
    }
}

/// The number of `field` among `fields`, where it is put if it is new.
fn number(fields: &mut Vec<String>, field: &str) -> usize {
    match fields.iter().position(|known| known == field) {
        Some(at) => at,
        None => {
            fields.push(field.to_owned());
            fields.len() - 1
        }
    }
}

/// Cuts a template at its braces.
fn parts(template: &str, fields: &mut Vec<String>) -> Result<Vec<Part>, Failure> {
    let bad = |why: &str| {
        Failure::usage(format!("the template {:?} is not usable: {why}", shorten(template)))
            .help("a template looks like 'flights.{origin}.{carrier}'")
    };
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('{') {
        if text.contains('}') {
            return Err(bad("a brace closes that was not opened"));
        }
        let (field, behind) = behind.split_once('}').ok_or_else(|| bad("a brace stays open"))?;
        if field.is_empty() || field.contains('{') {
            return Err(bad("between two braces stands the name of one field"));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        parts.push(Part::Field(number(fields, field)));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(bad("a brace closes that was not opened"));
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// The raw JSON of each of `fields` in the object `line`; of a field that stands twice, the last.
fn values<'a>(line: &'a [u8], fields: &[String]) -> Result<Vec<Option<&'a RawValue>>, LineError> {
    let text = std::str::from_utf8(line).map_err(|e| {
        LineError::new(
            "invalid-line",
            format!("is no JSON: byte {} is no UTF-8", e.valid_up_to() + 1),
        )
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    reader
        .deserialize_map(Fields { fields })
        .and_then(|values| reader.end().map(|()| values))
        .map_err(|e| no_json(text, &e))
}

fn no_json(text: &str, e: &serde_json::Error) -> LineError {
    if text.trim().is_empty() {
        return LineError::new("invalid-line", "is no JSON: it is empty");
    }
    if e.is_data() {
        return LineError::new("invalid-line", "is no JSON object");
    }
    // Every line is a text of its own, so the reader's own "line 1" would only mislead.
    let (column, said) = (e.column(), e.to_string());
    let why = said.split(" at line ").next().unwrap_or(&said);
    LineError::new("invalid-line", format!("is no JSON: {why} at column {column}"))
}

/// Walks one object and keeps what is asked for.
struct Fields<'f> {
    fields: &'f [String],
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.fields.len()];
        while let Some(Name(name)) = map.next_key()? {
            let wanted = self.fields.iter().position(|field| *field == name);
            match wanted.and_then(|at| values.get_mut(at)) {
                Some(slot) => *slot = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// The name of a field, copied only where it holds an escape.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a JSON string; none for any other value. The reader has checked it already.
fn string(raw: &str) -> Option<String> {
    if raw.starts_with('"') { serde_json::from_str(raw).ok() } else { None }
}

/// The value of a field as one token of a class.
fn token<'a>(field: &str, raw: &'a str) -> Result<Cow<'a, str>, LineError> {
    let legal = |s: &str| {
        (1..=MAX_TOKEN_LEN).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    // The usual case, a plain string, is taken as it stands between its quotes.
    if let Some(inner) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'))
        && legal(inner)
    {
        return Ok(Cow::Borrowed(inner));
    }
    let text = match raw.as_bytes().first() {
        Some(b'"') => string(raw).map(Cow::Owned),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') => Some(Cow::Borrowed(raw)),
        _ => None,
    };
    match text {
        Some(text) if legal(&text) => Ok(text),
        _ => Err(LineError::new(
            "invalid-class",
            format!(
                "has {} in field {:?}, which is no token of a class",
                shorten(raw),
                shorten(field)
            ),
        )),
    }
}

/// The value of a field as a key: a string, a number as it is written, or null for none.
fn key(field: &str, raw: &str) -> Result<Option<Bytes>, LineError> {
    match raw.as_bytes().first() {
        Some(b'"') => Ok(Some(Bytes::from(string(raw).unwrap_or_default()))),
        Some(b'-' | b'0'..=b'9') => Ok(Some(Bytes::copy_from_slice(raw.as_bytes()))),
        Some(b'n') => Ok(None),
        _ => Err(LineError::new(
            "invalid-line",
            format!(
                "has {} in field {:?}, which is no key: a key is a string, a number or null",
                shorten(raw),
                shorten(field)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Recipe {
        Recipe::template("flights.{origin}.{n}", Some("tail"), None).unwrap()
    }

    #[test]
    fn class_and_key_come_from_the_fields() {
        for (line, class, key) in [
            (r#"{"origin":"EWR","n":1,"tail":"N14228"}"#, "flights.EWR.1", Some("N14228")),
            (r#"{"tail":1.50,"n":true,"origin":"a-b_c"}"#, "flights.a-b_c.true", Some("1.50")),
            (r#"{"tail":null,"n":-3,"origin":"X"}"#, "flights.X.-3", None),
            (r#"{"tail":"","n":"x","origin":"X"}"#, "flights.X.x", Some("")),
            (
                r#" {"x":[{"tail":9}],"tail":"a\"b","n":"\u0041","origin":"X"} "#,
                "flights.X.A",
                Some("a\"b"),
            ),
            (r#"{"tail":1e3,"tail":2E3,"n":"x","origin":"X"}"#, "flights.X.x", Some("2E3")),
            (r#"{"t\u0061il":"esc","n":"x","origin":"X"}"#, "flights.X.x", Some("esc")),
        ] {
            let (got, got_key) = flights().read(line.as_bytes()).expect(line);
            assert_eq!(got.as_str(), class, "{line}");
            assert_eq!(got_key.as_deref(), key.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_message_says_why() {
        for (line, code, part) in [
            ("", "invalid-line", "is no JSON: it is empty"),
            (
                "{\"origin\":\"A\" \"n\":1}",
                "invalid-line",
                "is no JSON: expected `,` or `}` at column 15",
            ),
            ("{\"origin\":\"A\"", "invalid-line", "is no JSON: EOF"),
            ("[1]", "invalid-line", "is no JSON object"),
            ("7", "invalid-line", "is no JSON object"),
            (r#"{"origin":"A","n":1,"tail":"t"} x"#, "invalid-line", "trailing characters"),
            (r#"{"origin":"A","n":1}"#, "invalid-line", "has no field \"tail\""),
            (r#"{"n":1,"tail":"t"}"#, "invalid-line", "has no field \"origin\""),
            (r#"{"origin":"A","n":1,"tail":true}"#, "invalid-line", "has true in field \"tail\""),
            (r#"{"origin":"A","n":1,"tail":{}}"#, "invalid-line", "has {} in field \"tail\""),
            (
                r#"{"origin":"a b","n":1,"tail":"t"}"#,
                "invalid-class",
                "has \"a b\" in field \"origin\"",
            ),
            (r#"{"origin":"a.b","n":1,"tail":"t"}"#, "invalid-class", "no token of a class"),
            (r#"{"origin":"","n":1,"tail":"t"}"#, "invalid-class", "no token of a class"),
            (r#"{"origin":null,"n":1,"tail":"t"}"#, "invalid-class", "has null in field"),
            (r#"{"origin":"A","n":1.5,"tail":"t"}"#, "invalid-class", "has 1.5 in field"),
        ] {
            let error = flights().read(line.as_bytes()).expect_err(line);
            assert_eq!(error.code, code, "{line}: {}", error.text);
            assert!(error.text.contains(part), "{line}: {}", error.text);
        }
        let error = flights().read(b"{\"a\":\"\xff\"}").unwrap_err();
        assert!(error.text.contains("byte 7 is no UTF-8"), "{}", error.text);
    }

    #[test]
    fn a_template_that_can_make_no_class_is_refused_before_anything_is_read() {
        for template in ["", "a.{b", "a.b}", "a.{}", "a.{b{c}}", "a..{b}", "a b.{c}", ">.{c}"] {
            assert!(Recipe::template(template, None, None).is_err(), "{template}");
        }
        let glued = Recipe::template("{a}-{b}.{a}", None, None).unwrap();
        assert_eq!(glued.read(br#"{"a":"x","b":1}"#).unwrap().0.as_str(), "x-1.x");
    }

    #[test]
    fn lines_of_a_fixed_class_need_not_be_json() {
        let class = Class::new("logs.web").unwrap();
        let plain = Recipe::fixed(class.clone(), None, Some(Bytes::from_static(b"k")));
        assert!(!plain.reads_json());
        assert_eq!(plain.read(b"not json").unwrap().1.as_deref(), Some(&b"k"[..]));
        assert!(Recipe::fixed(class, Some("host"), None).read(b"not json").is_err());
    }
}
