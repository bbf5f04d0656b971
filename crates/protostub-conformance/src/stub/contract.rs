//! Checks of the component before its code runs.

use protostub_sandbox::{CompileError, WorldMismatch};
use protostub_types::SafeList;

use super::StubSuiteContext;
use crate::{
    Case, Verdict,
    case::{CaseResult, Script},
};

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/contract/component",
            "A protocol stub is a WebAssembly component (WASI 0.2) of the world `protostub`.",
            "wit/README.md",
        ),
        run: |context| Box::pin(component(context)),
    },
    Script {
        case: Case::new(
            "stub/contract/exports",
            "The host finds a component's track by the name of its export, `rethink:protostub/stub@0.1.0`.",
            "wit/README.md",
        ),
        run: |context| Box::pin(exports(context)),
    },
    Script {
        case: Case::new(
            "stub/contract/imports",
            "A stub imports the interfaces of the contract, and WASI 0.2 with an empty context. The host refuses other imports by name.",
            "wit/0.1/world.wit, wit/README.md",
        ),
        run: |context| Box::pin(imports(context)),
    },
    Script {
        case: Case::new(
            "stub/contract/types",
            "A variant with one more case is another type. The host refuses a component that was compiled with another type.",
            "wit/README.md",
        ),
        run: |context| Box::pin(types(context)),
    },
];

async fn component(context: &StubSuiteContext) -> CaseResult {
    match &context.compiled {
        Ok(_) | Err(CompileError::WrongWorld(_)) => Ok(None),
        Err(error) => Err(Verdict::fail("a component that can be compiled", error.to_string())),
    }
}

async fn exports(context: &StubSuiteContext) -> CaseResult {
    let track = context.compiled.as_ref().ok().map(|stub| format!("track {}", stub.track()));
    without(context, "an export `rethink:protostub/stub@0.1.*` with `start` and `handle`", |mismatch| &mismatch.missing_exports)?;
    Ok(track)
}

async fn imports(context: &StubSuiteContext) -> CaseResult {
    without(context, "no import of interfaces outside the contract", |mismatch| &mismatch.unknown_imports)?;
    without(context, "no import of interfaces that only some host programs offer", |mismatch| &mismatch.not_granted)?;
    Ok(None)
}

async fn types(context: &StubSuiteContext) -> CaseResult {
    without(context, "functions with the contract's parameters and results", |mismatch| &mismatch.mismatches)?;
    Ok(None)
}

/// Passes if this list of the component is empty.
fn without(context: &StubSuiteContext, expected: &str, list: fn(&WorldMismatch) -> &SafeList) -> CaseResult<()> {
    match &context.compiled {
        Ok(_) => Ok(()),
        Err(CompileError::WrongWorld(mismatch)) if list(mismatch).is_empty() => Ok(()),
        Err(CompileError::WrongWorld(mismatch)) => Err(Verdict::fail(expected, list(mismatch).join(", "))),
        Err(_) => Err(Verdict::not_applicable("the file is not a component: see stub/contract/component")),
    }
}
