//! `cargo xtask api`: lists the public items of each published crate, in one text file per crate in `docs/api`.
//!
//! The listing is made from the sources, so that it needs neither a nightly toolchain nor rustdoc's JSON. The module tree is
//! walked from `src/lib.rs`: public modules, public items and what `pub use` names. Documentation, bodies and private fields
//! are left out; an item is listed under the path by which other crates name it. `cargo xtask test` compares the listings with
//! the sources.

use crate::tools;
use anyhow::{Context, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility, parse_quote};

/// The path of a module in its crate; empty for the crate's root.
type ModPath = Vec<String>;

/// An item: the module that defines it, and its index there.
type ItemId = (ModPath, usize);

/// Maximum number of `use` items through which a name is resolved. Limits cycles.
const MAX_USE_DEPTH: usize = 16;

/// The items of each module of a crate.
#[derive(Default)]
struct Sources {
    modules: BTreeMap<ModPath, Vec<Item>>,
}

/// Returns whether `attributes` has attribute `name` whose text contains `word`.
fn has_attribute(attributes: &[Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|a| a.path().is_ident(name) && a.to_token_stream().to_string().contains(word))
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        let text = a.meta.to_token_stream().to_string().replace(' ', "");
        text == "cfg(test)" || text.starts_with("cfg(all(test,")
    })
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl Sources {
    /// Reads a crate from its `lib.rs`.
    fn read(lib: &Path) -> Result<Self> {
        let mut sources = Self::default();
        let folder = lib.parent().context("lib.rs has no directory")?;
        sources.read_file(lib, folder, &ModPath::new())?;
        Ok(sources)
    }

    #[cfg(test)]
    fn parse(text: &str) -> Result<Self> {
        let mut sources = Self::default();
        sources.add(syn::parse_file(text)?.items, Path::new(""), &ModPath::new())?;
        Ok(sources)
    }

    fn read_file(&mut self, file: &Path, folder: &Path, path: &ModPath) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        self.add(parsed.items, folder, path)
    }

    /// Adds the items of a module whose submodules are in `folder`.
    fn add(&mut self, items: Vec<Item>, folder: &Path, path: &ModPath) -> Result<()> {
        self.modules.entry(path.clone()).or_default();
        for item in items {
            if let Item::Mod(module) = &item {
                if is_test(&module.attrs) {
                    continue;
                }
                let name = module.ident.to_string();
                let child: ModPath = path.iter().cloned().chain([name.clone()]).collect();
                let below = folder.join(&name);
                match &module.content {
                    Some((_, inner)) => self.add(inner.clone(), &below, &child)?,
                    None => {
                        let flat = folder.join(format!("{name}.rs"));
                        let file = if flat.is_file() { flat } else { below.join("mod.rs") };
                        self.read_file(&file, &below, &child)?;
                    }
                }
            }
            self.modules.entry(path.clone()).or_default().push(item);
        }
        Ok(())
    }

    fn items(&self, path: &ModPath) -> &[Item] {
        self.modules.get(path).map_or(&[], Vec::as_slice)
    }

    /// Resolves `segments` relative to module `from`; `None` for a module of another crate.
    fn module(&self, from: &ModPath, segments: &[String]) -> Option<ModPath> {
        let mut path = from.clone();
        for (index, segment) in segments.iter().enumerate() {
            match segment.as_str() {
                "crate" if index == 0 => path.clear(),
                "self" if index == 0 => {}
                "super" => {
                    path.pop()?;
                }
                name => {
                    path.push(name.to_owned());
                    if !self.modules.contains_key(&path) {
                        return None;
                    }
                }
            }
        }
        Some(path)
    }

    /// Returns the definitions of `name` in module `path`, resolved through its `use` items.
    fn resolve(&self, path: &ModPath, name: &str, depth: usize) -> Vec<ItemId> {
        let mut found = Vec::new();
        if depth == 0 {
            return found;
        }
        for (index, item) in self.items(path).iter().enumerate() {
            match item {
                Item::Use(item) => {
                    for leaf in leaves(&item.tree) {
                        let Some(target) = self.module(path, &leaf.module) else { continue };
                        if target == *path && leaf.name == leaf.alias {
                            continue;
                        }
                        if leaf.name == "*" {
                            found.extend(self.resolve(&target, name, depth - 1));
                        } else if leaf.alias == name {
                            found.extend(self.resolve(&target, &leaf.name, depth - 1));
                        }
                    }
                }
                item if name_of(item).as_deref() == Some(name) || defines_by_macro(item, name) => {
                    found.push((path.clone(), index));
                }
                _ => {}
            }
        }
        found
    }
}

