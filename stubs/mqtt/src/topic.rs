//! Topics and topic filters, and their addresses on the bus: `mqtt://<domain>/<topic>`. Characters
//! that an address cannot hold are percent-encoded.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Characters that have a meaning of their own in an address, or no place there.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');
/// The longest topic of MQTT.
const MAX_BYTES: usize = 65_535;

/// Returns the address of a topic.
pub(crate) fn address(domain: &str, topic: &str) -> String {
    format!("mqtt://{domain}/{}", utf8_percent_encode(topic, ESCAPED))
}

/// Returns the topic, or topic filter, that an address names. The topic is empty if the address
/// names none.
pub(crate) fn of_address(address: &str) -> Result<String, String> {
    let rest =
        address.strip_prefix("mqtt://").ok_or_else(|| format!("{address} is not a topic address: mqtt://<domain>/<topic>"))?;
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let topic = percent_decode_str(path).decode_utf8().map_err(|_| format!("the topic of {address} is not UTF-8"))?;
    Ok(topic.into_owned())
}

/// Rejects a topic that cannot be published to.
pub(crate) fn check_name(topic: &str) -> Result<(), String> {
    check(topic)?;
    if topic.contains(['+', '#']) {
        return Err(format!("the topic {topic:?} cannot be published to: `+` and `#` are for subscriptions"));
    }
    Ok(())
}

/// Rejects a topic filter that cannot be subscribed to.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    check(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(format!("the topic filter {filter:?} has a `#` that is not the whole of its last level"));
        }
        if level.contains('+') && level != "+" {
            return Err(format!("the topic filter {filter:?} has a `+` that is not the whole of its level"));
        }
    }
    Ok(())
}

fn check(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("the topic is empty".to_owned());
    }
    if topic.len() > MAX_BYTES {
        return Err(format!("the topic has {} bytes; the limit is {MAX_BYTES}", topic.len()));
    }
    if topic.contains('\0') {
        return Err("the topic has a null character".to_owned());
    }
    Ok(())
}

/// Returns `true` if the filter matches the topic (MQTT 5, section 4.7).
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    // `$share/<group>/<filter>`
    let filter = filter.strip_prefix("$share/").and_then(|shared| shared.split_once('/')).map_or(filter, |(_, filter)| filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(topic_level)) if level == topic_level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        let check = |filter: &str, yes: &[&str], no: &[&str]| {
            assert!(yes.iter().all(|topic| matches(filter, topic)), "{filter}");
            assert!(!no.iter().any(|topic| matches(filter, topic)), "{filter}");
        };
        check(
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/score/wimbledon"],
            &["sport/tennis/player2"],
        );
        check("sport/+", &["sport/tennis", "sport/"], &["sport", "sport/tennis/player1"]);
        check("+/+", &["/finance", "a/b"], &["finance", "$SYS/a"]);
        check("/+", &["/finance"], &["finance", "finance/x"]);
        check("#", &["a", "/", "a/b/c"], &["$SYS/monitor"]);
        check("$SYS/#", &["$SYS/monitor"], &["a"]);
        check("$share/group/a/+", &["a/b"], &["b/b", "$share/group/a/b"]);
    }

    #[test]
    fn filters_and_names_are_checked() {
        let filter = |text: &str| check_filter(text).is_ok();
        assert!(filter("a/+/b/#") && filter("#") && filter("+") && filter("/") && filter("$SYS/#"));
        assert!(!filter("") && !filter("a#") && !filter("a/#/b") && !filter("a/b+") && !filter("a\0"));
        let name = |text: &str| check_name(text).is_ok();
        assert!(name("a/b c/ä") && !name("a/+") && !name("#") && !name("") && !name(&"a".repeat(65_536)));
    }

    #[test]
    fn topic_survives_its_address() {
        let check = |topic: &str, expected: &str| {
            assert_eq!(address("sp1.example", topic), expected);
            assert_eq!(of_address(expected).as_deref(), Ok(topic));
        };
        check("sensors/1/temperature", "mqtt://sp1.example/sensors/1/temperature");
        check("/a//b", "mqtt://sp1.example//a//b");
        check("100 %/wie geht's?/grün", "mqtt://sp1.example/100%20%25/wie%20geht's%3F/gr%C3%BCn");
        assert_eq!(of_address("mqtt://sp1.example/a/#").as_deref(), Ok("a/#"), "also as it is");
        assert_eq!(of_address("mqtt://sp1.example/a/%23").as_deref(), Ok("a/#"));
        assert_eq!(of_address("mqtt://sp1.example").as_deref(), Ok(""));
        assert!(of_address("mqtt://sp1.example/%FF").is_err() && of_address("hyperty://sp1.example/a").is_err());
    }
}
