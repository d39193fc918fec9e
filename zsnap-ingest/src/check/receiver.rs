//! Examines a `[[command]]`: its target, its program, its user, and whether any host sends it something.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use zsnap_common::cli::findings::{Finding, writable};
use zsnap_common::cli::trusted;
use zsnap_common::names::glob::Glob;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::Host;
use zsnap_common::process::child;

use super::add;
use crate::config::{CommandTable, HostTable};
use crate::{beside, command as receiver};

/// How long the shell may take that examines files as another user.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns what is wrong with a command.
pub fn examine(command: &CommandTable, hosts: &BTreeMap<Host, HostTable>) -> Vec<Finding> {
    let target = receiver::check_target(&command.target).map_err(|e| format!("target: {e}"));
    let is_there = target.is_ok();
    let mut failed: Vec<String> = target.err().into_iter().collect();
    if is_there {
        failed.extend(beside::check(&command.target, false).err().map(|e| format!("target: {e}")));
        // Whoever can write to the target's parent directory can remove the journal; then streams would be applied
        // again.
        failed.extend(trusted::check_directory(&command.target).err().map(|e| format!("target: {e}")));
    }
    let program = command.run.first().map(|program| child::find(program.as_ref()));
    let found = program.as_ref().and_then(|program| program.as_ref().ok());
    let access = match &command.user {
        Some(user) => as_user(user, found.map(AsRef::as_ref), is_there.then_some(&*command.target)),
        None if is_there => writable(&command.target).map_err(|e| vec![format!("target: {e:#}")]).err(),
        None => None,
    };
    failed.extend(access.into_iter().flatten());
    failed.extend(program.and_then(Result::err).map(|e| format!("run: {e:#}")));
    let warned = unmatched(&command.matches, hosts).map(Finding::Warning);
    failed.into_iter().map(Finding::Failure).chain(warned).collect()
}

/// Returns what the user who runs the command may not do with its program and its target.
fn as_user(user: &str, program: Option<&Path>, target: Option<&Path>) -> Option<Vec<String>> {
    /// Prints `r` if the program cannot be run, and `t` if nothing can be created in the target.
    const SCRIPT: &str =
        r#"[ -z "$1" ] || [ -x "$1" ] || echo r; [ -z "$2" ] || { [ -w "$2" ] && [ -x "$2" ]; } || echo t"#;
    let look = || -> Result<String> {
        let mut shell = child::command(Path::new("/bin/sh"));
        let none = Path::new("");
        shell.args(["-c", SCRIPT, "sh"]).arg(program.unwrap_or(none)).arg(target.unwrap_or(none));
        child::run_as(&mut shell, user)?;
        Ok(child::output(shell, "sh", PATIENCE, 1000)?.text)
    };
    let found = match look() {
        Ok(found) => found,
        Err(e) => return Some(vec![format!("user: {e:#}")]),
    };
    let say = |line: &str| match (line, program, target) {
        ("r", Some(program), _) => Some(format!(
            "run: {user} may not run {}: correct the modes of it and of the directories above",
            program.display()
        )),
        ("t", _, Some(target)) => Some(format!(
            "target: {user} may not write to {0}: chown {user} {1}, and let {user} through the directories above it",
            target.display(),
            quoted(target)
        )),
        _ => None,
    };
    Some(found.lines().filter_map(say).collect())
}

/// Returns a warning if no configured host sends anything that the glob matches.
fn unmatched(glob: &Glob, hosts: &BTreeMap<Host, HostTable>) -> Option<String> {
    let text = glob.as_str();
    // `**` may match a host and its datasets.
    let (host, dataset) = text.split_once('/').unwrap_or((text, ""));
    if host.contains("**") {
        return None;
    }
    if dataset.is_empty() {
        return Some(format!("match: \"{text}\" is not HOST/DATASET, and so matches nothing: try \"{host}/**\""));
    }
    let matches = host.parse::<Glob>().is_ok_and(|glob| hosts.keys().any(|host| glob.matches(host.as_str())));
    (!matches).then(|| format!("match: no configured host is called {host}: {}", add(host, hosts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_that_no_configured_host_fits_is_found() {
        let hosts: BTreeMap<Host, HostTable> =
            ["laptop", "srv1"].map(|host| (host.parse().unwrap(), HostTable::default())).into();
        let found = |glob: &str| unmatched(&glob.parse().unwrap(), &hosts).unwrap_or_default();
        for good in ["laptop/etc", "laptop/**", "*/etc", "srv?/x", "**", "**/etc", "l**/x"] {
            assert_eq!(found(good), "", "{good}");
        }
        for (bad, says) in [
            ("latop/etc", "match: no configured host is called latop: add [hosts.latop], or correct [hosts.laptop] if"),
            ("zzz/etc", "match: no configured host is called zzz: add [hosts.zzz] with its signers"),
            ("srv??/etc", "match: no configured host is called srv??"),
            ("laptop", "match: \"laptop\" is not HOST/DATASET, and so matches nothing: try \"laptop/**\""),
        ] {
            assert!(found(bad).starts_with(says), "{bad}: {}", found(bad));
        }
    }
}
