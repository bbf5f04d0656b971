use protostub_types::{Descriptor, Encoding, Sha256Digest, SourceLocation, SourcePackage, Version};
use serde_json::{Value, json};
use url::Url;

fn read(json: &Value) -> Descriptor {
    Descriptor::parse(json.to_string().as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// Returns a minimal descriptor with one more member.
fn with(name: &str, value: Value) -> Value {
    let mut json = json!({ "objectName": "echo", "version": "1.0" });
    json[name] = value;
    json
}

/// A stub of the reTHINK project, as its catalogue serves it.
#[test]
fn descriptor_of_a_rethink_catalogue_is_read() {
    let json = json!({
        "cguid": "459ddec3",
        "type": "ProtoStubs",
        "version": "12.70",
        "objectName": "default",
        "description": "Description of Vertx ProtoStub",
        "language": "javascript",
        "sourcePackageURL": "/sourcePackage",
        "sourcePackage": {
            "encoding": "Base64",
            "sourceCode": "Y29uc29sZQ==",
            "sourceCodeClassname": "VertxProtoStub",
            "signature": "",
            "md5": "abc",
        },
        "signature": "",
        "messageSchemas": "",
        "configuration": "{\"url\": \"wss://msg-node.sp1.example/ws\", \"maxBuffer\": 1000000}",
        "constraints": "",
        "interworking": false,
        "accessControlPolicy": "somePolicy",
    });
    let descriptor = read(&json);
    assert_eq!(descriptor.cguid.as_deref(), Some("459ddec3"));
    assert_eq!(descriptor.kind.as_deref(), Some("ProtoStubs"));
    assert_eq!(descriptor.object_name, "default");
    assert_eq!(descriptor.version.as_str(), "12.70");
    assert_eq!(descriptor.configuration["maxBuffer"], 1_000_000);
    assert_eq!(descriptor.signature, None);
    assert!(descriptor.message_schemas.is_empty() && descriptor.constraints.is_empty());
    assert_eq!(descriptor.other["accessControlPolicy"], "somePolicy");
    let package = descriptor.source_package.as_ref().unwrap();
    assert_eq!(package.decode().unwrap(), b"console");
    assert_eq!(package.other["md5"], "abc");
    let error = descriptor.check_deployable().unwrap_err();
    assert_eq!(error.to_string(), "$.language: is `javascript`; only stubs in WASM_COMPONENT can be deployed");
}

/// Null, an empty text, blanks and an empty array all mean that the member is absent.
#[test]
fn empty_member_counts_as_absent() {
    let check = |name: &str, value: &Value, expected: fn(&Descriptor) -> bool| {
        let descriptor = read(&with(name, value.clone()));
        assert!(expected(&descriptor), "{name} = {value}: {descriptor:?}");
    };
    for absent in [Value::Null, json!(""), json!("  "), json!([])] {
        for name in ["cguid", "type", "description", "language", "sourcePackageURL", "sourcePackage", "sha256", "signature"] {
            check(name, &absent, |descriptor| {
                let texts = [&descriptor.cguid, &descriptor.kind, &descriptor.description, &descriptor.language];
                texts.into_iter().all(Option::is_none)
                    && descriptor.source_package_url.is_none()
                    && descriptor.source_package.is_none()
                    && descriptor.digest().is_none()
                    && descriptor.signature.is_none()
            });
        }
        check("configuration", &absent, |descriptor| descriptor.configuration.is_empty());
        check("constraints", &absent, |descriptor| descriptor.constraints.is_empty());
        check("messageSchema", &absent, |descriptor| descriptor.message_schemas.is_empty());
        check("messageSchemas", &absent, |descriptor| descriptor.message_schemas.is_empty());
        check("ports", &absent, |descriptor| descriptor.ports.is_empty());
        check("overlap", &absent, |descriptor| !descriptor.overlap);
    }
}

/// Irregularities of existing descriptors. Each test reads a minimal descriptor with one more
/// member.
mod irregularities {
    use super::{Descriptor, Encoding, Value, json, read, with};

    fn encoding(descriptor: &Descriptor) -> Option<Encoding> {
        descriptor.source_package.as_ref().and_then(|package| package.encoding)
    }

    fn code(descriptor: &Descriptor) -> Vec<u8> {
        descriptor.source_package.as_ref().unwrap().decode().unwrap()
    }

    macro_rules! irregularities {
        ($($name:ident: $member:literal = $json:tt, |$descriptor:ident| $got:expr => $expected:expr;)*) => {
            $(
                #[test]
                fn $name() {
                    let value: Value = json!($json);
                    let $descriptor = read(&with($member, value));
                    assert_eq!($got, $expected);
                    // The written form is regular, and means the same.
                    assert_eq!(Descriptor::parse($descriptor.to_json().as_bytes()), Ok($descriptor));
                }
            )*
        };
    }

    irregularities! {
        cguid_is_a_number: "cguid" = 40001, |d| d.cguid.as_deref() => Some("40001");
        cguid_is_a_number_in_a_text: "cguid" = "44001", |d| d.cguid.as_deref() => Some("44001");
        type_is_a_digit: "type" = "0", |d| d.kind.as_deref() => Some("0");
        type_is_a_number: "type" = 0, |d| d.kind.as_deref() => Some("0");
        type_is_that_of_an_idp_proxy: "type" = "IDPProxys", |d| d.kind.as_deref() => Some("IDPProxys");
        type_is_of_the_first_phase: "type" = "HYPERTY_INTERCEPTOR", |d| d.kind.as_deref() => Some("HYPERTY_INTERCEPTOR");
        version_is_a_number: "version" = 3, |d| d.version.as_str() => "3";
        version_has_blanks: "version" = " 12.70 ", |d| d.version.as_str() => "12.70";
        object_name_is_default: "objectName" = "default", |d| d.object_name.as_str() => "default";
        object_name_is_that_of_a_legacy_domain: "objectName" = "slack.slack.com", |d| d.object_name.as_str() => "slack.slack.com";
        object_name_is_a_number: "objectName" = 7, |d| d.object_name.as_str() => "7";
        language_is_in_lower_case: "language" = "wasm_component", |d| d.language.as_deref() => Some("wasm_component");
        signature_is_empty: "signature" = "", |d| d.signature.as_deref() => None;

        configuration_is_an_object: "configuration" = {"url": "wss://sp1.example/ws"}, |d| d.configuration["url"].as_str() =>
            Some("wss://sp1.example/ws");
        configuration_is_json_in_a_text: "configuration" = "{\"maxBuffer\": 1000000}", |d| d.configuration["maxBuffer"].as_u64() =>
            Some(1_000_000);
        configuration_is_an_array_in_a_text: "configuration" = "[]", |d| d.configuration.len() => 0;
        configuration_is_null_in_a_text: "configuration" = "null", |d| d.configuration.len() => 0;
        configuration_is_an_empty_array: "configuration" = [], |d| d.configuration.len() => 0;
        configuration_is_an_empty_text: "configuration" = "", |d| d.configuration.len() => 0;
        configuration_holds_anything: "configuration" = {"iceServers": [{"urls": ["stun:a"]}], "p": null}, |d| d.configuration.len() => 2;

        constraints_are_an_empty_object: "constraints" = {}, |d| d.constraints.len() => 0;
        constraints_are_an_empty_array: "constraints" = [], |d| d.constraints.len() => 0;
        constraints_are_an_empty_text: "constraints" = "", |d| d.constraints.len() => 0;
        constraints_are_json_in_a_text: "constraints" = "{\"browser\": true}", |d| d.constraints["browser"].as_bool() => Some(true);
        constraints_are_capabilities: "constraints" = {"browser": false, "wss": true}, |d| d.constraints["wss"].as_bool() => Some(true);

        message_schema_is_a_url: "messageSchema" = "https://a.example/x", |d| d.message_schemas.concat() => "https://a.example/x";
        message_schema_is_empty: "messageSchema" = "", |d| d.message_schemas.len() => 0;
        message_schemas_are_one_url: "messageSchemas" = "https://a.example/x", |d| d.message_schemas.len() => 1;
        message_schemas_are_urls: "messageSchemas" = ["a", "b"], |d| d.message_schemas.join(" ") => "a b";
        message_schemas_are_empty: "messageSchemas" = [], |d| d.message_schemas.len() => 0;

        encoding_is_base64: "sourcePackage" = {"encoding": "base64", "sourceCode": "AGFzbQ=="}, |d| code(&d) => b"\0asm";
        encoding_has_a_capital: "sourcePackage" = {"encoding": "Base64", "sourceCode": "AGFzbQ=="}, |d| code(&d) => b"\0asm";
        encoding_is_utf_8: "sourcePackage" = {"encoding": "utf-8"}, |d| encoding(&d) => Some(Encoding::Utf8);
        encoding_is_utf_8_in_capitals: "sourcePackage" = {"encoding": "UTF-8"}, |d| encoding(&d) => Some(Encoding::Utf8);
        encoding_is_missing: "sourcePackage" = {"sourceCode": "x"}, |d| code(&d) => b"x";
        padding_is_missing: "sourcePackage" = {"encoding": "base64", "sourceCode": "AGFzbQ"}, |d| code(&d) => b"\0asm";
        base64_has_line_breaks: "sourcePackage" = {"encoding": "base64", "sourceCode": "AGFz\r\nbQ==\n"}, |d| code(&d) => b"\0asm";
        source_package_has_an_md5: "sourcePackage" = {"md5": "abc"}, |d| d.source_package.as_ref().unwrap().other["md5"] == "abc" => true;
        source_package_is_empty: "sourcePackage" = "", |d| d.source_package.is_none() => true;
        source_package_url_is_empty: "sourcePackageURL" = "", |d| d.source_package_url.is_none() => true;
        size_is_a_text: "sourcePackage" = {"size": "17"}, |d| d.size() => Some(17);
        digest_is_in_capitals: "sha256" = "ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB", |d| d.digest().is_some() => true;
        digest_names_its_kind: "sourcePackage" = {"sha256": "sha256:abababababababababababababababababababababababababababababababab"},
            |d| d.digest().is_some() => true;
        ports_are_at_their_bounds: "ports" = [8443, 65535, 1024], |d| d.ports => [8443, 65535, 1024];
        overlap_is_a_text: "overlap" = "True", |d| d.overlap => true;

        hyperty_types_are_kept: "hypertyType" = ["comm"], |d| d.other["hypertyType"][0] == "comm" => true;
        data_objects_are_kept: "dataObjects" = [], |d| d.other.contains_key("dataObjects") => true;
        interworking_is_kept: "interworking" = "true", |d| d.other["interworking"] == "true" => true;
        idp_proxy_is_kept: "idpProxy" = false, |d| d.other["idpProxy"] == false => true;
        mutual_authentication_is_kept: "mutualAuthentication" = "oidc-rethink", |d| d.other["mutualAuthentication"] == "oidc-rethink" => true;
        hyperty_capabilities_are_kept: "hypertyCapabilities" = {"mic": false}, |d| d.other["hypertyCapabilities"]["mic"] == false => true;
        protocol_capabilities_are_kept: "protocolCapabilities" = {"http": true}, |d| d.other["protocolCapabilities"]["http"] == true => true;
        policies_are_kept: "policies" = [], |d| d.other.contains_key("policies") => true;
        access_control_policy_is_kept: "accessControlPolicy" = "somePolicy", |d| d.other["accessControlPolicy"] == "somePolicy" => true;
    }

    /// The JSON schema requires `messageSchema`, `configuration` and `constraints`. The model and
    /// existing descriptors do not.
    #[test]
    fn members_required_by_the_schema_may_be_missing() {
        let descriptor = read(&json!({ "objectName": "echo", "version": "1" }));
        assert!(
            descriptor.configuration.is_empty() && descriptor.constraints.is_empty() && descriptor.message_schemas.is_empty()
        );
    }

    #[test]
    fn other_languages_are_read_but_not_deployable() {
        for language in
            ["javascript", "Javascript ECMA6", "JAVASCRIPT_ECMA6", "JAVASCRIPT_ECMA5", "PYTHON", "TYPE_SCRIPT", "JSON_SCHEMA_V4"]
        {
            let error = read(&with("language", json!(language))).check_deployable().unwrap_err();
            assert_eq!(error.to_string(), format!("$.language: is `{language}`; only stubs in WASM_COMPONENT can be deployed"));
        }
    }

    /// Catalogues of reTHINK write this URL into every descriptor, with the host of the request.
    #[test]
    fn source_package_url_accepts_the_catalogue_scheme() {
        let url = "hyperty-catalogue://sp1.example/.well-known/sourcepackage/echo_sp";
        let base = "https://sp1.example/.well-known/protocolstub/echo".parse().unwrap();
        let location = read(&with("sourcePackageURL", json!(url))).source_location(&base).unwrap();
        let expected = "https://sp1.example/.well-known/sourcepackage/echo_sp".parse().unwrap();
        assert_eq!(location, super::SourceLocation::Url(expected));
    }
}

#[test]
fn version_keeps_zeros_and_byte_order_mark_is_skipped() {
    for (json, version) in [
        (r#"{"objectName":"x","version":12.70}"#, "12.70"),
        (r#"{"objectName":"x","version": 3 }"#, "3"),
        (r#"{"version":"1","objectName":"x","version":2.10}"#, "2.1"),
        ("\u{feff}{\"objectName\":\"x\",\"version\":\"1.0-rc1\"}", "1.0-rc1"),
    ] {
        assert_eq!(Descriptor::parse(json.as_bytes()).unwrap().version.as_str(), version, "{json}");
    }
}

#[test]
fn errors_name_the_member() {
    let check = |json: &str, path: &str, problem: &str| {
        let error = Descriptor::parse(json.as_bytes()).unwrap_err();
        assert_eq!((error.path(), error.to_string()), (path, format!("{path}: {problem}")), "{json}");
    };
    check("", "$", "is not JSON: EOF while parsing a value at line 1 column 0");
    check("{\"version\":\n 1,}", "$", "is not JSON: trailing comma at line 2 column 4");
    check("{} {}", "$", "is not JSON: trailing characters at line 1 column 4");
    check("null", "$", "is null; it has to be an object");
    check("\"x\"", "$", "is a text; it has to be an object");
    check("{}", "$.version", "is missing or empty");
    check(r#"{"version":"1"}"#, "$.objectName", "is missing or empty");
    check(r#"{"version":"1","objectName":""}"#, "$.objectName", "is missing or empty");
    check(r#"{"version":"1","objectName":{}}"#, "$.objectName", "is an object; it has to be a text");
    check(r#"{"version":true}"#, "$.version", "is a truth value; it has to be a text");

    let check = |name: &str, value: Value, path: &str, problem: &str| check(&with(name, value).to_string(), path, problem);
    let version = "is not a version: a version has 1 to 128 bytes, without control or invisible characters, and at least one letter or digit";
    check("version", json!("-"), "$.version", &format!("`-` {version}"));
    check("language", json!(["x"]), "$.language", "is an array; it has to be a text");
    check("configuration", json!([1]), "$.configuration", "is an array; it has to be an object");
    check("configuration", json!(1), "$.configuration", "is a number; it has to be an object");
    check("configuration", json!("7"), "$.configuration", "is a text that holds a number; it has to hold an object");
    let problem = "is a text that does not hold JSON: expected ident at line 1 column 2";
    check("configuration", json!("none"), "$.configuration", problem);
    check("messageSchemas", json!(["a", {}]), "$.messageSchemas[1]", "is an object; it has to be a text");
    check("ports", json!(8443), "$.ports", "is a number; it has to be an array");
    check("ports", json!([8443, 443]), "$.ports[1]", "is 443; use a port from 1024 to 65535");
    check("ports", json!([65536]), "$.ports[0]", "is 65536; use a port from 1024 to 65535");
    check("ports", json!(["8443"]), "$.ports[0]", "is \"8443\"; use a port from 1024 to 65535");
    check("ports", json!(vec![8443; 17]), "$.ports", "has 17 ports; the limit is 16");
    check("overlap", json!("perhaps"), "$.overlap", "is a text; it has to be true or false");
    let digest = "a SHA-256 digest is 64 hexadecimal digits, with or without `sha256:` before them";
    check("sha256", json!("12"), "$.sha256", &format!("`12`: {digest}"));
    check("sourcePackage", json!({"sha256": "12"}), "$.sourcePackage.sha256", &format!("`12`: {digest}"));
    check("sourcePackage", json!("x"), "$.sourcePackage", "is a text; it has to be an object");
    check("sourcePackage", json!({"encoding": "hex"}), "$.sourcePackage.encoding", "is `hex`; use base64 or utf-8");
    check("sourcePackage", json!({"size": -1}), "$.sourcePackage.size", "`-1` is not a number of bytes");
}

#[test]
fn contradicting_digests_are_rejected() {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let mut json = with("sha256", json!(a));
    json["sourcePackage"] = json!({ "sha256": b });
    let error = Descriptor::parse(json.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), format!("$.sha256: is {a}, and $.sourcePackage.sha256 is {b}"));
    json["sourcePackage"] = json!({ "sha256": a.to_uppercase() });
    assert_eq!(read(&json).digest().unwrap().to_string(), a);
}

#[test]
fn depth_is_limited() {
    for deep in ["[", "{\"a\":", "{\"objectName\":\"x\",\"version\":\"1\",\"configuration\":{\"a\":"] {
        let error = Descriptor::parse(deep.repeat(100_000).as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("$: is not JSON: recursion limit exceeded"), "{error}");
    }
    // The deepest possible descriptor is read, written, and dropped.
    let inner = format!("{}{}", "[".repeat(126), "]".repeat(126));
    let json = with("configuration", json!(format!("{{\"a\":{inner}}}")));
    assert_eq!(read(&json).to_json().matches('[').count(), 126);
}

#[test]
fn only_components_with_code_can_be_deployed() {
    let check = |json: Value, expected: &str| {
        let outcome = read(&json).check_deployable().map_err(|error| error.to_string());
        assert_eq!(outcome.err().unwrap_or_default(), expected, "{json}");
    };
    check(with("cguid", json!(1)), "$.language: is missing; only stubs in WASM_COMPONENT can be deployed");
    let mut json = with("language", json!("wasm_component"));
    check(json.clone(), "$.sourcePackage.sourceCode: is missing, and so is $.sourcePackageURL; the descriptor has no code");
    json["sourcePackageURL"] = json!("/sourcePackage");
    check(json.clone(), "$.sourcePackage.sourceCode: is missing, and $.sourcePackageURL says that the code is there");
    json["sourcePackage"] = json!({ "sourceCode": "AA" });
    check(json.clone(), "");
    json["sourcePackageURL"] = json!("x.wasm");
    json["sourcePackage"] = json!({});
    check(json, "");
}

#[test]
fn source_location_resolves_the_package_url() {
    let check = |base: &str, url: &str, expected: &str| {
        let location = read(&with("sourcePackageURL", json!(url))).source_location(&Url::parse(base).unwrap());
        let text = match location {
            Ok(SourceLocation::Inline) => "inline".to_owned(),
            Ok(SourceLocation::Url(url)) => url.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expected, "{url}");
    };
    const BASE: &str = "https://sp1.example/.well-known/protostub/default";
    check(BASE, "/sourcePackage", "inline");
    check(BASE, "", "inline");
    check(BASE, "echo.wasm", "https://sp1.example/.well-known/protostub/echo.wasm");
    check(BASE, "/echo.wasm", "https://sp1.example/echo.wasm");
    check(BASE, "//cdn.example/echo.wasm", "https://cdn.example/echo.wasm");
    check(BASE, "https://cdn.example:8443/a?b=c", "https://cdn.example:8443/a?b=c");
    check(BASE, "http://sp1.example/x", "http://sp1.example/x");
    let path = "/.well-known/sourcepackage/x_sp";
    check(BASE, &format!("hyperty-catalogue://sp1.example{path}"), &format!("https://sp1.example{path}"));
    check(BASE, &format!("Hyperty-Catalogue://catalogue.sp1.example{path}"), &format!("https://catalogue.sp1.example{path}"));
    let local = "http://127.0.0.1:8080/.well-known/protostub/default";
    check(local, &format!("hyperty-catalogue://127.0.0.1:8080{path}"), &format!("http://127.0.0.1:8080{path}"));
    check(local, &format!("hyperty-catalogue://127.0.0.1:8081{path}"), &format!("https://127.0.0.1:8081{path}"));
    check(BASE, "ftp://sp1.example/x", "$.sourcePackageURL: has the scheme `ftp`; use https");
    check(BASE, "data:application/wasm,x", "$.sourcePackageURL: has the scheme `data`; use https");
    check(BASE, "https://", "$.sourcePackageURL: `https://` is not a URL: empty host");
    let password = "$.sourcePackageURL: has a user name or a password; a stub's code is public";
    check(BASE, "https://me@sp1.example/x", password);
    check(BASE, "hyperty-catalogue://:pw@sp1.example/x", password);
}

#[test]
fn code_is_decoded() {
    let check = |json: Value, expected: Result<&[u8], &str>| {
        let decoded = SourcePackage::parse(json.to_string().as_bytes()).unwrap().decode();
        let decoded = decoded.as_deref().map_err(ToString::to_string);
        assert_eq!(decoded, expected.map_err(str::to_owned), "{json}");
    };
    check(json!({"encoding": "base64", "sourceCode": "AGFzbQ=="}), Ok(b"\0asm"));
    check(json!({"encoding": "BASE64", "sourceCode": "AGFzbQ"}), Ok(b"\0asm"));
    check(json!({"encoding": "base64", "sourceCode": "AGFz\r\n bQ==\n"}), Ok(b"\0asm"));
    check(json!({"encoding": "utf-8", "sourceCode": "AGFzbQ=="}), Ok(b"AGFzbQ=="));
    check(json!({"sourceCode": "ü"}), Ok("ü".as_bytes()));
    check(json!({}), Err("$.sourcePackage.sourceCode: is missing"));
    let problem = "$.sourcePackage.sourceCode: is not base64: Invalid symbol 45, offset 2.";
    check(json!({"encoding": "base64", "sourceCode": "AG-z"}), Err(problem));
}

#[test]
fn descriptor_json_round_trips() {
    let component = b"\0asm and so on";
    let mut descriptor = Descriptor::new("echo", Version::parse("1.2.3").unwrap());
    descriptor.description = Some("Echoes its messages".to_owned());
    descriptor.configuration.insert("url".to_owned(), json!("wss://sp1.example"));
    descriptor.ports = vec![8443];
    descriptor.overlap = true;
    descriptor.other.insert("hypertyType".to_owned(), json!(["comm"]));
    descriptor.embed(component);
    let read_again = Descriptor::parse(descriptor.to_json().as_bytes()).unwrap();
    assert_eq!(read_again, descriptor);
    assert_eq!(read_again.source_package.unwrap().decode().unwrap(), component);

    descriptor.refer("echo.wasm", component);
    let read_again = Descriptor::parse(descriptor.to_json().as_bytes()).unwrap();
    assert_eq!(read_again, descriptor);
    assert_eq!(read_again.digest(), Some(Sha256Digest::of(component)));
    assert_eq!(read_again.size(), Some(14));
    assert!(read_again.check_deployable().is_ok());
}
