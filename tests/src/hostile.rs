//! What a hostile host with a valid key might send: streams with correct checksums that harm the receiver, and the
//! manifests that belong to them. They are used by the tests of zsnap-ingest and by the lab with real OpenZFS.

use zsnap_common::names::target::{Dataset, check_component};
use zsnap_common::stream::Guid;
use zsnap_message::payload::{Base, Manifest, PayloadKind, Trailer, ZfsHead};

use crate::sample;
use crate::scene::manifest;
use crate::stream::{Rec, Stream, Sub, kind};

/// A hostile stream and its expected rejection.
pub struct Hostile {
    /// Its name, which is valid as a component of a dataset name.
    pub name: String,
    /// The bytes of the stream.
    pub bytes: Vec<u8>,
    /// What the rejection contains.
    pub why: &'static str,
}

/// Returns a full stream of `src/data@s1` by a real `zfs send`.
pub fn full() -> Stream {
    Stream::parse(&sample("full.zfs"))
}

/// Puts a stream into a wrapper, as `zfs send -p` does.
pub fn wrapped(toname: &str, nvlist: &[u8], inner: Stream) -> Stream {
    let mut wrapper = Stream::with_properties(toname, nvlist, []);
    wrapper.records.splice(2..2, inner.records);
    wrapper
}

fn renamed(mut stream: Stream, toname: &str) -> Stream {
    stream.records[0].set_toname(toname);
    stream
}

/// Returns the index of the first record of this kind.
fn first(stream: &Stream, kind: u32) -> usize {
    stream.records.iter().position(|rec| rec.kind() == kind).unwrap()
}

fn features(bits: u64) -> impl Fn(&mut Stream) {
    move |stream| {
        let all = stream.records[0].u64(16) | bits << 2;
        stream.records[0].set_u64(16, all);
    }
}

/// Returns streams with one record that no `zfs send` writes, or that one writes by mistake. Some corrupt the memory of
/// the receiving kernel, some make it panic when the file is read, and some leave a file that cannot be read.
pub fn poison() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |name: &str, why: &'static str, change: &dyn Fn(&mut Stream)| {
        let mut stream = full();
        change(&mut stream);
        all.push(Hostile { name: format!("poison-{name}"), bytes: stream.bytes(), why });
    };
    // The first block of a file with blocks of 128 KiB.
    let block =
        |s: &Stream| s.records.iter().position(|rec| rec.kind() == kind::WRITE && rec.u64(32) == 131_072).unwrap();
    let embed = move |s: &mut Stream, algorithm: u8, size: u32, length: u64, data: &[u8]| {
        let at = block(s);
        let object = s.records[at].u64(8);
        let mut rec = Rec::new(kind::WRITE_EMBEDDED).with(8, object).with(24, length).with(32, s.records[0].u64(40));
        rec.head[40] = algorithm;
        rec.set_u32(48, size);
        rec.set_u32(52, data.len() as u32);
        s.records[at] = rec.followed_by(data);
    };
    // 512 zeros compressed with LZ4: the length of what follows, one zero, 506 more as a match of it, and five zeros.
    const ZEROS: [u8; 16] = [0, 0, 0, 12, 0x1f, 0, 1, 0, 255, 232, 0x50, 0, 0, 0, 0, 0];

    // 12 KiB of the sender's choice for a bonus buffer of at most 320 bytes.
    add("bonus", "an OBJECT record with bonus length 12288", &|s| {
        let at = s.records.iter().rposition(|rec| rec.kind() == kind::OBJECT).unwrap();
        s.records[at].set_u32(28, 12_288);
        s.records[at].payload = vec![b'A'; 12_288];
    });
    // Blocks of 64 or 512 bytes in a file with blocks of 128 KiB.
    add("embedded", "a WRITE_EMBEDDED record with embedded data without EMBED_DATA", &|s| {
        embed(s, 2, 64, 131_072, &[b'B'; 64]);
    });
    add("embedded-announced", "a WRITE_EMBEDDED record with decompressed size 64", &|s| {
        features(1 << 16)(s);
        embed(s, 2, 64, 131_072, &[b'B'; 64]);
    });
    add("embedded-small", "a WRITE_EMBEDDED record with a block size other than its object's, 512", &|s| {
        features(1 << 16 | 1 << 17)(s);
        embed(s, 15, 512, 512, &ZEROS);
    });
    add("spill", "a SPILL record with block size 1020", &|s| {
        let at = s.records.iter().rposition(|rec| rec.kind() == kind::OBJECT).unwrap();
        let object = s.records[at].u64(8);
        s.records[at].head[35] = 4;
        let rec = Rec::new(kind::SPILL).with(8, object).with(16, 1020).with(24, s.records[0].u64(40));
        s.records.insert(at + 1, rec.followed_by(&[b'C'; 1020]));
    });
    // An unknown compression.
    add("compression", "ZFS stream with compression 100, which only a newer OpenZFS can know", &|s| {
        features(1 << 22)(s);
        let at = block(s);
        s.records[at].head[50] = 100;
        s.records[at].set_u64(96, 131_072);
    });
    // Blocks of 128 KiB for a file whose OBJECT record says a single block of 1536 bytes, or which has no OBJECT
    // record.
    add("past-end", "a WRITE record with offset 0", &|s| {
        let object = s.records[block(s)].u64(8);
        let of = |rec: &&mut Rec| rec.kind() == kind::OBJECT && rec.u64(8) == object;
        s.records.iter_mut().find(of).unwrap().set_u32(24, 1536);
    });
    add("no-object", "a WRITE record with data without an OBJECT record, of object", &|s| {
        let object = s.records[block(s)].u64(8);
        s.records.retain(|rec| rec.kind() != kind::OBJECT || rec.u64(8) != object);
    });
    // What `zfs send -e` writes for a recordsize of 1 MiB or for extended attributes.
    add("embedded-large", "send with -L, or without -e", &|s| {
        features(1 << 16 | 1 << 17)(s);
        embed(s, 15, 1 << 20, 1 << 20, &ZEROS);
    });
    add("embedded-spill", "zfs send -e does since OpenZFS 2.3 and receivers take for data: send without -e", &|s| {
        features(1 << 16 | 1 << 17)(s);
        embed(s, 15, 512, 512, &ZEROS);
        let at = s.records.iter().position(|rec| rec.kind() == kind::WRITE_EMBEDDED).unwrap();
        s.records[at].set_u64(16, 0u64.wrapping_sub(1024));
    });
    // A raw block of 512 bytes, which the kernel encrypts again for a file with blocks of 128 KiB.
    let mut raw = Stream::parse(&sample("raw-w-full.zfs"));
    let at = block(&raw);
    raw.records[at].set_u64(32, 512);
    raw.records[at].set_u64(96, 512);
    raw.records[at].head[50] = 15;
    raw.records[at].payload = ZEROS.iter().copied().chain([0; 496]).collect();
    let why = "a WRITE record with a block size other than its object's, 512";
    all.push(Hostile { name: "poison-raw".to_owned(), bytes: raw.bytes(), why });
    all
}

