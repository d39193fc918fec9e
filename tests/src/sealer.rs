//! A sealer for thousands of queue files, which loads the keys only once.

use std::time::SystemTime;

use zsnap_common::names::digest::sha256_hex;
use zsnap_common::stream::Guid;
use zsnap_message::keys::{Format, Recipients, SigningKey};
use zsnap_message::payload::{Base, Manifest, PayloadKind, Trailer, ZfsHead};
use zsnap_message::seal::{Sealing, seal};

use crate::scene::{Scene, manifest};
use crate::stream::{Stream, Sub};

/// A sealer that signs as one host and encrypts to `backup`.
pub struct Sealer {
    recipients: Recipients,
    signer: SigningKey,
}

impl Sealer {
    /// Makes a sealer for `laptop` with the keys of the scene.
    pub fn new(scene: &Scene) -> Sealer {
        Sealer::of(scene, "laptop")
    }

    /// Makes a sealer for a host of the scene.
    pub fn of(scene: &Scene, host: &str) -> Sealer {
        let now = SystemTime::now();
        Sealer {
            recipients: Recipients::load(&[scene.path("backup.cert")], Format::Gpg, now).unwrap(),
            signer: SigningKey::load(&scene.path(format!("{host}.key")), now).unwrap(),
        }
    }

    /// Makes file number `seq` of a target as zsnap-queue does: a ZFS stream of these substreams, in a wrapper if
    /// `compound`.
    pub fn zfs(&self, target: &str, seq: u64, prev: Option<u64>, mut subs: Vec<Sub>, compound: bool) -> Vec<u8> {
        let (first, last) = (&subs[0], &subs[subs.len() - 1]);
        let (toname, to) = (last.toname.clone(), Guid(last.to));
        let from = Some(Guid(first.from)).filter(|guid| guid.0 != 0);
        let manifest = Manifest {
            kind: PayloadKind::Zfs,
            prev,
            base: if from.is_some() { Base::Prev } else { Base::None },
            zfs: Some(ZfsHead {
                toname: toname.clone(),
                from,
                to: Some(to).filter(|_| !compound),
                raw: false,
                compressed: false,
            }),
            ..manifest(target, seq)
        };
        let count = subs.len() as u64;
        let stream = if compound { Stream::compound(&toname, subs) } else { Stream::plain(subs.remove(0)) };
        let body = stream.bytes();
        let trailer = Trailer {
            zsnap: 1,
            bytes: body.len() as u64,
            sha256: sha256_hex(&body),
            substreams: Some(count),
            to: Some(to),
        };
        self.seal(&manifest, &body, trailer)
    }

    /// Makes file number `seq` of a target whose streams a command applies. It is an incremental if `prev` is set.
    pub fn opaque(&self, target: &str, seq: u64, prev: Option<u64>, body: &[u8]) -> Vec<u8> {
        let base = if prev.is_some() { Base::Prev } else { Base::None };
        let manifest = Manifest { prev, base, ..manifest(target, seq) };
        let trailer =
            Trailer { zsnap: 1, bytes: body.len() as u64, sha256: sha256_hex(body), substreams: None, to: None };
        self.seal(&manifest, body, trailer)
    }

    fn seal(&self, manifest: &Manifest, body: &[u8], trailer: Trailer) -> Vec<u8> {
        let how = Sealing {
            recipients: &self.recipients,
            signer: Some(&self.signer),
            format: Format::Gpg,
            level: 1,
            threads: 1,
        };
        seal(Vec::new(), &how, manifest, |out| {
            out.write_all(body)?;
            Ok(trailer)
        })
        .unwrap()
        .0
    }
}
