//! A crate's source as modules: the files that define names, and the files that use them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use syn::{
    Attribute, File, Item, ItemMod, ItemUse, Macro, Meta, Token, UseTree,
    buffer::{Cursor, TokenBuffer},
    ext::IdentExt as _,
    punctuated::Punctuated,
    visit::{self, Visit},
};

/// The root files of a crate.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];
/// Maximum number of re-exports from a name to its definition. More form a circle of re-exports,
/// which does not compile.
const MAX_REEXPORTS: usize = 32;

/// A file, by its path below the crate's `src`.
pub(super) type FileName = String;

/// The modules of one crate, without its tests.
#[derive(Debug, Default)]
pub(super) struct Crate {
    modules: Vec<Module>,
    roots: BTreeSet<FileName>,
    uses: Vec<PathUse>,
    /// Types, with the files that define each.
    pub(super) types: BTreeMap<String, Vec<FileName>>,
}

#[derive(Debug)]
struct Module {
    file: FileName,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// A path that the code of a module names.
#[derive(Debug)]
struct PathUse {
    module: usize,
    path: Vec<String>,
}

/// Destination of a path.
#[derive(Debug, Clone, Copy)]
enum Destination {
    Module(usize),
    /// An item of this module.
    Item(usize),
}

/// For each pair of files, the names of the second file that the first one uses.
pub(super) type Uses = BTreeMap<(FileName, FileName), BTreeSet<String>>;

impl Crate {
    /// Reads the crate whose manifest is in this folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let src = folder.join("src");
        let mut files = BTreeMap::new();
        read_sources(&src, &src, &mut files)?;
        Self::parse(&files)
    }

    /// Parses the crate with these files. Their paths are relative to `src`.
    pub(super) fn parse(files: &BTreeMap<FileName, String>) -> Result<Self> {
        let mut parsed = Self::default();
        for root in ROOTS.into_iter().filter(|root| files.contains_key(*root)) {
            parsed.roots.insert(root.to_owned());
            let module = parsed.add_module(root.to_owned(), None);
            parsed.add_file(files, module, Path::new(""))?;
        }
        if parsed.roots.is_empty() {
            bail!("the crate has neither `src/lib.rs` nor `src/main.rs`");
        }
        Ok(parsed)
    }

    /// Returns the uses between files. The crate's root is left out, because it lists and
    /// re-exports the modules.
    pub(super) fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for PathUse { module, path } in &self.uses {
            let from = &self.modules[*module].file;
            if self.roots.contains(from) {
                continue;
            }
            let Some(target) = self.resolve(*module, path, 0) else { continue };
            let to = &self.modules[target.module()].file;
            if from != to {
                let name = path.last().cloned().unwrap_or_default();
                uses.entry((from.clone(), to.clone())).or_default().insert(name);
            }
        }
        uses
    }

    fn add_module(&mut self, file: FileName, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
        });
        self.modules.len() - 1
    }

    /// Adds the items of a module's file. The files of its submodules are in `folder`.
    fn add_file(&mut self, files: &BTreeMap<FileName, String>, module: usize, folder: &Path) -> Result<()> {
        let name = self.modules[module].file.clone();
        let text = files.get(&name).with_context(|| format!("`{name}` is missing"))?;
        let File { items, .. } = syn::parse_file(text).with_context(|| format!("parsing `{name}`"))?;
        self.add_items(files, module, folder, &items)
    }

    fn add_items(&mut self, files: &BTreeMap<FileName, String>, module: usize, folder: &Path, items: &[Item]) -> Result<()> {
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(inner) => self.add_submodule(files, module, folder, inner)?,
                Item::Use(import) => self.add_import(module, import),
                item => {
                    if let Some(name) = name(item) {
                        self.modules[module].items.insert(name);
                    }
                    if let Some(name) = type_name(item) {
                        let file = self.modules[module].file.clone();
                        self.types.entry(name).or_default().push(file);
                    }
                    Paths { found: self, module }.visit_item(item);
                }
            }
        }
        Ok(())
    }

    fn add_submodule(&mut self, files: &BTreeMap<FileName, String>, parent: usize, folder: &Path, inner: &ItemMod) -> Result<()> {
        let name = inner.ident.unraw().to_string();
        let own_folder = folder.join(&name);
        if let Some((_, items)) = &inner.content {
            let module = self.add_module(self.modules[parent].file.clone(), Some(parent));
            self.modules[parent].children.insert(name, module);
            return self.add_items(files, module, &own_folder, items);
        }
        let candidates = [folder.join(format!("{name}.rs")), own_folder.join("mod.rs")].map(|path| slashed(&path));
        let Some(file) = candidates.iter().find(|file| files.contains_key(*file)) else {
            bail!(
                "module `{name}` of `{}` has no file: neither `{}` nor `{}`",
                self.modules[parent].file,
                candidates[0],
                candidates[1]
            );
        };
        let module = self.add_module(file.clone(), Some(parent));
        // A module may be declared once for each platform.
        self.modules[parent].children.entry(name).or_insert(module);
        self.add_file(files, module, &own_folder)
    }

    fn add_import(&mut self, module: usize, import: &ItemUse) {
        if import.leading_colon.is_some() {
            return;
        }
        let mut imports = Vec::new();
        expand(&import.tree, &mut Vec::new(), &mut imports);
        for Import { path, name } in imports {
            self.add_use(module, &path);
            match name {
                Some(name) => _ = self.modules[module].imports.insert(name, path),
                None => self.modules[module].globs.push(path),
            }
        }
    }

    /// Records a path if its beginning shows that it belongs to this crate.
    fn add_use(&mut self, module: usize, path: &[String]) {
        if matches!(path.first().map(String::as_str), Some("crate" | "self" | "super")) {
            self.uses.push(PathUse { module, path: path.to_vec() });
        }
    }

    /// Finds the destination of a path in a module. Returns `None` for an item of another crate, or
    /// of a macro.
    fn resolve(&self, module: usize, path: &[String], reexports: usize) -> Option<Destination> {
        let mut at = Destination::Module(module);
        for (index, segment) in path.iter().enumerate() {
            let Destination::Module(module) = at else { break };
            at = match segment.as_str() {
                "crate" => Destination::Module(self.root_of(module)),
                "self" => Destination::Module(module),
                "super" => Destination::Module(self.modules[module].parent?),
                name => match self.find(module, name, reexports) {
                    Some(found) => found,
                    // An item of a macro belongs to the module that called the macro.
                    None if index > 0 => Destination::Item(module),
                    None => return None,
                },
            };
        }
        Some(at)
    }

    /// Finds a name in a module, through re-exports.
    fn find(&self, module: usize, name: &str, reexports: usize) -> Option<Destination> {
        let Module { children, items, imports, globs, .. } = &self.modules[module];
        if let Some(child) = children.get(name) {
            return Some(Destination::Module(*child));
        }
        if items.contains(name) {
            return Some(Destination::Item(module));
        }
        if reexports >= MAX_REEXPORTS {
            return None;
        }
        if let Some(path) = imports.get(name) {
            return self.resolve(module, path, reexports + 1);
        }
        globs.iter().find_map(|path| match self.resolve(module, path, reexports + 1)? {
            Destination::Module(other) if other != module => self.find(other, name, reexports + 1),
            Destination::Module(_) | Destination::Item(_) => None,
        })
    }

    fn root_of(&self, module: usize) -> usize {
        let mut root = module;
        while let Some(parent) = self.modules[root].parent {
            root = parent;
        }
        root
    }
}