/// Returns all streams that must be rejected before `zfs` is started.
pub fn streams() -> Vec<Hostile> {
    let mut all = poison();
    let mut add = |name: &str, why: &'static str, bytes: Vec<u8>| {
        all.push(Hostile { name: name.to_owned(), bytes, why });
    };

    // Names of other datasets.
    for (name, outer, inner, why) in [
        ("sibling-prefix", "src@s1", "src0/evil@s1", "around one of src0/evil"),
        ("sibling", "src/data@s1", "src/other@s1", "around one of src/other"),
        ("child", "src@s1", "src/child@s1", "several file systems inside"),
        ("parent", "src/data@s1", "src@s1", "around one of src"),
        ("climbing", "src@s1", "src/../lab0/evil@s1", "is not a dataset name"),
        ("climbing-wrapper", "src/..@s1", "src/..@s1", "is not a dataset name"),
        ("absolute", "src@s1", "/etc@s1", "is not a dataset name"),
        ("no-snapshot", "src/data@s1", "src/data", "is not FILESYSTEM@SNAPSHOT"),
        ("two-snapshots", "src/data@s1", "src/data@s1@s1", "holds a character other than"),
        ("bookmark", "src/data@s1", "src/data#s1", "is not FILESYSTEM@SNAPSHOT"),
        ("internal", "src/data@s1", "src/data@%recv", "holds a character other than"),
        ("last-missing", "src/data@s9", "src/data@s1", "the last snapshot, @s9, is missing"),
    ] {
        add(name, why, wrapped(outer, &[], renamed(full(), inner)).bytes());
    }
    let mut endless = full();
    endless.records[0].head[56..].fill(b'n');
    add("endless-name", "a name without an end", endless.bytes());

    // Several file systems, as zfs send -R sends them; a wrapper in a wrapper.
    add("tree", "several file systems inside", sample("replication-R.zfs"));
    add("tree-increment", "several file systems inside", sample("replication-RI.zfs"));
    let two = [full().records, renamed(full(), "src/other@s1").records].concat();
    add("two-systems", "around one of src/other", wrapped("src/data@s1", &[], Stream { records: two }).bytes());
    let nested = wrapped("src/data@s1", &[], wrapped("src/data@s1", &[], full()));
    add("wrapper-in-wrapper", "a BEGIN record where none may be", nested.bytes());

    // Streams that need more than their own dataset, or a newer kernel.
    let mut change = |name: &str, why: &'static str, change: &dyn Fn(&mut Stream)| {
        let mut stream = full();
        change(&mut stream);
        add(name, why, stream.bytes());
    };
    let flag = |bit: u32| {
        move |s: &mut Stream| {
            let all = s.records[0].u32(36) | bit;
            s.records[0].set_u32(36, all);
        }
    };
    change("clone", "is sent as a clone", &flag(1));
    change("unknown-flag", "flags that zsnap does not know", &flag(1 << 9));
    change("dedup", "deduplicated", &features(1));
    change("dedup-properties", "deduplicated", &features(2));
    change("resuming", "resumed", &features(1 << 20));
    change("redacted", "redacted", &features(1 << 21));
    for bit in [3, 15, 18, 30, 50, 61] {
        change(&format!("feature-{bit}"), "features that zsnap does not know", &features(1 << bit));
    }
    change("objset", "neither file system nor volume", &|s| s.records[0].set_u32(32, 4));

    // Lengths.
    for (name, length) in [
        ("terabyte", 1 << 40),
        ("endless", u64::MAX),
        ("wraps", u64::MAX - 311),
        ("16-MiB-and-1", (16 << 20) + 1),
        ("16-MiB-and-4", (16 << 20) + 4),
        ("nothing", 0),
    ] {
        change(&format!("length-{name}"), "a WRITE record with a payload of", &move |s| {
            let at = first(s, kind::WRITE);
            s.records[at].set_u64(32, length);
        });
    }
    change("length-off-by-one", "a WRITE record with a payload of", &|s| {
        let at = first(s, kind::WRITE);
        let length = s.records[at].u64(32);
        s.records[at].set_u64(32, length + 1);
    });
    change("length-object", "an OBJECT record with a payload of", &|s| {
        let at = first(s, kind::OBJECT);
        s.records[at].set_u32(28, u32::MAX);
    });
    change("length-begin", "a BEGIN record with a payload of", &|s| s.records[0].set_u32(4, 0xffff_fffc));
    change("length-begin-1-MiB-and-4", "a BEGIN record with a payload of", &|s| {
        s.records[0].set_u32(4, (1 << 20) + 4);
    });
    change("record-type", "records of unknown type 11", &|s| {
        let at = first(s, kind::WRITE);
        s.records[at].set_u32(0, 11);
    });

    // Guids.
    change("guid-changes", "a WRITE record of another snapshot", &|s| {
        let at = first(s, kind::WRITE);
        s.records[at].set_u64(40, 7);
    });
    change("guid-of-end", "an END record of another snapshot", &|s| s.records.last_mut().unwrap().set_u64(40, 7));
    add("guid-zero", "zero, its base's, or sent before", Stream::plain(Sub::full("src/data@s1", 0)).bytes());
    add("own-base", "zero, its base's, or sent before", Stream::plain(Sub::increment("src/data@s2", 5, 5)).bytes());
    let chain = || Stream::parse(&sample("incr-I-s1-s4.zfs"));
    let begins = |s: &Stream| (2..s.records.len()).filter(|n| s.records[*n].kind() == kind::BEGIN).collect::<Vec<_>>();
    for (name, from) in [("chain-broken", 99), ("chain-begins-anew", 0)] {
        let mut stream = chain();
        let second = begins(&stream)[1];
        stream.records[second].set_u64(48, from);
        add(name, "is not based on", stream.bytes());
    }
    let circle = [Sub::increment("src/data@a", 5, 6), Sub::increment("src/data@b", 6, 5)];
    add("circle", "its base's, or sent before", Stream::compound("src/data@b", circle).bytes());
    let mut lacking = chain();
    let begin = begins(&lacking);
    lacking.records.drain(begin[2]..lacking.records.len() - 1);
    add("chain-cut", "is missing: zfs send failed on the way", lacking.bytes());

    // Ends.
    let good = full().bytes();
    add("second-stream", "a second stream or garbage", [&good[..], &sample("incr-i-s1-s2.zfs")].concat());
    add("twice", "a second stream or garbage", [&good[..], &good].concat());
    add("trailing", "a second stream or garbage", [&good[..], b"x"].concat());
    add("no-end", "", good[..good.len() - 312].to_vec());
    add("half-an-end", "", good[..good.len() - 100].to_vec());
    add("only-begin", "", good[..312].to_vec());
    let mut early = full();
    let end = early.records.last().unwrap().clone();
    early.records.insert(first(&early, kind::WRITE), end);
    add("end-in-the-middle", "", early.bytes());
    let mut outside = wrapped("src/data@s1", &[], full());
    outside.records.insert(2, Rec::write(&[1; 512]));
    add("record-in-the-wrapper", "a WRITE record where none may be", outside.bytes());
    let mut sum = good.clone();
    let end = sum.len() - 312;
    sum[end + 8] ^= 1;
    add("checksum-of-end", "checksum", sum);
    add("empty", "not", Vec::new());
    add("no-stream", "not", b"# nothing of ZFS\n".repeat(30));

    // Dates that would make a snapshot the newest one forever.
    for (name, created) in [("2100", 4_102_444_800), ("beyond-time", u64::MAX), ("beyond-signed", 1 << 63)] {
        let mut stream = full();
        stream.records[0].set_u64(24, created);
        add(&format!("dated-{name}"), "is dated more than a day", stream.bytes());
    }
    all
}

