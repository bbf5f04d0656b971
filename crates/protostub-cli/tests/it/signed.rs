//! `protostub keygen`, `sign` and `verify`, and the effect of signatures on `inspect` and `deploy`.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use protostub_catalogue::trust::{SigningKey, Statement, sign};
use protostub_types::{Descriptor, Domain};
use serde_json::{Value, json};

use crate::command::{Running, catalogue, protostub, protostub_json, protostub_json_in};

/// Checks that a command fails with this exit code and text.
fn refused(args: &[&str], code: i32, says: &str) {
    let (was, lines) = protostub_json_in(tempfile::tempdir().expect("a folder").path(), args);
    let error = lines[0]["error"].as_str().unwrap_or_default();
    assert!(was == code && error.contains(says), "{args:?}: {lines:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn signed_stub_is_served_verified_and_deployed() {
    let folder = tempfile::tempdir().expect("a folder");
    let stubs = folder.path().join("stubs");
    fs::create_dir_all(stubs.join("echo")).expect("made");
    for file in ["descriptor.json", "component.wasm"] {
        fs::copy(catalogue().join("echo").join(file), stubs.join("echo").join(file)).expect("copied");
    }
    let (key, jwks) = (folder.path().join("sp1.key"), stubs.join("protostub-jwks.json"));
    let (descriptor, component) = (stubs.join("echo/descriptor.json"), stubs.join("echo/component.wasm"));
    let (code, made) = protostub_json(&["keygen", text(&key), "--jwks", text(&jwks), "--id", "2026"]);
    assert_eq!((code, &made["id"], &made["algorithm"]), (0, &json!("2026"), &json!("EdDSA")));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    refused(&["keygen", text(&key)], 2, "the file exists already");

    let mut server = Running::start(&["serve", text(&stubs), "--bind", "127.0.0.1:0"]);
    let domain = server.event("serving")["domain"].as_str().expect("a text").to_owned();
    let verdict = || {
        let (code, json) = protostub_json(&["inspect", &domain]);
        assert_eq!(code, 0, "{json}");
        json["signature"]["verdict"].clone()
    };
    assert_eq!(verdict(), "unsigned");
    refused(&["verify", &domain], 1, "the descriptor has no signature");

    let sign = ["sign", text(&descriptor), "--key", text(&key), "--key-id", "2026", "--domain", &domain];
    refused(&sign, 2, "states no digest");
    let sign = [&sign[..], &["--component", text(&component)]].concat();
    let (code, signed) = protostub_json(&sign);
    assert_eq!((code, &signed["names"], &signed["contract"]), (0, &json!(["echo"]), &json!("0.1")), "{signed}");
    refused(&["verify", &domain], 1, "sign it with `--name default` too");
    let sign = [&sign[..], &["--name", "default", "--name", "echo"]].concat();
    assert_eq!(protostub_json(&sign).0, 0);
    assert_eq!(verdict(), "verified");
    let (code, verified) = protostub_json(&["verify", &domain, "--component", text(&component)]);
    assert_eq!((code, &verified["signature"]["key"]), (0, &json!("2026")), "{verified}");
    let (code, text_of, _) = protostub(&["inspect", &domain]);
    assert!(code == 0 && text_of.contains("good, by the key 2026 (EdDSA), until "), "{text_of}");

    // Verifies the file alone, with the key set.
    let file = ["verify", text(&descriptor), "--keys", text(&jwks)];
    refused(&file, 2, "give --domain");
    let of =
        |domain: &str| -> Vec<String> { [&file[..], &["--domain", domain]].concat().into_iter().map(str::to_owned).collect() };
    let of = |domain: &str, more: &[&str]| {
        let args = of(domain);
        args.iter().map(String::as_str).chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    let args = of(&domain, &["--name", "default", "--component", text(&component)]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    assert_eq!(protostub_json(&args).0, 0);
    let args = of("sp2.example", &[]);
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, "not for sp2.example");
    let args = of(&domain, &["--component", text(&descriptor)]);
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, "but the signed one is");

    // A runtime that requires signatures deploys the stub, but not with another key.
    let settings = folder.path().join("protostub.toml");
    let deploy = |trust: &str| {
        fs::write(&settings, format!("home = '{domain}'\n[trust]\nsignatures = 'require'\n{trust}")).expect("written");
        protostub_json_in(folder.path(), &["deploy", &domain, "--here", "--config", text(&settings)])
    };
    assert_eq!(deploy("").0, 0);
    let (code, error) = deploy("revoked-keys = ['2026']");
    assert!(code == 1 && error[0]["error"].as_str().expect("a text").contains("the operator has revoked"), "{error:?}");
    let (other, others) = (folder.path().join("other.key"), folder.path().join("other.json"));
    assert_eq!(protostub_json(&["keygen", text(&other), "--jwks", text(&others), "--algorithm", "es256"]).0, 0);
    let (code, error) = deploy(&format!("[domains.'{domain}']\ntrusted-keys = ['other.json']"));
    assert!(code == 1 && error[0]["error"].as_str().expect("a text").contains("not among the 1"), "{error:?}");

    // During a rotation there are two signatures, and two keys in the set.
    assert_eq!(protostub_json(&["keygen", text(&other), "--jwks", text(&jwks)]).0, 0);
    let set: Value = serde_json::from_slice(&fs::read(&jwks).expect("a file")).expect("JSON");
    assert_eq!(set["keys"].as_array().map(Vec::len), Some(2));
    let add = ["sign", text(&descriptor), "--key", text(&other), "--domain", &domain, "--name", "default", "--add"];
    assert_eq!(protostub_json(&add).0, 0);
    for keys in [&jwks, &others] {
        assert_eq!(protostub_json(&["verify", &domain, "--keys", text(keys)]).0, 0);
    }

    // A descriptor that changed after it was signed is refused.
    let changed = fs::read_to_string(&descriptor).expect("a file").replace("\"0.1.0\"", "\"0.2.0\"");
    fs::write(&descriptor, changed).expect("written");
    refused(&["inspect", &domain], 1, "`version` of the descriptor is not what was signed");
    server.stop();
}

/// OpenSSL signs with the keys of `keygen`, and the command signs with the keys of OpenSSL.
#[expect(clippy::print_stderr, reason = "a skipped test states the reason")]
#[test]
fn openssl_reads_the_keys_of_keygen() {
    let folder = tempfile::tempdir().expect("a folder");
    let openssl = |args: &[&str]| Command::new("openssl").args(args).current_dir(folder.path()).output();
    if let Err(error) = openssl(&["version"]) {
        eprintln!("skipped: `openssl` cannot be started: {error}");
        return;
    }
    for algorithm in ["eddsa", "es256"] {
        let key = folder.path().join(format!("{algorithm}.key"));
        let (code, made) = protostub_json(&["keygen", text(&key), "--algorithm", algorithm]);
        assert_eq!(code, 0, "{made}");
        let public = openssl(&["pkey", "-in", text(&key), "-pubout", "-outform", "DER"]).expect("it starts");
        assert!(public.status.success(), "{algorithm}: {}", String::from_utf8_lossy(&public.stderr));
        // The public key is at the end, for P-256 as an uncompressed point.
        let jwk = SigningKey::from_pem(&fs::read(&key).expect("a key"), None).expect("a key").public().to_jwk();
        let number = |member: &str| URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap_or_default()).expect("base64url");
        assert!(public.stdout.ends_with(&[number("x"), number("y")].concat()), "{algorithm}: {jwk}");
    }
    let foreign = folder.path().join("foreign.key");
    let made = openssl(&["genpkey", "-algorithm", "ed25519", "-out", "foreign.key"]).expect("it starts");
    assert!(made.status.success());
    let (code, kept) = protostub_json(&["keygen", text(&foreign), "--jwks", text(&folder.path().join("jwks.json"))]);
    assert_eq!((code, &kept["algorithm"]), (0, &json!("EdDSA")), "{kept}");
}

