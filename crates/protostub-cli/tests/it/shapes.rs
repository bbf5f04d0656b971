//! The shapes of output that the README documents, and checks of an output against them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde_json::Value;

/// Members with content from outside the command: messages as on the wire, descriptors as
/// published.
const OPEN: [&str; 5] = ["reply", "message", "descriptor", "result", "crash"];

/// The README's JSON blocks, by the commands in the heading, or by the block's second word.
static DOCUMENTED: LazyLock<BTreeMap<String, Vec<Value>>> = LazyLock::new(|| {
    let readme = include_str!("../../README.md");
    let (mut blocks, mut names, mut block) = (BTreeMap::<String, Vec<Value>>::new(), Vec::new(), None::<Vec<String>>);
    for line in readme.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            names = heading.replace('`', "").split(", ").map(str::to_owned).collect();
        } else if let Some(kind) = line.strip_prefix("```json") {
            block = Some(if kind.is_empty() { names.clone() } else { vec![kind.trim().to_owned()] });
        } else if line == "```" {
            block = None;
        } else if let Some(names) = &block {
            let example: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            for name in names {
                blocks.entry(name.clone()).or_default().push(example.clone());
            }
        }
    }
    blocks
});

/// Returns the examples under a name.
pub(crate) fn examples(name: &str) -> &'static [Value] {
    DOCUMENTED.get(name).unwrap_or_else(|| panic!("the README says nothing of `{name}`"))
}

/// Checks an output against the README.
pub(crate) fn check(name: &str, output: &Value) {
    let alike: Vec<_> = examples(name).iter().filter(|example| kind(example) == kind(output)).collect();
    if let Err(problem) = compare(output, &alike) {
        panic!("`{name}` is not as the README says: {problem}: {output}");
    }
}

/// Returns the kinds of the examples under a name.
pub(crate) fn kinds(name: &str) -> BTreeSet<String> {
    examples(name).iter().map(kind).collect()
}

/// Returns the kind of an object: its event, or the member that distinguishes it.
pub(crate) fn kind(output: &Value) -> String {
    let doing = output["progress"]["doing"].as_str();
    let text = output["event"].as_str().or(doing).map(str::to_owned);
    let member =
        ["result", "error", "status", "missed", "file", "component"].into_iter().find(|member| output.get(member).is_some());
    text.or_else(|| member.map(str::to_owned)).unwrap_or_default()
}

fn compare(output: &Value, examples: &[&Value]) -> Result<(), String> {
    let is = name_of_type(output);
    let same: Vec<_> = examples.iter().copied().filter(|example| name_of_type(example) == is).collect();
    if same.is_empty() {
        return Err(format!("no example is {is}"));
    }
    match output {
        Value::Object(members) => {
            for (name, value) in members {
                let of_member: Vec<_> = same.iter().filter_map(|example| example.get(name)).collect();
                if of_member.is_empty() {
                    return Err(format!("there is an undocumented member `{name}`"));
                }
                if OPEN.contains(&name.as_str()) {
                    continue;
                }
                compare(value, &of_member).map_err(|problem| format!("{name}: {problem}"))?;
            }
            let always = |name: &String| same.iter().all(|example| example.get(name).is_some());
            let required = same[0].as_object().into_iter().flat_map(|example| example.keys()).filter(|name| always(name));
            match required.into_iter().find(|name| !members.contains_key(*name)) {
                Some(missing) => Err(format!("the member `{missing}` is missing")),
                None => Ok(()),
            }
        }
        Value::Array(elements) => {
            let of_elements: Vec<_> = same.iter().filter_map(|example| example.as_array()).flatten().collect();
            // An empty list does not show the shape of its elements: another example documents it.
            elements.iter().filter(|_| !of_elements.is_empty()).try_for_each(|element| compare(element, &of_elements))
        }
        _ => Ok(()),
    }
}

fn name_of_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[test]
fn undocumented_member_is_found() {
    let error = |text: &str| compare(&serde_json::from_str(text).expect("JSON"), &examples("Errors").iter().collect::<Vec<_>>());
    assert_eq!(error(r#"{"error": "why", "kind": "failed", "code": null}"#), Ok(()));
    assert_eq!(error(r#"{"error": "why", "kind": "failed"}"#), Err("the member `code` is missing".to_owned()));
    assert_eq!(error(r#"{"error": "why", "kind": 1, "code": 1}"#), Err("kind: no example is a number".to_owned()));
    let undocumented = error(r#"{"error": "why", "kind": "failed", "code": 1, "exit": 1}"#);
    assert_eq!(undocumented, Err("there is an undocumented member `exit`".to_owned()));
}
