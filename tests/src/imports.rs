//! Which module of a crate imports which, read from the source text, and the circles among them.
//!
//! An import is a path to another module of the crate: in a `use`, or inline. A name that a module re-exports counts as
//! an import of the module that defines it. Declaring a child (`mod child`) and re-exporting from a child are no imports.
//! Comments, literals and `#[cfg(test)]` items are passed over.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
};

use crate::rust_text;

/// A module's path below the crate, without `crate`; empty for the crate's root.
type Module = Vec<String>;

/// The modules of one crate, and what each imports.
pub struct Crate {
    modules: BTreeMap<Module, Source>,
    /// By the importing module, then by the imported module; the value is the path as it is written.
    imports: BTreeMap<Module, BTreeMap<Module, String>>,
}

struct Source {
    /// Relative to the crate's `src`.
    file: String,
    uses: Vec<rust_text::Use>,
    rest: String,
}

/// Modules that import each other in a loop.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// All files of it, in order.
    pub files: Vec<String>,
    /// A shortest loop through it, one import a line.
    pub loop_: String,
}

impl Crate {
    /// Reads a crate from the files below its `src`, each with its path and its text.
    pub fn read(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let modules: BTreeMap<Module, Source> = files
            .into_iter()
            .filter(|(file, _)| !file.ends_with("tests.rs") && !file.contains("tests/"))
            .map(|(file, text)| {
                let (uses, rest) =
                    rust_text::split_uses(&rust_text::without_tests(&rust_text::code_of(&text)));
                (module_of(&file), Source { file, uses, rest })
            })
            .collect();
        let mut this = Self { modules, imports: BTreeMap::new() };
        let all: Vec<Module> = this.modules.keys().cloned().collect();
        this.imports = all.into_iter().map(|module| (module.clone(), this.imports_of(&module))).collect();
        this
    }

    fn imports_of(&self, module: &Module) -> BTreeMap<Module, String> {
        let Some(source) = self.modules.get(module) else { return BTreeMap::new() };
        let mut found = BTreeMap::new();
        // Names by which a `use` makes other modules known here; paths that begin with them lead further.
        let mut known: BTreeMap<String, Module> = self.children(module);
        let mut add = |path: &[String], written: String| {
            let target = self.defines(path, 0);
            if target != *module {
                found.entry(target).or_insert(written);
            }
        };
        for import in &source.uses {
            let Some(path) = self.absolute(module, &import.path) else { continue };
            if self.modules.contains_key(&path) {
                known.insert(import.name.clone(), path.clone());
            }
            let facade = import.public && self.defines(&path, 0).starts_with(module);
            if !facade {
                add(&path, import.path.join("::"));
            }
        }
        for path in rust_text::paths(&source.rest) {
            let first = path[0].as_str();
            let absolute = match known.get(first) {
                Some(base) => Some(base.iter().chain(&path[1..]).cloned().collect()),
                None if ["crate", "self", "super"].contains(&first) => self.absolute(module, &path),
                None => None,
            };
            if let Some(absolute) = absolute {
                add(&absolute, path.join("::"));
            }
        }
        found
    }

    fn children(&self, module: &Module) -> BTreeMap<String, Module> {
        let below = self.modules.keys().filter(|m| m.len() == module.len() + 1 && m.starts_with(module));
        below.map(|m| (m[module.len()].clone(), m.clone())).collect()
    }

