//! The connection string: `ringway://HOST:PORT[,HOST:PORT]?tls=DIR` and its two longer forms. It
//! owns how the string is read and written, and promises that a token is never printed. It opens
//! no file and resolves no name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::refusal::{Code, Refusal, shorten};

/// The port of an address that names none.
pub const DEFAULT_PORT: u16 = 7400;

const SCHEME: &str = "ringway://";
const OPTIONS: [&str; 5] = ["tls", "ca", "cert", "key", "token"];

/// Which cluster, and who is asking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectUrl {
    /// `HOST:PORT` of one or more coordinators; an IPv6 host is in brackets.
    pub addresses: Vec<String>,
    /// What the client trusts and how it proves who it is.
    pub auth: UrlAuth,
}

/// What a client trusts and how it proves who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UrlAuth {
    /// A directory that `ringway tls init` or `ringway up` made.
    Dir(PathBuf),
    /// A CA, and a client certificate with its key, as PEM files.
    Files {
        /// The certificate of the cluster's CA.
        ca: PathBuf,
        /// The client's certificate.
        cert: PathBuf,
        /// The client's key.
        key: PathBuf,
    },
    /// A CA as a PEM file, and a token.
    Token {
        /// The certificate of the cluster's CA.
        ca: PathBuf,
        /// What proves who the client is.
        token: Secret,
    },
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for ConnectUrl {
    type Err = Refusal;

    /// # Errors
    /// [`Code::InvalidOption`] with what is wrong; the text never holds the token.
    fn from_str(s: &str) -> Result<Self, Refusal> {
        let Some(rest) = s.trim().strip_prefix(SCHEME) else {
            // What stands here may be anything, a pasted token included: only its beginning is
            // shown, and only where it looks like a scheme.
            let scheme = s.split_once("://").map_or("", |(scheme, _)| scheme);
            return Err(invalid(format!(
                "a connection string begins with {SCHEME}, not with {:?}",
                shorten(scheme)
            )));
        };
        let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        let addresses = hosts.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { addresses, auth: auth(query)? })
    }
}

/// Without the token: [`UrlAuth::Token`] is written as its CA alone.
impl fmt::Display for ConnectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.addresses.join(","))?;
        match &self.auth {
            UrlAuth::Dir(dir) => write!(f, "?tls={}", escape(dir)),
            UrlAuth::Files { ca, cert, key } => {
                write!(f, "?ca={}&cert={}&key={}", escape(ca), escape(cert), escape(key))
            }
            UrlAuth::Token { ca, .. } => write!(f, "?ca={}", escape(ca)),
        }
    }
}

/// `HOST:PORT` with the port filled in.
fn address(s: &str) -> Result<String, Refusal> {
    let bad = |why: &str| invalid(format!("{:?} is no address: {why}", shorten(s)));
    let (host, port) = match s.strip_prefix('[') {
        Some(rest) => {
            let (ip, rest) = rest.split_once(']').ok_or_else(|| bad("the bracket stays open"))?;
            if ip.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad("between the brackets stands no IPv6 address"));
            }
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(|| bad("expected : and a port"))?),
            };
            (format!("[{ip}]"), port)
        }
        None => match s.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(bad("an IPv6 address needs brackets, such as [::1]:7400"));
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (s.to_owned(), None),
        },
    };
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c)) {
        return Err(bad("a host has letters, digits, - and dots"));
    }
    match port {
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
            _ => Err(bad("a port is a number from 1 to 65535")),
        },
    }
}

/// The options behind the question mark.
fn auth(query: &str) -> Result<UrlAuth, Refusal> {
    let mut values: [Option<String>; OPTIONS.len()] = Default::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(known), Some(slot)) = find(name, &mut values) else {
            return Err(invalid(format!(
                "there is no option {:?} in a connection string",
                shorten(name)
            ))
            .hint(format!(
                "the nearest is {}; all are {}",
                nearest(name),
                OPTIONS.join(", ")
            )));
        };
        if value.is_empty() {
            return Err(invalid(format!("the option {known} of the connection string is empty")));
        }
        if slot.is_some() {
            return Err(invalid(format!(
                "the option {known} stands twice in the connection string"
            )));
        }
        *slot = Some(unescape(value).ok_or_else(|| {
            invalid(format!("the option {known} holds a % that two hex digits do not follow"))
                .hint("write a percent sign itself as %25")
        })?);
    }
    match values {
        [Some(dir), None, None, None, None] => Ok(UrlAuth::Dir(dir.into())),
        [None, Some(ca), Some(cert), Some(key), None] => {
            Ok(UrlAuth::Files { ca: ca.into(), cert: cert.into(), key: key.into() })
        }
        [None, Some(ca), None, None, Some(token)] => {
            Ok(UrlAuth::Token { ca: ca.into(), token: Secret(token) })
        }
        [None, None, None, None, None] => {
            Err(invalid("the connection string does not say whom to trust").hint(FORMS))
        }
        values => {
            let given: Vec<&str> = OPTIONS
                .iter()
                .zip(&values)
                .filter_map(|(name, value)| value.as_ref().map(|_| *name))
                .collect();
            Err(invalid(format!("the options {} do not go together", given.join(", "))).hint(FORMS))
        }
    }
}