impl Destination {
    fn module(self) -> usize {
        let (Self::Module(module) | Self::Item(module)) = self;
        module
    }
}

/// The import of one branch of a `use`. A glob import has no name.
struct Import {
    path: Vec<String>,
    name: Option<String>,
}

fn expand(tree: &UseTree, prefix: &mut Vec<String>, imports: &mut Vec<Import>) {
    let joined = |prefix: &[String], name: &str| {
        let mut path = prefix.to_vec();
        // `use a::{self}` imports `a`.
        if name != "self" || path.is_empty() {
            path.push(name.to_owned());
        }
        path
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.unraw().to_string());
            expand(&path.tree, prefix, imports);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let path = joined(prefix, &name.ident.unraw().to_string());
            imports.push(Import { name: path.last().cloned(), path });
        }
        UseTree::Rename(rename) => {
            let path = joined(prefix, &rename.ident.unraw().to_string());
            imports.push(Import { name: Some(rename.rename.unraw().to_string()), path });
        }
        UseTree::Glob(_) => imports.push(Import { name: None, path: prefix.clone() }),
        UseTree::Group(group) => group.items.iter().for_each(|tree| expand(tree, prefix, imports)),
    }
}

/// Collects the paths in an item: imports inside functions, types, expressions and patterns, and
/// the arguments of macros.
struct Paths<'a> {
    found: &'a mut Crate,
    module: usize,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        let mut imports = Vec::new();
        expand(&import.tree, &mut Vec::new(), &mut imports);
        for Import { path, .. } in imports {
            self.found.add_use(self.module, &path);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_test(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect();
            self.found.add_use(self.module, &segments);
        }
        visit::visit_path(self, path);
    }

    // `pub(crate)` names no part of the crate.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.visit_path(&called.path);
        let tokens = TokenBuffer::new2(called.tokens.clone());
        self.scan(tokens.begin());
    }
}

impl Paths<'_> {
    /// Records the paths among the arguments of a macro.
    fn scan(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((inside, _, _, after)) = cursor.any_group() {
                self.scan(inside);
                cursor = after;
                continue;
            }
            let mut path = Vec::new();
            while let Some((ident, after)) = cursor.ident() {
                path.push(ident.unraw().to_string());
                cursor = after;
                let Some(after) = double_colon(cursor) else { break };
                cursor = after;
            }
            if path.is_empty() {
                let Some((_, after)) = cursor.token_tree() else { break };
                cursor = after;
            } else {
                self.found.add_use(self.module, &path);
            }
        }
    }
}

fn double_colon(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    let (first, after) = cursor.punct()?;
    let (second, after) = after.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(after)
}

/// Returns `true` if attributes limit an item to tests.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let is_test_function = path.segments.last().is_some_and(|segment| segment.ident == "test");
        is_test_function
            || (path.is_ident("cfg") && attribute.parse_args().is_ok_and(|predicate| holds_in_tests_only(&predicate)))
    })
}

fn holds_in_tests_only(predicate: &Meta) -> bool {
    let inner = || match predicate {
        Meta::List(list) => list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default(),
        _ => Punctuated::new(),
    };
    let path = predicate.path();
    path.is_ident("test")
        || (path.is_ident("all") && inner().iter().any(holds_in_tests_only))
        || (path.is_ident("any") && inner().iter().all(holds_in_tests_only))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the name that an item adds to its module.
fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        item => return type_name(item),
    };
    Some(ident.unraw().to_string())
}

fn type_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Enum(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.unraw().to_string())
}

fn read_sources(src: &Path, folder: &Path, files: &mut BTreeMap<FileName, String>) -> Result<()> {
    let reading = || format!("reading `{}`", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() {
            read_sources(src, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
            files.insert(slashed(path.strip_prefix(src).unwrap_or(&path)), text);
        }
    }
    Ok(())
}

/// Returns a path with `/`, on every platform.
fn slashed(path: &Path) -> FileName {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}
