use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use wit_parser::{
    Function, FunctionKind, Interface, InterfaceId, PackageId, Resolve, Type, TypeDef, TypeDefKind, TypeId, TypeOwner, World,
    WorldItem,
};

/// A track, read from its WIT files.
#[derive(Debug)]
pub(crate) struct Track {
    /// Version of the package, for example `0.1.0`.
    pub(crate) version: String,
    /// Each type, function, import and export, with its shape: `bus.pause` is `func()`.
    pub(crate) items: BTreeMap<String, String>,
    /// The interfaces that may get functions: those that the world imports and on which no export
    /// depends.
    pub(crate) growing: BTreeSet<String>,
    undocumented: Vec<String>,
}

impl Track {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(folder)?;
        Self::of(&resolve, package)
    }

    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("track.wit", text)?;
        Self::of(&resolve, package)
    }

    fn of(resolve: &Resolve, package: PackageId) -> Result<Self> {
        let package = &resolve.packages[package];
        let version = package.name.version.as_ref().with_context(|| format!("the package {} has no version", package.name))?;
        let mut track =
            Self { version: version.to_string(), items: BTreeMap::new(), growing: BTreeSet::new(), undocumented: Vec::new() };
        for (name, &interface) in &package.interfaces {
            track.add_interface(resolve, name, &resolve.interfaces[interface])?;
        }
        for &world in package.worlds.values() {
            track.add_world(resolve, &resolve.worlds[world])?;
        }
        Ok(track)
    }

    /// Returns the problems of the track that do not depend on its releases.
    pub(crate) fn problems(&self, folder: &str) -> Vec<String> {
        let mut problems: Vec<_> = self.undocumented.iter().map(|item| format!("{item} has no documentation (`///`)")).collect();
        let is_of_folder = self.version.strip_prefix(folder).is_some_and(|patch| patch.starts_with('.'));
        if !is_of_folder {
            problems.push(format!("the package's version is {}, which belongs to another track", self.version));
        }
        problems
    }

    fn add_interface(&mut self, resolve: &Resolve, name: &str, interface: &Interface) -> Result<()> {
        self.documented(name, interface.docs.contents.as_deref());
        // A type from a `use` belongs to another interface.
        for (type_name, &id) in interface.types.iter().filter(|&(_, &id)| original(resolve, id) == id) {
            let shape = definition(resolve, &resolve.types[id]).with_context(|| format!("the type {name}.{type_name}"))?;
            self.items.insert(format!("{name}.{type_name}"), shape);
        }
        for (function_name, function) in &interface.functions {
            let full_name = format!("{name}.{function_name}");
            self.documented(&full_name, function.docs.contents.as_deref());
            let shape = signature(resolve, function).with_context(|| format!("the function {full_name}"))?;
            self.items.insert(full_name, shape);
        }
        Ok(())
    }

    fn add_world(&mut self, resolve: &Resolve, world: &World) -> Result<()> {
        self.documented(&world.name, world.docs.contents.as_deref());
        let mut closed = BTreeSet::new();
        for (direction, items) in [("export", &world.exports), ("import", &world.imports)] {
            for item in items.values() {
                let WorldItem::Interface { id, .. } = item else {
                    bail!("the world {} has an item that is not an interface", world.name)
                };
                let name = interface_name(resolve, *id)?;
                self.items.insert(format!("{} {direction}s {name}", world.name), direction.to_owned());
                if direction == "export" {
                    closed.extend(used_by(resolve, *id)?);
                    closed.insert(name);
                } else if !closed.contains(&name) {
                    self.growing.insert(name);
                }
            }
        }
        Ok(())
    }

    fn documented(&mut self, item: &str, docs: Option<&str>) {
        if docs.is_none_or(|docs| docs.trim().is_empty()) {
            self.undocumented.push(item.to_owned());
        }
    }
}

fn interface_name(resolve: &Resolve, id: InterfaceId) -> Result<String> {
    resolve.interfaces[id].name.clone().context("an interface without a name")
}

