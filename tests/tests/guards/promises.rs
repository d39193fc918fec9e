//! The table of promises in ARCHITECTURE.md names tests that exist.

use std::fs;

use zsnap_tests::imports::root;

#[test]
fn the_tests_named_in_the_architecture_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("## Which test keeps which promise").nth(1).unwrap();
    let (mut file, mut tests) = (String::new(), 0);
    for name in table.split("\n| ").skip(1).flat_map(|row| row.split('`').skip(1).step_by(2)) {
        if name.ends_with(".rs") {
            file = fs::read_to_string(root().join("tests/tests").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        } else if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.contains('_') {
            assert!(file.contains(&format!("fn {name}(")), "{name}");
            tests += 1;
        }
    }
    assert!(tests > 20, "only {tests} names were found");
}
