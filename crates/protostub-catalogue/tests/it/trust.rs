//! Signed descriptors: which are trusted, which are refused, and with which error.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use protostub_catalogue::{
    CatalogueConfig, CatalogueError, Discovered, Fault, MemorySource, Provenance,
    trust::{Authenticity, MAX_LIFETIME, PublicKey, SignatureError, Signatures, SigningAlgorithm, SigningKey, Statement, sign},
};
use protostub_types::{Descriptor, Domain, Sha256Digest, StubKey, Version};
use serde_json::{Value, json};

use crate::{
    sealed,
    server::{COMPONENT, OWN, Server, catalogue, catalogue_with, config, descriptor},
};

pub(crate) const KEYS: &str = "/.well-known/protostub-jwks.json";
const CODE: &str = "/.well-known/protostub/echo.wasm";
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn key(id: &str) -> SigningKey {
    key_for(SigningAlgorithm::EdDsa, id)
}

fn key_for(algorithm: SigningAlgorithm, id: &str) -> SigningKey {
    SigningKey::from_pem(SigningKey::generate(algorithm).unwrap().as_bytes(), Some(id.to_owned())).unwrap()
}

pub(crate) fn statement(domain: &Domain) -> Statement {
    let issued = SystemTime::now();
    let names = vec!["default".to_owned()];
    Statement { domain: domain.clone(), names, contract: Some("0.1".to_owned()), issued, expires: issued + 30 * DAY }
}

pub(crate) fn signed(statement: &Statement, key: &SigningKey) -> Descriptor {
    let mut stub = descriptor();
    stub.ports = vec![9000];
    sign(&mut stub, statement, key).unwrap();
    stub
}

fn publish_keys(server: &Server, keys: &[&SigningKey]) {
    let set = json!({ "keys": keys.iter().map(|key| key.public().to_jwk()).collect::<Vec<_>>() });
    server.bytes(KEYS, set.to_string());
}

fn requiring(mode: Signatures) -> CatalogueConfig {
    let mut config = config();
    config.trust.signatures = mode;
    config
}

async fn discover(config: CatalogueConfig, server: &Server) -> Result<Discovered, CatalogueError> {
    catalogue(config).discover(&server.key()).await
}

fn signature_error(outcome: Result<Discovered, CatalogueError>) -> SignatureError {
    match outcome.expect_err("the descriptor should be refused").fault() {
        Fault::Signature(error) => error.clone(),
        other => panic!("{other}"),
    }
}

fn is_verified(found: &Discovered) -> bool {
    matches!(found.authenticity, Authenticity::Verified(_))
}

#[tokio::test]
async fn signed_descriptor_is_used() {
    for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256] {
        for mode in [Signatures::VerifyIfPresent, Signatures::Require] {
            let server = Server::start().await;
            let key = key_for(algorithm, "2026");
            publish_keys(&server, &[&key]);
            server.publish(OWN, &signed(&statement(&server.domain()), &key)).bytes(CODE, COMPONENT);
            let catalogue = catalogue(requiring(mode));
            let found = catalogue.discover(&server.key()).await.unwrap();
            let by = found.authenticity.signed().expect("the descriptor is verified");
            assert_eq!((by.key.id(), by.key.algorithm()), ("2026", algorithm));
            assert_eq!((&by.statement.domain, by.statement.contract.as_deref()), (&server.domain(), Some("0.1")));
            assert_eq!(catalogue.fetch(&found).await.unwrap().bytes(), COMPONENT);
            assert!(server.asked().contains(&KEYS.to_owned()));
        }
    }
}

#[tokio::test]
async fn inline_code_is_bound_by_the_signed_digest() {
    let server = Server::start().await;
    let key = key("2026");
    publish_keys(&server, &[&key]);
    let mut stub = descriptor();
    stub.embed(COMPONENT);
    sign(&mut stub, &statement(&server.domain()), &key).unwrap();
    server.publish(OWN, &stub);
    let trusting = catalogue(requiring(Signatures::Require));
    let found = trusting.discover(&server.key()).await.unwrap();
    assert_eq!(trusting.fetch(&found).await.unwrap().bytes(), COMPONENT);
    let other = {
        let mut other = descriptor();
        other.embed(b"\0asm something else");
        other.source_package.unwrap().source_code
    };
    stub.source_package.as_mut().unwrap().source_code = other;
    server.publish(OWN, &stub);
    let found = trusting.discover(&server.key()).await.unwrap();
    let error = trusting.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::WrongDigest { .. }), "{error}");
}