/// RFC 3339 cannot write the year 10000, nor a calendar the last second that a clock counts to.
#[test]
fn signature_that_never_expires_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let stubs = folder.path().join("stubs");
    fs::create_dir_all(stubs.join("echo")).expect("made");
    let component = fs::read(catalogue().join("echo/component.wasm")).expect("a component");
    fs::write(stubs.join("echo/component.wasm"), &component).expect("written");
    let (key, jwks) = (folder.path().join("sp1.key"), stubs.join("protostub-jwks.json"));
    assert_eq!(protostub_json(&["keygen", text(&key), "--jwks", text(&jwks)]).0, 0);
    let key = SigningKey::from_pem(&fs::read(&key).expect("a key"), None).expect("a key");

    let mut server = Running::start(&["serve", text(&stubs), "--bind", "127.0.0.1:0"]);
    let domain = server.event("serving")["domain"].as_str().expect("a text").to_owned();
    for exp in [253_402_300_800, i64::MAX.unsigned_abs()] {
        let published = fs::read(catalogue().join("echo/descriptor.json")).expect("a descriptor");
        let mut descriptor = Descriptor::parse(&published).expect("a descriptor");
        let url = descriptor.source_package_url.clone().expect("a URL");
        descriptor.refer(&url, &component);
        let statement = Statement {
            domain: Domain::parse(&domain).expect("a domain"),
            names: vec!["default".to_owned(), "echo".to_owned()],
            contract: None,
            issued: SystemTime::now(),
            expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp)).expect("a time"),
        };
        sign(&mut descriptor, &statement, &key).expect("signed");
        fs::write(stubs.join("echo/descriptor.json"), descriptor.to_json()).expect("written");
        let expected = format!("would count until {exp} s after 1970, which is longer than the 3660 days");
        for args in [["inspect", &domain], ["verify", &domain]] {
            refused(&args, 1, &expected);
        }
    }
}