const FORMS: &str =
    "give ?tls=DIR, or ?ca=PATH&cert=PATH&key=PATH, or ?ca=PATH&token=… behind the address";

fn find<'a>(
    name: &str,
    values: &'a mut [Option<String>; OPTIONS.len()],
) -> (Option<&'static str>, Option<&'a mut Option<String>>) {
    match OPTIONS.iter().position(|known| *known == name) {
        Some(at) => (OPTIONS.get(at).copied(), values.get_mut(at)),
        None => (None, None),
    }
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidOption, text)
        .hint("a connection string looks like ringway://HOST:PORT?tls=DIR")
}

/// The known option with the smallest edit distance to `name`.
fn nearest(name: &str) -> &'static str {
    OPTIONS.iter().min_by_key(|known| edit_distance(name, known)).copied().unwrap_or("tls")
}

/// Levenshtein's distance, by the two-row method of Wagner and Fischer. `a` is cut at 64
/// characters, since nothing that long is near an option.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            left = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Percent-encodes what would end a value or be taken for an escape (RFC 3986).
fn escape(path: &Path) -> String {
    let mut out = String::new();
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'/' | b'.' | b'-' | b'_' | b'~' | b':' | b',' | b'@' | b'+' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The reverse of [`escape`]; none for a broken escape or what is no UTF-8.
fn unescape(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(s: &str) -> Result<ConnectUrl, Refusal> {
        s.parse()
    }

    #[test]
    fn every_form_reads_back_as_it_was_written() {
        for (given, written) in [
            ("ringway://h:1?tls=/a/b", "ringway://h:1?tls=/a/b"),
            ("ringway://h?tls=/a", "ringway://h:7400?tls=/a"),
            ("ringway://h:1,10.0.0.2,[::1]?tls=x", "ringway://h:1,10.0.0.2:7400,[::1]:7400?tls=x"),
            ("ringway://[fe80::1]:9/?tls=x", "ringway://[fe80::1]:9?tls=x"),
            ("ringway://h:1?tls=/my%20data/a%26b", "ringway://h:1?tls=/my%20data/a%26b"),
            ("ringway://h:1?key=/k&ca=/c&cert=/e", "ringway://h:1?ca=/c&cert=/e&key=/k"),
        ] {
            let url = parse(given).unwrap();
            assert_eq!(url.to_string(), written);
            assert_eq!(parse(written).unwrap(), url);
        }
        let spaced = parse("ringway://h:1?tls=/my%20data/a%26b").unwrap();
        assert_eq!(spaced.auth, UrlAuth::Dir("/my data/a&b".into()));
    }

    #[test]
    fn a_token_is_read_and_never_printed() {
        let url = parse("ringway://h:1?ca=/c&token=s3cret").unwrap();
        let UrlAuth::Token { token, .. } = &url.auth else { panic!("{url:?}") };
        assert_eq!(token.expose(), "s3cret");
        assert!(format!("{url:?}").contains("***"));
        assert!(!format!("{url:?} {url}").contains("s3cret"));
        for bad in ["ringway://h:1?token=s3cret", "ringway://h:1?ca=&token=s3cret", "s3cret"] {
            assert!(!format!("{:?}", parse(bad).unwrap_err()).contains("s3cret"));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (given, part) in [
            ("http://h:1?tls=x", "begins with ringway://"),
            ("ringway://?tls=x", "host is missing"),
            ("ringway://h:99999?tls=x", "a port is a number"),
            ("ringway://h:0?tls=x", "a port is a number"),
            ("ringway://::1:7400?tls=x", "needs brackets"),
            ("ringway://[::1?tls=x", "bracket stays open"),
            ("ringway://[x]:1?tls=x", "no IPv6 address"),
            ("ringway://h h:1?tls=x", "a host has"),
            ("ringway://h:1", "whom to trust"),
            ("ringway://h:1?ca=/c&cert=/e", "do not go together"),
            ("ringway://h:1?tls=/a&token=t", "do not go together"),
            ("ringway://h:1?tls=", "is empty"),
            ("ringway://h:1?tls=/a&tls=/b", "twice"),
            ("ringway://h:1?tls=/a%2", "two hex digits"),
        ] {
            let refusal = parse(given).unwrap_err();
            assert!(refusal.text.contains(part), "{given}: {}", refusal.text);
            assert!(!refusal.hint.is_empty());
        }
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        for (given, near) in [("tsl", "tls"), ("certs", "cert"), ("tokn", "token"), ("kee", "key")]
        {
            let refusal = parse(&format!("ringway://h:1?{given}=x")).unwrap_err();
            assert!(refusal.hint.starts_with(&format!("the nearest is {near}")), "{refusal:?}");
        }
    }

    proptest! {
        #[test]
        fn any_path_survives(path in "[^\u{0}]{1,40}") {
            let url = ConnectUrl { addresses: vec!["h:1".into()], auth: UrlAuth::Dir(path.into()) };
            prop_assert_eq!(parse(&url.to_string()).unwrap(), url);
        }

        #[test]
        fn garbage_never_panics(s in ".{0,80}") {
            let _ = parse(&s);
            let _ = parse(&format!("ringway://{s}"));
        }
    }
}
