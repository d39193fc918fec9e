//! Real NNCP: what one node's zsnap-queue hands over is what the other node's toss delivers.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::{Host, ends, host, names, silent, stream};

const DATA: &str = "laptop/src/data";

/// A value of `nncp-cfgnew`'s output, of the node itself.
fn value(config: &str, key: &str) -> String {
    let line = config.lines().find(|line| line.trim_start().starts_with(&format!("{key}: "))).unwrap();
    line.split_once(": ").unwrap().1.to_owned()
}

fn public(config: &str) -> String {
    let keys = ["id", "exchpub", "signpub", "noisepub"];
    keys.map(|key| format!("{key}: {}\n", value(config, key))).concat()
}

/// Two nodes, `laptop` and `server`, each in a directory of its name; what the server does with
/// exec packets lands in `handled`.
fn nodes(h: &Host) {
    let new = || String::from_utf8(Command::new("nncp-cfgnew").arg("-nocomments").output().unwrap().stdout).unwrap();
    let (laptop, server) = (new(), new());
    for (name, own, peer, other, extra) in [
        ("laptop", &laptop, "server", &server, String::new()),
        (
            "server",
            &server,
            "laptop",
            &laptop,
            format!(
                "incoming: {0}/incoming\nexec: {{zsnap: [\"/bin/sh\", \"-c\", \"cat > {0}/handled; echo $1 > {0}/argument\", \"sh\"]}}\n",
                h.dir.path().display()
            ),
        ),
    ] {
        let dir = h.path(&format!("nncp-{name}"));
        fs::create_dir_all(&dir).unwrap();
        let own_private =
            ["exchprv", "signprv", "noiseprv"].map(|key| format!("{key}: {}\n", value(own, key))).concat();
        let text = format!(
            "{{\nspool: {0}\nlog: {0}/log\nself: {{\n{1}{own_private}}}\nneigh: {{\nself: {{\n{1}}}\n{peer}: {{\n{2}{extra}}}\n}}\n}}\n",
            dir.display(),
            public(own),
            public(other)
        );
        fs::write(h.path(&format!("{name}.hjson")), text).unwrap();
    }
    fs::create_dir_all(h.path("incoming")).unwrap();
    fs::create_dir_all(h.path("stick")).unwrap();
}

fn nncp(h: &Host, program: &str, node: &str, args: &[&Path]) {
    let mut command = Command::new(program);
    command.arg("-cfg").arg(h.path(&format!("{node}.hjson"))).args(["-quiet"]).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Carries everything from the laptop to the server.
fn carry(h: &Host) {
    let stick = h.path("stick");
    nncp(h, "nncp-xfer", "laptop", &[Path::new("-mkdir"), Path::new("-tx"), &stick]);
    nncp(h, "nncp-xfer", "server", &[Path::new("-rx"), &stick]);
    nncp(h, "nncp-toss", "server", &[]);
}

fn installed() -> bool {
    let there = Command::new("nncp-file").arg("-version").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "nncp is not installed");
    if !there {
        eprintln!("SKIPPED: nncp is not installed");
    }
    there
}

fn queue(h: &Host, to: &str, extra: &[&str], input: &str) -> std::process::Output {
    let mut command = h.sealing();
    command.arg(format!("--to={to}")).arg("--nncp-config").arg(h.path("laptop.hjson")).args(extra).arg(DATA);
    host::feed(command, &stream(input))
}

fn incoming(h: &Host, sub: &str) -> Vec<PathBuf> {
    names(&h.path("incoming").join(sub)).into_iter().filter(|path| path.is_file()).collect()
}

#[test]
fn nncp_file_carries_whole_files_and_nothing_after_a_failure() {
    if !installed() {
        return;
    }
    let h = host();
    nodes(&h);
    let whole = stream("full");
    silent(&queue(&h, "nncp-file:server", &["--nice=B+5"], "full"));
    silent(&queue(&h, "nncp-file:server/from laptop", &[], "incr-i-s1-s2"));
    // The feeder dies: the seeds' pipe would have committed a part.
    let mut cut = h.sealing();
    cut.args(["--to=nncp-file:server", DATA]).arg("--nncp-config").arg(h.path("laptop.hjson"));
    ends(&host::feed(cut, &whole[..whole.len() / 2]), 65);
    // An unknown node: safe here, told, tried again.
    let stderr = ends(&queue(&h, "nncp-file:nobody", &[], "incr-I-s1-s4"), 0);
    assert!(stderr.contains("not delivered to nncp-file:nobody") && stderr.contains("nncp-file failed"), "{stderr}");
    carry(&h);
    let (top, sub) = (incoming(&h, ""), incoming(&h, "from laptop"));
    assert_eq!((top.len(), sub.len(), h.outbox().len()), (1, 1, 1));
    assert!(h.open(&top[0]).bytes == whole);
    assert!(h.open(&sub[0]).bytes == stream("incr-i-s1-s2"));
}

#[test]
fn nncp_exec_gets_the_file_and_one_argument() {
    if !installed() {
        return;
    }
    let h = host();
    nodes(&h);
    silent(&queue(&h, "nncp-exec:server:zsnap", &[], "full"));
    carry(&h);
    assert!(h.open(&h.path("handled")).bytes == stream("full"));
    assert_eq!(fs::read_to_string(h.path("argument")).unwrap(), "laptop/src/data\n");
    silent(&queue(&h, "nncp-exec:server:zsnap", &["--opaque-names"], "incr-i-s1-s2"));
    carry(&h);
    assert!(h.open(&h.path("handled")).bytes == stream("incr-i-s1-s2"));
    assert_eq!(fs::read_to_string(h.path("argument")).unwrap(), "\n");
}

/// The transport's user can read neither the keys nor the outbox, only the one open file.
#[test]
fn transports_run_as_another_user_as_root() {
    assert!(rustix::process::geteuid().is_root(), "only root can do this: make test-root");
    if !installed() {
        return;
    }
    let h = host();
    nodes(&h);
    fs::set_permissions(h.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let output =
        Command::new("chown").args(["-R", "nobody"]).arg(h.path("nncp-laptop")).arg(h.path("laptop.hjson")).output();
    assert!(output.unwrap().status.success());
    silent(&queue(&h, "nncp-file:server", &["--user=nobody"], "full"));
    let mut who = h.sealing();
    let out = h.path("nncp-laptop/who");
    who.arg(format!(
        "--to=cmd:id -un > {0}; cat >> {0}; cat {1} >> {0}",
        out.display(),
        h.path("laptop.key").display()
    ));
    ends(
        &host::feed(
            {
                who.args(["--user=nobody", DATA]);
                who
            },
            &stream("incr-i-s1-s2"),
        ),
        0,
    );
    let said = fs::read(&out).unwrap();
    fs::write(h.path("rest"), said.strip_prefix(b"nobody\n").unwrap()).unwrap();
    // The sealed stream, and no key behind it.
    assert!(h.open(&h.path("rest")).bytes == stream("incr-i-s1-s2"));
    carry(&h);
    assert!(h.open(&incoming(&h, "")[0]).bytes == stream("full"));
}
