use protostub_runtime::{Descriptor, Domain, MemorySource, Version};
use serde_json::{Map, Value};

/// Parses a domain.
///
/// # Panics
/// If the text is no domain.
#[must_use]
pub fn domain(text: &str) -> Domain {
    Domain::parse(text).expect("a domain")
}

/// Returns the descriptor of version 1.0 of a component, which stands next to it as `component.wasm`.
#[must_use]
pub fn descriptor(component: &[u8], configuration: Value) -> Descriptor {
    version("1.0", component, configuration)
}

/// Returns the descriptor of a version of a component.
///
/// # Panics
/// If the text is no version.
#[must_use]
pub fn version(version: &str, component: &[u8], configuration: Value) -> Descriptor {
    let mut descriptor = Descriptor::new("default", Version::parse(version).expect("a version"));
    descriptor.refer("component.wasm", component);
    descriptor.configuration = match configuration {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    descriptor
}

/// Returns a source with this component as the default stub of each of these domains.
#[must_use]
pub fn source(domains: &[&str], component: &[u8], configuration: &Value) -> MemorySource {
    let source = MemorySource::new();
    for name in domains {
        source.insert(&domain(name), "default", descriptor(component, configuration.clone()).to_json(), component.to_vec());
    }
    source
}

/// Puts a version of a component into a source. It replaces the domain's default stub.
pub fn publish(source: &MemorySource, name: &str, number: &str, component: &[u8], configuration: Value) {
    let descriptor = version(number, component, configuration);
    source.insert(&domain(name), "default", descriptor.to_json(), component.to_vec());
}