/// A name that a `use` item imports.
struct Leaf {
    module: Vec<String>,
    name: String,
    alias: String,
}

/// Returns the names that a `use` item imports.
fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn walk(tree: &UseTree, module: &mut Vec<String>, found: &mut Vec<Leaf>) {
        let mut leaf = |name: String, alias: String| {
            let mut module = module.clone();
            // `use a::b::{self}` names the module `b` of `a`.
            let (name, alias) = match name.as_str() {
                "self" => {
                    let last = module.pop().unwrap_or_default();
                    let alias = if alias == "self" { last.clone() } else { alias };
                    (last, alias)
                }
                _ => (name, alias),
            };
            found.push(Leaf { module, name, alias });
        };
        match tree {
            UseTree::Name(name) => leaf(name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(name) => leaf(name.ident.to_string(), name.rename.to_string()),
            UseTree::Glob(_) => leaf("*".to_owned(), "*".to_owned()),
            UseTree::Path(path) => {
                module.push(path.ident.to_string());
                walk(&path.tree, module, found);
                module.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, module, found)),
        }
    }
    let mut found = Vec::new();
    walk(tree, &mut Vec::new(), &mut found);
    found
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Mod(item) => item.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

fn visibility(item: &Item) -> Option<&Visibility> {
    Some(match item {
        Item::Const(item) => &item.vis,
        Item::Enum(item) => &item.vis,
        Item::Fn(item) => &item.vis,
        Item::Mod(item) => &item.vis,
        Item::Static(item) => &item.vis,
        Item::Struct(item) => &item.vis,
        Item::Trait(item) => &item.vis,
        Item::Type(item) => &item.vis,
        Item::Union(item) => &item.vis,
        Item::Use(item) => &item.vis,
        _ => return None,
    })
}

/// Returns whether `item` calls a macro, such as `bitflags!`, whose input defines a public type or constant of this name.
fn defines_by_macro(item: &Item, name: &str) -> bool {
    let Item::Macro(item) = item else { return false };
    item.ident.is_none() && public_names(item.mac.tokens.clone()).contains(name)
}

/// Returns the names after `pub struct`, `pub enum` and the like in a macro's input.
fn public_names(tokens: TokenStream) -> BTreeSet<String> {
    let words: Vec<String> = tokens.into_iter().map(|token| token.to_string()).collect();
    let is_definition =
        |word: &str| matches!(word, "struct" | "enum" | "const" | "union" | "trait" | "fn" | "type");
    words.windows(3).filter(|w| w[0] == "pub" && is_definition(&w[1])).map(|w| w[2].clone()).collect()
}

fn keep_attributes(attributes: &mut Vec<Attribute>) {
    const KEPT: [&str; 7] =
        ["derive", "non_exhaustive", "must_use", "repr", "cfg", "deprecated", "macro_export"];
    attributes.retain(|a| KEPT.iter().any(|kept| a.path().is_ident(kept)));
}

