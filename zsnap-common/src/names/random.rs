//! Random names, which nobody can guess and nobody else has.

use std::io;

use super::digest::hex;

/// Returns this number of random bytes in hex.
///
/// # Errors
/// The kernel has no random numbers.
pub fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(hex(&random))
}