/// Each case has a single fault, and is refused in either mode.
#[tokio::test]
async fn invalid_signature_is_refused() {
    type Change = fn(&mut Statement);
    let check = async |what: &str, change: Change, tamper: fn(&mut Value), expected: fn(&SignatureError) -> bool| {
        for mode in [Signatures::VerifyIfPresent, Signatures::Require] {
            let server = Server::start().await;
            let key = key("2026");
            publish_keys(&server, &[&key]);
            let mut statement = statement(&server.domain());
            change(&mut statement);
            let mut json = serde_json::to_value(signed(&statement, &key)).unwrap();
            tamper(&mut json);
            server.bytes(OWN, json.to_string());
            let error = signature_error(discover(requiring(mode), &server).await);
            assert!(expected(&error), "{what}: {error}");
        }
    };
    let as_it_is: fn(&mut Value) = |_| ();
    let unchanged: Change = |_| ();
    let other = |statement: &mut Statement| statement.domain = Domain::parse("sp2.example").unwrap();
    check("another domain's", other, as_it_is, |error| matches!(error, SignatureError::OtherDomain { .. })).await;
    let other = |statement: &mut Statement| statement.domain = Domain::parse("127.0.0.1:1").unwrap();
    check("of another port", other, as_it_is, |error| matches!(error, SignatureError::OtherDomain { .. })).await;
    let named = |statement: &mut Statement| statement.names = vec!["chat".to_owned()];
    check("another stub's", named, as_it_is, |error| matches!(error, SignatureError::OtherStub { .. })).await;
    let expired = |statement: &mut Statement| statement.expires = SystemTime::now() - DAY;
    check("expired", expired, as_it_is, |error| matches!(error, SignatureError::Expired { .. })).await;
    let early = |statement: &mut Statement| statement.issued = SystemTime::now() + DAY;
    let for_ever = |statement: &mut Statement| statement.expires = statement.issued + MAX_LIFETIME + Duration::from_secs(1);
    check("for too long", for_ever, as_it_is, |error| matches!(error, SignatureError::TooLong { .. })).await;
    // The last second of the year 9999, and times beyond all calendars.
    for seconds in [253_402_300_799, 253_402_300_800, i64::MAX.unsigned_abs()] {
        let farthest = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap();
        let error = judged_until(farthest).await;
        assert!(matches!(&error, SignatureError::TooLong { days: 3660, .. }) && !error.to_string().is_empty(), "{error}");
    }
    check("of tomorrow", early, as_it_is, |error| matches!(error, SignatureError::NotYet { .. })).await;

    let changed = |error: &SignatureError| matches!(error, SignatureError::Changed { .. });
    check("another version", unchanged, |json| json["version"] = "2.0".into(), changed).await;
    let digest = |json: &mut Value| json["sourcePackage"]["sha256"] = Sha256Digest::of(b"other").to_string().into();
    check("another digest", unchanged, digest, changed).await;
    check("another port", unchanged, |json| json["ports"] = json!([9001]), changed).await;
    check("a host more", unchanged, |json| json["configuration"]["url"] = "wss://evil.example".into(), changed).await;
    check("a member more", unchanged, |json| json["overlap"] = true.into(), changed).await;
    check("another source", unchanged, |json| json["sourcePackageURL"] = "https://evil.example/x.wasm".into(), changed).await;

    let malformed = |error: &SignatureError| matches!(error, SignatureError::Malformed { .. });
    check("no JWS", unchanged, |json| json["signatures"] = json!(["hello"]), malformed).await;
    check("empty parts", unchanged, |json| json["signatures"] = json!([".."]), malformed).await;
    let wrong = |error: &SignatureError| matches!(error, SignatureError::Wrong { .. });
    check("another payload", unchanged, |json| edit(json, 1, "0.1", "0.2"), wrong).await;
    let none = |json: &mut Value| edit(json, 0, "EdDSA", "none");
    check("no algorithm", unchanged, none, |error| matches!(error, SignatureError::Algorithm { .. })).await;
    // A verifier that believes the header would check this with the public key as a shared secret.
    let confused = |json: &mut Value| edit(json, 0, "EdDSA", "HS256");
    check("HMAC", unchanged, confused, |error| matches!(error, SignatureError::Algorithm { .. })).await;
    let confused = |json: &mut Value| edit(json, 0, "EdDSA", "ES256");
    check("ECDSA", unchanged, confused, |error| matches!(error, SignatureError::Algorithm { .. })).await;
    let other_type = |json: &mut Value| edit(json, 0, "protostub-descriptor+jwt", "JWT");
    check("an ID token", unchanged, other_type, malformed).await;
    let critical = |json: &mut Value| edit(json, 0, "\"kid\"", "\"crit\":[\"b64\"],\"kid\"");
    check("what must be understood", unchanged, critical, malformed).await;
}