fn strip_fields(fields: &mut Fields, attributes: &mut Vec<Attribute>) {
    fields.iter_mut().for_each(|field| keep_attributes(&mut field.attrs));
    match fields {
        Fields::Named(named) => {
            let all = named.named.len();
            named.named =
                std::mem::take(&mut named.named).into_iter().filter(|f| is_public(&f.vis)).collect();
            if named.named.len() < all {
                attributes.push(parse_quote!(#[doc = " private fields"]));
            }
        }
        Fields::Unnamed(unnamed) => {
            for field in unnamed.unnamed.iter_mut().filter(|field| !is_public(&field.vis)) {
                field.vis = Visibility::Inherited;
                field.ty = parse_quote!(_);
            }
        }
        Fields::Unit => {}
    }
}

/// Returns an item without documentation, bodies and private parts.
fn strip(item: &Item) -> Item {
    let mut item = item.clone();
    match &mut item {
        Item::Const(item) => {
            keep_attributes(&mut item.attrs);
            *item.expr = parse_quote!(_);
        }
        Item::Static(item) => {
            keep_attributes(&mut item.attrs);
            *item.expr = parse_quote!(_);
        }
        Item::Enum(item) => {
            keep_attributes(&mut item.attrs);
            for variant in &mut item.variants {
                keep_attributes(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep_attributes(&mut field.attrs));
            }
        }
        Item::Fn(item) => {
            keep_attributes(&mut item.attrs);
            *item.block = parse_quote!({});
        }
        Item::Struct(item) => {
            keep_attributes(&mut item.attrs);
            strip_fields(&mut item.fields, &mut item.attrs);
        }
        Item::Union(item) => {
            keep_attributes(&mut item.attrs);
            let mut fields = Fields::Named(item.fields.clone());
            strip_fields(&mut fields, &mut item.attrs);
            if let Fields::Named(named) = fields {
                item.fields = named;
            }
        }
        Item::Trait(item) => {
            keep_attributes(&mut item.attrs);
            item.items.iter_mut().for_each(strip_trait_item);
        }
        Item::Type(item) => keep_attributes(&mut item.attrs),
        Item::Impl(item) => {
            keep_attributes(&mut item.attrs);
            let is_of_trait = item.trait_.is_some();
            item.items.retain(|item| is_listed_in_impl(item, is_of_trait));
            item.items.iter_mut().for_each(strip_impl_item);
        }
        _ => {}
    }
    item
}

fn is_listed_in_impl(item: &ImplItem, is_of_trait: bool) -> bool {
    match item {
        ImplItem::Type(_) => is_of_trait,
        ImplItem::Fn(item) => !is_of_trait && is_public(&item.vis) && !is_test(&item.attrs),
        ImplItem::Const(item) => !is_of_trait && is_public(&item.vis) && !is_test(&item.attrs),
        _ => false,
    }
}

fn strip_impl_item(item: &mut ImplItem) {
    match item {
        ImplItem::Fn(item) => {
            keep_attributes(&mut item.attrs);
            item.block = parse_quote!({});
        }
        ImplItem::Const(item) => {
            keep_attributes(&mut item.attrs);
            item.expr = parse_quote!(_);
        }
        ImplItem::Type(item) => keep_attributes(&mut item.attrs),
        _ => {}
    }
}

fn strip_trait_item(item: &mut TraitItem) {
    match item {
        TraitItem::Fn(item) => {
            keep_attributes(&mut item.attrs);
            if item.default.is_some() {
                item.default = Some(parse_quote!({}));
            }
        }
        TraitItem::Const(item) => keep_attributes(&mut item.attrs),
        TraitItem::Type(item) => keep_attributes(&mut item.attrs),
        _ => {}
    }
}

/// Appends the tokens of a macro's input without documentation, one item per line.
fn write_tokens(tokens: TokenStream, out: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' => {
                let is_doc = tokens.peek().is_some_and(|next| next.to_string().starts_with("[doc"));
                if is_doc {
                    tokens.next();
                } else {
                    out.push('#');
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ") "),
                    Delimiter::Bracket => ("[", "] "),
                    Delimiter::Brace => ("{\n", "}\n"),
                    Delimiter::None => ("", " "),
                };
                out.push_str(open);
                write_tokens(group.stream(), out);
                out.push_str(close);
            }
            token => {
                out.push_str(&token.to_string());
                out.push(
                    if matches!(&token, TokenTree::Punct(mark) if matches!(mark.as_char(), ';' | ',')) {
                        '\n'
                    } else {
                        ' '
                    },
                );
            }
        }
    }
}

fn print(item: &Item) -> String {
    match item {
        Item::Macro(item) if item.ident.is_some() => {
            format!("macro_rules! {}\n", item.ident.to_token_stream())
        }
        Item::Macro(item) => {
            let mut text = format!("{}! {{\n", item.mac.path.to_token_stream());
            write_tokens(item.mac.tokens.clone(), &mut text);
            let lines = text.lines().map(|line| format!("{}\n", line.trim())).filter(|line| line != "\n");
            lines.collect::<String>() + "}\n"
        }
        item => {
            prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items: vec![strip(item)] })
        }
    }
}

/// The items that other crates can name: each path with the text of its item.
struct Listing<'s> {
    sources: &'s Sources,
    /// The definitions that are listed; their `impl` items are listed, too.
    listed: BTreeSet<ItemId>,
    visited: BTreeSet<(ModPath, String)>,
    entries: BTreeSet<(String, String)>,
}

