use std::fmt;

use wasmtime::component::{
    Component, ComponentNamedList, InstancePre, Lift, Lower,
    types::{ComponentFunc, ComponentItem},
};

use crate::{
    contract::{self, ProtostubPre, STUB_EXPORT, TRACK, types::Event},
    imports::{Granted, Import},
    state::StubState,
    wasi,
};

/// The functions of a stub.
const START: &str = "start";
const HANDLE: &str = "handle";

/// How a component differs from what the contract asks for, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorldMismatch {
    /// What it would have to export.
    pub missing_exports: Vec<String>,
    /// What it imports, and no stub may: whole interfaces, or functions as `interface#function`.
    pub unknown_imports: Vec<String>,
    /// The host program's own interfaces that it imports, and that are not granted to it.
    pub not_granted: Vec<String>,
    /// What it imports or exports with other parameters or results than the contract's, with the difference.
    pub mismatches: Vec<String>,
}

impl WorldMismatch {
    fn is_empty(&self) -> bool {
        self.missing_exports.is_empty()
            && self.unknown_imports.is_empty()
            && self.not_granted.is_empty()
            && self.mismatches.is_empty()
    }
}

impl fmt::Display for WorldMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("it does not export ", &self.missing_exports, ", "),
            ("it imports what no stub may: ", &self.unknown_imports, ", "),
            ("it imports what is not granted to its domain: ", &self.not_granted, ", "),
            ("it has other types than the contract: ", &self.mismatches, "; "),
        ];
        let mut first = true;
        for (what, names, separator) in parts.into_iter().filter(|(_, names, _)| !names.is_empty()) {
            write!(f, "{}{what}{}", if first { "" } else { "; " }, names.join(separator))?;
            first = false;
        }
        Ok(())
    }
}

/// Links a component to the contract, or says what does not fit.
pub(crate) fn link(granted: &Granted, component: &Component) -> Result<ProtostubPre<StubState>, WorldMismatch> {
    let missing_exports = missing_exports(component);
    let linked = granted.linker.instantiate_pre(component).and_then(ProtostubPre::new);
    let mut mismatches = linked.as_ref().map_or_else(|_| Vec::new(), |pre| mismatching_exports(pre.instance_pre()));
    match linked {
        Ok(pre) if missing_exports.is_empty() && mismatches.is_empty() => Ok(pre),
        linked => {
            let (unknown_imports, not_granted) = missing_imports(granted, component);
            mismatches.extend(mismatching_imports(granted, component));
            let mut mismatch = WorldMismatch { missing_exports, unknown_imports, not_granted, mismatches };
            if let Err(error) = linked
                && mismatch.is_empty()
            {
                mismatch.mismatches.push(format!("{error:#}"));
            }
            Err(mismatch)
        }
    }
}

/// The names of what a component imports and exports.
pub(crate) fn names(component: &Component) -> (Vec<String>, Vec<String>) {
    let engine = component.engine();
    let ty = component.component_type();
    let mut imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let mut exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort_unstable();
    exports.sort_unstable();
    (imports, exports)
}

/// What the export of this track begins with.
fn wanted_export() -> String {
    format!("{STUB_EXPORT}@{TRACK}.")
}

fn missing_exports(component: &Component) -> Vec<String> {
    let engine = component.engine();
    let ty = component.component_type();
    let wanted = wanted_export();
    let mut others = Vec::new();
    for (name, export) in ty.exports(engine) {
        if let (true, ComponentItem::ComponentInstance(instance)) = (name.starts_with(&wanted), &export.ty) {
            return [START, HANDLE]
                .iter()
                .filter(|function| instance.get_export(engine, function).is_none())
                .map(|function| format!("{name}#{function}"))
                .collect();
        }
        if name.starts_with(STUB_EXPORT) {
            others.push(format!("`{name}`"));
        }
    }
    let wanted = format!("`{wanted}0`");
    vec![if others.is_empty() { wanted } else { format!("{wanted} (but {})", others.join(", ")) }]
}

/// The functions that a component exports with other types than the contract's. Its instances would be refused for that, only later.
fn mismatching_exports(pre: &InstancePre<StubState>) -> Vec<String> {
    let engine = pre.engine();
    let ty = pre.component().component_type();
    let mut mismatches = Vec::new();
    for (name, export) in ty.exports(engine).filter(|(name, _)| name.starts_with(&wanted_export())) {
        let ComponentItem::ComponentInstance(instance) = export.ty else { continue };
        for (function, export) in instance.exports(engine) {
            let checked = match (function, export.ty) {
                (START, ComponentItem::ComponentFunc(start)) => check::<(&str,), (Result<(), String>,)>(&start, pre),
                (HANDLE, ComponentItem::ComponentFunc(handle)) => check::<(&[Event],), ()>(&handle, pre),
                (START | HANDLE, _) => Err(wasmtime::format_err!("it is no function")),
                _ => Ok(()),
            };
            if let Err(error) = checked {
                mismatches.push(format!("`{name}#{function}`: {}", error.root_cause()));
            }
        }
    }
    mismatches
}

