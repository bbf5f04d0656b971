use std::fmt;

use protostub_types::{SafeList, SafeText};
use wasmtime::component::{
    Component, ComponentNamedList, InstancePre, Lift, Linker, Lower,
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

/// Maximum number of imports, and of exports, that are named of a component that runs. No stub has
/// as many.
const MAX_NAMES: usize = 256;

/// Differences between a component and the contract, by name. The names are the component's, so
/// each list is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorldMismatch {
    /// Exports that the component lacks.
    pub missing_exports: SafeList,
    /// Imports that no stub may have: whole interfaces, or functions as `interface#function`.
    pub unknown_imports: SafeList,
    /// The host program's own interfaces that the component imports without a grant.
    pub not_granted: SafeList,
    /// Imports and exports with other parameters or results than the contract's, with the
    /// difference.
    pub mismatches: SafeList,
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
            ("missing exports: ", &self.missing_exports, ", "),
            ("imports that no stub may have: ", &self.unknown_imports, ", "),
            ("imports that are not granted to its domain: ", &self.not_granted, ", "),
            ("types that differ from the contract: ", &self.mismatches, "; "),
        ];
        let mut first = true;
        for (what, names, separator) in parts.into_iter().filter(|(_, names, _)| !names.is_empty()) {
            write!(f, "{}{what}{}", if first { "" } else { "; " }, names.join(separator))?;
            first = false;
        }
        Ok(())
    }
}

/// Links a component to the contract, or describes the mismatch.
pub(crate) fn link(granted: &Granted, component: &Component) -> Result<ProtostubPre<StubState>, Box<WorldMismatch>> {
    let missing_exports = missing_exports(component);
    let linked = granted.linker.instantiate_pre(component).and_then(ProtostubPre::new);
    let mut mismatches = linked.as_ref().map_or_else(|_| SafeList::default(), |pre| mismatching_exports(pre.instance_pre()));
    match linked {
        Ok(pre) if missing_exports.is_empty() && mismatches.is_empty() => Ok(pre),
        linked => {
            let (unknown_imports, not_granted) = missing_imports(granted, component);
            mismatching_imports(granted, component, &mut mismatches);
            let mut mismatch = WorldMismatch { missing_exports, unknown_imports, not_granted, mismatches };
            if let Err(error) = linked
                && mismatch.is_empty()
            {
                mismatch.mismatches.push(SafeList::MAX_TEXTS, || SafeText::display(format_args!("{error:#}")));
            }
            Err(Box::new(mismatch))
        }
    }
}

/// Returns the sorted names of a component's imports and exports. The last ones are left out.
pub(crate) fn names(component: &Component) -> (SafeList, SafeList) {
    let engine = component.engine();
    let ty = component.component_type();
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        SafeList::cut(names, MAX_NAMES)
    };
    let imports = sorted(ty.imports(engine).map(|(name, _)| name).collect());
    let exports = sorted(ty.exports(engine).map(|(name, _)| name).collect());
    (imports, exports)
}

/// Returns the beginning of the export's name of this track.
fn wanted_export() -> String {
    format!("{STUB_EXPORT}@{TRACK}.")
}

fn missing_exports(component: &Component) -> SafeList {
    let engine = component.engine();
    let ty = component.component_type();
    let wanted = wanted_export();
    let mut others = SafeList::default();
    for (name, export) in ty.exports(engine) {
        if let (true, ComponentItem::ComponentInstance(instance)) = (name.starts_with(&wanted), &export.ty) {
            return [START, HANDLE]
                .iter()
                .filter(|function| instance.get_export(engine, function).is_none())
                .map(|function| format!("{name}#{function}"))
                .collect();
        }
        if name.starts_with(STUB_EXPORT) {
            others.push(SafeList::MAX_TEXTS, || SafeText::new(&format!("`{}`", SafeText::quote(name))));
        }
    }
    let wanted = format!("`{wanted}0`");
    SafeList::from_iter([if others.is_empty() { wanted } else { format!("{wanted} (but {others})") }])
}

/// Returns the functions that a component exports with other types than the contract's. Without
/// this check, the host would refuse each instance later.
fn mismatching_exports(pre: &InstancePre<StubState>) -> SafeList {
    let engine = pre.engine();
    let ty = pre.component().component_type();
    let mut mismatches = SafeList::default();
    for (name, export) in ty.exports(engine).filter(|(name, _)| name.starts_with(&wanted_export())) {
        let ComponentItem::ComponentInstance(instance) = export.ty else { continue };
        for (function, export) in instance.exports(engine) {
            let checked = match (function, export.ty) {
                (START, ComponentItem::ComponentFunc(start)) => check::<(&str,), (Result<(), String>,)>(&start, pre),
                (HANDLE, ComponentItem::ComponentFunc(handle)) => check::<(&[Event],), ()>(&handle, pre),
                (START | HANDLE, _) => Err(wasmtime::format_err!("the export is not a function")),
                _ => Ok(()),
            };
            if let Err(error) = checked {
                let text = format!("`{}#{function}`: {}", SafeText::quote(name), error.root_cause());
                mismatches.push(SafeList::MAX_TEXTS, || SafeText::new(&text));
            }
        }
    }
    mismatches
}

