//! make-hostile OUTDIR - makes queue files for part-hostile of the lab: `keys/` of the hosts lab and lab0 and of the
//! backup server, `bad/` files that must be rejected, `odd/` files that must be received without their properties,
//! `good/HOST/`, and `raw/` some of the streams themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zsnap_message::keys::{Purpose, SigningKey, keygen};
use zsnap_tests::hostile::{described, odd, streams};
use zsnap_tests::sample;
use zsnap_tests::scene::{name, seal_with};

fn main() {
    let out = PathBuf::from(std::env::args_os().nth(1).expect("usage: make-hostile OUTDIR"));
    for dir in ["keys", "bad", "odd", "good/lab", "good/lab0", "raw"] {
        fs::create_dir_all(out.join(dir)).unwrap();
    }
    let keys = out.join("keys");
    for host in ["lab", "lab0"] {
        keygen(&keys.join(host), Purpose::Sign(&host.parse().unwrap()), false).unwrap();
    }
    keygen(&keys.join("backup"), Purpose::Encrypt, false).unwrap();
    // The numbers of a sender whose clock is right.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let mut seq = u64::try_from(now).unwrap();
    let mut write = |dir: &str, host: &str, dataset: &str, stream: &[u8]| {
        seq += 1;
        let target = format!("{host}/{dataset}");
        let key = SigningKey::load(&keys.join(format!("{host}.key")), SystemTime::now()).unwrap();
        let (manifest, trailer) = described(&target, seq, stream);
        let sealed = seal_with(&manifest, trailer, Some(&key), &keys.join("backup.cert"), stream);
        fs::write(out.join(dir).join(name(&target, seq)), sealed).unwrap();
    };
    for hostile in streams() {
        write("bad", "lab", &format!("src/{}", hostile.name), &hostile.bytes);
        let file = match hostile.name.as_str() {
            "sibling-prefix" => "escape",
            "child" => "child",
            // The rejection by zsnap-queue must contain the text in the `.why` file.
            poison if poison.starts_with("poison-") => {
                fs::write(out.join("raw").join(format!("{poison}.why")), hostile.why).unwrap();
                poison
            }
            _ => continue,
        };
        fs::write(out.join("raw").join(file), &hostile.bytes).unwrap();
    }
    for (name, stream) in odd() {
        write("odd", "lab", &format!("src/{name}"), &stream);
        fs::write(out.join("raw").join(name), &stream).unwrap();
    }
    for host in ["lab", "lab0"] {
        let dir = Path::new("good").join(host);
        write(dir.to_str().unwrap(), host, "src/data", &sample("full.zfs"));
    }
}