/// Whether a function has these parameters and results: what `bindgen!` asks of a world's own functions, before they are instantiated.
fn check<Parameters, Results>(function: &ComponentFunc, pre: &InstancePre<StubState>) -> wasmtime::Result<()>
where
    Parameters: ComponentNamedList + Lower,
    Results: ComponentNamedList + Lift,
{
    function.typecheck::<Parameters, Results>(&pre.instance_type())
}

/// Everything that a component imports, as interface and function; none for what is imported as a whole.
fn imported_functions(component: &Component) -> Vec<(String, Option<String>)> {
    let engine = component.engine();
    let mut functions = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        match import.ty {
            ComponentItem::ComponentInstance(instance) => functions.extend(
                instance
                    .exports(engine)
                    .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
                    .map(|(function, _)| (name.to_owned(), Some(function.to_owned()))),
            ),
            ComponentItem::Type(_) | ComponentItem::Resource(_) => {}
            _ => functions.push((name.to_owned(), None)),
        }
    }
    functions
}

/// The interfaces and functions that the linker does not have: those that nobody may import, and those that others may.
fn missing_imports(granted: &Granted, component: &Component) -> (Vec<String>, Vec<String>) {
    let (mut unknown, mut not_granted) = (Vec::new(), Vec::new());
    let mut probe = granted.linker.clone();
    for (interface, function) in imported_functions(component) {
        let name = match (offered(granted, &interface), function) {
            (None, _) if find(&interface, granted.others.iter().map(Import::interface)).is_some() => {
                if !not_granted.contains(&interface) {
                    not_granted.push(interface);
                }
                continue;
            }
            (None, _) => interface,
            (Some(_), None) => continue,
            (Some(offered), Some(function)) => {
                // A function can be defined only if it is not there.
                let missing = probe.instance(offered).is_ok_and(|mut instance| instance.func_new(&function, never).is_ok());
                if !missing {
                    continue;
                }
                format!("{interface}#{function}")
            }
        };
        if !unknown.contains(&name) {
            unknown.push(name);
        }
    }
    (unknown, not_granted)
}

/// The functions of the contract, and of the host program's own interfaces, that a component imports with other types, found by replacing all others with ones that take anything.
fn mismatching_imports(granted: &Granted, component: &Component) -> Vec<String> {
    let mut mismatches = Vec::new();
    let mut complete = granted.linker.clone();
    if complete.define_unknown_imports_as_traps(component).is_err() || complete.substituted_component_type(component).is_ok() {
        return mismatches;
    }
    complete.allow_shadowing(true);
    let functions: Vec<(String, &str, String)> = imported_functions(component)
        .into_iter()
        .filter_map(|(interface, function)| {
            let offered = offered(granted, &interface).filter(|name| !wasi::INTERFACES.contains(name))?;
            Some((interface, offered, function?))
        })
        .collect();
    for (index, (interface, _, function)) in functions.iter().enumerate() {
        let mut probe = complete.clone();
        for (_, offered, other) in functions.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, function)| function)
        {
            let _ = probe.instance(offered).and_then(|mut instance| instance.func_new(other, never));
        }
        if let Err(error) = probe.substituted_component_type(component) {
            mismatches.push(format!("`{interface}#{function}`: {}", error.root_cause()));
        }
    }
    mismatches
}

/// The name under which the linker has an interface: the same, or one of a compatible version.
fn offered(granted: &Granted, interface: &str) -> Option<&'static str> {
    let fixed = contract::IMPORTS.iter().chain(wasi::INTERFACES).copied();
    find(interface, fixed.chain(granted.own.iter().map(Import::interface)))
}

fn find(interface: &str, mut names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let split = |name| str::rsplit_once(name, '@').unwrap_or((name, ""));
    let (path, version) = split(interface);
    names.find(|name| {
        let (other, has) = split(name);
        other == path && compatible(has) == compatible(version)
    })
}

/// What is the same in compatible versions: `0.2` of `0.2.12`.
fn compatible(version: &str) -> &str {
    match version.match_indices('.').nth(usize::from(version.starts_with("0."))) {
        Some((end, _)) => &version[..end],
        None => version,
    }
}

fn never(
    _: wasmtime::StoreContextMut<'_, StubState>,
    _: wasmtime::component::types::ComponentFunc,
    _: &[wasmtime::component::Val],
    _: &mut [wasmtime::component::Val],
) -> wasmtime::Result<()> {
    wasmtime::bail!("this function exists to find out about a component's types")
}