/// Checks a function's parameters and results before instantiation, as the code of `bindgen!` does
/// for a world's own functions.
fn check<Parameters, Results>(function: &ComponentFunc, pre: &InstancePre<StubState>) -> wasmtime::Result<()>
where
    Parameters: ComponentNamedList + Lower,
    Results: ComponentNamedList + Lift,
{
    function.typecheck::<Parameters, Results>(&pre.instance_type())
}

/// Calls `visit` with the interface and the name of each function that a component imports. An
/// import as a whole has no function. Names have any length.
fn visit_imported_functions(component: &Component, mut visit: impl FnMut(&str, Option<&str>)) {
    let engine = component.engine();
    for (name, import) in component.component_type().imports(engine) {
        match import.ty {
            ComponentItem::ComponentInstance(instance) => instance
                .exports(engine)
                .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
                .for_each(|(function, _)| visit(name, Some(function))),
            ComponentItem::Type(_) | ComponentItem::Resource(_) => {}
            _ => visit(name, None),
        }
    }
}

/// Returns the imports that the linker does not have: those that no stub may have, and those that
/// the operator can grant.
fn missing_imports(granted: &Granted, component: &Component) -> (SafeList, SafeList) {
    let (mut unknown, mut not_granted) = (SafeList::default(), SafeList::default());
    let mut probe = granted.linker.clone();
    // An interface's functions come one after the other. Each interface is named once.
    let mut last = String::new();
    visit_imported_functions(component, |interface, function| {
        let is_next = |last: &mut String| {
            let is_next = last != interface;
            if is_next {
                interface.clone_into(last);
            }
            is_next
        };
        match (offered(granted, interface), function) {
            (None, _) if find(interface, granted.others.iter().map(Import::interface)).is_some() => {
                if is_next(&mut last) {
                    not_granted.push(SafeList::MAX_TEXTS, || SafeText::quote(interface));
                }
            }
            (None, _) => {
                if is_next(&mut last) {
                    unknown.push(SafeList::MAX_TEXTS, || SafeText::quote(interface));
                }
            }
            (Some(_), None) => {}
            (Some(offered), Some(function)) => {
                if !is_defined(&mut probe, offered, function) {
                    let name = || SafeText::quote(&format!("{interface}#{}", SafeText::quote(function)));
                    unknown.push(SafeList::MAX_TEXTS, name);
                }
            }
        }
    });
    (unknown, not_granted)
}

/// Returns whether the linker has a function; if not, it has one afterwards. A function can be
/// defined only once.
fn is_defined(linker: &mut Linker<StubState>, interface: &str, function: &str) -> bool {
    !linker.instance(interface).is_ok_and(|mut instance| instance.func_new(function, never).is_ok())
}

/// Adds the functions of the contract, and of the host program's own interfaces, that a component
/// imports with other types. Finds each by replacing all others with functions that take anything.
fn mismatching_imports(granted: &Granted, component: &Component, mismatches: &mut SafeList) {
    let mut complete = granted.linker.clone();
    if complete.define_unknown_imports_as_traps(component).is_err() || complete.substituted_component_type(component).is_ok() {
        return;
    }
    complete.allow_shadowing(true);
    let mut functions: Vec<(String, &str, String)> = Vec::new();
    let mut probe = granted.linker.clone();
    visit_imported_functions(component, |interface, function| {
        // A component may import any number of functions that the linker does not have.
        if let (Some(offered), Some(function)) = (offered(granted, interface), function)
            && !wasi::INTERFACES.contains(&offered)
            && is_defined(&mut probe, offered, function)
        {
            functions.push((interface.to_owned(), offered, function.to_owned()));
        }
    });
    for (index, (interface, _, function)) in functions.iter().enumerate() {
        let mut probe = complete.clone();
        for (_, offered, other) in functions.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, function)| function)
        {
            let _ = probe.instance(offered).and_then(|mut instance| instance.func_new(other, never));
        }
        if let Err(error) = probe.substituted_component_type(component) {
            let text = format!("`{interface}#{function}`: {}", error.root_cause());
            mismatches.push(SafeList::MAX_TEXTS, || SafeText::new(&text));
        }
    }
}

/// Returns the linker's name of an interface: the same name, or that of a compatible version.
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

/// Returns the part that is equal in compatible versions: `0.2` of `0.2.12`.
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
    wasmtime::bail!("this function is only a probe of a component's types")
}