    /// The path from the crate's root; `None` for a path into another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let up = path.iter().take_while(|part| *part == "super").count();
        if up > 0 {
            let base = &module[..module.len().checked_sub(up)?];
            return Some(base.iter().chain(&path[up..]).cloned().collect());
        }
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some(module.iter().chain(&path[1..]).cloned().collect()),
            first => {
                let child = self.children(module).remove(first)?;
                Some(child.into_iter().chain(path[1..].iter().cloned()).collect())
            }
        }
    }

    /// The module that defines what a path from the root names, re-exports followed.
    fn defines(&self, path: &[String], depth: usize) -> Module {
        let longest = (0..=path.len()).rev().find(|&n| self.modules.contains_key(&path[..n]));
        let module = path[..longest.unwrap_or(0)].to_vec();
        let (Some(name), Some(source)) = (path.get(module.len()), self.modules.get(&module)) else {
            return module;
        };
        let passed_on = source.uses.iter().find(|import| import.public && import.name == *name);
        match passed_on.and_then(|import| self.absolute(&module, &import.path)) {
            // A re-export of a re-export of a re-export is as far as anybody goes.
            Some(further) if depth < 3 => {
                let rest = &path[module.len() + 1..];
                self.defines(&further.into_iter().chain(rest.iter().cloned()).collect::<Vec<_>>(), depth + 1)
            }
            Some(_) | None => module,
        }
    }

    /// Every circle: modules each of which reaches all others of it.
    pub fn circles(&self) -> Vec<Circle> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.modules.keys().map(|module| (module, self.reached_from(module))).collect();
        let (mut circles, mut done) = (Vec::new(), BTreeSet::new());
        for (module, reached) in &reach {
            if !reached.contains(module) || done.contains(module) {
                continue;
            }
            let members: BTreeSet<&Module> =
                reached.iter().filter(|other| reach[*other].contains(module)).copied().collect();
            done.extend(members.iter().copied());
            let files = members.iter().map(|member| self.modules[*member].file.clone()).collect();
            let shortest = members.iter().filter_map(|member| self.loop_through(member)).min_by_key(Vec::len);
            circles.push(Circle { files, loop_: self.tell(&shortest.unwrap_or_default()) });
        }
        circles
    }

    fn reached_from<'a>(&'a self, module: &'a Module) -> BTreeSet<&'a Module> {
        let (mut seen, mut next) = (BTreeSet::new(), vec![module]);
        while let Some(module) = next.pop() {
            next.extend(self.imports[module].keys().filter(|target| seen.insert(*target)));
        }
        seen
    }

    /// The modules of a shortest loop from a module back to itself, the module first and last.
    fn loop_through<'a>(&'a self, module: &'a Module) -> Option<Vec<&'a Module>> {
        let mut from: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut next = VecDeque::from([module]);
        while let Some(here) = next.pop_front() {
            for target in self.imports[here].keys() {
                if target == module {
                    let mut back = vec![module, here];
                    while *back.last()? != module {
                        back.push(from[*back.last()?]);
                    }
                    back.reverse();
                    return Some(back);
                }
                if !from.contains_key(target) {
                    from.insert(target, here);
                    next.push_back(target);
                }
            }
        }
        None
    }

    fn tell(&self, steps: &[&Module]) -> String {
        let mut text = String::new();
        for pair in steps.windows(2) {
            let (from, to) = (&self.modules[pair[0]].file, &self.modules[pair[1]].file);
            let written = &self.imports[pair[0]][pair[1]];
            writeln!(text, "  {from} imports {to}  ({written})").expect("a string takes all that is written");
        }
        text
    }
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; `lib.rs` and `main.rs` are the root.
fn module_of(file: &str) -> Module {
    let path = file.trim_end_matches(".rs");
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| ["lib", "main", "mod"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files = files.iter().map(|&(file, text)| (file.to_owned(), text.to_owned()));
        Crate::read(files).circles().into_iter().map(|circle| circle.files).collect()
    }

    #[test]
    fn a_parent_that_declares_its_child_and_passes_its_names_on_imports_nothing() {
        let lib = "mod a;\npub use a::A;\nuse other::thing;";
        assert!(circles(&[("lib.rs", lib), ("a.rs", "use crate::A; // crate::b\nstruct A;")]).is_empty());
        let one_way = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "struct B;")];
        assert!(circles(&one_way).is_empty());
    }

    #[test]
    fn a_circle_is_found_however_its_imports_are_written() {
        for (a, b) in [
            ("use crate::b::B;", "use crate::a::A;"),
            ("use crate::{b::{self, B}, c};", "fn f() { crate::a::g() }"),
            ("use super::b;", "use super::a::{A as Other};"),
            ("fn f(b: super::b::B) {}", "use crate::{a};\nfn f() { a::g() }"),
            ("use crate::Facade;", "use crate::a::A;"),
        ] {
            let lib = "mod a; mod b; mod c;\npub use b::Facade;";
            let found = circles(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b), ("c.rs", "")]);
            assert_eq!(found, [["a.rs", "b.rs"]], "{a} {b}");
        }
        let child = [("a.rs", "mod b;\nfn f() { b::g() }"), ("a/b.rs", "use super::A;")];
        assert_eq!(
            circles(&child),
            [["a.rs", "a/b.rs"]],
            "a parent that uses its child, which uses its parent"
        );
    }

    #[test]
    fn a_loop_is_told_by_its_shortest_way() {
        let files = [
            ("a.rs", "use crate::{b::B, c::C};"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::{a::A};"),
        ];
        let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
        let circle = Crate::read(files).circles().remove(0);
        assert_eq!(circle.files, ["a.rs", "b.rs", "c.rs"]);
        assert_eq!(circle.loop_.lines().count(), 2, "{}", circle.loop_);
        assert!(circle.loop_.contains("a.rs imports c.rs  (crate::c::C)"), "{}", circle.loop_);
    }

    #[test]
    fn tests_and_comments_and_texts_do_not_count() {
        let a = "/* crate::b */ const T: &str = \"crate::b::B\"; const C: char = '\"';\n\
                 #[cfg(test)]\nmod tests { use crate::b::B; fn f() { if true {} } }";
        assert!(circles(&[("a.rs", a), ("b.rs", "use crate::a::A;")]).is_empty());
    }
}
