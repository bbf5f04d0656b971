//! Tests of decisions, reasons, and the errors of faulty policies.

use std::fs;

use protostub_bus::{Decision, Hop, Origin, Policy as _, Receiver};
use protostub_policy::CedarPolicy;
use protostub_types::{Address, Domain, Message, MessageId, MessageType};

const STUB: &str = "hyperty-runtime://sp1.example/protostub/6f3f";

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

fn policy(text: &str) -> CedarPolicy {
    CedarPolicy::parse("rules.cedar", text).unwrap_or_else(|error| panic!("{error}"))
}

fn message(kind: &str, from: &str, to: &str) -> Message {
    let mut message = Message::new(kind.parse::<MessageType>().expect("a type"), address(to));
    message.from = address(from);
    message
}

fn decide(policy: &CedarPolicy, origin: &Origin, message: &Message, receiver: Receiver) -> Decision {
    policy.decide(&Hop::new(origin, message, receiver, &Domain::parse("home.example").expect("a domain")))
}

/// Returns the decision on a request of a hyperty to an address of sp1.example.
fn asked(rules: &str) -> Decision {
    asked_of(rules, "hyperty://sp1.example/bob")
}

fn asked_of(rules: &str, to: &str) -> Decision {
    let alice = "hyperty://home.example/alice";
    let mut message = message("read", alice, to).with_body("hello".into());
    message.id = MessageId::Number(7);
    decide(&policy(rules), &Origin::Hyperty(address(alice)), &message, Receiver::Stub(address(STUB)))
}

fn refused(reason: &str) -> Decision {
    Decision::Refuse(reason.to_owned())
}

