// Untrusted bytes in the command: messages that `run` and `send` print, and lines of the control
// socket.

use std::str;

use protostub_cli::consumers::{self, OutputFormat};
use protostub_types::{Address, Body, Message, MessageId, SafeText};
use serde_json::Value;

/// Separator of the fields of an input. The last field is the body.
const SEPARATOR: u8 = 0x1e;
/// Bytes that an output may have for each byte of its input, and in addition.
const GROWTH: (usize, usize) = (48, 8 * 1024);
/// Bytes that the answer to a line that is no request may have.
const MAX_REFUSAL_BYTES: usize = 2 * 1024;

/// Prints a message as `run` and `send` do: with any body, id, type, path and header.
pub fn consumer(data: &[u8]) {
    let mut fields: Vec<&[u8]> = data.splitn(5, |byte| *byte == SEPARATOR).collect();
    let body = fields.pop().unwrap_or_default();
    let mut fields = fields.into_iter().map(|field| String::from_utf8_lossy(field).into_owned());
    let mut message = Message::read("hyperty://home.example/bob".parse().unwrap());
    message.from = Address::parse("hyperty://sp1.example/alice").expect("an address");
    if let Some(id) = fields.next() {
        message.id = MessageId::Text(id.into());
    }
    if let Some(Ok(kind)) = fields.next().map(|kind| kind.parse()) {
        message.kind = kind;
    }
    if let Some(Ok(address)) = fields.next().map(|path| Address::parse(&format!("hyperty://sp1.example/{path}"))) {
        message.via.push(address.clone());
        message.from = address;
    }
    if let Some(header) = fields.next() {
        message.headers.push((header.clone(), header));
    }
    let mut bodies = vec![Some(Body::Bytes(body.into())), None];
    bodies.extend(str::from_utf8(body).ok().map(|text| Some(Body::Json(text.into()))));
    for body in bodies {
        message.body = body;
        check(&message, data.len());
    }
}

fn check(message: &Message, bytes: usize) {
    let hyperty = Address::parse("hyperty://home.example/bob").expect("an address");
    let id = match &message.id {
        MessageId::Number(number) => vec![number.to_string()],
        MessageId::Text(_) => Vec::new(),
    };
    let body = match &message.body {
        Some(Body::Json(text)) => Some((&**text, tokens(text))),
        _ => None,
    };
    let for_programs = [
        (consumers::message_of_run(&hyperty, message, OutputFormat::Json), "message", Vec::new()),
        (consumers::reply_of_send(message, OutputFormat::Json).expect("a reply"), "reply", vec!["12".to_owned()]),
    ];
    for (output, member, last) in for_programs {
        let line = only_line(&output, bytes);
        let written = tokens(line).unwrap_or_else(|| panic!("no JSON: {line}"));
        match &body {
            Some((_, Some(tokens))) => {
                let numbers = |tokens: &[Token<'_>]| -> Vec<String> {
                    tokens.iter().filter_map(|token| token.number().map(str::to_owned)).collect()
                };
                assert_eq!(numbers(&written), [id.clone(), numbers(tokens), last].concat(), "{line}");
                let body = written.windows(tokens.len()).any(|window| window.iter().eq(tokens));
                assert!(body, "the body differs: {line}");
            }
            Some((text, None)) => {
                let json: Value = serde_json::from_str(line).expect("JSON without depth");
                assert_eq!(json[member]["text"], **text, "{line}");
            }
            None => assert!(!written.contains(&Token::String("body".to_owned())), "{line}"),
        }
    }
    only_line(&consumers::message_of_run(&hyperty, message, OutputFormat::Text), bytes);
    let text = consumers::reply_of_send(message, OutputFormat::Text).expect("a reply");
    let lines = text.strip_suffix('\n').expect("an end");
    assert!(lines.split('\n').all(|line| line.chars().all(SafeText::is_shown)), "{lines:?}");
    assert!(text.len() <= GROWTH.0 * bytes + GROWTH.1, "{} bytes of {bytes}", text.len());
}