/// Returns streams with unusual but harmless contents, which are received without them.
pub fn odd() -> Vec<(&'static str, Vec<u8>)> {
    // What -R and -h write into the wrapper: names of other file systems, renames, properties, holds.
    let of_tree = Stream::parse(&sample("replication-R.zfs")).records[0].payload.clone();
    let mut holds = wrapped("src/data@s1", &[], full());
    holds.records[0].set_u64(16, 2 | 1 << (26 + 2));
    let mut hidden = full();
    hidden.records[0].head[311] = b'x';
    vec![
        ("properties", sample("full-props-p.zfs")),
        ("nvlist-of-a-tree", wrapped("src/data@s1", &of_tree, full()).bytes()),
        ("holds", holds.bytes()),
        ("name-behind-the-name", hidden.bytes()),
        ("garbage-for-nvlist", wrapped("src/data@s1", &[0xff; 4096], full()).bytes()),
    ]
}

/// Makes the manifest and the trailer of any stream from its first records, also of an invalid one.
pub fn described(target: &str, seq: u64, stream: &[u8]) -> (Manifest, Trailer) {
    let number = |at: usize| stream.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
    let name = |at: usize| {
        let bytes = stream.get(at + 56..at + 312).unwrap_or_default();
        String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    };
    let compound = number(16) & 3 == 2;
    let payload = stream.get(4..8).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize);
    let first = if compound { 2 * 312 + payload } else { 0 };
    let guid = |value: u64| (value != 0).then_some(Guid(value));
    let (from, to) = (guid(number(first + 48)), guid(number(first + 40)));
    // If a manifest with this name would be rejected, it has a valid name instead.
    let fits = name(0).split_once('@').is_some_and(|(fs, snap)| {
        fs.parse::<Dataset>().is_ok() && check_component(snap).is_ok() && name(0).len() < 256
    });
    let head = ZfsHead {
        toname: if fits { name(0) } else { "src/data@s1".into() },
        from,
        to: if compound { None } else { to },
        raw: number(first + 16) >> 2 & Sub::RAW != 0,
        compressed: number(first + 16) >> 2 & Sub::COMPRESSED != 0,
    };
    let base = if from.is_some() { Base::Prev } else { Base::None };
    let prev = (base == Base::Prev).then(|| seq - 1);
    let manifest = Manifest { kind: PayloadKind::Zfs, base, prev, zfs: Some(head), ..manifest(target, seq) };
    let (substreams, last) = substreams(stream);
    let trailer = Trailer {
        zsnap: 1,
        bytes: stream.len() as u64,
        sha256: zsnap_common::names::digest::sha256_hex(stream),
        substreams: Some(substreams),
        to: guid(last),
    };
    (manifest, trailer)
}

/// Returns the number of substreams and the last guid. Substreams are found by their magic number alone.
fn substreams(stream: &[u8]) -> (u64, u64) {
    let begins = stream.windows(8).enumerate().filter(|(at, w)| {
        *at >= 8
            && *w == 0x2_f5ba_cbac_u64.to_le_bytes()
            && stream[at - 8..at - 4] == [0; 4]
            && stream.get(at + 8).is_some_and(|header| header & 3 == 1)
    });
    let guid = |at: usize| stream.get(at + 32..at + 40).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
    begins.fold((0, 0), |(count, _), (at, _)| (count + 1, guid(at)))
}
