//! What the documentation of a public function begins with: a verb in the third person.

use std::{fs, path::Path};

use syn::{
    Attribute, Expr, ExprLit, File, ImplItemFn, ItemFn, ItemMod, Lit, Meta, Signature, Visibility,
    visit::{self, Visit},
};

use super::{circles::is_test, structure};

/// Words that end as such a verb does.
const NO_VERBS: [&str; 5] = ["Its", "Packets", "Rules", "This", "Whose"];

/// The public functions that begin otherwise. The lint `unreachable_pub` sees to it that each `pub fn` can be reached from
/// outside.
#[derive(Default)]
struct Otherwise(Vec<String>);

impl Otherwise {
    fn judge(&mut self, visibility: &Visibility, attributes: &[Attribute], signature: &Signature) {
        let line = attributes.iter().find_map(doc).unwrap_or_default();
        let word = line.split([' ', ',', '.', ':']).find(|word| !word.is_empty()).unwrap_or_default();
        let is_verb = word.starts_with(char::is_uppercase)
            && word.ends_with('s')
            && word.chars().all(char::is_alphabetic)
            && !NO_VERBS.contains(&word);
        if matches!(visibility, Visibility::Public(_)) && !is_verb {
            self.0.push(format!("{}: {}", signature.ident, line.trim()));
        }
    }
}

impl<'a> Visit<'a> for Otherwise {
    fn visit_item_fn(&mut self, it: &'a ItemFn) {
        self.judge(&it.vis, &it.attrs, &it.sig);
    }

    fn visit_impl_item_fn(&mut self, it: &'a ImplItemFn) {
        self.judge(&it.vis, &it.attrs, &it.sig);
    }

    fn visit_item_mod(&mut self, it: &'a ItemMod) {
        if !is_test(&it.attrs) {
            visit::visit_item_mod(self, it);
        }
    }
}

/// A line of documentation.
fn doc(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(it) = &attribute.meta else { return None };
    match &it.value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if it.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

fn otherwise(file: &File) -> Vec<String> {
    let mut found = Otherwise::default();
    found.visit_file(file);
    found.0
}

#[test]
fn public_functions_begin_with_what_they_do() {
    let mut all = vec![];
    structure::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let mut wrong = vec![];
    for path in all {
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        wrong.extend(otherwise(&file).into_iter().map(|line| format!("{}: {line}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_function_that_begins_otherwise_is_found() {
    let of = |text: &str| otherwise(&syn::parse_file(text).unwrap());
    assert_eq!(of("/// The owner.\npub fn f() {}"), ["f: The owner."]);
    assert_eq!(of("/// `from` a source\npub fn f() {}"), ["f: `from` a source"]);
    assert_eq!(of("impl A { /// Its name.\npub fn f() {} pub fn g() {} }"), ["f: Its name.", "g: "]);
    let right = "/// Returns it.\npub fn f() {} /// The other.\npub(crate) fn g() {} fn h() {}";
    assert_eq!(of(right), Vec::<String>::new());
}
