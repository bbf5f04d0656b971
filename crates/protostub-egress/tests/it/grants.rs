use protostub_egress::{Grants, Missing, Protection, Protection::Plain, Protection::Tls, Rule};
use protostub_types::Domain;

use crate::fixture::{Names, egress};

fn of(domain: &str, ports: &[u16]) -> Grants {
    Grants::same_domain(&Domain::parse(domain).unwrap(), ports)
}

/// Returns the missing grant, or `None` if the connection is allowed.
fn missing(grants: &Grants, host: &str, port: u16, protection: Protection) -> Option<String> {
    grants.check(host, port, protection).err().map(|refused| refused.missing().to_string())
}

#[test]
fn same_domain_grants_domain_and_subdomains_over_tls() {
    let grants = of("sp1.example:9443", &[22, 80, 1883, 1024]);
    for port in [443, 5223, 8883, 9443, 1883, 1024] {
        for host in ["sp1.example", "SP1.EXAMPLE.", "mqtt.sp1.example", "a.b.sp1.example"] {
            assert_eq!(missing(&grants, host, port, Tls), None, "{host}:{port}");
            assert_eq!(missing(&grants, host, port, Plain).unwrap(), format!("grant `{}:{port} plain` to allow it", Host(host)));
        }
    }
    for port in [22, 80, 1, 65535] {
        assert_eq!(missing(&grants, "sp1.example", port, Tls).unwrap(), format!("grant `sp1.example:{port}` to allow it"));
    }
    for host in ["evilsp1.example", "sp1.example.evil", "example", "sp2.example", "192.0.43.8", "localhost", "127.0.0.1"] {
        assert!(grants.check(host, 443, Tls).is_err(), "{host}");
    }
    assert_eq!(missing(&grants, "sp1.example", 0, Tls).unwrap(), "no grant allows it");
}

/// Displays a host in the form that rules use.
struct Host(&'static str);

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.to_lowercase().trim_end_matches('.'))
    }
}

#[test]
fn address_or_public_suffix_has_no_subdomains() {
    let allows = |domain: &str, host: &str| of(domain, &[]).check(host, 443, Tls).is_ok();
    assert!(allows("github.io", "github.io"));
    assert!(!allows("github.io", "sp1.github.io"));
    assert!(!allows("example", "sp1.example"));
    assert!(allows("sp1.github.io", "a.sp1.github.io"));
    assert!(allows("192.0.43.8", "192.0.43.8"));
    assert!(allows("[2606:4700::1]:8443", "[2606:4700:0::1]"));
    assert!(allows("[::ffff:192.0.43.8]", "192.0.43.8"));
    assert!(!allows("192.0.43.8", "1.192.0.43.8"));
    assert!(!allows("localhost", "sp1.localhost"));
}

#[test]
fn allow_loopback_and_private_grant_no_host() {
    let loopback = of("localhost:8080", &[]);
    assert_eq!(loopback.check("localhost", 8080, Plain).unwrap_err().missing(), Missing::Loopback);
    let loopback = loopback.allow_loopback(true);
    assert_eq!(missing(&loopback, "localhost", 8080, Plain), None);
    assert_eq!(missing(&loopback, "localhost", 8080, Tls), None);
    // The missing rule omits `plain`, which loopback does not need.
    assert_eq!(missing(&loopback, "localhost", 8081, Plain).unwrap(), "grant `localhost:8081` to allow it");
    assert_eq!(missing(&loopback, "127.0.0.1", 8080, Plain).unwrap(), "grant `127.0.0.1:8080` to allow it");
    assert!(Grants::none().allow_loopback(true).allow_private(true).check("localhost", 443, Tls).is_err());

    let private = of("10.0.0.1", &[]);
    assert_eq!(private.check("10.0.0.1", 443, Tls).unwrap_err().missing(), Missing::Private);
    let private = private.allow_private(true);
    assert_eq!(missing(&private, "10.0.0.1", 443, Tls), None);
    assert_eq!(missing(&private, "::ffff:10.0.0.1", 443, Tls), None);
    assert!(private.check("10.0.0.1", 443, Plain).is_err());
    let metadata = of("169.254.169.254", &[]).allow_private(true).allow_loopback(true);
    assert_eq!(missing(&metadata, "169.254.169.254", 443, Tls).unwrap(), "no grant allows it");
}

#[test]
fn missing_rule_allows_the_connection() {
    let check = |host: &str, port: u16, protection: Protection| {
        let grants = of("sp1.example", &[]).allow_loopback(true);
        let refused = grants.check(host, port, protection).unwrap_err();
        let Missing::Rule(rule) = refused.missing() else { panic!("{refused}") };
        // The rule must also survive a round trip through text, as operators copy it from errors
        // into their configuration.
        let rule: Rule = rule.to_string().parse().unwrap();
        assert_eq!(grants.allow(rule).check(host, port, protection), Ok(()), "{refused}");
    };
    check("sp2.example", 443, Tls);
    check("sp1.example", 80, Plain);
    check("bücher.example", 443, Plain);
    check("[2606:4700::1]", 443, Tls);
    check("192.0.43.8", 1883, Plain);
    check("::1", 1883, Plain);
    check("localhost", 65535, Plain);
}