/// Returns the error for a signature that expires at this time.
async fn judged_until(expires: SystemTime) -> SignatureError {
    let server = Server::start().await;
    let key = key("2026");
    publish_keys(&server, &[&key]);
    let statement = Statement { expires, ..statement(&server.domain()) };
    server.publish(OWN, &signed(&statement, &key));
    signature_error(discover(requiring(Signatures::VerifyIfPresent), &server).await)
}

/// Replaces a text in the header (0) or payload (1) of the first signature.
fn edit(json: &mut Value, part: usize, from: &str, to: &str) {
    let jws = json["signatures"][0].as_str().unwrap().to_owned();
    let mut parts: Vec<_> = jws.split('.').map(str::to_owned).collect();
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[part]).unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    parts[part] = URL_SAFE_NO_PAD.encode(text.replace(from, to));
    json["signatures"][0] = parts.join(".").into();
}

/// Earlier releases wrote version 2 of PKCS#8.
#[test]
fn key_of_an_earlier_release_is_read() {
    let der = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
    assert_eq!(SigningKey::from_pem(pem.as_bytes(), None).unwrap().public().algorithm(), SigningAlgorithm::EdDsa);
}

/// A signer of an earlier release signed for `sp1.example:443`, which is `sp1.example` today.
#[tokio::test]
async fn signature_for_port_443_is_good_for_the_domain() {
    let pem = SigningKey::generate(SigningAlgorithm::EdDsa).unwrap();
    let key = SigningKey::from_pem(pem.as_bytes(), Some("2026".to_owned())).unwrap();
    let domain = Domain::parse("sp1.example").unwrap();
    let mut json = serde_json::to_value(signed(&statement(&domain), &key)).unwrap();
    edit(&mut json, 1, "\"sp1.example\"", "\"sp1.example:443\"");
    let der: Vec<u8> = STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
    let pair = ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).unwrap();
    let jws = json["signatures"][0].as_str().unwrap();
    let (message, _) = jws.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    json["signatures"][0] = format!("{message}.{signature}").into();

    let memory = MemorySource::new();
    memory.insert(&domain, "default", json.to_string(), COMPONENT);
    let mut config = requiring(Signatures::Require);
    config.trust.domains.entry(domain.clone()).or_default().keys = vec![key.public().clone()];
    let catalogue = catalogue_with(config, vec![Arc::new(memory)]);
    let found = catalogue.discover(&StubKey::Domain(domain.clone())).await.unwrap();
    assert_eq!(found.authenticity.signed().unwrap().statement.domain, domain);
}

#[tokio::test]
async fn key_of_a_stranger_is_not_trusted() {
    for mode in [Signatures::VerifyIfPresent, Signatures::Require] {
        let server = Server::start().await;
        let (own, strange) = (key("own"), key("strange"));
        publish_keys(&server, &[&own]);
        server.publish(OWN, &signed(&statement(&server.domain()), &strange));
        let error = signature_error(discover(requiring(mode), &server).await);
        assert!(matches!(&error, SignatureError::UnknownKey { key, known: 1, .. } if key == "strange"), "{error}");
        // The domain's own key id does not help.
        server.publish(OWN, &signed(&statement(&server.domain()), &key("own")));
        let error = signature_error(discover(requiring(mode), &server).await);
        assert!(matches!(&error, SignatureError::Wrong { key } if key == "own"), "{error}");
    }
}

