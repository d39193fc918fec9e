//! Real NNCP: the toss of one node delivers exactly what zsnap-queue handed over on the other node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use zsnap_tests::nodes::{Node, Nodes};
use zsnap_tests::scene::{Ran, Scene, needs_root, run};

use super::{DATA, names, real};

/// Makes the nodes `laptop` and `server`. The server writes the body of an exec packet to `handled` and its argument to
/// `argument`.
fn nodes(h: &Scene) -> Option<Nodes> {
    let root = h.path("").display().to_string();
    fs::create_dir(h.path("incoming")).unwrap();
    let receives = format!(
        "incoming: {root}/incoming\nexec: {{zsnap: [\"/bin/sh\", \"-c\", \"cat > {root}/handled; echo $1 > {root}/argument\", \"sh\"]}}\n"
    );
    let laptop = Node { name: "laptop", knows: &[("server", String::new())], more: "" };
    Nodes::new(&h.path(""), &[laptop, Node { name: "server", knows: &[("laptop", receives)], more: "" }])
}

/// Carries all packets from the laptop to the server and tosses them there.
fn carry(nodes: &Nodes) {
    nodes.carry("laptop", "server");
    nodes.toss("server").expect(0);
}

/// Builds the command of zsnap-queue with this destination on the node `laptop`.
fn command(h: &Scene, to: &str) -> Command {
    let mut command = h.sealing();
    command.arg(format!("--to={to}")).arg("--nncp-config").arg(h.path("laptop.hjson"));
    command
}

fn queue(h: &Scene, to: &str, extra: &[&str], input: &str) -> Ran {
    run(command(h, to).args(extra).arg(DATA), &real(input))
}

fn incoming(h: &Scene, sub: &str) -> Vec<PathBuf> {
    names(&h.path("incoming").join(sub)).into_iter().filter(|path| path.is_file()).collect()
}

#[test]
fn nncp_file_carries_complete_files_only() {
    let h = Scene::new();
    let Some(nodes) = nodes(&h) else { return };
    let whole = real("full");
    queue(&h, "nncp-file:server", &["--nice=B+5"], "full").silent();
    queue(&h, "nncp-file:server/from laptop", &[], "incr-i-s1-s2").silent();
    // A producer that is killed: the pipeline of tests/data/seed-queue.sh would have committed a part of the stream.
    run(command(&h, "nncp-file:server").arg(DATA), &whole[..whole.len() / 2]).expect(65);
    // An unknown node: the file stays in the outbox, and the failure is reported.
    let stderr = queue(&h, "nncp-file:nobody", &[], "incr-I-s1-s4").expect(0).err;
    assert!(stderr.contains("not delivered to nncp-file:nobody") && stderr.contains("nncp-file failed"), "{stderr}");
    carry(&nodes);
    let (top, sub) = (incoming(&h, ""), incoming(&h, "from laptop"));
    assert_eq!((top.len(), sub.len(), h.outbox().len()), (1, 1, 1));
    assert!(h.open(&top[0]).bytes == whole);
    assert!(h.open(&sub[0]).bytes == real("incr-i-s1-s2"));
}

#[test]
fn nncp_exec_receives_the_file_and_the_target_as_its_argument() {
    let h = Scene::new();
    let Some(nodes) = nodes(&h) else { return };
    queue(&h, "nncp-exec:server:zsnap", &[], "full").silent();
    carry(&nodes);
    assert!(h.open(&h.path("handled")).bytes == real("full"));
    assert_eq!(fs::read_to_string(h.path("argument")).unwrap(), "laptop/src/data\n");
    queue(&h, "nncp-exec:server:zsnap", &["--opaque-names"], "incr-i-s1-s2").silent();
    carry(&nodes);
    assert!(h.open(&h.path("handled")).bytes == real("incr-i-s1-s2"));
    assert_eq!(fs::read_to_string(h.path("argument")).unwrap(), "\n");
}

/// The user of the transport cannot read the signing key, only the one open file.
#[test]
fn transports_run_as_another_user_as_root() {
    needs_root();
    let h = Scene::new();
    let Some(nodes) = nodes(&h) else { return };
    fs::set_permissions(h.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let output =
        Command::new("chown").args(["-R", "nobody"]).arg(h.path("laptop-nncp")).arg(h.path("laptop.hjson")).output();
    assert!(output.unwrap().status.success());
    queue(&h, "nncp-file:server", &["--user=nobody"], "full").silent();
    let mut command = h.sealing();
    let out = h.path("laptop-nncp/who");
    command.arg(format!(
        "--to=cmd:id -un > {0}; cat >> {0}; cat {1} >> {0}",
        out.display(),
        h.path("laptop.key").display()
    ));
    run(command.args(["--user=nobody", DATA]), &real("incr-i-s1-s2")).expect(0);
    let output = fs::read(&out).unwrap();
    fs::write(h.path("rest"), output.strip_prefix(b"nobody\n").unwrap()).unwrap();
    // The sealed stream, and no key after it.
    assert!(h.open(&h.path("rest")).bytes == real("incr-i-s1-s2"));
    carry(&nodes);
    assert!(h.open(&incoming(&h, "")[0]).bytes == real("full"));
}

#[test]
fn check_asks_nncp_about_each_node() {
    let h = Scene::new();
    let Some(_nodes) = nodes(&h) else { return };
    let check = |to: &str| run(command(&h, to).arg("check"), b"");
    for to in ["nncp-file:server", "nncp-exec:server:zsnap"] {
        check(to).expect(0).prints(&format!("ok    {to}\n"));
    }
    // A mistyped node would have a full stream and begin no chain.
    for to in ["nncp-file:sevrer", "nncp-exec:sevrer:zsnap"] {
        let ran = check(to).expect(78).prints(&format!("fail  {to}: nncp-stat failed: "));
        ran.prints("correct the node, or nncp-config");
    }
    // No other program of NNCP is beside this one.
    fs::copy("/bin/true", h.path("alone")).unwrap();
    let program = format!("--nncp-file-program={}", h.path("alone").display());
    let ran = run(command(&h, "nncp-file:server").args([&program, "check"]), b"");
    ran.expect(1).prints("warn  nncp-file:server: ").prints("nobody asks NNCP whether it knows the node");
}

#[test]
fn check_asks_nncp_as_the_user_of_the_transport_as_root() {
    needs_root();
    let h = Scene::new();
    let Some(_nodes) = nodes(&h) else { return };
    fs::set_permissions(h.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let check = || run(command(&h, "nncp-file:server").args(["--user=nobody", "check"]), b"");
    let mode = |name: &str, mode| fs::set_permissions(h.path(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("laptop.hjson", 0o600);
    check().expect(78).prints("fail  nncp-file:server: nncp-stat failed: ").prints("permission denied");
    mode("laptop.hjson", 0o644);
    check().expect(78).prints("the user nobody may not write to NNCP's spool ");
    let chown = Command::new("chown").args(["-R", "nobody"]).arg(h.path("laptop-nncp")).status().unwrap();
    assert!(chown.success());
    check().expect(0).prints("ok    nncp-file:server\n");
}