#[test]
fn any_name_rule_excludes_addresses() {
    let grants = Grants::none().allow("*:443".parse().unwrap());
    assert_eq!(missing(&grants, "anything.example", 443, Tls), None);
    assert_eq!(missing(&grants, "192.0.43.8", 443, Tls).unwrap(), "grant `192.0.43.8:443` to allow it");
    assert_eq!(missing(&grants, "localhost", 443, Tls).unwrap(), "grant loopback (`allow-loopback` for the domain) to allow it");
}

#[test]
fn explanation_lists_the_rules() {
    let grants = of("sp1.example", &[]).allow_host("*.sp1.example", 1883, Tls).unwrap();
    assert_eq!(
        grants.explain("mqtt.sp1.example", 1883, Plain).to_string(),
        "`mqtt.sp1.example:1883` without TLS is refused: rule `*.sp1.example:1883` asks for TLS; grant `mqtt.sp1.example:1883 plain` to allow \
         it
  rule `sp1.example:443,5223,8883` (same domain): other hosts
  rule `*.sp1.example:443,5223,8883` (same domain): other ports
  rule `*.sp1.example:1883` (operator): over TLS only"
    );
    let allowed = grants.explain("MQTT.sp1.example", 443, Tls);
    assert!(allowed.verdict().is_ok());
    assert_eq!(
        allowed.to_string(),
        "`mqtt.sp1.example:443` is allowed
  rule `sp1.example:443,5223,8883` (same domain): other hosts
  rule `*.sp1.example:443,5223,8883` (same domain): allows it
  rule `*.sp1.example:1883` (operator): other ports"
    );
    assert_eq!(grants.explain("a b", 443, Tls).rules().count(), 3);
    assert_eq!(Grants::none().explain("sp1.example", 443, Tls).to_string().lines().count(), 1);
}

#[tokio::test]
async fn explanation_lists_the_addresses() {
    let names = Names::of([("sp1.example", &["192.0.43.8", "10.0.0.1", "::1"]), ("private.sp1.example", &["10.0.0.1"])]);
    let egress = egress(&names, &[]);
    let grants = of("sp1.example", &[]).allow_loopback(true);
    let explain = async |host: &str| egress.explain(&grants, host, 443, Tls).await;
    let rules = "
  rule `sp1.example:443,5223,8883` (same domain): allows it
  rule `*.sp1.example:443,5223,8883` (same domain): other hosts";
    assert_eq!(
        explain("sp1.example").await.to_string(),
        format!(
            "`sp1.example:443` is allowed{rules}
  address 192.0.43.8 (public): may be dialled
  address 10.0.0.1 (private, RFC 1918): is left out
  address ::1 (loopback, RFC 4291): may be dialled"
        )
    );
    let private = explain("private.sp1.example").await;
    assert_eq!(private.verdict().unwrap_err().missing(), Missing::Private);
    assert_eq!(private.addresses().count(), 1);
    let unknown = explain("unknown.sp1.example").await.to_string();
    assert!(unknown.ends_with("\n  there is no host `unknown.sp1.example`: no such name"), "{unknown}");
    // A name without a rule is not resolved.
    let asked = names.asked();
    assert!(explain("sp2.example").await.verdict().is_err());
    assert_eq!(names.asked(), asked);
}

#[test]
fn error_quotes_untrusted_text_safely() {
    let refused = of("sp1.example", &[]).check(&format!("a\x1b[2J\n{}", "b".repeat(100_000)), 443, Tls).unwrap_err().to_string();
    assert!(refused.len() < 1000 && !refused.contains(char::is_control), "{refused}");
}

#[test]
fn error_names_the_nearest_rule() {
    let check = |host: &str, port, protection, expected: &str| {
        assert_eq!(of("sp1.example", &[]).check(host, port, protection).unwrap_err().to_string(), expected);
    };
    check(
        "sp1.example",
        22,
        Tls,
        "`sp1.example:22` is refused: rule `sp1.example:443,5223,8883` names this host on other ports; grant `sp1.example:22` to allow it",
    );
    check(
        "sp1.example",
        443,
        Plain,
        "`sp1.example:443` without TLS is refused: rule `sp1.example:443,5223,8883` asks for TLS; grant `sp1.example:443 plain` to allow it",
    );
    check("a b", 443, Tls, "`a b:443` is refused: `a b` is not a domain: the host has characters that no host name has");
}