/// Returns the interfaces whose types this interface `use`s.
fn used_by(resolve: &Resolve, id: InterfaceId) -> Result<Vec<String>> {
    let own = TypeOwner::Interface(id);
    resolve.interfaces[id]
        .types
        .values()
        .filter_map(|&used| match resolve.types[original(resolve, used)].owner {
            TypeOwner::Interface(owner) if TypeOwner::Interface(owner) != own => Some(interface_name(resolve, owner)),
            _ => None,
        })
        .collect()
}

/// Returns the type behind a `use`, which is an alias of a type of the same name in another
/// interface.
fn original(resolve: &Resolve, id: TypeId) -> TypeId {
    let definition = &resolve.types[id];
    match definition.kind {
        TypeDefKind::Type(Type::Id(behind)) if resolve.types[behind].owner != definition.owner => original(resolve, behind),
        _ => id,
    }
}

fn signature(resolve: &Resolve, function: &Function) -> Result<String> {
    if function.kind != FunctionKind::Freestanding {
        bail!("async functions and methods are not supported: not every language can implement them");
    }
    let params = each(&function.params, |param| Ok(format!("{}: {}", param.name, reference(resolve, &param.ty)?)))?;
    let result = function.result.as_ref().map(|result| reference(resolve, result)).transpose()?;
    Ok(format!("func({params}){}", result.map(|result| format!(" -> {result}")).unwrap_or_default()))
}

fn definition(resolve: &Resolve, definition: &TypeDef) -> Result<String> {
    let optional = |ty: &Option<Type>| match ty {
        Some(ty) => Ok(format!("({})", reference(resolve, ty)?)),
        None => anyhow::Ok(String::new()),
    };
    Ok(match &definition.kind {
        TypeDefKind::Record(record) => {
            format!(
                "record {{ {} }}",
                each(&record.fields, |field| Ok(format!("{}: {}", field.name, reference(resolve, &field.ty)?)))?
            )
        }
        TypeDefKind::Variant(variant) => {
            format!("variant {{ {} }}", each(&variant.cases, |case| Ok(format!("{}{}", case.name, optional(&case.ty)?)))?)
        }
        TypeDefKind::Enum(of) => format!("enum {{ {} }}", each(&of.cases, |case| Ok(case.name.clone()))?),
        TypeDefKind::Flags(of) => format!("flags {{ {} }}", each(&of.flags, |flag| Ok(flag.name.clone()))?),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", each(&tuple.types, |ty| reference(resolve, ty))?),
        TypeDefKind::Option(ty) => format!("option<{}>", reference(resolve, ty)?),
        TypeDefKind::List(ty) => format!("list<{}>", reference(resolve, ty)?),
        TypeDefKind::Result(result) => {
            let part = |ty: &Option<Type>| ty.as_ref().map_or(Ok("_".to_owned()), |ty| reference(resolve, ty));
            format!("result<{}, {}>", part(&result.ok)?, part(&result.err)?)
        }
        TypeDefKind::Type(ty) => reference(resolve, ty)?,
        other => bail!("the type {} is not supported: not every language can implement it", other.as_str()),
    })
}

/// Returns a type as it is referenced: a named one by its name, an unnamed one by its shape.
fn reference(resolve: &Resolve, ty: &Type) -> Result<String> {
    Ok(match ty {
        Type::Bool => "bool".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::F32 => "f32".to_owned(),
        Type::F64 => "f64".to_owned(),
        Type::Char => "char".to_owned(),
        Type::String => "string".to_owned(),
        Type::ErrorContext => bail!("the type error-context is not supported: not every language can implement it"),
        Type::Id(id) => {
            let named = &resolve.types[original(resolve, *id)];
            match (&named.name, named.owner) {
                (Some(name), TypeOwner::Interface(owner)) => format!("{}.{name}", interface_name(resolve, owner)?),
                _ => definition(resolve, named)?,
            }
        }
    })
}

fn each<T>(items: &[T], shape: impl FnMut(&T) -> Result<String>) -> Result<String> {
    Ok(items.iter().map(shape).collect::<Result<Vec<_>>>()?.join(", "))
}
