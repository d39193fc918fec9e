//! The files of a crate use each other in one direction only, and none is too long to be understood as a whole.

use std::fs;
use std::path::PathBuf;

use zsnap_tests::imports::{Imports, code, root};
use zsnap_tests::torture::walk;

const CRATES: [&str; 6] =
    ["zsnap-common", "zsnap-common/message", "zsnap-queue", "zsnap-fanout", "zsnap-ingest", "zsnap-expire"];
/// The directories of zsnap-common. Each uses only those before it.
const LAYERS: [&str; 6] = ["names", "cli", "stream", "process", "locks", "durable"];

#[test]
fn files_do_not_use_each_other_in_a_cycle() {
    let cycles: Vec<_> = CRATES.iter().filter_map(|package| Some((package, Imports::of(package).cycle()?))).collect();
    assert!(cycles.is_empty(), "{cycles:?}");
}

#[test]
fn layers_of_the_common_crate_use_only_lower_layers() {
    let common = Imports::of("zsnap-common");
    let layer = |module: &str| LAYERS.iter().position(|layer| module.split("::").next() == Some(layer));
    let mut seen = 0;
    for (module, uses) in common.uses.iter().filter(|(module, _)| !module.is_empty()) {
        let own_layer = layer(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        for used in uses.iter().filter(|used| !used.is_empty()) {
            assert!(layer(used).unwrap() <= own_layer, "{module} uses {used}");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} uses were found");
}

#[test]
fn no_source_file_is_longer_than_400_lines() {
    let files = CRATES.iter().flat_map(|package| walk(root().join(package).join("src")));
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long: Vec<_> = files.map(|path| (lines(&path), path)).filter(|(lines, _)| *lines > 400).collect();
    assert!(long.is_empty(), "{long:?}");
}

/// The name of the function that a line declares.
fn declared(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_declared = before.split_whitespace().all(|word| word == "const" || word.starts_with("pub"));
    is_declared.then(|| after.split(['(', '<']).next().unwrap())
}

/// The functions in formatted code, and how many lines each has.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let length = |at: usize| {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        // A body of one line, or none.
        let short = lines[at].ends_with(['}', ';']);
        if short { 1 } else { lines[at..].iter().position(|line| *line == end).unwrap_or(0) + 1 }
    };
    code.lines().enumerate().filter_map(|(at, line)| Some((declared(line)?, length(at)))).collect()
}

#[test]
fn no_function_is_longer_than_60_lines() {
    let sample = "fn a() {}\n\npub(super) fn b<T>(\n    t: T,\n) {\n    if t {\n    }\n}\n    const fn c() {\n    }\n";
    assert_eq!(functions(sample), [("a", 1), ("b", 6), ("c", 2)]);
    let (mut long, mut seen) = (Vec::new(), 0);
    for file in CRATES.iter().flat_map(|package| Imports::of(package).files.into_values()) {
        let code = code(&file);
        let all = functions(&code);
        seen += all.len();
        long.extend(all.into_iter().filter(|(_, lines)| *lines > 60).map(|(name, _)| format!("{file} {name}")));
    }
    assert!(seen > 1000 && long.is_empty(), "{seen}: {long:?}");
}

/// Whether a condition that begins with `if let` or `while let` continues with `&&` (a let chain).
fn has_let_chain(code: &str) -> bool {
    let chained = |from: usize| {
        let (mut depth, mut quoted, mut before) = (0, false, ' ');
        for c in code[from..].chars() {
            match c {
                '"' if before != '\\' => quoted = !quoted,
                _ if quoted => {}
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                '{' | ';' if depth == 0 => return false,
                '&' if depth == 0 && before == '&' => return true,
                _ => {}
            }
            before = c;
        }
        false
    };
    code.contains("&& let ")
        || ["if let ", "while let "].iter().any(|start| code.match_indices(start).any(|(at, _)| chained(at)))
}

/// Rust 1.85, which Debian 13 has, does not support let chains, and no lint of a newer Rust finds them. Clippy finds
/// everything else.
#[test]
fn no_source_file_contains_a_let_chain() {
    assert!(has_let_chain("if let Some(a) = b\n    && c(a)\n{") && has_let_chain("while a && let Some(b) = c {"));
    assert!(!has_let_chain("if let Some(a) = b.filter(|b| b && c) { d && e; }"));
    let tests = ["tests/src", "tests/tests"].map(|dir| root().join(dir));
    let files = CRATES.iter().map(|package| root().join(package).join("src")).chain(tests).flat_map(walk);
    let ours = files.filter(|path| path.extension().is_some_and(|of| of == "rs") && !path.ends_with(file!()));
    let found: Vec<_> = ours.filter(|path| has_let_chain(&fs::read_to_string(path).unwrap())).collect();
    assert!(found.is_empty(), "{found:?}");
}
