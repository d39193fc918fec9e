//! Tests of child processes: limits, signals, stderr.

use super::*;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;

fn shell(script: &str) -> Command {
    let mut command = command(Path::new("/bin/sh"));
    command.args(["-c", script]);
    command
}

fn spawn(command: Command) -> Child {
    Child::spawn(command, "sh").unwrap()
}

fn output(mut command: Command) -> String {
    command.stdout(Stdio::piped());
    let mut child = spawn(command);
    let mut text = String::new();
    child.stdout().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait(None).unwrap().success(), "{}", child.last_words());
    text
}

fn alive(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    rustix::process::test_kill_process(pid).is_ok() && !state.contains(") Z ")
}

#[test]
fn programs_are_found_on_the_fixed_path() {
    assert!(find(Path::new("sh")).unwrap().is_absolute());
    assert_eq!(find(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
    for (wrong, exit) in [
        ("no-such-program", Exit::Unavailable),
        ("/bin/no-such-program", Exit::Unavailable),
        ("/etc/passwd", Exit::Unavailable),
        ("/etc", Exit::Unavailable),
        ("./sh", Exit::Config),
        ("bin/sh", Exit::Config),
        ("sh/", Exit::Config),
        ("..", Exit::Config),
        ("", Exit::Config),
    ] {
        assert_eq!(Exit::of(&find(Path::new(wrong)).unwrap_err()), exit, "{wrong}");
    }
}

#[test]
fn children_have_a_clean_environment_and_default_signals() {
    let mut env: Vec<_> = output(shell("env; pwd")).lines().map(str::to_owned).collect();
    env.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_=") && !line.starts_with("SHLVL="));
    env.sort();
    assert_eq!(env, ["/", "HOME=/", "LC_ALL=C", &format!("PATH={PATH}"), "TZ=UTC"]);
    // Rust ignores SIGPIPE; a child must not.
    let ignored = output(shell("while read k v; do [ $k != SigIgn: ] || echo $v; done < /proc/self/status"));
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 << 12, 0);
}

#[test]
fn a_flood_on_stderr_never_blocks_the_child() {
    let mut child = spawn(shell(
        "i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; printf 'a\\nb\\033' >&2; exit 3",
    ));
    assert_eq!(child.wait(None).unwrap().code(), Some(3));
    assert_eq!(child.last_words(), "line 19999; a; b\\x1b");
    let mut endless = spawn(shell("head -c 1000000 /dev/zero >&2"));
    assert!(endless.wait(None).unwrap().success());
    assert!(endless.last_words().len() < 4000);
}

#[test]
fn a_dropped_child_is_killed_before_its_stdin_closes() {
    let dir = tempfile::tempdir().unwrap();
    // nncp-file also commits at the end of its input what it has read until then. In the second command, a script
    // stands in between.
    for script in ["CAT > x; echo > done", "CAT | { cat > x; echo > done; }"] {
        let script = script.replace("CAT", "{ head -c 1 > /dev/null; echo up >&3; cat; }");
        let mut command = shell(&format!("exec 3>&1; {script}"));
        command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command);
        let mut stdin = child.stdin().unwrap();
        stdin.write_all(b"half").unwrap();
        child.stdout().unwrap().read_exact(&mut [0; 3]).unwrap();
        drop(child);
        drop(stdin);
        // A surviving child would have read the end of its input by now.
        let sync = output(shell("sleep 0.2; echo"));
        assert!(sync == "\n" && !dir.path().join("done").exists(), "{script}");
    }
    let mut command = shell("cat > x; echo > done");
    command.current_dir(dir.path()).stdin(Stdio::piped());
    // Here the test does not even take stdin.
    drop(spawn(command));
    assert!(!dir.path().join("done").exists());
}

#[test]
fn a_child_that_exceeds_its_timeout_is_killed() {
    let mut child = spawn(shell("echo hangs >&2; exec sleep 1000"));
    let pid = child.id().to_string();
    let error = child.wait(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Unavailable);
    assert_eq!(error.to_string(), format!("sh (pid {pid}) did not end in 0 s and was killed"));
    assert!(!alive(&pid));
    child.kill();
}

#[test]
fn the_signal_of_a_child_and_a_failed_start_are_reported() {
    assert_eq!(spawn(shell("kill -9 $$")).wait(None).unwrap().signal(), Some(9));
    let error = Child::spawn(command(Path::new("/no/such")), "x").err().unwrap();
    assert_eq!(Exit::of(&error), Exit::Unavailable);
    assert!(format!("{error:#}").contains("/no/such"));
}

#[test]
fn a_grandchild_that_holds_stderr_does_not_delay_the_wait() {
    let mut child = spawn(shell("echo word >&2; sleep 1000 & echo $! >&2"));
    child.wait(None).unwrap();
    let words = child.last_words();
    let (word, pid) = words.split_once("; ").unwrap();
    assert!(word == "word" && alive(pid));
    rustix::process::kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn run_as_accepts_the_own_user_and_rejects_others() {
    let us = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let mut same = shell("echo $HOME");
    run_as(&mut same, &us.name).unwrap();
    assert_eq!(output(same), "/\n");
    assert_eq!(Exit::of(&run_as(&mut shell(""), "no-such-user").unwrap_err()), Exit::Config);
    if !us.uid.is_root() {
        assert_eq!(Exit::of(&run_as(&mut shell(""), "root").unwrap_err()), Exit::Config);
    }
}

#[test]
fn run_as_drops_the_supplementary_groups_as_root() {
    assert!(nix::unistd::geteuid().is_root(), "only root can do this: make test-root");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let mut other = shell("id -u; id -G; echo $HOME $USER");
    run_as(&mut other, "nobody").unwrap();
    let expected = format!("{}\n{}\n{} nobody\n", nobody.uid, nobody.gid, nobody.dir.display());
    assert_eq!(output(other), expected);
}
