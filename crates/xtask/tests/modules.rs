//! The modules of each crate use each other in one direction: no two files of a crate need each other,
//! directly or by others, but for the exceptions that docs/architecture.md names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// Files that are one idea: docs/architecture.md says why. Each name begins with that of the crate.
const EXCEPTIONS: [&[&str]; 4] = [
    &["connection::health", "connection::task"],
    &[
        "consumer::declared::exec",
        "consumer::declared::exec::declaration",
    ],
    &[
        "consumer::declared::http",
        "consumer::declared::http::declaration",
    ],
    &["consumer::handlers", "consumer::registry"],
];

/// Nothing of these is shipped.
const DEVELOPMENT: [&str; 2] = ["test-support", "xtask"];

/// The path of a module in its crate; the root is empty.
type Module = Vec<String>;

/// The modules of a crate, as its files say.
#[derive(Default)]
struct Crate {
    files: BTreeMap<Module, File>,
}

/// What a file names.
#[derive(Default)]
struct File {
    /// Names that others can take from here though they are defined elsewhere.
    reexports: BTreeMap<String, Vec<String>>,
    /// All paths within the crate that it uses itself.
    uses: Vec<Vec<String>>,
}

impl Crate {
    fn read(src: &Path) -> Self {
        let mut crate_of_ours = Self::default();
        crate_of_ours.read_folder(src, &[]);
        crate_of_ours
    }

    fn read_folder(&mut self, folder: &Path, module: &[String]) {
        let entries = fs::read_dir(folder).expect("the folder can be read");
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.expect("names are text").to_owned();
            let mut inner = module.to_vec();
            if path.is_dir() {
                inner.push(name);
                self.read_folder(&path, &inner);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if !["lib", "main", "mod"].contains(&name.as_str()) {
                    inner.push(name);
                }
                let text = fs::read_to_string(&path).expect("source is text");
                let parsed = syn::parse_file(&text).expect("source is Rust");
                let mut reader = Reader {
                    module: inner.clone(),
                    file: File::default(),
                };
                reader.visit_file(&parsed);
                let file = self.files.entry(inner).or_default();
                file.uses.extend(reader.file.uses);
                file.reexports.extend(reader.file.reexports);
            }
        }
    }

    /// The file that defines what a path names.
    fn resolve(&self, path: &[String], depth: usize) -> Module {
        let mut module = Module::new();
        for (at, name) in path.iter().enumerate() {
            let mut inner = module.clone();
            inner.push(name.clone());
            if self.files.contains_key(&inner) {
                module = inner;
                continue;
            }
            let target = self
                .files
                .get(&module)
                .and_then(|file| file.reexports.get(name));
            if let Some(target) = target.filter(|_| depth < 8) {
                let path = [target.as_slice(), &path[at + 1..]].concat();
                return self.resolve(&path, depth + 1);
            }
            break;
        }
        module
    }

    /// Which files each file needs.
    fn needs(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let needs = |module: &Module, file: &File| -> BTreeSet<Module> {
            let needed = file.uses.iter().map(|path| self.resolve(path, 0));
            needed.filter(|needed| needed != module).collect()
        };
        let files = self.files.iter();
        files
            .map(|(module, file)| (module.clone(), needs(module, file)))
            .collect()
    }
}

/// Reads what a file names.
struct Reader {
    module: Module,
    file: File,
}

impl Reader {
    /// A path from the root of the crate; `None` for what is not in it.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" | "super" => self.module.clone(),
            _ => return None,
        };
        let mut rest = path;
        while let [first, others @ ..] = rest {
            match first.as_str() {
                "self" => {}
                "super" => drop(base.pop()),
                _ => break,
            }
            rest = others;
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn add_tree(&mut self, tree: &UseTree, before: &[String], reexported: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident), reexported),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, before, reexported);
                }
            }
            UseTree::Name(name) if name.ident == "self" => self.add(before, None, reexported),
            UseTree::Name(name) => {
                self.add(&with(&name.ident), Some(name.ident.to_string()), reexported);
            }
            UseTree::Rename(rename) => {
                self.add(
                    &with(&rename.ident),
                    Some(rename.rename.to_string()),
                    reexported,
                );
            }
            UseTree::Glob(_) => self.add(before, None, reexported),
        }
    }

    fn add(&mut self, path: &[String], name: Option<String>, reexported: bool) {
        // A path without one of these words may begin with a module of this one.
        let local = [&["self".to_owned()], path].concat();
        match (self.absolute(path), name, reexported) {
            (Some(path), Some(name), true) => drop(self.file.reexports.insert(name, path)),
            (None, Some(name), true) => {
                let path = self.absolute(&local).unwrap_or_default();
                self.file.reexports.insert(name, path);
            }
            (Some(path), _, _) => self.file.uses.push(path),
            (None, _, _) => self.file.uses.extend(self.absolute(&local)),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|what| what == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(ItemMod { attrs, .. }) if is_test(attrs) => {}
            Item::Use(ItemUse { vis, tree, .. }) => {
                let reexported = !matches!(vis, Visibility::Inherited);
                self.add_tree(tree, &[], reexported);
            }
            other => visit::visit_item(self, other),
        }
    }

    /// `pub(crate)` names the root, and does not need it.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        self.file.uses.extend(self.absolute(&names));
        visit::visit_path(self, path);
    }
}

/// All files that need themselves by others, in groups.
fn cycles(needs: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reach = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            for needed in needs.get(module).into_iter().flatten() {
                if reached.insert(needed) {
                    next.push(needed);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = needs.keys().map(|module| (module, reach(module))).collect();
    let in_a_cycle = needs
        .keys()
        .filter(|module| reached[module].contains(module));
    in_a_cycle
        .map(|module| {
            let both = reached[module].iter();
            both.filter(|other| {
                reached
                    .get(**other)
                    .is_some_and(|back| back.contains(module))
            })
            .map(|other| (*other).clone())
            .collect()
        })
        .collect()
}

#[test]
fn no_two_files_of_a_crate_need_each_other() {
    let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let (mut found, mut files) = (Vec::new(), 0);
    for entry in fs::read_dir(crates).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("names are text").to_owned();
        if DEVELOPMENT.contains(&name.as_str()) {
            continue;
        }
        let read = Crate::read(&path.join("src"));
        files += read.files.len();
        for cycle in cycles(&read.needs()) {
            let named = |module: &Module| [std::slice::from_ref(&name), module].concat().join("::");
            let members: Vec<_> = cycle.iter().map(named).collect();
            if !EXCEPTIONS.iter().any(|exception| *exception == members) {
                found.push(members.join(" <-> "));
            }
        }
    }
    assert!(files > 200, "only {files} files were read");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_cycle_is_found_through_what_is_named_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("a file can be written");
    };
    fs::create_dir(folder.path().join("room")).expect("a folder can be made");
    write("lib.rs", "mod room; mod top;");
    write("top.rs", "use crate::room::Thing;");
    write(
        "room/mod.rs",
        "mod one; mod two; pub(crate) use one::Thing;",
    );
    write(
        "room/one.rs",
        "pub(crate) struct Thing; fn f() { super::two::g(); }",
    );
    write(
        "room/two.rs",
        "use super::Thing; #[cfg(test)] mod tests { use crate::top; }",
    );
    let found = cycles(&Crate::read(folder.path()).needs());
    let module = |name: &str| vec!["room".to_owned(), name.to_owned()];
    let expected = BTreeSet::from([BTreeSet::from([module("one"), module("two")])]);
    assert_eq!(found, expected);
}
