//! Tests of [`super`].

use super::manifest::frame;
use super::*;
use zsnap_common::stream::Guid;

fn manifest() -> Manifest {
    Manifest {
        zsnap: 1,
        host: "laptop".parse().unwrap(),
        dataset: "tank/home".parse().unwrap(),
        created: 1_790_000_000,
        kind: PayloadKind::Zfs,
        id: "0123456789abcdef0123456789abcdef".into(),
        epoch: Epoch { id: "fedcba9876543210fedcba9876543210".into(), started: 1_780_000_000 },
        seq: 1_790_000_000_000_000,
        prev: Some(1_789_000_000_000_000),
        base: Base::Prev,
        zfs: Some(ZfsHead {
            toname: "tank/home@today".into(),
            from: Some(Guid(0x1122)),
            to: None,
            raw: false,
            compressed: true,
        }),
    }
}

fn trailer() -> Trailer {
    Trailer { zsnap: 1, bytes: 5, sha256: "0".repeat(64), substreams: Some(2), to: Some(Guid(7)) }
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 1).unwrap()
}

type Whole = (Option<Manifest>, Vec<u8>, Option<Trailer>);

fn read(payload: &[u8], step: usize) -> Result<Whole, PayloadError> {
    let mut reader = PayloadReader::new(io::BufReader::with_capacity(step, payload), 27)?;
    let (mut plain, mut buf) = (Vec::new(), vec![0; step]);
    loop {
        match reader.read(&mut buf)? {
            0 => return Ok((reader.manifest().cloned(), plain, reader.trailer().cloned())),
            n => plain.extend_from_slice(&buf[..n]),
        }
    }
}

fn refused(payload: &[u8]) -> String {
    match read(payload, 4096) {
        Err(PayloadError::Malformed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_payload_reads_back_in_any_steps() {
    let data: Vec<u8> = (0..70_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
    for plain in [&data[..], b"", b"hello"] {
        let payload = [manifest().encode().unwrap(), zstd(plain), trailer().encode().unwrap()].concat();
        for step in [1, 7, 4096, 1 << 20] {
            let (m, got, t) = read(&payload, step).unwrap();
            assert_eq!((m, t), (Some(manifest()), Some(trailer())));
            assert!(got == plain);
        }
    }
}

#[test]
fn stock_zstd_reads_it() {
    let payload = [manifest().encode().unwrap(), zstd(b"hello"), trailer().encode().unwrap()].concat();
    assert_eq!(zstd::stream::decode_all(&payload[..]).unwrap(), b"hello");
}

#[test]
fn the_seeds_payload_may_have_many_frames() {
    let skip = [&0x184D_2A53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    let payload = [zstd(b"one"), skip.clone(), zstd(b""), zstd(b"two"), skip].concat();
    for step in [1, 4096] {
        assert_eq!(read(&payload, step).unwrap(), (None, b"onetwo".to_vec(), None));
    }
    for cut in 1..payload.len() {
        match read(&payload[..cut], 4096) {
            Ok((None, plain, None)) => assert!(b"onetwo".starts_with(&plain)),
            Err(PayloadError::Malformed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn any_other_order_is_malformed() {
    let (m, z, t) = (manifest().encode().unwrap(), zstd(b"hello"), trailer().encode().unwrap());
    assert_eq!(refused(b""), "the payload is empty");
    assert!(refused(b"hello, world").contains("not zstd"));
    assert!(refused(b"h").contains("ends inside"));
    assert!(refused(&m).contains("without a trailer"));
    for wrong in [[&m, &z, &z, &t], [&m, &t, &z, &t], [&m, &m, &z, &t], [&m, &z, &t, &z], [&m, &z, &m, &t]] {
        refused(&wrong.map(Vec::as_slice).concat());
    }
    let whole = [m, z, t].concat();
    refused(&[&whole[..], b"x"].concat());
    for cut in 0..whole.len() {
        refused(&whole[..cut]);
    }
}

#[test]
fn what_contradicts_itself_is_malformed() {
    let changes: [fn(&mut Manifest); 9] = [
        |m| m.id.truncate(31),
        |m| m.epoch.id = "F".repeat(32),
        |m| m.prev = Some(m.seq),
        |m| m.zfs = None,
        |m| m.kind = PayloadKind::Opaque,
        |m| m.base = Base::None,
        |m| m.zfs.as_mut().unwrap().toname = "tank/home".into(),
        |m| m.zfs.as_mut().unwrap().toname = "tank/../home@a".into(),
        |m| m.zfs.as_mut().unwrap().to = Some(Guid(0)),
    ];
    for change in changes {
        let mut m = manifest();
        change(&mut m);
        assert!(m.encode().is_err(), "{m:?}");
        refused(&[frame(MANIFEST, &m).unwrap(), zstd(b""), trailer().encode().unwrap()].concat());
    }
    let text = |m: &str| {
        let frame = [&MANIFEST[..], &(m.len() as u32).to_le_bytes(), m.as_bytes()].concat();
        refused(&[frame, zstd(b""), trailer().encode().unwrap()].concat())
    };
    let json = serde_json::to_string(&manifest()).unwrap();
    assert!(text(&json.replace("\"zsnap\":1", "\"zsnap\":0")).contains("version 0"));
    assert!(text(&json.replace("\"zfs\",", "\"ZFS\",")).contains("manifest cannot be read"));
    assert!(text(&json.replace("\"laptop\"", "\"../x\"")).contains("manifest cannot be read"));
    assert!(text(&json.replace("\"tank/home\"", "\"tank//home\"")).contains("manifest cannot be read"));
    assert!(text("{").contains("manifest cannot be read"));
    assert!(text(&format!("{json}{}", " ".repeat(MAX_JSON))).contains("64 KiB"));
    let t = Trailer { sha256: "x".into(), ..trailer() };
    refused(&[manifest().encode().unwrap(), zstd(b""), frame(TRAILER, &t).unwrap()].concat());
}

#[test]
fn what_is_newer_is_no_damage() {
    let newer = |front: &str, back: &str| {
        let frame =
            |magic: [u8; 4], json: &str| [&magic[..], &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
        match read(&[frame(MANIFEST, front), zstd(b""), frame(TRAILER, back)].concat(), 4096) {
            Err(PayloadError::Newer(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let front = serde_json::to_string(&manifest()).unwrap();
    let back = serde_json::to_string(&trailer()).unwrap();
    let later = |json: &str| json.replace("\"zsnap\":1", "\"zsnap\":2");
    assert!(newer(&later(&front), &back).contains("manifest is of version 2"));
    assert!(newer(&front, &later(&back)).contains("trailer is of version 2"));
    assert_eq!(newer("{\"kind\":\"inventory\"}", &back), "its kind is \"inventory\", which this program does not know");
    for kind in PayloadKind::ALL {
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let json = serde_json::to_string(&manifest()).unwrap().replacen('{', "{\"later\":[1,{}],", 1);
    let front = [&MANIFEST[..], &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let payload = [front, zstd(b"x"), trailer().encode().unwrap()].concat();
    assert_eq!(read(&payload, 9).unwrap().0, Some(manifest()));
}

#[test]
fn a_window_larger_than_allowed_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    io::Write::write_all(&mut encoder, &vec![7; 20 << 20]).unwrap();
    let payload = encoder.finish().unwrap();
    assert!(read(&payload, 1 << 16).is_ok());
    let mut reader = PayloadReader::new(&payload[..], 23).unwrap();
    // Not rejected as damage: the window may be intended.
    assert!(matches!(reader.read(&mut [0; 10]), Err(PayloadError::Window(_))));
}