#[tokio::test]
async fn unsigned_stub_is_refused_where_signatures_are_required() {
    let server = Server::start().await;
    let key = key("2026");
    publish_keys(&server, &[&key]);
    server.publish(OWN, &descriptor()).bytes(CODE, COMPONENT);
    assert_eq!(discover(config(), &server).await.unwrap().authenticity, Authenticity::Unsigned);
    let error = signature_error(discover(requiring(Signatures::Require), &server).await);
    assert!(matches!(error, SignatureError::Missing { .. }), "{error}");
    // One domain can differ from the others, in either direction.
    let mut of_one = config();
    of_one.trust.domains.entry(server.domain()).or_default().signatures = Some(Signatures::Require);
    signature_error(discover(of_one, &server).await);
    let mut of_others = requiring(Signatures::Require);
    of_others.trust.domains.entry(server.domain()).or_default().signatures = Some(Signatures::VerifyIfPresent);
    assert_eq!(discover(of_others, &server).await.unwrap().authenticity, Authenticity::Unsigned);
    // In mode `off`, signatures are ignored.
    let mut stub = descriptor();
    stub.signatures = vec!["nonsense".to_owned()];
    server.publish(OWN, &stub);
    assert_eq!(discover(requiring(Signatures::Off), &server).await.unwrap().authenticity, Authenticity::NotChecked);
}

#[tokio::test]
async fn key_rotation_is_accepted_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let (old, new) = (key("2025"), key("2026"));
    let started = || {
        let mut config = requiring(Signatures::Require);
        config.cache_dir = Some(dir.path().to_owned());
        config
    };
    let keys = |keys: &[&SigningKey]| {
        let set = json!({ "keys": keys.iter().map(|key| key.public().to_jwk()).collect::<Vec<_>>() }).to_string();
        server.answer(KEYS, move || -> Response { ([(header::CACHE_CONTROL, "max-age=3600")], set.clone()).into_response() });
    };
    keys(&[&old]);
    server.publish(OWN, &signed(&statement(&server.domain()), &old));
    assert!(is_verified(&discover(started(), &server).await.unwrap()));
    server.asked();
    // Keys are kept as long as the domain allows, also for the next process.
    assert!(is_verified(&discover(started(), &server).await.unwrap()));
    assert_eq!(server.asked(), [OWN]);
    // A signature by an unknown key causes a new request for the keys.
    keys(&[&old, &new]);
    server.publish(OWN, &signed(&statement(&server.domain()), &new));
    let found = discover(started(), &server).await.unwrap();
    assert_eq!(found.authenticity.signed().unwrap().key.id(), "2026");
    assert_eq!(server.asked(), [OWN, KEYS]);
    // A descriptor may have both signatures, for runtimes that know one of the keys.
    let mut both = signed(&statement(&server.domain()), &old);
    sign(&mut both, &statement(&server.domain()), &new).unwrap();
    server.publish(OWN, &both);
    for known in [&old, &new] {
        let mut config = requiring(Signatures::Require);
        config.trust.domains.entry(server.domain()).or_default().keys = vec![known.public().clone()];
        assert_eq!(discover(config, &server).await.unwrap().authenticity.signed().unwrap().key, *known.public());
    }
}

#[tokio::test]
async fn revoked_key_or_component_is_refused() {
    let server = Server::start().await;
    let key = key("2026");
    publish_keys(&server, &[&key]);
    server.publish(OWN, &signed(&statement(&server.domain()), &key)).bytes(CODE, COMPONENT);
    for id in [key.public().id(), key.public().thumbprint()] {
        let mut config = config();
        config.trust.revoked_keys.insert(id.to_owned());
        let error = signature_error(discover(config, &server).await);
        assert!(matches!(error, SignatureError::RevokedKey { .. }), "{error}");
    }
    // A component is revoked in any mode, signed or not, with or without a stated digest.
    let revoking = |mode| {
        let mut config = requiring(mode);
        config.trust.revoked_components.insert(Sha256Digest::of(COMPONENT));
        config.unpinned.insert(server.domain());
        config
    };
    for mode in [Signatures::Off, Signatures::VerifyIfPresent, Signatures::Require] {
        let error = signature_error(discover(revoking(mode), &server).await);
        assert!(matches!(error, SignatureError::RevokedComponent { .. }), "{error}");
    }
    let mut stub = descriptor();
    stub.source_package = None;
    server.publish(OWN, &stub);
    let catalogue = catalogue(revoking(Signatures::Off));
    let found = catalogue.discover(&server.key()).await.unwrap();
    let error = catalogue.fetch(&found).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Signature(SignatureError::RevokedComponent { .. })), "{error}");
}

