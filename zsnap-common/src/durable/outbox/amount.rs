//! How much waits: the number, the size and the age of queue files.

use std::ops::Add;

use super::Queued;

/// A number of queue files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of files.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// When the oldest was written, in seconds since 1970; `None` if there are no files.
    pub oldest: Option<u64>,
}

impl Amount {
    /// Returns how many files wait, as a clause of a sentence: `1 file waits`.
    pub fn waits(&self) -> String {
        if self.files == 1 { "1 file waits".to_owned() } else { format!("{} files wait", self.files) }
    }
}

impl<'a> FromIterator<&'a Queued> for Amount {
    fn from_iter<I: IntoIterator<Item = &'a Queued>>(files: I) -> Amount {
        let one = |file: &Queued| Amount { files: 1, bytes: file.bytes, oldest: Some(file.written) };
        files.into_iter().map(one).fold(Amount::default(), |sum, file| sum + file)
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, more: Amount) -> Amount {
        Amount {
            files: self.files + more.files,
            bytes: self.bytes + more.bytes,
            oldest: self.oldest.into_iter().chain(more.oldest).min(),
        }
    }
}