#[test]
fn every_attribute_can_be_queried() {
    let check = |condition: &str| {
        let holds = asked(&format!("permit (principal, action, resource) when {{ {condition} }};"));
        assert_eq!(holds, Decision::Permit, "{condition}");
    };
    check(r#"principal == Hyperty::"hyperty://home.example/alice""#);
    check(r#"principal in Domain::"home.example" && !(principal in Domain::"sp1.example")"#);
    check(r#"principal is Hyperty && principal.url == "hyperty://home.example/alice" && principal.scheme == "hyperty""#);
    check(r#"principal.domain == "home.example" && !(principal is Hyperty && principal.path != "/alice")"#);
    check(r#"resource == Address::"hyperty://sp1.example/bob" && resource in Domain::"sp1.example""#);
    check(r#"resource.url == "hyperty://sp1.example/bob" && resource.scheme == "hyperty""#);
    check(r#"resource.domain == "sp1.example" && resource.path like "/b*""#);
    check(r#"action == Action::"read" && context.type == "read" && context.request"#);
    check(r#"context.id == "7" && context.size == 7 && context.receiver == "stub""#);
    check(r#"context.from == Address::"hyperty://home.example/alice" && context.from.domain == "home.example""#);
    check(r#"context.via.isEmpty() && !(context has subscriber)"#);
    check(r#"context.now > datetime("2026-01-01") && context.now.toTime() < duration("24h")"#);
}

#[test]
fn every_poster_is_a_principal() {
    let rules = r#"
        forbid (principal is Hyperty, action, resource);
        forbid (principal is Stub, action == Action::"update", resource) unless {
            principal in Domain::"sp1.example" && principal.domain == "sp1.example" && principal.url like "*/protostub/*"
                && context.via.contains(Domain::"sp1.example") && context.from in Domain::"sp1.example"
        };
        permit (principal is Stub, action in [Action::"update", Action::"other"], resource);
        permit (principal is Stub, action == Action::"read", resource) when { context.receiver == "nobody" };
    "#;
    let rules = policy(rules);
    let (stub, host, alice) =
        (Origin::Stub(address(STUB)), Origin::Host, Origin::Hyperty(address("hyperty://home.example/alice")));
    let decide = |origin: &Origin, kind: &str, from: &str, receiver| {
        let mut message = message(kind, from, "hyperty://home.example/alice");
        message.via = vec![address(STUB)];
        decide(&rules, origin, &message, receiver)
    };
    assert_eq!(decide(&stub, "update", "hyperty://sp1.example/bob", Receiver::Listener), Decision::Permit);
    assert_eq!(
        decide(&stub, "update", "hyperty://sp2.example/bob", Receiver::Listener),
        refused("policy 2 of rules.cedar forbids the message")
    );
    assert_eq!(decide(&stub, "ping", STUB, Receiver::Listener), Decision::Permit);
    assert_eq!(decide(&stub, "read", STUB, Receiver::Nobody), Decision::Permit);
    let nothing_permits = refused(&format!("no policy permits `read` from {STUB} to hyperty://home.example/alice"));
    assert_eq!(decide(&stub, "read", STUB, Receiver::Listener), nothing_permits);
    // The runtime itself and responses need no permit. A `forbid` applies to them too.
    assert_eq!(decide(&host, "update", "runtime://home.example/1", Receiver::Listener), Decision::Permit);
    assert_eq!(decide(&stub, "response", "hyperty://sp1.example/bob", Receiver::Listener), Decision::Permit);
    assert_eq!(
        decide(&alice, "response", "hyperty://home.example/alice", Receiver::Stub(address(STUB))),
        refused("policy 1 of rules.cedar forbids the message")
    );
}

#[test]
fn copy_for_a_subscriber_names_the_subscriber() {
    let rules = r#"
        permit (principal, action, resource);
        forbid (principal, action, resource) when { context has subscriber && context.subscriber in Domain::"home.example" };
    "#;
    let (rules, carol) = (policy(rules), Origin::Hyperty(address("hyperty://home.example/carol")));
    let update = message("update", "hyperty://home.example/carol", "hyperty://home.example/carol/news");
    let copy_to = |subscriber: &str| decide(&rules, &carol, &update, Receiver::Subscriber(address(subscriber)));
    assert_eq!(copy_to("hyperty://home.example/alice"), refused("policy 2 of rules.cedar forbids the message"));
    assert_eq!(copy_to("hyperty://sp1.example/bob"), Decision::Permit);
    assert_eq!(decide(&rules, &carol, &update, Receiver::Nobody), Decision::Permit);
}

#[test]
fn domain_is_in_its_parent_domains() {
    let check = |to: &str, domain: &str, expected: bool| {
        let rules = format!(r#"permit (principal, action, resource in Domain::"{domain}");"#);
        assert_eq!(asked_of(&rules, to) == Decision::Permit, expected, "{to} in {domain}");
    };
    check("hyperty://a.b.sp1.example:8443/x", "a.b.sp1.example:8443", true);
    check("hyperty://a.b.sp1.example:8443/x", "a.b.sp1.example", true);
    check("hyperty://a.b.sp1.example:8443/x", "sp1.example", true);
    check("hyperty://sp1.example/x", "a.sp1.example", false);
    check("hyperty://sp1.co.uk/x", "sp1.co.uk", true);
    check("hyperty://sp1.co.uk/x", "co.uk", false);
    check("hyperty://127.0.0.1:80/x", "127.0.0.1", true);
    check("hyperty://127.0.0.1:80/x", "0.0.1", false);
    check("domain://registry.sp1.example", "sp1.example", true);
    check("global://registry", "home.example", true);
    check("mn:/session", "home.example", false);
}

#[test]
fn refusal_reason_is_the_operators_text() {
    let check = |rules: &str, expected: &str| assert_eq!(asked(rules), refused(expected), "{rules}");
    let nothing = "no policy permits `read` from hyperty://home.example/alice to hyperty://sp1.example/bob";
    check("", nothing);
    check(r#"permit (principal is Stub, action, resource);"#, nothing);
    check(r#"@reason("not today") @id("days") forbid (principal, action, resource);"#, "not today");
    check(r#"@id("days") forbid (principal, action, resource);"#, "the policy `days` forbids the message");
    let two = r#"permit (principal, action, resource); forbid (principal, action, resource); @reason("b") forbid (principal, action, resource);"#;
    check(two, "b; policy 2 of rules.cedar forbids the message");
    // In doubt, the message is refused.
    let overflows = "permit (principal, action, resource); forbid (principal, action, resource) when { context.size * 9223372036854775807 > 1 };";
    let Decision::Refuse(reason) = asked(overflows) else { panic!("permitted") };
    assert!(reason.starts_with("a policy cannot be evaluated: "), "{reason}");
}

#[test]
fn policy_fault_has_a_place_and_advice() {
    let faulty = [
        "permit (principal, action, resource)",
        "\n  allow (principal, action, resource);",
        "permit (principal is Hypertie, action, resource);",
        r#"permit (principal, action == Action::"reed", resource);"#,
        "permit (principal, action, resource)\nwhen { resource.domian == \"sp1.example\" };",
        "permit (principal, action, resource) when { context.subscriber.domain == \"sp1.example\" };",
        "permit (principal == ?principal, action, resource);",
        "permit (principal, action, resource) when { context.size == \"1\" };\nforbid (principal, action, resourc);",
        "permit (principal, action, resource) when { context.sise == 1 };\nforbid (principal, action == Action::\"call\", resource);",
    ];
    let told = faulty.map(|rules| format!("{rules}\n=> {}\n", CedarPolicy::parse("rules.cedar", rules).expect_err("faulty")));
    insta::assert_snapshot!("faults", told.join("\n"));
}

#[test]
fn policy_that_never_holds_is_a_warning() {
    let policy = policy(
        "permit (principal, action, resource);\npermit (principal is Stub, action, resource) when { principal is Hyperty };",
    );
    let [warning] = policy.warnings() else { panic!("{:?}", policy.warnings()) };
    let expected = "rules.cedar:2:1: policy is impossible: the policy expression evaluates to false for all valid requests";
    assert_eq!(warning.to_string(), expected);
}

#[test]
fn policy_file_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.cedar");
    let error = CedarPolicy::load(&file).expect_err("there is none");
    assert_eq!(error.to_string(), format!("failed to read the policies in {}", file.display()));
    fs::write(&file, "permit (principal, action, resource);").expect("written");
    assert_eq!(CedarPolicy::load(&file).expect("policies").file(), file);
}

#[test]
fn policy_with_deep_brackets_is_refused() {
    let rule = |condition: &str| {
        CedarPolicy::parse("rules.cedar", &format!("permit (principal, action, resource) when {{ {condition} }};"))
    };
    let nested = |depth: usize| rule(&format!("{}true{}", "(".repeat(depth), ")".repeat(depth)));
    assert!(nested(63).is_ok());
    for depth in [64, 1_000, 1_000_000] {
        let error = nested(depth).expect_err("it is too deep").to_string();
        assert!(error.contains("rules.cedar:1:108: brackets are nested more than 64 deep"), "{depth}: {error}");
    }
    // Brackets in texts and comments do not count.
    let brackets = "([{".repeat(100);
    assert!(rule(&format!("context.id != \"\\\"{brackets}\" // {brackets}\n")).is_ok());
}

/// A rule about a spelling that no message has would never hold.
#[test]
fn policy_about_another_spelling_is_refused() {
    let check = |entity: &str, expected: &str| {
        let text = format!("permit (principal, action, resource);\nforbid (principal, action, resource in {entity});");
        let error = CedarPolicy::parse("rules.cedar", &text).expect_err(entity).to_string();
        let expected = format!("policy 2 names {entity}, which no message has in this spelling: write `{expected}`");
        assert!(error.contains(&expected), "{error}");
    };
    check(r#"Domain::"SP1.example""#, r#"Domain::"sp1.example""#);
    check(r#"Domain::"sp1.example.""#, r#"Domain::"sp1.example""#);
    check(r#"Domain::"[0:0::1]""#, r#"Domain::"[::1]""#);
    check(r#"Domain::"sp1.example:443""#, r#"Domain::"sp1.example""#);
    check(r#"Address::"hyperty://sp1.example:443/bob""#, r#"Address::"hyperty://sp1.example/bob""#);
    check(r#"Address::"hyperty://SP1.example/bob""#, r#"Address::"hyperty://sp1.example/bob""#);
    policy(r#"forbid (principal, action, resource in Domain::"sp1.example:8443");"#);
}