#[tokio::test]
async fn missing_keys_refuse_where_signatures_are_required() {
    for answer in [404, 500] {
        let server = Server::start().await;
        server.status(KEYS, answer, "no");
        server.publish(OWN, &signed(&statement(&server.domain()), &key("2026")));
        let error = signature_error(discover(requiring(Signatures::Require), &server).await);
        assert!(matches!(error, SignatureError::NoKeys { .. }), "{error}");
        let found = discover(config(), &server).await.unwrap();
        assert!(matches!(found.authenticity, Authenticity::Unverified { .. }), "{:?}", found.authenticity);
    }
    // An invalid key set differs from a missing one: it is a fault, or an attack.
    let server = Server::start().await;
    server.bytes(KEYS, "<html>");
    server.publish(OWN, &signed(&statement(&server.domain()), &key("2026")));
    signature_error(discover(requiring(Signatures::Require), &server).await);
}

#[tokio::test]
async fn key_request_obeys_the_network_rules() {
    let (server, other) = (Server::start().await, Server::start().await);
    let key = key("2026");
    publish_keys(&other, &[&key]);
    let elsewhere = format!("http://localhost:{}{KEYS}", other.domain().port().unwrap());
    server.answer(KEYS, move || (axum::http::StatusCode::FOUND, [(header::LOCATION, elsewhere.clone())]).into_response());
    server.publish(OWN, &signed(&statement(&server.domain()), &key));
    let error = signature_error(discover(requiring(Signatures::Require), &server).await);
    assert!(matches!(&error, SignatureError::NoKeys { reason, .. } if reason.contains("redirect")), "{error}");
    // The limit on key sets applies, too.
    server.bytes(KEYS, vec![b' '; 65 * 1024]);
    let error = signature_error(discover(requiring(Signatures::Require), &server).await);
    assert!(matches!(&error, SignatureError::NoKeys { reason, .. } if reason.contains("larger than")), "{error}");
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn operator_keys_replace_the_published_ones() {
    let server = Server::start().await;
    let (operators, published, global) = (key("operators"), key("published"), key("global"));
    publish_keys(&server, &[&published]);
    let mut config = requiring(Signatures::Require);
    config.trust.domains.entry(server.domain()).or_default().keys = vec![operators.public().clone()];
    config.trust.keys = vec![global.public().clone()];
    for (key, is_good) in [(&operators, true), (&global, true), (&published, false)] {
        server.publish(OWN, &signed(&statement(&server.domain()), key));
        assert_eq!(discover(config.clone(), &server).await.is_ok(), is_good, "{key:?}");
        assert!(!server.asked().contains(&KEYS.to_owned()));
    }
}

#[tokio::test]
async fn copy_is_verified_on_each_use() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let key = key("2026");
    publish_keys(&server, &[&key]);
    server.publish(OWN, &signed(&statement(&server.domain()), &key)).bytes(CODE, COMPONENT);
    let keeping = || {
        let mut config = requiring(Signatures::Require);
        config.cache_dir = Some(dir.path().to_owned());
        config
    };
    let first = catalogue(keeping());
    let found = first.discover(&server.key()).await.unwrap();
    first.fetch(&found).await.unwrap();
    server.stop().await;
    // Descriptor, keys and component are available without the domain.
    let offline = catalogue(keeping());
    let found = offline.discover(&server.key()).await.unwrap();
    assert!(is_verified(&found) && matches!(found.provenance, Provenance::Offline { .. }), "{found:?}");
    assert!(offline.fetch(&found).await.unwrap().is_stored());
    // Revoked keys, and copies that were changed in the cache, are refused.
    let mut revoking = keeping();
    revoking.trust.revoked_keys.insert("2026".to_owned());
    assert!(matches!(signature_error(discover(revoking, &server).await), SignatureError::RevokedKey { .. }));
    let file = fs::read_dir(dir.path().join("descriptors")).unwrap().next().unwrap().unwrap().path();
    let intact = sealed::read(&file);
    let (header, json) = intact.split_once('\n').unwrap();
    let mut json: Value = serde_json::from_str(json).unwrap();
    json["ports"] = json!([9001]);
    let json = json.to_string();
    let mut header: Value = serde_json::from_str(header).unwrap();
    header["copy"]["sha256"] = Sha256Digest::of(json.as_bytes()).to_string().into();
    sealed::write(&file, &format!("{header}\n{json}"));
    assert!(matches!(signature_error(discover(keeping(), &server).await), SignatureError::Changed { .. }));
}

