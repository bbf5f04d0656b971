//! Converts header fields between a stub's lists of text and `http`'s map.

use http::{HeaderMap, HeaderValue};
use protostub_egress::request_headers;

use crate::TransportError;

/// Maximum number of fields that a stub may send. A field costs the host more than its bytes.
const FIELDS: usize = 256;

/// Parses a stub's fields. Repeated names stay repeated. The egress knows the fields that only the
/// host may set.
///
/// # Errors
/// * `invalid` for malformed names or values, and for names that only the host may set.
/// * `limit` if there are too many fields, or if their size exceeds `limit_bytes`.
pub(crate) fn parse(headers: &[(String, String)], limit_bytes: usize) -> Result<HeaderMap, TransportError> {
    if headers.len() > FIELDS {
        return Err(TransportError::Limit(format!(
            "{} headers are {} over the limit of {FIELDS}",
            headers.len(),
            headers.len() - FIELDS
        )));
    }
    let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > limit_bytes {
        return Err(TransportError::too_long("a request's head", size, limit_bytes));
    }
    request_headers(headers).map_err(|error| TransportError::Invalid(error.to_string()))
}

/// Lists a response's fields in the form that stubs receive: names are in lower case, and bytes
/// that are not UTF-8 are replaced.
///
/// # Errors
/// The size of the fields in bytes, if it exceeds `limit_bytes`.
pub(crate) fn list(headers: &HeaderMap, limit_bytes: usize) -> Result<Vec<(String, String)>, usize> {
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

    fn check(fields: &[(&str, &str)], expected: Result<&[(&str, &str)], &str>) {
        let owned = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>()
        };
        let result = parse(&owned(fields), 100).map(|headers| list(&headers, 100).unwrap());
        assert_eq!(result.map_err(|error| error.to_string()), expected.map(owned).map_err(str::to_owned));
    }

    #[test]
    fn stub_fields_are_checked() {
        check(&[("Authorization", "Bearer é")], Ok(&[("authorization", "Bearer é")]));
        check(&[("Set-Cookie", "a"), ("set-cookie", "b")], Ok(&[("set-cookie", "a"), ("set-cookie", "b")]));
        check(&[("Host", "elsewhere")], Err("invalid: `Host` is invalid: this header is set by the host alone"));
        check(&[("a b", "x")], Err("invalid: `a b` is invalid: a header cannot have this name"));
        check(&[("x", "a\r\nhost: b")], Err("invalid: `x` is invalid: the value of this header has invalid characters"));
        check(&[("x", &"a".repeat(100))], Err("limit: a request's head of 101 bytes is 1 bytes over the limit of 100"));
        check(&[("x", ""); 257], Err("limit: 257 headers are 1 over the limit of 256"));
    }

    #[test]
    fn oversized_head_returns_its_size() {
        let headers = parse(&[("x".to_owned(), "12345".to_owned())], 100).unwrap();
        assert_eq!(list(&headers, 5), Err(6));
    }
}
