//! Which file of a crate uses which other file, according to the paths in their text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::torture::walk;

/// Returns the directory of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the text of a source file without comments and unit tests.
pub fn code(file: &str) -> String {
    let path = root().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    // `#[cfg(test)] mod tests;` can be anywhere, but `mod tests {` is the last item.
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.split("#[cfg(test)]\npub(crate) mod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The files and imports of a crate by module (`durable::outbox`; the root is the empty string).
pub struct Imports {
    /// The path of each module in the repository.
    pub files: BTreeMap<String, String>,
    /// The modules that each module uses.
    pub uses: BTreeMap<String, BTreeSet<String>>,
}

impl Imports {
    /// Reads a crate, such as `zsnap-common`.
    pub fn of(package: &str) -> Imports {
        let src = root().join(package).join("src");
        let mut files = BTreeMap::new();
        for path in walk(src.clone()) {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let module = name.strip_suffix(".rs").unwrap_or("tests").replace('/', "::");
            if module.split("::").any(|part| part == "tests") {
                continue;
            }
            let module = if ["lib", "main"].contains(&module.as_str()) { String::new() } else { module };
            files.insert(module, format!("{package}/src/{name}"));
        }
        let uses = files.iter().map(|(module, file)| (module.clone(), used(module, &code(file), &files))).collect();
        Imports { files, uses }
    }

    /// Returns a cycle of modules that use each other, except between a module and those inside it.
    pub fn cycle(&self) -> Option<Vec<String>> {
        self.files.keys().find_map(|start| {
            let mut path = vec![start.clone()];
            self.leads_back(start, &mut path, &mut BTreeSet::new()).then_some(path)
        })
    }

    fn leads_back(&self, start: &str, path: &mut Vec<String>, seen: &mut BTreeSet<String>) -> bool {
        let current = path.last().unwrap().clone();
        for next in self.uses[&current].iter().filter(|next| !related(&current, next)) {
            if next == start {
                return true;
            }
            if seen.insert(next.clone()) {
                path.push(next.clone());
                if self.leads_back(start, path, seen) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

/// Whether one of two modules is inside the other.
fn related(a: &str, b: &str) -> bool {
    let inside = |a: &str, b: &str| a.is_empty() || b.strip_prefix(a).is_some_and(|rest| rest.starts_with("::"));
    a == b || inside(a, b) || inside(b, a)
}

/// Returns the modules to which paths from `crate` and `super` in the text of `module` lead.
fn used(module: &str, code: &str, files: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let path: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        let mut from: Vec<&str> = if word == "crate::" { Vec::new() } else { module.split("::").collect() };
        for part in path.split("::").filter(|part| !part.is_empty() && *part != "crate") {
            if part == "super" { from.pop().map_or((), drop) } else { from.push(part) }
        }
        let to = (0..=from.len()).rev().map(|n| from[..n].join("::")).find(|to| files.contains_key(to)).unwrap();
        // `use crate::durable::{a, b}` also uses the modules in braces.
        let group = code[at + path.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("");
        for name in group.split(',').map(|name| name.trim().split("::").next().unwrap()) {
            used.extend(Some(format!("{to}::{name}")).filter(|inner| files.contains_key(inner)));
        }
        used.insert(to);
    }
    used.remove(module);
    used
}
