//! The hosts whose streams this configuration queues. A wrong `--strip` must not turn a part of a pool's path into a
//! host: nobody would receive the file.

use zsnap_common::cli::exit::Exit;
use zsnap_common::names::shell::quoted;
use zsnap_common::names::target::{Host, Target};

use crate::cli::Options;

/// Checks that a target belongs to a host of this configuration: one of `--host`, or else the one in the user id of the
/// signing key, `of_key`. Without any, all hosts are accepted. `operand` is what the user has written: if `--strip` was
/// removed from it, the prefix has shown that the rest is right, and only an explicit `--host` counts.
///
/// # Errors
/// [`Exit::Usage`] with the remedy.
pub fn check(o: &Options, of_key: Option<&Host>, operand: &str, target: &Target) -> anyhow::Result<()> {
    let is_stripped = operand != target.to_string();
    let hosts = match o.host.is_empty() {
        true => of_key.filter(|_| !is_stripped).map(std::slice::from_ref).unwrap_or_default(),
        false => &o.host[..],
    };
    if hosts.is_empty() || hosts.contains(&target.host) {
        return Ok(());
    }
    let names = hosts.iter().map(|host| format!("\"{host}\"")).collect::<Vec<_>>().join(", ");
    let whence = match (&o.signing_key, o.host.is_empty()) {
        (Some(key), true) => format!("that of {}", quoted(key)),
        _ => "host".to_owned(),
    };
    let strip = match (&o.strip, is_stripped) {
        (Some(strip), false) => format!("it does not lie below strip (\"{strip}\"): correct one of them"),
        _ => "correct the operand, or strip".to_owned(),
    };
    Err(Exit::Usage.error(format!(
        "\"{operand}\" would be of the host \"{}\", but this configuration's host is {names} ({whence}): {strip}; if it is \
         meant, specify --host {} too",
        target.host,
        quoted(target.host.as_str())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn checked(args: &str, of_key: Option<&str>, operand: &str, target: &str) -> Result<(), String> {
        let argv = ["zsnap-queue"].into_iter().chain(args.split_whitespace());
        let o = Cli::try_parse_from(argv).unwrap().options;
        let of_key = of_key.map(|host| host.parse::<Host>().unwrap());
        check(&o, of_key.as_ref(), operand, &target.parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_target_belongs_to_a_host_of_the_configuration() {
        let (stripped, taken) = ("tank/s/laptop/etc", "laptop/etc");
        for (args, of_key, operand, target, good) in [
            ("", None, "tank/etc", "tank/etc", true),
            ("", Some("laptop"), taken, taken, true),
            ("", Some("laptop"), "tank/s/laptop/etc", "tank/s/laptop/etc", false),
            // simplesnap queues the streams of several hosts, and the prefix has shown that they are hosts.
            ("", Some("server"), stripped, "laptop/etc", true),
            ("--host laptop", None, stripped, "laptop/etc", true),
            ("--host server", None, stripped, "laptop/etc", false),
            ("--host server", Some("laptop"), taken, taken, false),
            ("--host server --host laptop", Some("server"), taken, taken, true),
        ] {
            assert_eq!(checked(args, of_key, operand, target).is_ok(), good, "{args} {of_key:?} {operand}");
        }
        let why = checked("--strip tank/z --signing-key /k", Some("laptop"), "tank/s/laptop/etc", "tank/s/laptop/etc");
        assert_eq!(
            why.unwrap_err(),
            "\"tank/s/laptop/etc\" would be of the host \"tank\", but this configuration's host is \"laptop\" (that of \
             /k): it does not lie below strip (\"tank/z\"): correct one of them; if it is meant, specify --host tank too"
        );
    }
}