/// Returns the line of an output. The output has no other line, and no character that acts on a
/// terminal.
fn only_line(output: &str, bytes: usize) -> &str {
    let line = output.strip_suffix('\n').unwrap_or_else(|| panic!("no end: {output:?}"));
    assert!(line.chars().all(SafeText::is_shown), "{line:?}");
    assert!(output.len() <= GROWTH.0 * bytes + GROWTH.1, "{} bytes of {bytes}", output.len());
    line
}

/// Reads a line of the control socket, as one of a client and as one of a server.
pub fn control(data: &[u8]) {
    match consumers::request(data) {
        Ok(request) => {
            assert!(!request.contains('\n') || request.len() <= data.len() + GROWTH.1, "{request}");
            let again = consumers::request(request.as_bytes()).unwrap_or_else(|problem| panic!("{problem}: {request}"));
            assert_eq!(again, request);
        }
        Err(refusal) => {
            assert!(refusal.len() <= MAX_REFUSAL_BYTES, "{refusal}");
            let line = only_line(&refusal, data.len());
            assert!(tokens(line).is_some(), "no JSON: {line}");
            let read = consumers::response(refusal.as_bytes()).expect("a client understands it");
            assert_eq!(read, refusal);
        }
    }
    if let Some(response) = consumers::response(data) {
        let line = only_line(&response, data.len());
        assert!(tokens(line).is_some(), "no JSON: {line}");
    }
}

/// A token of JSON text.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A bracket, a comma, a colon, `true`, `false`, `null`.
    Other(&'a str),
    Number(&'a str),
    /// With its escapes resolved.
    String(String),
}

impl Token<'_> {
    fn number(&self) -> Option<&str> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }
}

/// Returns the tokens of JSON text (RFC 8259), or `None` for other text. This parser is independent
/// of the command's, and has no recursion.
fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    /// The tokens that may follow.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Next {
        Value,
        ValueOrEnd,
        Name,
        NameOrEnd,
        Colon,
        CommaOrEnd,
    }
    let mut tokens = Vec::new();
    let mut open = Vec::new();
    let mut next = Next::Value;
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '[' | ']' | '{' | '}' | ',' | ':' => 1,
            '"' => string_bytes(rest)?,
            _ => rest.find([' ', '\t', '\r', '\n', '[', ']', '{', '}', ',', ':', '"']).unwrap_or(rest.len()),
        };
        let (token, behind) = rest.split_at(length);
        rest = behind.trim_start_matches([' ', '\t', '\r', '\n']);
        let is_value_next = matches!(next, Next::Value | Next::ValueOrEnd);
        let after_value = || Next::CommaOrEnd;
        next = match token {
            "[" if is_value_next => {
                open.push('[');
                Next::ValueOrEnd
            }
            "{" if is_value_next => {
                open.push('{');
                Next::NameOrEnd
            }
            "]" if matches!(next, Next::ValueOrEnd | Next::CommaOrEnd) && open.pop() == Some('[') => after_value(),
            "}" if matches!(next, Next::NameOrEnd | Next::CommaOrEnd) && open.pop() == Some('{') => after_value(),
            "," if next == Next::CommaOrEnd => match open.last()? {
                '[' => Next::Value,
                _ => Next::Name,
            },
            ":" if next == Next::Colon => Next::Value,
            _ if first == '"' && matches!(next, Next::Name | Next::NameOrEnd) => Next::Colon,
            _ if first == '"' && is_value_next => after_value(),
            "true" | "false" | "null" if is_value_next => after_value(),
            _ if is_value_next && is_number(token) => after_value(),
            _ => return None,
        };
        tokens.push(match first {
            '"' => Token::String(serde_json::from_str(token).ok()?),
            '-' | '0'..='9' => Token::Number(token),
            _ => Token::Other(token),
        });
        // The outermost value is the last one.
        if open.is_empty() && next == Next::CommaOrEnd {
            return rest.is_empty().then_some(tokens);
        }
    }
    None
}

/// Returns the length of the string that a text begins with, with its quotation marks.
fn string_bytes(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return Some(at + 1),
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    None
}

fn is_number(token: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let token = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) =
        token.split_once(['e', 'E']).map_or((token, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits) && exponent.is_none_or(digits)
}