#[tokio::test]
async fn expired_signature_is_refused_while_offline() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let key = key("2026");
    let keeping = |mode| {
        let mut config = requiring(mode);
        config.cache_dir = Some(dir.path().to_owned());
        config.trust.keys = vec![key.public().clone()];
        config
    };
    let mut statement = statement(&server.domain());
    statement.expires = SystemTime::now() - Duration::from_secs(1);
    server.publish(OWN, &signed(&statement, &key));
    // In mode `off`, the copy is kept without a check.
    discover(keeping(Signatures::Off), &server).await.unwrap();
    server.stop().await;
    let outcome = discover(keeping(Signatures::Require), &server).await;
    let error = outcome.as_ref().unwrap_err().to_string();
    assert!(error.contains("no connection") && error.contains("the copy of"), "{error}");
    assert!(matches!(signature_error(outcome), SignatureError::Expired { .. }));
}

#[tokio::test]
async fn home_domain_signs_its_offers() {
    let home = Server::start().await;
    let key = key("home");
    publish_keys(&home, &[&key]);
    let sp9 = Domain::parse("sp9.example").unwrap();
    let mut statement = statement(&sp9);
    statement.names = vec!["sp9.example".to_owned()];
    home.publish("/.well-known/protostub/sp9.example", &signed(&statement, &key));
    let mut config = requiring(Signatures::Require);
    config.home = home.domain();
    let found = catalogue(config).discover(&StubKey::Domain(sp9)).await.unwrap();
    assert!(is_verified(&found));
}

#[test]
fn keys_for_other_uses_are_left_out() {
    let check = |jwk: Value, expected: usize| {
        let keys = PublicKey::read_set(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), expected, "{jwk}");
    };
    let good = key("a").public().to_jwk();
    let with = |member: &str, value: Value| {
        let mut jwk = good.clone();
        jwk[member] = value;
        jwk
    };
    check(good.clone(), 1);
    check(with("use", "enc".into()), 0);
    check(with("key_ops", json!(["sign"])), 0);
    check(with("alg", "ES256".into()), 0);
    check(with("crv", "X25519".into()), 0);
    check(with("x", "AAAA".into()), 0);
    check(with("kid", 7.into()), 0);
    check(with("kid", "".into()), 1);
    check(json!({ "kty": "oct", "k": "AAAA" }), 0);
    check(json!({ "kty": "RSA", "n": "AAAA", "e": "AQAB" }), 0);
    check(json!(7), 0);
    for none in ["", "[]", "{}", "{\"keys\": 7}", "<html>"] {
        PublicKey::read_set(none.as_bytes()).unwrap_err();
    }
    // RFC 8037, appendix A.3.
    let rfc = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let keys = PublicKey::read_set(rfc.to_string().as_bytes()).unwrap();
    assert_eq!(keys[0].thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(keys[0].id(), keys[0].thumbprint());
}

#[test]
fn signature_errors_are_complete() {
    let domain = Domain::parse("sp1.example").unwrap();
    let key = key("2026");
    let mut policy = protostub_catalogue::trust::TrustPolicy::default();
    let mut judged = |change: fn(&mut Statement), tamper: fn(&mut Value), own: &[PublicKey]| {
        let mut statement = Statement {
            issued: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            expires: SystemTime::now() + DAY,
            ..statement(&domain)
        };
        change(&mut statement);
        let mut stub = descriptor();
        stub.version = Version::parse("1.0").unwrap();
        sign(&mut stub, &statement, &key).unwrap();
        let mut json = serde_json::to_value(stub).unwrap();
        tamper(&mut json);
        let error = policy.verify(json.to_string().as_bytes(), &domain, Some("default"), own).unwrap_err().to_string();
        policy.revoked_keys.clear();
        error
    };
    let own = [key.public().clone()];
    let texts = [
        judged(|_| (), |json| json["signatures"] = json!([]), &own),
        judged(|_| (), |json| json["signatures"] = json!(["a.b.c"]), &own),
        judged(|_| (), |_| (), &[]),
        judged(|statement| statement.names = vec!["a".into(), "b".into()], |_| (), &own),
        judged(|statement| statement.domain = Domain::parse("sp2.example").unwrap(), |_| (), &own),
        judged(|statement| statement.expires = statement.issued, |_| (), &own),
        judged(|statement| statement.expires = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800), |_| (), &own),
        judged(|_| (), |json| json["version"] = "2".into(), &own),
    ];
    insta::assert_snapshot!(texts.join("\n"));
}
