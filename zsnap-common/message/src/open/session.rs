//! Finds the session key of a message with the keys that we have.

use sequoia_openpgp as openpgp;

use openpgp::packet::{PKESK, Packet};
use openpgp::parse::Parse;
use openpgp::{Cert, PacketPile};

use super::Refusal;
use super::seipd::{Decryption, Session, Start};
use crate::keys::Keyring;

/// The maximum number of attempts to decrypt a session key: each is a public-key operation.
const MAX_TRIES: usize = 64;

/// A session key that fits.
pub struct Found<'a> {
    pub session: Session,
    pub decryption: Decryption,
    /// The certificate whose key decrypted it.
    pub recipient: &'a Cert,
}

/// Tries our keys on the session key packets in `packets`, and each session key on the beginning of the encrypted
/// packet.
pub fn find<'a>(packets: &[u8], start: &Start, keyring: &'a Keyring) -> Result<Found<'a>, Refusal> {
    let pile = PacketPile::from_bytes(packets).map_err(|_| garbled())?;
    let pkesks: Vec<&PKESK> = pile
        .children()
        .filter_map(|packet| match packet {
            Packet::PKESK(pkesk) => Some(pkesk),
            _ => None,
        })
        .collect();
    let (mut tries, mut ours, mut unusable) = (0, false, None);
    for pkesk in &pkesks {
        let handle = pkesk.recipient();
        for (recipient, mut pair) in keyring.for_handle(handle.as_ref()) {
            tries += 1;
            ours |= handle.is_some();
            if tries > MAX_TRIES {
                return Err(Refusal::Malformed("it takes too many tries to find its key".into()));
            }
            let Some((algorithm, key)) = pkesk.decrypt(&mut pair, start.algorithm()) else { continue };
            let session = Session { algorithm, key };
            match start.decrypt(&session, true) {
                Ok(Some(decryption)) => return Ok(Found { session, decryption, recipient }),
                Ok(None) => {}
                // Another packet may have the right key.
                Err(refusal) => unusable = Some(refusal),
            }
        }
    }
    if let Some(refusal) = unusable {
        return Err(refusal);
    }
    if ours {
        return Err(Refusal::Damaged("its session key was changed on its way".into()));
    }
    let named = |pkesk: &&PKESK| pkesk.recipient().map_or("a hidden recipient".into(), |id| id.to_hex());
    let ids: Vec<String> = pkesks.iter().map(named).collect();
    Err(Refusal::NoKey(if ids.is_empty() { "a passphrase".into() } else { ids.join(", ") }))
}

fn garbled() -> Refusal {
    Refusal::Damaged("its packets are garbled".into())
}
