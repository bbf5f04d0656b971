//! Tests of signed stubs: a release cannot be rolled back.

use std::time::{Duration, SystemTime};

use protostub_runtime::{
    Descriptor, DomainSettings, MemorySource, RuntimeBuilder, Version,
    trust::{Signatures, SigningAlgorithm, SigningKey, Statement, TrustPolicy, sign},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{builder, component, descriptor, domain};

fn key() -> SigningKey {
    let pem = SigningKey::generate(SigningAlgorithm::EdDsa).expect("a key");
    SigningKey::from_pem(pem.as_bytes(), Some("2026".to_owned())).expect("a key")
}

fn version(text: &str) -> Descriptor {
    let mut descriptor = descriptor(&component("actor"), json!({}));
    descriptor.version = Version::parse(text).expect("a version");
    descriptor
}

/// Signs the descriptor for `sp1.example`, as a stub for this track of the contract.
fn signed(mut descriptor: Descriptor, contract: &str, key: &SigningKey) -> Descriptor {
    let issued = SystemTime::now();
    let statement = Statement {
        domain: domain("sp1.example"),
        names: vec!["default".to_owned()],
        contract: Some(contract.to_owned()),
        issued,
        expires: issued + Duration::from_secs(3600),
    };
    sign(&mut descriptor, &statement, key).expect("signed");
    descriptor
}

/// Returns the result of deploying this descriptor in a new runtime.
async fn deploy(builder: RuntimeBuilder, descriptor: &Descriptor) -> Result<String, String> {
    let source = MemorySource::new();
    source.insert(&domain("sp1.example"), "default", descriptor.to_json(), component("actor"));
    let runtime = builder.source(source).build().await.expect("a runtime");
    let outcome = runtime.deploy_protostub("sp1.example").await;
    let outcome = outcome.map(|stub| stub.version().expect("a version").to_string());
    // The next runtime has to know the accepted versions of this one.
    runtime.shutdown(Duration::from_secs(60)).await;
    outcome.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

fn trusting(mode: Signatures, key: &SigningKey) -> TrustPolicy {
    let mut policy = TrustPolicy::default();
    policy.signatures = mode;
    policy.domains.entry(domain("sp1.example")).or_default().keys = vec![key.public().clone()];
    policy
}

#[tokio::test]
async fn required_signature_is_enforced_at_deployment() {
    let (own, strange) = (key(), key());
    let requiring = || builder().trust(trusting(Signatures::Require, &own));
    assert_eq!(deploy(requiring(), &signed(version("1.0"), "0.1", &own)).await, Ok("1.0".to_owned()));
    let check = async |descriptor: &Descriptor, expected: &str| {
        let reason = deploy(requiring(), descriptor).await.expect_err("refused");
        assert!(reason.contains(expected), "{reason}");
    };
    check(&version("1.0"), "the descriptor has no signature").await;
    check(&signed(version("1.0"), "0.1", &strange), "the signature is not one of the key `2026`").await;
    check(&signed(version("1.0"), "0.2", &own), "the component is for track 0.1 of the contract, and was signed for track 0.2")
        .await;
    // The settings of the domain can require signatures too.
    let mut settings = DomainSettings::default();
    settings.signatures = Some(Signatures::Require);
    settings.trusted_keys = vec![own.public().clone()];
    let of_domain = || builder().domain(domain("sp1.example"), settings.clone());
    deploy(of_domain(), &version("1.0")).await.expect_err("refused");
    deploy(of_domain(), &signed(version("1.0"), "0.1", &own)).await.expect("deployed");
}

/// `sp1.example:443` is `sp1.example`: its settings, its stub and its accepted version.
#[tokio::test]
async fn port_443_does_not_dodge_settings_or_versions() {
    let (cache, own) = (TempDir::new().expect("a folder"), key());
    let source = MemorySource::new();
    let publish = |descriptor: &Descriptor| {
        source.insert(&domain("sp1.example:443"), "default", descriptor.to_json(), component("actor"));
    };
    let mut settings = DomainSettings::default();
    settings.signatures = Some(Signatures::Require);
    settings.trusted_keys = vec![own.public().clone()];
    let started = async || {
        let builder = builder().domain(domain("sp1.example"), settings.clone()).cache_dir(cache.path());
        builder.source(source.clone()).build().await.expect("a runtime")
    };
    publish(&version("1.0"));
    let runtime = started().await;
    let refused = runtime.deploy_protostub("sp1.example:443").await.expect_err("unsigned");
    assert!(format!("{:#}", anyhow::Error::new(refused)).contains("the descriptor has no signature"));
    publish(&signed(version("2.0"), "0.1", &own));
    let stub = runtime.load_stub("sp1.example:443").await.expect("a stub");
    let same = runtime.deploy_protostub("sp1.example").await.expect("the same stub");
    assert_eq!(stub.url(), same.url());
    runtime.shutdown(Duration::from_secs(60)).await;

    publish(&signed(version("1.0"), "0.1", &own));
    let runtime = started().await;
    for spelling in ["sp1.example", "sp1.example:443"] {
        let refused = runtime.load_stub(spelling).await.expect_err("older");
        let reason = format!("{:#}", anyhow::Error::new(refused));
        assert!(reason.contains("the newer 2.0 was live here before"), "{spelling}: {reason}");
    }
}

#[tokio::test]
async fn unsigned_or_older_release_after_a_signed_one_is_refused() {
    let (cache, own) = (TempDir::new().expect("a folder"), key());
    let started = || builder().cache_dir(cache.path()).trust(trusting(Signatures::VerifyIfPresent, &own));
    deploy(started(), &version("0.9")).await.expect("nothing is required");
    deploy(started(), &signed(version("1.0"), "0.1", &own)).await.expect("signed");
    // A removed signature or an older release is refused, also after a restart.
    for (descriptor, expected) in [
        (version("1.0"), "version 1.0, which was live here before, had one"),
        (version("1.1"), "without a valid signature (the descriptor has no signature)"),
        (signed(version("0.9"), "0.1", &own), "the newer 1.0 was live here before"),
    ] {
        let reason = deploy(started(), &descriptor).await.expect_err("refused");
        assert!(reason.contains(expected) && reason.contains("allow-older"), "{reason}");
    }
    let mut settings = DomainSettings::default();
    settings.allow_older = true;
    deploy(started().domain(domain("sp1.example"), settings), &version("0.9")).await.expect("allowed");
}

#[tokio::test]
async fn update_of_a_signed_stub_needs_a_signature() {
    let (cache, own) = (TempDir::new().expect("a folder"), key());
    let source = MemorySource::new();
    let publish = |descriptor: &Descriptor| {
        source.insert(&domain("sp1.example"), "default", descriptor.to_json(), component("actor"));
    };
    publish(&signed(version("1.0"), "0.1", &own));
    let builder = builder().cache_dir(cache.path()).trust(trusting(Signatures::VerifyIfPresent, &own));
    let runtime = builder.source(source.clone()).build().await.expect("a runtime");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    publish(&version("1.1"));
    let error = format!("{:#}", anyhow::Error::new(stub.update().await.expect_err("refused")));
    assert!(error.contains("without a valid signature"), "{error}");
    publish(&signed(version("1.1"), "0.1", &own));
    stub.update().await.expect("updated");
    assert_eq!(stub.version(), Some(Version::parse("1.1").expect("a version")));
}