impl Listing<'_> {
    fn list_module(&mut self, path: &ModPath, shown: &str) {
        if !self.visited.insert((path.clone(), shown.to_owned())) || self.visited.len() > 4096 {
            return;
        }
        let sources = self.sources;
        for (index, item) in sources.items(path).iter().enumerate() {
            match item {
                Item::Use(item) if is_public(&item.vis) => self.list_use(path, item, shown),
                // A `macro_rules!` that is not exported.
                Item::Macro(item)
                    if item.ident.is_some() && !has_attribute(&item.attrs, "macro_export", "") => {}
                Item::Macro(item) if item.ident.is_some() => {
                    self.list_item(&(path.clone(), index), shown, None);
                }
                Item::Macro(item) if !public_names(item.mac.tokens.clone()).is_empty() => {
                    self.list_item(&(path.clone(), index), shown, None);
                }
                item if visibility(item).is_some_and(is_public) => {
                    self.list_item(&(path.clone(), index), shown, None);
                }
                _ => {}
            }
        }
    }

    fn list_use(&mut self, path: &ModPath, item: &syn::ItemUse, shown: &str) {
        for leaf in leaves(&item.tree) {
            let target = self.sources.module(path, &leaf.module);
            if let (Some(target), "*") = (&target, leaf.name.as_str()) {
                self.list_module(target, shown);
                continue;
            }
            let found = target.map(|target| self.sources.resolve(&target, &leaf.name, MAX_USE_DEPTH));
            let found = found.unwrap_or_default();
            for id in &found {
                let alias = (leaf.alias != leaf.name).then_some(leaf.alias.as_str());
                self.list_item(id, shown, alias);
            }
            if found.is_empty() {
                let name = leaf.module.iter().chain([&leaf.name]).cloned().collect::<Vec<_>>().join("::");
                let alias =
                    if leaf.alias == leaf.name { String::new() } else { format!(" as {}", leaf.alias) };
                self.entries.insert((shown.to_owned(), format!("pub use {name}{alias};\n")));
            }
        }
    }

    fn list_item(&mut self, id: &ItemId, shown: &str, alias: Option<&str>) {
        let Some(item) = self.sources.items(&id.0).get(id.1) else { return };
        if let Item::Mod(module) = item {
            let name = module.ident.to_string();
            let path: ModPath = id.0.iter().cloned().chain([name.clone()]).collect();
            self.list_module(&path, &format!("{shown}::{}", alias.unwrap_or(&name)));
            return;
        }
        self.listed.insert(id.clone());
        let alias = alias.map_or_else(String::new, |alias| format!("// as {alias}\n"));
        self.entries.insert((shown.to_owned(), alias + &print(item)));
    }

    /// Returns whether the item that `name` names in module `path` is listed; `None` for an item of another crate.
    fn is_listed(&self, path: &ModPath, name: &syn::Path) -> Option<bool> {
        let mut segments: Vec<String> = name.segments.iter().map(|s| s.ident.to_string()).collect();
        let last = segments.pop()?;
        let module = self.sources.module(path, &segments)?;
        let found = self.sources.resolve(&module, &last, MAX_USE_DEPTH);
        (!found.is_empty()).then(|| found.iter().any(|id| self.listed.contains(id)))
    }

    fn list_impls(&mut self, name: &str) {
        let sources = self.sources;
        for (path, items) in &sources.modules {
            for item in items {
                let Item::Impl(block) = item else { continue };
                let of_type = match &*block.self_ty {
                    Type::Path(ty) => self.is_listed(path, &ty.path),
                    _ => None,
                };
                let of_trait = block.trait_.as_ref().map(|(_, name, _)| self.is_listed(path, name));
                let is_shown = match (of_type, of_trait) {
                    (Some(false), _) | (_, Some(Some(false))) | (None, None | Some(None)) => false,
                    (Some(true), _) | (None, Some(Some(true))) => true,
                };
                let Item::Impl(stripped) = strip(item) else { continue };
                if is_shown
                    && !is_test(&block.attrs)
                    && (block.trait_.is_some() || !stripped.items.is_empty())
                {
                    self.entries.insert((format!("{name}: implementations"), print(item)));
                }
            }
        }
    }
}

/// Returns the listing of a crate.
fn listing(name: &str, sources: &Sources) -> String {
    let mut listing =
        Listing { sources, listed: BTreeSet::new(), visited: BTreeSet::new(), entries: BTreeSet::new() };
    listing.list_module(&ModPath::new(), name);
    listing.list_impls(name);
    let mut text = format!("// The public API of {name}. Written by `cargo xtask api`.\n");
    let mut section = String::new();
    for (path, item) in &listing.entries {
        if *path != section {
            let _ = write!(text, "\n// ---- {path}\n");
            section.clone_from(path);
        }
        let _ = write!(text, "\n{item}");
    }
    text
}

