// What is read from texts: addresses, messages, descriptors, policies. Nothing here knows wasmtime.

use std::{str, sync::LazyLock};

use protostub_bus::{Hop, Origin, Policy as _, Receiver};
use protostub_egress::Rule;
use protostub_policy::CedarPolicy;
use protostub_types::{
    Address, Descriptor, Domain, MAX_ADDRESS_BYTES, Message, MessageType, SourcePackage, StubKey, StubStatus, Version,
};
use url::Url;

static HOME: LazyLock<Domain> = LazyLock::new(|| Domain::parse("home.example").expect("a domain"));

/// Addresses, and whatever else is one line of text: domains, rules of egress, versions, URLs of catalogues, statuses, types of messages.
pub fn address(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(address) = Address::parse(text) {
        assert!(address.as_str().len() <= MAX_ADDRESS_BYTES, "{address}");
        let again = Address::parse(address.as_str()).expect("what was made of an address is one");
        assert_eq!((again.as_str(), again.host()), (address.as_str(), address.host()));
        assert_eq!((again.scheme(), again.path()), (address.scheme(), address.path()), "{address}");
        assert!(address.is_within(&address));
        assert_eq!(address.domain().is_some(), !address.host().is_empty(), "{address}");
        if let Some(key) = StubKey::of(&address, &HOME) {
            let _ = (key.descriptor_name(), key.to_string(), address.is_of(key.domain()));
        }
        if let Ok(below) = address.join("status") {
            assert!(below.as_str().ends_with("/status"), "{below}");
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain));
        assert!(domain.is_within(&domain));
        let _ = (domain.ip(), domain.port(), domain.is_public_suffix(), domain.is_within(&HOME));
    }
    if let Some(key) = StubKey::of_catalogue_url(text) {
        let _ = (key.descriptor_name(), key.to_string());
    }
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
    }
    if let Ok(version) = Version::parse(text) {
        let again = Version::parse(version.as_str()).expect("what was made of a version is one");
        assert_eq!(again.cmp(&version), std::cmp::Ordering::Equal, "{version:?}");
    }
    let _ = (text.parse::<StubStatus>(), text.parse::<MessageType>());
}

/// A message as JSON, as stubs with text wires, message nodes and the control socket get it.
pub fn message(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(messages) = Message::from_json(text) else { return };
    assert!(!messages.is_empty());
    for message in messages {
        message.check_limits().expect("what was read keeps the limits");
        let _ = (message.size(), message.code(), message.is_provisional(), message.expects_response(), message.id.canonical());
        let json = message.to_json().expect("what was read can be written");
        let again = Message::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let [again] = again.as_slice() else { panic!("{json}") };
        assert_eq!(again.to_json().ok().as_deref(), Some(json.as_str()));
        let phase1 = message.to_phase1_json().expect("what was read can be written");
        Message::from_json(&phase1).unwrap_or_else(|error| panic!("{error}: {phase1}"));
        message.response(200, None).check_limits().expect("a response keeps the limits");
        message.error_response(500, text).to_json().expect("an error can be written");
    }
}

/// A descriptor, with the package that may be in it, as a catalogue sends them.
pub fn descriptor(data: &[u8]) {
    if let Ok(descriptor) = Descriptor::parse(data) {
        let _ = (descriptor.check_deployable(), descriptor.digest(), descriptor.size());
        let base = Url::parse("https://sp1.example/.well-known/protostub/default").expect("a URL");
        let _ = descriptor.source_location(&base);
        if let Some(package) = &descriptor.source_package {
            decode(package, data.len());
        }
        let json = descriptor.to_json();
        let again = Descriptor::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(again, descriptor);
    }
    if let Ok(package) = SourcePackage::parse(data) {
        decode(&package, data.len());
    }
}

fn decode(package: &SourcePackage, bytes: usize) {
    if let Ok(code) = package.decode() {
        assert!(code.len() <= bytes, "{} bytes of code in {bytes}", code.len());
    }
}

/// An operator's rules, and what they say of a message.
pub fn policy(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match CedarPolicy::parse("operator.cedar", text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(policy) => {
            let message = Message::read("hyperty://sp1.example/alice").with_body("hello".into());
            let hop = Hop::new(&Origin::Host, &message, Receiver::Listener, &HOME);
            let _ = (policy.decide(&hop), policy.warnings().len());
        }
    }
}
