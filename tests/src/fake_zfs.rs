//! `zfs` and `zpool` as shell scripts: a pool that is a directory, in which `receive` does what
//! the kernel does with a guid, or whatever else a test wants of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::scene::Scene;

/// The pool `pool` with the dataset `pool/hosts`.
pub struct FakeZfs {
    dir: PathBuf,
}

/// `datasets` has a name per line, `snapshots` lines NAME@SNAP, guid, number, 0; `receive` takes what
/// `before` says first, and `after` last (both are sourced, with `$to` as the last argument).
const ZFS: &str = r#"#!/bin/sh
cd DIR || exit 1
for to; do :; done
case "$*" in
"list -Hp -r -t filesystem,volume "*) sed 's/$/\t0/' datasets ;;
"list -Hp -r -t snapshot "*) grep -E "^$to[@/]" snapshots || true ;;
"list -Hp -t snapshot -o guid "*) line=$(grep "^$to	" snapshots) || exit 1; echo "$line" | cut -f2 ;;
"create "*) echo "$to" >> datasets ;;
"receive "*)
    echo "$*" >> received
    . ./before
    cat > "in.$$"
    guid=$(od -An -t u8 -j 40 -N 8 "in.$$" | tr -d ' ')
    grep -qx "${to%@*}" datasets || echo "${to%@*}" >> datasets
    printf '%s\t%s\t%s\t0\n' "$to" "$guid" "$(wc -l < snapshots)" >> snapshots
    . ./after ;;
*) echo "fake zfs: $*" >&2; exit 2 ;;
esac
"#;

impl FakeZfs {
    /// Makes it in the scene.
    pub fn new(scene: &Scene) -> FakeZfs {
        let dir = scene.path("pool");
        fs::create_dir(&dir).unwrap();
        let fake = FakeZfs { dir };
        for (name, text) in [("datasets", "pool/hosts\n"), ("snapshots", ""), ("received", "")] {
            fs::write(fake.dir.join(name), text).unwrap();
        }
        fake.does("", "");
        fake.script("zfs", &ZFS.replace("DIR", fake.dir.to_str().unwrap()));
        fake.script("zpool", "#!/bin/sh\necho 42\n");
        fake
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
        fs::set_permissions(self.dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What `receive` does before and after it works; `$to` is DATASET@SNAP.
    pub fn does(&self, before: &str, after: &str) {
        fs::write(self.dir.join("before"), before).unwrap();
        fs::write(self.dir.join("after"), after).unwrap();
    }

    /// The options of zsnap-ingest to use it.
    pub fn options(&self) -> Vec<String> {
        let path = |name| self.dir.join(name).to_str().unwrap().to_owned();
        vec!["--store=pool/hosts".into(), format!("--zfs={}", path("zfs")), format!("--zpool={}", path("zpool"))]
    }

    /// The arguments of the `receive` of a snapshot, as one line.
    pub fn received(&self, to: &str) -> String {
        let text = fs::read_to_string(self.dir.join("received")).unwrap();
        text.lines().find(|line| line.ends_with(to)).unwrap().to_owned()
    }

    /// The snapshots that are there, sorted.
    pub fn snapshots(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("snapshots")).unwrap();
        let mut all: Vec<_> = text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect();
        all.sort();
        all
    }
}
