//! Header fields between a stub's lists of text and `http`'s map.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Error;

/// Fields that are between the two ends of one connection (RFC 9110 section 7.6.1), or that the host writes by what it really sends.
const OF_THE_HOST: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads a stub's fields. Repeated names stay repeated.
///
/// # Errors
/// `invalid` for what is no name or value, and for names that are the host's or begin with `reserved_prefix`; `limit` if they are over `limit_bytes`.
pub(super) fn parse(headers: &[(String, String)], reserved_prefix: Option<&str>, limit_bytes: usize) -> Result<HeaderMap, Error> {
    let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > limit_bytes {
        return Err(Error::too_long("a request head", size, limit_bytes));
    }
    let mut map = HeaderMap::with_capacity(headers.len().min(64));
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::Invalid(format!("`{}` is no header name (RFC 9110 section 5.1)", name.escape_debug())))?;
        if OF_THE_HOST.contains(&parsed.as_str()) || reserved_prefix.is_some_and(|prefix| parsed.as_str().starts_with(prefix)) {
            return Err(Error::Invalid(format!("the header `{parsed}` is written by the host: leave it out")));
        }
        // The value may be a secret: it stays out of the text.
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| Error::Invalid(format!("the value of the header `{parsed}` has control characters (RFC 9110 section 5.5)")))?;
        map.try_append(parsed, value).map_err(|_| Error::Limit(format!("{} headers are too many", headers.len())))?;
    }
    Ok(map)
}

/// Writes a response's fields as a stub sees them: names in lower case, what is not UTF-8 replaced.
///
/// # Errors
/// The number of bytes if it is over `limit_bytes`.
pub(super) fn list(headers: &HeaderMap, limit_bytes: usize) -> Result<Vec<(String, String)>, usize> {
    let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > limit_bytes {
        return Err(size);
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expected: Result<(), &str>) {
        let result = parse(&[(name.to_owned(), value.to_owned())], Some("sec-websocket-"), 100);
        assert_eq!(result.map(drop).map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn stubs_write_no_fields_of_the_connection() {
        check("Authorization", "Bearer é", Ok(()));
        check("Host", "elsewhere", Err("invalid: the header `host` is written by the host: leave it out"));
        check("SEC-WebSocket-Key", "x", Err("invalid: the header `sec-websocket-key` is written by the host: leave it out"));
        check("a b", "x", Err("invalid: `a b` is no header name (RFC 9110 section 5.1)"));
        check("x", "a\r\nhost: b", Err("invalid: the value of the header `x` has control characters (RFC 9110 section 5.5)"));
        check("x", &"a".repeat(100), Err("limit: a request head of 101 bytes is 1 bytes over the limit of 100"));
    }

    #[test]
    fn repeated_fields_stay_apart() {
        let fields = [("Set-Cookie", "a"), ("x", "b"), ("set-cookie", "c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let listed = list(&parse(&fields, None, 100).unwrap(), 100).unwrap();
        assert_eq!(listed.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect::<String>(), "ac");
        assert_eq!(list(&parse(&fields, None, 100).unwrap(), 10), Err(24));
    }
}