/// Returns the published crates of the workspace: the name of each and its `lib.rs`.
fn published(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for group in ["bindings", "crates"] {
        for entry in std::fs::read_dir(root.join(group))? {
            let folder = entry?.path();
            let lib = folder.join("src/lib.rs");
            let Ok(manifest) = std::fs::read_to_string(folder.join("Cargo.toml")) else { continue };
            let lines = || manifest.lines().map(|line| line.replace(' ', ""));
            if !lib.is_file() || lines().any(|line| line == "publish=false") {
                continue;
            }
            let name =
                lines().find_map(|line| Some(line.strip_prefix("name=\"")?.trim_matches('"').to_owned()));
            found.push((name.with_context(|| format!("{} has no name", folder.display()))?, lib));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes the listings.
pub fn write() -> Result<()> {
    let root = tools::root();
    let folder = root.join("docs/api");
    std::fs::create_dir_all(&folder)?;
    for (name, lib) in published(&root)? {
        let file = folder.join(format!("{name}.txt"));
        std::fs::write(&file, listing(&name.replace('-', "_"), &Sources::read(&lib)?))?;
        println!("docs/api/{name}.txt");
    }
    Ok(())
}

/// Compares the listings with the sources; an error names the first difference.
pub fn check() -> Result<()> {
    println!("comparing the public API with docs/api");
    let root = tools::root();
    for (name, lib) in published(&root)? {
        let kept = std::fs::read_to_string(root.join(format!("docs/api/{name}.txt"))).unwrap_or_default();
        let now = listing(&name.replace('-', "_"), &Sources::read(&lib)?);
        if kept != now {
            let line = kept.lines().zip(now.lines()).take_while(|(kept, now)| kept == now).count();
            let found = now.lines().nth(line).unwrap_or("the end");
            bail!(
                "the public API of {name} differs from docs/api/{name}.txt at line {}: {found:?}; if the change is intended, run \
                 `cargo xtask api`",
                line + 1
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> String {
        listing("sample", &Sources::parse(text).unwrap())
    }

    const SAMPLE: &str = "
        mod hidden {
            /// Documented.
            #[derive(Debug)]
            #[non_exhaustive]
            pub struct Shown { pub a: u8, b: u16 }
            impl Shown { pub const fn new(a: u8) -> Self { Self { a, b: 0 } } fn private(&self) {} }
            impl Clone for Shown { fn clone(&self) -> Self { Self::new(self.a) } }
            pub struct Unreachable;
            impl Unreachable { pub fn unreachable(&self) {} }
            bitflags! { /// Flags.
                pub struct Flags: u8 { const ONE = 1; } }
        }
        pub use hidden::{Flags, Shown as Renamed};
        pub use elsewhere::Foreign;
        pub mod open { pub trait Api { fn required(&self); fn provided(&self) -> u8 { 7 } } fn private() {} }
        #[cfg(test)] mod tests { pub struct OnlyInTests; }
    ";

    #[test]
    fn exactly_the_reachable_items_are_listed() {
        let text = list(SAMPLE);
        for part in [
            "// ---- sample\n",
            "// ---- sample::open\n",
            "// as Renamed\n#[derive(Debug)]\n",
            "/// private fields\npub struct Shown",
            "#[non_exhaustive]",
            "pub a: u8",
            "pub const fn new(a: u8) -> Self {}",
            "impl Clone for Shown {}",
            "pub use elsewhere::Foreign;",
            "const ONE = 1 ;",
            "fn required(&self);",
            "fn provided(&self) -> u8 {}",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        for part in ["Documented", "nreachable", "fn private", "u16", "OnlyInTests", "Flags.", "7"] {
            assert!(!text.contains(part), "{part:?} is in:\n{text}");
        }
    }

    #[test]
    fn a_changed_signature_changes_the_listing_and_a_changed_body_does_not() {
        assert_ne!(list(SAMPLE), list(&SAMPLE.replace("new(a: u8)", "new(a: u16)")));
        assert_eq!(list(SAMPLE), list(&SAMPLE.replace("{ 7 }", "{ 8 }")));
    }
}
