//! The content of a queue file, which may be in several files: its parts are read as one, and nothing is copied.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

/// The open files of a queue file. A clone has a position of its own.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The files, and where each begins.
    files: Arc<[(u64, File)]>,
    length: u64,
    position: u64,
}

impl Joined {
    /// Joins open files, in this order.
    pub fn of(files: Vec<File>) -> io::Result<Joined> {
        let (mut begun, mut length) = (Vec::new(), 0_u64);
        for file in files {
            let bytes = file.metadata()?.len();
            begun.push((length, file));
            length = length.checked_add(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        Ok(Joined { files: begun.into(), length, position: 0 })
    }

    /// Returns the open files, in their order.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().map(|(_, file)| file)
    }

    /// Returns the length in bytes that the files had when they were joined.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns when the file that was modified last was modified.
    pub fn modified(&self) -> io::Result<SystemTime> {
        let times = self.files().map(|file| file.metadata()?.modified()).collect::<io::Result<Vec<_>>>()?;
        Ok(times.into_iter().max().unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

impl Read for Joined {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Empty files are passed over.
        let at = self.files.partition_point(|(start, _)| *start <= self.position);
        let Some((start, file)) = at.checked_sub(1).and_then(|at| self.files.get(at)) else { return Ok(0) };
        let end = self.files.get(at).map_or(self.length, |(next, _)| *next);
        let most = usize::try_from(end.saturating_sub(self.position)).unwrap_or(usize::MAX).min(out.len());
        let n = file.read_at(out.get_mut(..most).unwrap_or_default(), self.position - start)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Joined {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    proptest! {
        /// A cursor over the same bytes is the reference.
        #[test]
        fn several_files_read_as_one(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5),
            steps in proptest::collection::vec((0..4, -30_i64..60, 0_usize..30), 0..20),
        ) {
            let mut joined = Joined::of(parts.iter().map(|part| file(part)).collect()).unwrap();
            let mut reference = Cursor::new(parts.concat());
            prop_assert_eq!(joined.length(), reference.get_ref().len() as u64);
            for (kind, offset, most) in steps {
                let to = match kind {
                    0 => SeekFrom::Start(offset.unsigned_abs()),
                    1 => SeekFrom::End(offset),
                    2 => SeekFrom::Current(offset),
                    _ => SeekFrom::Current(0),
                };
                prop_assert_eq!(joined.seek(to).ok(), reference.seek(to).ok());
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                (&mut joined).take(most as u64).read_to_end(&mut ours).unwrap();
                (&mut reference).take(most as u64).read_to_end(&mut theirs).unwrap();
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn a_clone_reads_on_its_own() {
        let mut one = Joined::of(vec![file(b"ab"), file(b"cd")]).unwrap();
        let mut other = one.clone();
        let mut text = String::new();
        one.seek(SeekFrom::Start(1)).unwrap();
        one.read_to_string(&mut text).unwrap();
        other.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), one.files().count()), ("bcdabcd", 2));
    }
}
