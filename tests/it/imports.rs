//! Tests of interfaces that the host program adds: the program of
//! `crates/protostub-runtime/examples/key_value.rs`, and refusals.

use std::process::Command;

use protostub_runtime::{
    BuildError, DomainSettings, Runtime,
    imports::{HostImport, StubInfo, StubState, wasmtime},
};
use serde_json::json;

use crate::support::{component, domain, source};

#[test]
fn host_program_offers_its_own_interface() {
    let component = protostub_artifacts::path("key-value");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .args(["run", "--quiet", "--example", "key_value", "--"])
        .arg(component)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}\n{}", String::from_utf8_lossy(&run.stderr));
    let lines: Vec<&str> = output.lines().collect();
    let expected = [r#"sp1.example has "blue""#, r#"sp2.example has "green""#, r#"sp1.example, deployed again, has "blue""#];
    assert_eq!(lines[..3], expected, "{output}");
    assert!(lines[3].starts_with("sp3.example: failed to deploy the protocol stub of sp3.example while compiling"), "{output}");
    assert!(lines[3].ends_with("imports that are not granted to its domain: acme:store/kv@1.0.0"), "{output}");
}

/// An interface that this program does not offer. Grants of it and imports of it are refused by
/// name.
struct Nothing;

impl HostImport for Nothing {
    const INTERFACE: &'static str = "acme:store/nothing@1.0.0";
    type Data = ();

    fn data(&self, _: &StubInfo) {}

    fn add_to_linker(
        &self,
        linker: &mut wasmtime::component::Linker<StubState>,
        _: fn(&mut StubState) -> &mut (),
    ) -> wasmtime::Result<()> {
        linker.instance(Self::INTERFACE).map(drop)
    }
}

#[tokio::test]
async fn unoffered_import_cannot_be_granted() {
    let granted = |interface: &str| {
        let mut settings = DomainSettings::default();
        settings.imports.insert(interface.to_owned());
        Runtime::builder()
            .home_domain("home.example")
            .source(source(&["sp1.example"], &component("key-value"), &json!({})))
            .host_import(Nothing)
            .domain(domain("sp1.example"), settings)
            .build()
    };
    let error = granted("acme:store/kv@1.0.0").await.expect_err("nobody offers it");
    assert!(matches!(error, BuildError::UnknownImport { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "`sp1.example` is granted the import `acme:store/kv@1.0.0`, which the host program does not offer; \
         remove it from `imports` of the domain, or offer it with `host_import`"
    );

    let runtime = granted(Nothing::INTERFACE).await.expect("a runtime");
    let error = runtime.deploy_protostub("sp1.example").await.expect_err("its stub imports another interface");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("imports that no stub may have: acme:store/kv@1.0.0"), "{error}: {cause}");
}
