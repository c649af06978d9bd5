//! No file leads back to itself: what one imports from another one, it does not give back, over any number of files.
//!
//! A folder's own file (`mod.rs`, or `NAME.rs` beside the folder) is the face of the files in it: a name that is taken from it
//! belongs to the file which it has the name from. Parent and child know each other, so a child's way to its parents is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, Item, Meta, UseTree,
    visit::{self, Visit},
};

/// The modules from the crate's root to a file.
type Module = Vec<String>;

/// What one file says.
#[derive(Default)]
struct Source {
    /// The names that it has from elsewhere, and where from, as written.
    names: BTreeMap<String, Module>,
    /// All paths of two names and more.
    paths: BTreeSet<Module>,
}

pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        matches!(&it.meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}

impl Source {
    fn uses(&mut self, tree: &UseTree, mut path: Module) {
        match tree {
            UseTree::Path(it) => {
                path.push(it.ident.to_string());
                self.uses(&it.tree, path);
            }
            UseTree::Group(it) => it.items.iter().for_each(|tree| self.uses(tree, path.clone())),
            // The names of a glob are not known here, but the file is.
            UseTree::Glob(_) => drop(self.paths.insert(path)),
            UseTree::Name(it) if it.ident == "self" => {
                self.names.extend(path.last().cloned().map(|name| (name, path)));
            }
            UseTree::Name(it) => {
                path.push(it.ident.to_string());
                self.names.insert(it.ident.to_string(), path);
            }
            UseTree::Rename(it) => {
                path.push(it.ident.to_string());
                self.names.insert(it.rename.to_string(), path);
            }
        }
    }
}

impl<'a> Visit<'a> for Source {
    fn visit_item(&mut self, item: &'a Item) {
        match item {
            Item::Use(it) if !is_test(&it.attrs) => self.uses(&it.tree, vec![]),
            Item::Mod(it) if is_test(&it.attrs) => {}
            Item::Fn(it) if is_test(&it.attrs) => {}
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.paths.insert(path.segments.iter().map(|it| it.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

fn read(folder: &Path, module: &[String], sources: &mut BTreeMap<Module, Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let below = || [module, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            read(&path, &below(), sources);
        } else if path.extension().is_some_and(|it| it == "rs") && name != "tests" {
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let is_face = ["lib", "main", "mod"].contains(&&*name);
            let source = sources.entry(if is_face { module.to_vec() } else { below() }).or_default();
            source.visit_file(&file);
        }
    }
}

/// The file that a path, as one file says it, leads to.
fn file(
    sources: &BTreeMap<Module, Source>,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    let here = &sources[from];
    let below = |name: &String| [from, std::slice::from_ref(name)].concat();
    let mut at = match &**first {
        "crate" => vec![],
        "self" | "Self" => from.to_vec(),
        "super" => from[..from.len().checked_sub(1)?].to_vec(),
        _ if sources.contains_key(&below(first)) => below(first),
        // A name of its own, or another crate.
        _ => {
            let whole = here.names.get(first).filter(|it| it.first() != Some(first) && depth < 8)?;
            return file(sources, from, &[whole, rest].concat(), depth + 1);
        }
    };
    for (nth, name) in rest.iter().enumerate() {
        let next = [&at[..], std::slice::from_ref(name)].concat();
        if name == "super" {
            at.pop()?;
        } else if sources.contains_key(&next) {
            at = next;
        } else if at != from && depth < 8 && sources[&at].names.contains_key(name) {
            // The face has it from elsewhere.
            return file(sources, &at, &rest[nth..], depth + 1);
        } else {
            break;
        }
    }
    Some(at)
}

/// The files that each file needs, but for its parents.
fn needs(sources: &BTreeMap<Module, Source>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let of = |(module, source): (_, &Source)| {
        let module: &Module = module;
        let paths = source.names.values().chain(&source.paths);
        let files = paths.filter_map(|path| file(sources, module, path, 0));
        (module, files.filter(|it| !module.starts_with(it)).collect())
    };
    sources.iter().map(of).collect()
}

/// Takes away, again and again, what needs nothing that is left; and then what nothing needs. What stays stands in circles.
fn circles(sources: &BTreeMap<Module, Source>) -> Vec<String> {
    let mut left = needs(sources);
    loop {
        let before = left.len();
        let ends: Vec<&Module> = left.iter().filter(|(_, needs)| needs.is_empty()).map(|it| *it.0).collect();
        left.retain(|module, _| !ends.contains(module));
        let there: BTreeSet<Module> = left.keys().map(|it| (*it).clone()).collect();
        left.values_mut().for_each(|needs| needs.retain(|it| there.contains(it)));
        let needed: BTreeSet<Module> = left.values().flatten().cloned().collect();
        left.retain(|module, _| needed.contains(*module));
        if left.len() == before {
            break;
        }
    }
    let line = |(module, needs): (&Module, BTreeSet<Module>)| {
        let needs = needs.iter().map(|it| it.join("::")).collect::<Vec<_>>().join(", ");
        format!("{} needs {needs}", module.join("::"))
    };
    left.into_iter().map(line).collect()
}

#[test]
fn no_file_leads_back_to_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let crates = fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let mut wrong = vec![];
    for folder in crates.chain([root.join("xtask")]) {
        let mut sources = BTreeMap::new();
        read(&folder.join("src"), &[], &mut sources);
        wrong.extend(circles(&sources).into_iter().map(|line| format!("{}: {line}", folder.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let source = |text: &str| {
        let mut source = Source::default();
        source.visit_file(&syn::parse_file(text).unwrap());
        source
    };
    let of = |texts: &[(&str, &str)]| {
        let module = |name: &str| name.split("::").filter(|it| !it.is_empty()).map(str::to_owned).collect();
        circles(&texts.iter().map(|(name, text)| (module(name), source(text))).collect())
    };
    let none = [("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "fn f() { super::main(); }")];
    assert_eq!(of(&none), Vec::<String>::new());
    // By a path in the code.
    let path =
        [("", ""), ("a", "use crate::b::B;"), ("b", "fn f() { crate::a::g(); }"), ("c", "use crate::a::A;")];
    assert_eq!(of(&path), ["a needs b", "b needs a"]);
    // By a module's name, and through a folder's face.
    let face = [
        ("", ""),
        ("a", "use crate::b; fn f() { b::B::new(); }"),
        ("b", "mod c; pub use c::B;"),
        ("b::c", "use crate::a::f;"),
    ];
    assert_eq!(of(&face), ["a needs b, b::c", "b needs b::c", "b::c needs a"]);
    // Tests may.
    let test = [("", ""), ("a", "use crate::b::B;"), ("b", "#[cfg(test)] mod tests { use crate::a::A; }")];
    assert_eq!(of(&test), Vec::<String>::new());
}
